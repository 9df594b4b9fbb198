"""Losses and gradients that are not finite, and losses that jump."""

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from callbacks.checkpoint_files import LAST, by_age, check_whole, steps_of
from run_exit import NOT_FINITE, RunEnded

WINDOW = 128  # steps whose losses the next one is compared with
ENOUGH = 32  # of them, before anything counts as a spike
SPREADS = 6.0  # above the median, in standard deviations of a normal distribution with the same MAD
LEAST_SPREAD = 0.01  # share of the median; a loss that hardly moves would make a spike of everything


def is_spike(loss: float, before: Sequence[float]) -> bool:
    """Whether a loss is more than ``SPREADS`` robust standard deviations (1.4826 MAD) above the median of those before it."""
    if len(before) < ENOUGH:
        return False
    middle = statistics.median(before)
    spread = 1.4826 * statistics.median(abs(value - middle) for value in before)
    return loss > middle + SPREADS * max(spread, LEAST_SPREAD * abs(middle))


def first_not_finite(tensors: Iterable[tuple[str, Tensor | None]]) -> str | None:
    """The name of the first tensor that holds an infinity or a NaN."""
    return next((name for name, tensor in tensors if tensor is not None and not tensor.isfinite().all()), None)


def origin(losses: Mapping[int, Sequence[float]], weight: str | None, gradient: str | None) -> str:
    """Where a number that is not finite was seen first: in a weight, then in a loss, then in a gradient.

    Args:
        losses: of the micro-batches of the step, by rank.
        weight: the first one that is not finite.
        gradient: the one that backward comes to first.
    """
    if weight is not None:
        return f"the weight {weight}"
    for rank, values in losses.items():
        for number, value in enumerate(values, 1):
            if not math.isfinite(value):
                of = f" of micro-batch {number} of {len(values)}" if len(values) > 1 else ""
                return f"the loss{of}{f' on rank {rank}' if len(losses) > 1 else ''}"
    return f"the gradient of {gradient}, the losses being finite,"


def checkpoints_of(trainer: Trainer) -> list[Path]:
    """The checkpoints of the run that are there, those that carry their step first, and of these the newest first."""
    savers = [saver for saver in trainer.checkpoint_callbacks if isinstance(saver, ModelCheckpoint) and saver.dirpath]
    files = {file for saver in savers for file in by_age(Path(str(saver.dirpath)))}
    return sorted(files, key=lambda file: (file.name != LAST, steps_of(file)), reverse=True)


def has_finite_weights(checkpoint: Path) -> bool:
    """Whether a file is whole, and every weight in it finite."""
    try:
        check_whole(checkpoint)
        state = torch.load(checkpoint, mmap=True, map_location="cpu", weights_only=True)["state_dict"]
    except (OSError, ValueError, LookupError, RuntimeError, UnpicklingError):
        return False
    return first_not_finite(state.items()) is None


