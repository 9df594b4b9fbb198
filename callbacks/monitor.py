"""What one can see of a sparse model while it trains."""

import time
from collections.abc import Mapping
from typing import Any, cast

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from transformers import PreTrainedModel

from callbacks.figures import (
    add_figure,
    change_figure,
    dead_figure,
    density_figure,
    mask_picture,
    replaced_figure,
    tensorboards,
)
from callbacks.learning_rate import StepwiseSchedule
from callbacks.sparse_training import SparseTraining, saved_method, sparse_training
from internals import is_accumulating
from objectives.parameter_groups import embedding_parameters, encoder_weights
from sparsity import SparseStepping, check_patterns, matching
from sparsity.statistics import dead_neurons, dead_rows, replaced

FEED_FORWARD = ("*.intermediate.*", "*.mlp.*", "*.ffn.*")
"""Where a layer's feed-forward matrices are in BERT and RoBERTa, in ModernBERT and in DistilBERT."""
MANY_DEAD = 0.015  # share of the inputs and outputs of sparse layers, beyond those at the start


def sparsity_totals(model: PreTrainedModel, sparse: SparseStepping | None) -> dict[str, float]:
    """Share of zeros by the masks: of all parameters of the ``model``, of the ``encoder``'s matrices, of the ``embeddings``."""
    masks = {} if sparse is None else sparse.masks
    zeros = {name: mask.numel() - int(mask.sum()) for name, mask in masks.items()}
    groups = {
        "model": dict(model.named_parameters()),
        "encoder": encoder_weights(model),
        "embeddings": embedding_parameters(model),
    }
    return {
        group: sum(zeros.get(name, 0) for name in parameters) / sum(p.numel() for p in parameters.values())
        for group, parameters in groups.items()
        if parameters
    }


