"""The learning-rate range test."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from pytorch_lightning.utilities.types import STEP_OUTPUT
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from callbacks.figures import add_figure, range_test_figure
from callbacks.learning_rate import StepwiseSchedule
from internals import is_accumulating

SMOOTHING = 0.95
DIVERGED = 4.0


def range_test_rate(step: int, steps: int, min_lr: float, max_lr: float, mode: str) -> float:
    """Learning rate of ``step``: from ``min_lr`` to ``max_lr`` at the last, in equal steps or by equal factors."""
    position = min(step / max(steps - 1, 1), 1.0)
    if mode == "linear":
        return min_lr + (max_lr - min_lr) * position
    return min_lr * (max_lr / min_lr) ** position


def smooth(losses: list[float]) -> list[float]:
    """Exponential moving average with bias correction."""
    average, smoothed = 0.0, []
    for count, loss in enumerate(losses, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smoothed.append(average / (1 - SMOOTHING**count))
    return smoothed


def suggest_max_lr(rates: list[float], losses: list[float]) -> tuple[float, bool]:
    """Half the rate at which the smoothed loss is lowest, and whether the loss rose after it.

    Beyond the minimum training is unstable; the peak of a cycle stays a factor of two below it (Smith 2017, section 3.3,
    reads the same point off the curve by eye). Without a rise the test ended before the limit was found.
    """
    smoothed = smooth(losses)
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__)
    return rates[lowest] / 2, max(smoothed[lowest:]) > 1.02 * smoothed[lowest]


class LRRangeTest(StepwiseSchedule):
    """Raises the learning rate over the run and shows where the loss stops falling (Smith 2017, arXiv 1506.01186).

    Writes the figure ``lr_range_test`` to TensorBoard and ``lr_range_test.json`` into the run's directory, and says which
    ``max_lr`` it suggests. Stops when the loss is four times its lowest.

    Args:
        min_lr: learning rate of the first step.
        max_lr: learning rate of the last step.
        mode: ``exponential`` to find the order of magnitude, ``linear`` to refine.
    """

    def __init__(
        self, min_lr: float = 1e-5, max_lr: float = 1e-1, mode: Literal["linear", "exponential"] = "exponential"
    ) -> None:
        if not 0 < min_lr < max_lr:
            raise ValueError(f"0 < min_lr < max_lr expected, got {min_lr} and {max_lr}")
        self.min_lr, self.max_lr, self.mode = min_lr, max_lr, mode
        self.losses: list[float] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.losses = []

    def build(self, optimizer: Optimizer, max_steps: int) -> LRScheduler:
        largest = max(group["lr"] for group in optimizer.param_groups)
        self.steps = max_steps
        return LambdaLR(optimizer, lambda step: self.rate(step) / largest)

    def rate(self, step: int) -> float:
        """Learning rate of optimizer step ``step``."""
        return range_test_rate(step, self.steps, self.min_lr, cast(float, self.max_lr), self.mode)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        if is_accumulating(trainer) or not isinstance(outputs, Mapping):
            return
        loss = trainer.strategy.reduce(outputs["loss"].detach(), reduce_op="mean")
        self.losses.append(float(loss) * trainer.accumulate_grad_batches)
        if not math.isfinite(self.losses[-1]) or smooth(self.losses)[-1] > DIVERGED * min(self.losses):
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        losses = [loss for loss in self.losses if math.isfinite(loss)]
        if not trainer.is_global_zero or not losses:
            return
        rates = [self.rate(step) for step in range(len(losses))]
        suggestion, rose = suggest_max_lr(rates, losses)
        found = rose or len(losses) < len(self.losses)  # or it was not even a number any more
        scale = "log" if self.mode == "exponential" else "linear"
        add_figure(trainer, "lr_range_test", range_test_figure(rates, losses, smooth(losses), suggestion, scale))
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            result = {"lr": rates, "loss": losses, "suggested_max_lr": suggestion, "limit_found": found}
            run = Path(trainer.default_root_dir)
            run.mkdir(parents=True, exist_ok=True)
            (run / "lr_range_test.json").write_text(json.dumps(result), encoding="utf-8")
        rank_zero_info(f"LR range test: suggested max_lr {suggestion:.3g}")
        if not found:
            rank_zero_warn(f"the loss never rose up to a learning rate of {rates[-1]:.3g}: raise max_lr to find the limit")

    def state_dict(self) -> dict[str, list[float]]:
        return {"losses": self.losses}

    def load_state_dict(self, state_dict: dict[str, list[float]]) -> None:
        self.losses = state_dict["losses"]
