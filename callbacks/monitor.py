"""What one can see of a sparse model while it trains."""

import matplotlib

matplotlib.use("Agg")  # figures go to TensorBoard, never to a screen
import time
from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from callbacks.sparse_training import sparse_training
from objectives.parameter_groups import embedding_parameters, encoder_weights
from sparsity import SparseStepping
from sparsity.statistics import dead_neurons, dead_rows


def sparsity_totals(model: torch.nn.Module, sparse: SparseStepping | None) -> dict[str, float]:
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


def dead_counts(model: torch.nn.Module, masks: Mapping[str, Tensor]) -> dict[str, int]:
    """``dead_neurons`` (inputs and outputs of linear layers) and ``dead_embedding_rows`` that have no weight on."""
    tables = embedding_parameters(model)
    return {
        "dead_neurons": dead_neurons({name: mask for name, mask in masks.items() if name not in tables}),
        "dead_embedding_rows": sum(dead_rows(mask) for name, mask in masks.items() if name in tables),
    }


def add_figure(trainer: Trainer, tag: str, figure: Figure) -> None:
    """A figure in every TensorBoard log of the run, at the present step."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(tag, figure, trainer.global_step)


def layer_bars(values: dict[str, float], title: str) -> Figure:
    """Horizontal bars, one a tensor, first tensor on top."""
    figure = Figure(figsize=(9, 1.2 + 0.22 * len(values)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(list(values), list(values.values()))
    axes.invert_yaxis()
    axes.set_title(title)
    axes.tick_params(axis="y", labelsize=7)
    return figure


class SparsityMonitor(Callback):
    """Scalars ``sparsity/*`` and figures of density and of its change a tensor, at the start and after every validation.

    Args:
        figures: draw ``sparsity/density_per_layer`` and ``sparsity/delta_on_params``.
    """

    def __init__(self, figures: bool = True) -> None:
        self.figures = figures

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._log(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if batch_idx == 0 and (sparse := sparse_training(trainer)) is not None:
            total = sparsity_totals(pl_module.model, sparse)["model"]
            pl_module.log("sparsity", total, prog_bar=True, logger=False)

    def _log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        sparse = sparse_training(trainer)
        if sparse is None or not trainer.is_global_zero:
            return
        density = {name: nnz / sparse.masks[name].numel() for name, nnz in sparse.masks.nnz().items()}
        totals = sparsity_totals(pl_module.model, sparse) | dead_counts(pl_module.model, sparse.masks)
        scalars = {f"sparsity/{group}": value for group, value in totals.items()}
        scalars |= {f"sparsity/density/{name}": value for name, value in density.items()}
        for logger in trainer.loggers:
            logger.log_metrics(scalars, trainer.global_step)
        if self.figures:
            change = {name: nnz - sparse.initial_nnz[name] for name, nnz in sparse.masks.nnz().items()}
            add_figure(trainer, "sparsity/density_per_layer", layer_bars(density, "share of weights that are on"))
            add_figure(trainer, "sparsity/delta_on_params", layer_bars(change, "change of on-parameters since the start"))


class StepMonitor(Callback):
    """Learning rate and momentum of each step, and tokens a second of all ranks with validation left out."""

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
        if (batch_idx + 1) % (trainer.log_every_n_steps * trainer.accumulate_grad_batches) == 0:
            now = time.perf_counter()
            rate = self._tokens / (now - self._start)
            pl_module.log("throughput/tokens_per_sec", rate, prog_bar=True)
            self._tokens, self._start = 0, now