def linear_masks(model: PreTrainedModel, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The masks of linear layers: without those of embedding tables, whose rows and columns are no neurons."""
    tables = embedding_parameters(model)
    return {name: mask for name, mask in masks.items() if name not in tables}


def dead_counts(model: PreTrainedModel, masks: Mapping[str, Tensor]) -> dict[str, int]:
    """``dead_neurons`` (inputs and outputs of linear layers) and ``dead_embedding_rows`` that have no weight on."""
    linear = linear_masks(model, masks)
    return {
        "dead_neurons": dead_neurons(linear),
        "dead_embedding_rows": sum(dead_rows(mask) for name, mask in masks.items() if name not in linear),
    }


class SparsityMonitor(Callback):
    """Scalars ``sparsity/*`` and figures of the masks, at the start and after every validation; nothing in between.

    What does not happen is not shown: replaced weights, changes of a tensor's non-zeros, dead neurons.

    Args:
        figures: draw ``sparsity/density_per_layer``, ``delta_on_params``, ``replaced_per_layer``, ``dead_neurons_per_layer``
            and ``mask`` in TensorBoard.
        mask: shell pattern of the tensor whose mask is drawn, of several the first; null takes a feed-forward matrix.
        tensors: also scalars ``sparsity/density/TENSOR`` and ``sparsity/replaced/TENSOR``, two for each sparse tensor; the
            figures show the same.
    """

    def __init__(self, figures: bool = True, mask: str | None = None, tensors: bool = False) -> None:
        self.figures, self.mask, self.tensors = figures, mask, tensors
        self._dead: int | None = None  # neurons, when training started

    def state_dict(self) -> dict[str, Any]:
        return {"dead": self._dead}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._dead = state_dict["dead"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._dead = None  # a checkpoint is loaded later

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on dense with a model that is sparse.

        Raises:
            ValueError: the checkpoint has masks, and the run has no method.
        """
        given: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        saved = saved_method(checkpoint)
        if trainer.state.fn == "fit" and saved and not any(isinstance(callback, SparseTraining) for callback in given):
            raise ValueError(f"the checkpoint has the masks of {saved}, and the run would go on without: give it again")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen: tuple[int, Mapping[str, Tensor]] | None = None
        self._show(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._show(trainer, pl_module)

    def drawn(self, masks: Mapping[str, Tensor]) -> str:
        """The tensor whose mask is drawn.

        Raises:
            ValueError: :attr:`mask` matches none.
        """
        if self.mask is None:
            return (matching(FEED_FORWARD, masks) or list(masks))[0]
        check_patterns("mask", [self.mask], masks)
        return matching([self.mask], masks)[0]

    def _show(self, trainer: Trainer, pl_module: LightningModule) -> None:
        sparse = sparse_training(trainer)
        if sparse is None or not trainer.is_global_zero:
            return
        model, masks = cast(PreTrainedModel, pl_module.model), dict(sparse.masks)
        since, before = self._seen or (trainer.global_step, masks)
        self._seen = trainer.global_step, masks  # no copies: an update puts other tensors in their place
        came = replaced(before, masks)
        scalars: dict[str, float] = {**sparsity_totals(model, sparse), **dead_counts(model, masks)}
        self._warn_of_collapse(model, masks, int(scalars["dead_neurons"]), trainer.global_step)
        if self.tensors:
            scalars |= {f"density/{name}": nnz / masks[name].numel() for name, nnz in sparse.masks.nnz().items()}
            scalars |= {f"replaced/{name}": share for name, share in came.items()} if any(came.values()) else {}
        for logger in trainer.loggers:
            logger.log_metrics({f"sparsity/{name}": value for name, value in scalars.items()}, trainer.global_step)
        if self.figures and tensorboards(trainer):
            name = self.drawn(masks)
            for tag, figure in {
                "density_per_layer": density_figure(masks),
                "delta_on_params": change_figure(masks, sparse.initial_nnz),
                "replaced_per_layer": replaced_figure(came, since),
                "dead_neurons_per_layer": dead_figure(linear_masks(model, masks)),
                "mask": mask_picture(masks[name], name),
            }.items():
                if figure is not None:
                    add_figure(trainer, f"sparsity/{tag}", figure)

    def _warn_of_collapse(self, model: PreTrainedModel, masks: Mapping[str, Tensor], dead: int, step: int) -> None:
        """Say it once when many more neurons than at the start have no weight: what can be learnt has become less."""
        if self._dead is None:
            self._dead = dead
        neurons = sum(sum(mask.flatten(1).shape) for mask in linear_masks(model, masks).values())
        if self._dead + MANY_DEAD * neurons < dead:
            rank_zero_warn(
                f"step {step}: {dead:,} of {neurons:,} inputs and outputs of sparse layers have no active weight, {self._dead:,} "
                "when training started: the masks collapse onto a few neurons. masks.structure=rows prevents it; with RigL so do "
                "masks.growth=balanced_gradient and masks.random_share, if rigl/growth_concentration says that growth does it"
            )
            self._dead = neurons  # once is enough


class StepMonitor(Callback):
    """Learning rate and momentum of each step, and tokens a second of all ranks with validation left out."""

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on without the schedule of the learning rate, or with one of another kind.

        Raises:
            ValueError: the checkpoint's schedule is not the run's.
        """
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        given = {callback.state_key for callback in callbacks if isinstance(callback, StepwiseSchedule)}
        saved = {key for key in checkpoint["callbacks"] if key.startswith("StepwiseSchedule[")}
        if trainer.state.fn == "fit" and saved and saved != given:
            kinds = [", ".join(sorted(key[17:-1] for key in keys)) or "none" for keys in (saved, given)]
            raise ValueError(
                f"the checkpoint's schedule of the learning rate is {kinds[0]}, that of the run {kinds[1]}: keep it"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tokens, self._start = 0, time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if hasattr(self, "_start"):
            self._start += time.perf_counter() - self._paused

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        group = trainer.optimizers[0].param_groups[0]
        pl_module.log("lr", group["lr"])
        pl_module.log("momentum", group["betas"][0] if "betas" in group else group["momentum"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        self._tokens += batch["input_ids"].numel() * trainer.world_size
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.global_step % every == 0 and not is_accumulating(trainer):  # when Lightning writes what is logged
            now = time.perf_counter()
            rate = self._tokens / (now - self._start)
            pl_module.log("throughput/tokens_per_sec", rate, prog_bar=True)
            self._tokens, self._start = 0, now
