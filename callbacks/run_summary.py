"""``summary.json``: what a run was and what came out. Reports and sweeps read nothing else."""

import importlib.metadata
import os
import platform
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_backward_flop, sdpa_flop
from transformers import PreTrainedModel

from callbacks.final_test import final_results
from callbacks.finite_numbers import skipped_steps
from callbacks.monitor import sparsity_totals
from callbacks.sparse_training import sparse_training
from cpu import matmul_library
from internals import begin_and_end_always
from objectives.parameter_groups import encoder_weights
from objectives.squad import THRESHOLD
from run_record import RunRecord, Status, experiment_name, model_name
from sparsity import SparseStepping, methods

EVALUATION = {
    "val/loss": "eval_loss",
    "val/perplexity": "perplexity",
    "val/unigram_loss": "unigram_loss",
    "val/loss_per_word": "loss_per_word",
    "val/loss_per_character": "loss_per_character",
}
PACKAGES = ("torch", "pytorch-lightning", "transformers", "datasets", "torchmetrics")
# the one fused attention that torch does not count
flop_registry.setdefault(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu, sdpa_flop)
flop_registry.setdefault(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward, sdpa_backward_flop)


def revision() -> str | None:
    """The git commit of this code, marked ``-dirty`` where files differ from it; None where no repository keeps it.

    One in an environment within a repository of something else is not kept there.
    """
    kept = ["ls-files", "--error-unmatch", Path(__file__).name]
    describe = ["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        for command in kept, describe:
            answer = subprocess.run(["git", *command], cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def peak_memory_mb() -> float:
    """Most memory this process has held, in MB: of the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def sparse_flops(model: PreTrainedModel, sparse: SparseStepping, batch: Mapping[str, Tensor]) -> dict[str, int]:
    """Operations of a micro-batch that zeros would save if all weights of a tensor with a mask were zero, by its name.

    A weight of a linear layer takes 6 a position: 2 forward, 2 for the gradient of its input and 2 for its own, which a method
    that keeps what is off (STE, movement) needs whole. The encoder sees every token, the head the predicted ones alone;
    looking up an embedding costs nothing.
    """
    a_weight = 4 if isinstance(sparse.method, methods.KeepPrunedValues) else 6
    masked = {id(weight): name for name, weight in model.named_parameters() if name in sparse.masks}
    encoder = {id(weight) for weight in encoder_weights(model).values()}
    tokens, predicted = batch["input_ids"].numel(), batch["positions"].numel() if "positions" in batch else 0
    flops = dict.fromkeys(masked.values(), 0)
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and (name := masked.get(id(layer.weight))):
            flops[name] += a_weight * layer.weight.numel() * (tokens if id(layer.weight) in encoder else predicted)
    return flops


class RunSummary(Callback):
    """Writes ``summary.json`` into the run's directory: when training starts, after every validation, and at its end.

    It is the last of a run's callbacks: what the others refuse writes nothing. What has no meaning for a run is absent. Counts
    of tokens and seconds go on across a resume. ``average_density`` is the mean over training of the share of the sparse
    tensors' weights that are on; ``saved_flops`` is what a run would not cost where zeros cost nothing, each tensor by itself.
    """

    def __init__(self) -> None:
        self.tokens, self.seconds, self.train_seconds = 0, 0.0, 0.0
        self.sequences, self.summed_density = 0, 0.0
        self.saved_flops: float | None = 0.0  # None, unknown, of a run that an older version began
        self.results: dict[str, Any] = {}
        self.revision: str | None = None
        self._counted: tuple[dict[str, int], dict[str, int]] | None = None  # positions and non-zeros that ``_free`` is of
        self._free = 0.0  # operations that zeros save in a micro-batch
        self._flops: FlopCounterMode | None = None
        self._clock: float | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        begin_and_end_always(trainer)
        self._counted = None
        if trainer.is_global_zero:
            self.revision = revision()  # now: files may change while the run goes on with the code that it has loaded

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clock = time.perf_counter()
        self._write(trainer, pl_module, "running")

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        if (sparse := sparse_training(trainer)) is not None:
            sequences = len(batch["input_ids"]) * trainer.world_size  # however a step is divided, now and after a resume
            self.sequences += sequences
            self.summed_density += sequences * sparse.density
        if sparse is not None and self.saved_flops is not None:
            counted = {name: values.numel() for name, values in batch.items() if name in ("input_ids", "positions")}
            if self._counted != (counted, sparse.nnz):  # else it is what the last micro-batch saved
                flops = sparse_flops(cast(PreTrainedModel, pl_module.model), sparse, batch)
                free = sum(flops[name] * (1 - nnz / sparse.masks[name].numel()) for name, nnz in sparse.nnz.items())
                self._counted, self._free = (counted, sparse.nnz), float(free)
            self.saved_flops += self._free * trainer.world_size
        if "flops_per_step" not in self.results and not getattr(pl_module.hparams, "compile_encoder", False):
            self._flops = FlopCounterMode(display=False)
            self._flops.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        self.tokens += batch["input_ids"].numel() * trainer.world_size
        if self._flops is not None:
            self._flops.__exit__(None, None, None)
            micro_batches = trainer.accumulate_grad_batches * trainer.world_size
            self.results["flops_per_step"] = self._flops.get_total_flops() * micro_batches
            if (sparse := sparse_training(trainer)) is not None:
                flops = sparse_flops(cast(PreTrainedModel, pl_module.model), sparse, batch)
                self.results["sparse_flops_per_step"] = sum(flops.values()) * micro_batches
            self._flops = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._tick(training=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._tick(training=False)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.results |= {key: metrics[name] for name, key in EVALUATION.items() if name in metrics}
        if "val/degenerate" in metrics:
            self.results["degenerate"] = bool(metrics.pop("val/degenerate"))
            scores = {name: value for name, value in metrics.items() if name.startswith("val/") and name not in EVALUATION}
            scores = {name.removeprefix("val/"): value for name, value in scores.items()}
            self.results["metrics"] = {name: value for name, value in scores.items() if not name.endswith(THRESHOLD)}
            thresholds = {name: value for name, value in scores.items() if name.endswith(THRESHOLD)}
            self.results["thresholds"] = {name.removesuffix(THRESHOLD): value for name, value in thresholds.items()}
        self.results["eval_step"] = trainer.global_step
        self._write(trainer, pl_module, "running")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tick(training=True)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tick(training=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tick(training=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Of a fit that came to its end, also one that a callback asked for; last of all hooks, so that the export is there."""
        if stage != "fit" or self._clock is None:
            return
        self._tick(training=False)
        self._clock = None
        self._write(trainer, pl_module, "finished")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._flops is not None:  # in the middle of the first batch
            self._flops.__exit__(None, None, None)
            self._flops = None
        if self._clock is None:
            return
        stopped = isinstance(exception, KeyboardInterrupt | SIGTERMException | SystemExit)
        if not stopped:
            self.results["error"] = f"{type(exception).__name__}: {exception}"
        self._tick(training=True)
        self._clock = None
        try:
            self._write(trainer, pl_module, "stopped" if stopped else "failed")
        except OSError as error:  # what ended the run is what is told, and all callbacks hear of it
            rank_zero_warn(f"the summary could not be written: {error}")

    def _tick(self, training: bool) -> None:
        """Count the time since the last tick, as training or as validation; nothing where no fit is running."""
        if self._clock is None:
            return
        now = time.perf_counter()
        self.seconds += now - self._clock
        self.train_seconds += (now - self._clock) if training else 0.0
        self._clock = now

    def _write(self, trainer: Trainer, pl_module: LightningModule, status: Status) -> None:
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.record(trainer, pl_module, status).write(Path(trainer.default_root_dir))

    def record(self, trainer: Trainer, pl_module: LightningModule, status: Status) -> RunRecord:
        """All that has a meaning at this point of the run."""
        model: PreTrainedModel = pl_module.model  # type: ignore[assignment]
        sparse, parameters = sparse_training(trainer), model.num_parameters()
        masks = {} if sparse is None else sparse.masks
        zeros = sum(mask.numel() - int(mask.sum()) for mask in masks.values())
        task = getattr(trainer.datamodule, "task", None)  # type: ignore[attr-defined]
        pretrained = pl_module.hparams.get("pretrained")
        results = self.results | (final_results(trainer) if status == "finished" else {})
        return RunRecord(
            experiment=experiment_name(Path(trainer.default_root_dir).absolute()),
            status=status,
            seed=int(os.environ["PL_GLOBAL_SEED"]) if "PL_GLOBAL_SEED" in os.environ else None,
            steps=trainer.global_step,
            skipped_steps=skipped_steps(trainer),
            tokens=self.tokens,
            seconds=round(self.seconds, 2),
            train_seconds=round(self.train_seconds, 2),
            tokens_per_second=round(self.tokens / self.train_seconds, 1) if self.train_seconds else None,
            parameters=parameters,
            nonzeros=parameters - zeros,
            masks=None if sparse is None else str(sparse.method),
            sparsity=sparsity_totals(model, sparse),
            average_density=round(self.summed_density / self.sequences, 6) if self.sequences else None,
            saved_flops=round(self.saved_flops) if self.sequences and self.saved_flops is not None else None,
            task=(task.trained_on or task.name) if task else None,
            pretrained=pretrained,
            pretrained_name=model_name(pretrained) if pretrained else None,
            peak_memory_mb=round(peak_memory_mb(), 1),
            matmul=None if torch.cuda.is_available() else matmul_library(),
            versions={"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES},
            revision=self.revision,
            command=shlex.join(sys.argv),
            **results,
        )

    def state_dict(self) -> dict[str, Any]:
        self._tick(training=True)
        return {
            "tokens": self.tokens,
            "seconds": self.seconds,
            "train_seconds": self.train_seconds,
            "sequences": self.sequences,
            "summed_density": self.summed_density,
            "saved_flops": self.saved_flops,
            "results": {key: value for key, value in self.results.items() if key != "error"},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.tokens, self.results = state_dict["tokens"], dict(state_dict["results"])
        self.seconds, self.train_seconds = state_dict["seconds"], state_dict["train_seconds"]
        self.sequences, self.summed_density = state_dict["sequences"], state_dict["summed_density"]
        self.saved_flops = state_dict.get("saved_flops")
