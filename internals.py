"""Everything private of Lightning, torch, transformers and datasets that this project relies on, each behind a name that tells.

Nobody else may touch a name of theirs that begins with an underscore, so that a new release is tried against this file: every
definition has a test. The versions it was tried with are the upper bounds in ``setup.cfg``.
"""

from datetime import timedelta
from typing import Any

import datasets
from lightning_fabric.plugins.collectives.torch_collective import default_pg_timeout
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.loops import _FitLoop
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel


def is_accumulating(trainer: Trainer) -> bool:
    """Whether the micro-batch at hand is not the last of its optimizer step."""
    return trainer.fit_loop._should_accumulate()


def count_epochs(trainer: Trainer) -> None:
    """Treat a fit with a number of steps as one of epochs, so that a checkpoint of an epoch's end is resumed as that."""
    trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]


def micro_batches_anew(checkpoint: dict[str, Any], before: int, now: int) -> None:
    """Count the progress of a checkpoint in micro-batches of another size, as many optimizer steps being ``now`` of them each.

    Args:
        checkpoint: of a fit, whose counts are changed in place.
        before: micro-batches of an optimizer step until here.
        now: micro-batches of one from here on.

    Raises:
        ValueError: it was written in the middle of an optimizer step.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        begun = counts["ready"]
        if begun % before:
            raise ValueError("the checkpoint was written between micro-batches of a step: go on with as many as before")
        counts.update({name: begun // before * now - (begun - count) for name, count in counts.items()})


def validation_not_begun(checkpoint: dict[str, Any]) -> None:
    """Make a checkpoint that was written in the middle of a validation one of before it, as its metrics are not in it."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
    seen = progress["current"]["ready"]
    progress["total"] = {name: max(0, count - seen) for name, count in progress["total"].items()}
    progress["current"] = dict.fromkeys(progress["current"], 0)
    progress["is_last_batch"] = False


class _FitLoopOfAnyLength(_FitLoop):
    def run(self) -> None:
        self.setup_data()
        if self.max_batches == 0 or self.trainer.limit_train_batches == 0 or not self.done:
            return super().run()
        self.on_run_start()
        self.on_run_end()


def begin_and_end_always(trainer: Trainer) -> None:
    """Call ``on_train_start`` and ``on_train_end`` also where a resumed fit has no step left to make; Lightning does not."""
    trainer.fit_loop.__class__ = _FitLoopOfAnyLength


def mark_as_saved(checkpoint: ModelCheckpoint, step: int) -> None:
    """Tell a checkpoint callback that the state after ``step`` optimizer steps is in a file, as is its last one if restored."""
    checkpoint._last_global_step_saved = step
    checkpoint._last_checkpoint_saved = checkpoint.last_model_path


def wait_at_most(trainer: Trainer, seconds: float) -> None:
    """Let a rank wait so long for another in a collective, where the strategy has not been told otherwise."""
    if isinstance(trainer.strategy, DDPStrategy) and trainer.strategy._timeout == default_pg_timeout:
        trainer.strategy._timeout = timedelta(seconds=seconds)


def gradients_in_buckets(trainer: Trainer) -> None:
    """Let gradients be the buffers that DDP sends, where the strategy has not been told otherwise: copies and memory saved."""
    if isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy._ddp_kwargs.setdefault("gradient_as_bucket_view", True)


def has_trainer(module: LightningModule) -> bool:
    """Whether a module is attached to a trainer; to ask for ``module.trainer`` is an error otherwise."""
    return module._trainer is not None


def leave_unscaling_to_trainer(optimizer: Optimizer) -> None:
    """Let Lightning unscale and clip gradients before a fused optimizer's step, as it does for all others.

    A fused kernel *can* unscale by itself, so Lightning refuses to clip for it under mixed precision; without the mark the
    scaler unscales in place, and skips steps that are not finite, before the kernel sees the gradients.
    """
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]


def draw_anew(model: PreTrainedModel, module: nn.Module) -> None:
    """Initialise one module of ``model`` as for training from nothing, although its weights were loaded."""
    for parameter in module.parameters(recurse=False):
        parameter._is_hf_initialized = False  # type: ignore[attr-defined]
    model._init_weights(module)


def attention(model: PreTrainedModel) -> str:
    """The ``attn_implementation`` in force."""
    return str(model.config._attn_implementation)


def dataset_fingerprint(dataset: datasets.Dataset) -> str:
    """Changes when the rows of a data set do."""
    return dataset._fingerprint


class CommandLineFirst(LightningCLI):
    """LightningCLI whose command line is not replaced by the hyper-parameters in a checkpoint."""

    def _parse_ckpt_path(self) -> None:
        """Leave the command line as it is: Lightning would put the checkpoint's hyper-parameters, and class, over it."""
