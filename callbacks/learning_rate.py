"""Learning-rate schedules over the whole run, as callbacks.

They are built when the fit starts, over ``trainer.max_steps``, and handed to Lightning, which steps, saves and restores them
like a scheduler of the module.
"""

import math
from typing import Any, Literal, cast

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.types import LRSchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.optim.lr_scheduler import OneCycleLR as TorchOneCycleLR


class StepwiseSchedule(Callback):
    """A schedule stepped at every optimizer step. Subclasses build it.

    Attributes:
        max_lr: peak learning rate of the parameter group with the largest; None for the optimizer's own, which is the module's.
    """

    max_lr: float | None = None

    def build(self, optimizer: Optimizer, max_steps: int) -> LRScheduler:
        """The torch scheduler for a run of ``max_steps`` optimizer steps."""
        raise NotImplementedError

    @property
    def state_key(self) -> str:
        """Says of which kind the schedule is that Lightning keeps."""
        return f"StepwiseSchedule[{type(self).__name__}]"

    def state_dict(self) -> dict[str, Any]:
        return {"max_lr": self.max_lr}

    def peaks(self, optimizer: Optimizer) -> list[float]:
        """Peak learning rate of each parameter group; the groups keep the ratios of their rates."""
        rates: list[float] = [group["lr"] for group in optimizer.param_groups]
        return rates if self.max_lr is None else [self.max_lr * rate / max(rates) for rate in rates]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.max_steps < 1:
            raise ValueError(f"{type(self).__name__} runs over trainer.max_steps, which is not set")
        if trainer.strategy.lr_scheduler_configs:
            raise ValueError(
                f"{type(self).__name__} would be a second learning-rate schedule beside "
                f"{type(trainer.strategy.lr_scheduler_configs[0].scheduler).__name__}: keep one"
            )
        if self.max_lr is not None and (lr := pl_module.hparams.get("lr")) is not None:
            raise ValueError(
                f"model.lr is {lr} and {type(self).__name__}.max_lr {self.max_lr}, and both set the peak learning rate: "
                "leave one of them out (null)"
            )
        scheduler = self.build(trainer.optimizers[0], trainer.max_steps)
        trainer.strategy.lr_scheduler_configs = [LRSchedulerConfig(scheduler, interval="step")]


class OneCycleLR(StepwiseSchedule):
    """One cycle of the learning rate and, inversely, of momentum or beta1 (Smith and Topin 2018, arXiv 1708.07120).

    Parameter groups keep the ratios of their learning rates.

    Args:
        max_lr: peak learning rate; null for the module's.
        pct_start: share of the steps in which it rises.
        anneal_strategy: ``linear`` or ``cos``.
        div_factor: the run starts at ``max_lr / div_factor``.
        final_div_factor: and ends at the start value divided by this.
        cycle_momentum: also cycle momentum (beta1 of Adam) between the next two.
        base_momentum: momentum at the peak learning rate.
        max_momentum: momentum at both ends.
    """

    def __init__(
        self,
        max_lr: float | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Literal["linear", "cos"] = "linear",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
    ) -> None:
        if not 0 < (1.0 if max_lr is None else max_lr) < math.inf or not 0 <= pct_start < 1:
            raise ValueError(f"max_lr > 0 and pct_start in [0, 1) expected, got {max_lr} and {pct_start}")
        if not (0 < div_factor < math.inf and 0 < final_div_factor < math.inf):
            raise ValueError(f"div_factor > 0 and final_div_factor > 0 expected, got {div_factor} and {final_div_factor}")
        if not 0 <= base_momentum <= max_momentum < 1:
            raise ValueError(f"0 <= base_momentum <= max_momentum < 1 expected, got {base_momentum} and {max_momentum}")
        self.max_lr, self.pct_start, self.anneal_strategy = max_lr, pct_start, anneal_strategy
        self.div_factor, self.final_div_factor = div_factor, final_div_factor
        self.cycle_momentum, self.base_momentum, self.max_momentum = cycle_momentum, base_momentum, max_momentum

    def build(self, optimizer: Optimizer, max_steps: int) -> LRScheduler:
        if self.pct_start * max_steps == 1:  # where torch divides by 0
            raise ValueError(
                f"pct_start {self.pct_start:g} of {max_steps} steps is a rise of a single one, which has no slope; give more or 0"
            )
        return TorchOneCycleLR(
            optimizer,
            max_lr=self.peaks(optimizer),
            total_steps=max_steps,
            pct_start=self.pct_start,
            anneal_strategy=self.anneal_strategy,
            cycle_momentum=self.cycle_momentum,
            base_momentum=self.base_momentum,
            max_momentum=self.max_momentum,
            div_factor=self.div_factor,
            final_div_factor=self.final_div_factor,
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        schedule = cast(TorchOneCycleLR, trainer.lr_scheduler_configs[0].scheduler)
        steps = schedule.total_steps  # restored, where the run is a resumed one
        if steps != trainer.max_steps:
            raise ValueError(
                f"the checkpoint's cycle is of {steps} steps, trainer.max_steps is {trainer.max_steps}: keep it"
            )


def warmup_decay_factor(step: int, warmup_steps: int, max_steps: int) -> float:
    """Multiplier of the learning rate: from 0 to 1 over the warm-up, then in a straight line to 0 (Devlin et al. 2019)."""
    if step < warmup_steps:
        return step / warmup_steps
    return max(0.0, (max_steps - step) / max(max_steps - warmup_steps, 1))


class LinearWarmupDecay(StepwiseSchedule):
    """Linear warm-up to the peak learning rate, then linear decay to 0 behind the last step (Devlin et al. 2019, appendix A.2).

    Args:
        warmup_steps: optimizer steps of warm-up; below 1, a share of the steps.
        max_lr: peak learning rate; null for the module's.
    """

    def __init__(self, warmup_steps: float = 0.1, max_lr: float | None = None) -> None:
        if warmup_steps < 0 or (max_lr is not None and max_lr <= 0):
            raise ValueError(f"warmup_steps >= 0 and max_lr > 0 expected, got {warmup_steps} and {max_lr}")
        self.warmup_steps, self.max_lr = warmup_steps, max_lr

    def build(self, optimizer: Optimizer, max_steps: int) -> LRScheduler:
        steps = round(self.warmup_steps * max_steps) if self.warmup_steps < 1 else int(self.warmup_steps)
        for group, peak in zip(optimizer.param_groups, self.peaks(optimizer), strict=True):
            group["lr"] = peak
        return LambdaLR(optimizer, lambda step: warmup_decay_factor(step, steps, max_steps))
