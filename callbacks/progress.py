"""The progress bar of a run that is measured in optimizer steps."""

from typing import Any

import rich
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.utilities.types import STEP_OUTPUT
from rich.progress import ProgressColumn, TimeRemainingColumn

from callbacks.sparse_training import sparse_training

BESIDE_THE_BAR = 60
"""Widest that time, metrics and gaps become, below 1,000 hours and a million tokens a second."""


def short_metrics(metrics: dict[str, Any], density: float | None) -> dict[str, int | str | float | dict[str, float]]:
    """Loss, validation loss, tokens a second and the share of the sparse tensors' weights that is off, in short words.

    Args:
        metrics: what the run has logged for the bar.
        density: share of the sparse tensors' weights that is on; None in a dense run.
    """
    shown: dict[str, int | str | float | dict[str, float]] = {}
    for label, name in {"loss": "train/loss", "val": "val/loss"}.items():
        if name in metrics:
            shown[label] = f"{metrics[name]:.3f}"[:5]
    if (rate := metrics.get("throughput/tokens_per_sec")) is not None:
        shown["tok/s"] = f"{rate / 1000:,.0f}k" if rate >= 10_000 else f"{rate:,.0f}"
    if density is not None:
        shown["sparse"] = f"{1 - density:.1%}"
    return shown


class StepProgressBar(RichProgressBar):
    """Lightning's rich bar in one line of 80 columns: optimizer steps, time left and :func:`short_metrics`."""

    @property
    def counts_steps(self) -> bool:
        """Whether the run has a number of optimizer steps."""
        return self.trainer.state.fn == "fit" and self.trainer.max_steps > 0

    @property
    def total_train_batches(self) -> int | float:
        """What the bar counts to: the steps of the whole run where it has a number of them, also over several epochs."""
        return self.trainer.max_steps if self.counts_steps else super().total_train_batches

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        done = trainer.global_step if self.counts_steps else batch_idx + 1
        super().on_train_batch_end(trainer, pl_module, outputs, batch, done - 1)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, int | str | float | dict[str, float]]:
        sparse = sparse_training(trainer)
        return short_metrics(super().get_metrics(trainer, pl_module), None if sparse is None else sparse.density)

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        columns = super().configure_columns(trainer)
        if not self.counts_steps:
            return columns
        _, bar, count, *_ = columns
        count_width = 2 * len(str(trainer.max_steps)) + 1
        bar.bar_width = min(max(rich.get_console().width - BESIDE_THE_BAR - count_width, 4), 40)
        return [count, bar, TimeRemainingColumn(compact=True, elapsed_when_finished=True)]