class FiniteNumbers(Callback):
    """Skips an optimizer step whose loss or gradient is not finite, and ends a run that has too many of them in a row.

    Gradients are looked at after accumulation, the reduction over ranks and unscaling, so that all ranks decide the same
    without a message; a loss that is not finite is made to reach them. A skipped step counts as one in schedule and data:
    weights and optimizer state stay, so do masks that need a gradient to move, and what follows is the next batch. Pruning by
    magnitude (GMP) keeps to its schedule. Under fp16 the scaler skips by itself, as it is meant to, and a step counts only
    where the loss itself is not finite.

    It stands before the sparsity callback, which then sees no gradient.

    Args:
        in_a_row: skipped steps after which the run ends.
    """

    def __init__(self, in_a_row: int = 10) -> None:
        if in_a_row < 1:
            raise ValueError(f"numbers.in_a_row >= 1 expected, got {in_a_row}")
        self.in_a_row = in_a_row
        self.skipped = self.skipped_in_a_row = self.spikes = 0
        self._before_trouble: list[Path] = []
        self._losses: list[Tensor] = []
        self._before: deque[float] = deque(maxlen=WINDOW)
        self._in_spike = False

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        value = loss.detach()
        self._losses.append(value)
        # a loss may be NaN with finite gradients, and on one rank alone: 0 · loss is 0.0, or NaN in every gradient of every rank
        loss.register_hook(lambda gradient: gradient + 0.0 * value)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        gradients = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)  # on a CPU a hundred times faster than to look for the largest
        *losses, total = torch.stack([value.double() for value in (*self._losses, norm)]).tolist()
        self._losses.clear()
        scaler: torch.amp.GradScaler | None = getattr(trainer.precision_plugin, "scaler", None)
        if math.isfinite(total) or all(bool(gradient.isfinite().all()) for gradient in gradients):  # squares may overflow
            self.skipped_in_a_row = 0
            scale = trainer.accumulate_grad_batches / (scaler.get_scale() if scaler else 1.0) / len(losses)
            self._look_for_spike(trainer, sum(losses) * scale)
            return
        by_rank = losses_by_rank(losses, trainer)
        if scaler is not None and all(math.isfinite(value) for values in by_rank.values() for value in values):
            return
        self._skip(trainer, pl_module, by_rank)

    def _skip(self, trainer: Trainer, pl_module: LightningModule, losses: Mapping[int, Sequence[float]]) -> None:
        """Leave the optimizer nothing to do, say so, and end the run if it is once too often.

        Raises:
            RunEnded: it is; with the last good checkpoint.
        """
        weights = list(pl_module.named_parameters())
        weight = first_not_finite(weights)
        gradient = first_not_finite((name, parameter.grad) for name, parameter in reversed(weights))
        where = origin(losses, weight, gradient).replace(" model.", " ", 1)
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            for _, parameter in weights:
                parameter.grad = None  # an optimizer leaves alone what has none
        if not self.skipped_in_a_row:
            self._before_trouble = checkpoints_of(trainer)
        self.skipped, self.skipped_in_a_row = self.skipped + 1, self.skipped_in_a_row + 1
        counted = f"{self.skipped_in_a_row} in a row, {self.skipped} in all"
        line = f"step {trainer.global_step}: {where} is not finite; the step is skipped ({counted})"
        rank_zero_warn(line)
        self._log(trainer, skipped_steps=self.skipped)
        if self.skipped_in_a_row >= self.in_a_row:
            there = [*self._before_trouble, *checkpoints_of(trainer)]  # a skipped step leaves the weights as they were
            good = next((file for file in there if has_finite_weights(file)), "there is none")
            raise RunEnded(NOT_FINITE, f"{line}; that ends the run. The last good checkpoint: {good}")

    def _look_for_spike(self, trainer: Trainer, loss: float) -> None:
        """Say where the loss of this rank begins to jump."""
        spike = is_spike(loss, self._before)
        if spike and not self._in_spike:
            self.spikes += 1
            usual = f"the median of the {len(self._before)} before is {statistics.median(self._before):.4g}"
            rank_zero_warn(f"step {trainer.global_step}: the loss jumps to {loss:.4g}; {usual}")
            self._log(trainer, loss_spikes=self.spikes)
        self._in_spike = spike
        self._before.append(loss)

    def _log(self, trainer: Trainer, **figures: int) -> None:
        for logger in trainer.loggers:
            logger.log_metrics({f"health/{name}": value for name, value in figures.items()}, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        return {
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "spikes": self.spikes,
            "losses": list(self._before),
            "in_spike": self._in_spike,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.skipped_in_a_row = state_dict["skipped"], state_dict["skipped_in_a_row"]
        self.spikes, self._in_spike = state_dict["spikes"], state_dict["in_spike"]
        self._before = deque(state_dict["losses"], maxlen=WINDOW)


def losses_by_rank(losses: list[float], trainer: Trainer) -> dict[int, list[float]]:
    """Those of every rank. All ranks come here at the same step, as all have the same gradients."""
    if trainer.world_size == 1:
        return {0: losses}
    gathered: list[list[float]] = [[]] * trainer.world_size
    torch.distributed.all_gather_object(gathered, losses)
    return dict(enumerate(gathered))


def skipped_steps(trainer: Trainer) -> int | None:
    """Optimizer steps that a run has skipped; None where nobody counts them."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback.skipped for callback in callbacks if isinstance(callback, FiniteNumbers)), None)
