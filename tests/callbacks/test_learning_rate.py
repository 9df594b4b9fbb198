"""Schedules step with the optimizer, over the whole run."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR as TorchOneCycleLR
from torch.optim.lr_scheduler import StepLR

from callbacks import LinearWarmupDecay, LRRangeTest, OneCycleLR, RigL
from callbacks.lr_range_test import range_test_rate, smooth, suggest_max_lr
from datamodules import TextDataModule
from helpers import CONFIG, Recorder, fit, tiny_bert
from lightning_modules import MaskedLanguageModel

Data = Callable[..., TextDataModule]


def torch_one_cycle(steps: int, **options: object) -> tuple[list[float], list[float]]:
    """Rates and beta1 of every step of torch's own one-cycle schedule."""
    optimizer = AdamW([torch.zeros(1, requires_grad=True)])
    schedule = TorchOneCycleLR(optimizer, total_steps=steps, **options)
    rates, momenta = [], []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        momenta.append(optimizer.param_groups[0]["betas"][0])
        optimizer.step()
        if len(rates) < steps:
            schedule.step()
    return rates, momenta


@pytest.mark.parametrize("anneal_strategy", ["linear", "cos"])
def test_one_cycle_equals_torch_step_by_step(tmp_path: Path, text_data: Data, anneal_strategy: str) -> None:
    recorder = Recorder()
    one_cycle = OneCycleLR(anneal_strategy=anneal_strategy)  # its peak is the module's rate
    rigl = RigL(every=3)  # a skipped weight step is a step of the schedule
    fit(tmp_path, text_data(), [one_cycle, rigl, recorder], max_steps=20, accumulate_grad_batches=2)
    rates, momenta = torch_one_cycle(20, max_lr=1e-2, anneal_strategy=anneal_strategy)
    assert recorder.rates == rates
    assert recorder.momenta == momenta
    assert (max(rates), min(rates)) == (pytest.approx(1e-2), pytest.approx(1e-2 / 25 / 1e4))


def test_one_cycle_across_a_resume(tmp_path: Path, text_data: Data) -> None:
    recorders = [Recorder(), Recorder()]
    options = {"max_lr": 1e-2, "pct_start": 0.4, "div_factor": 10.0, "final_div_factor": 100.0}
    trainer = fit(
        tmp_path,
        text_data(),
        [OneCycleLR(**options), recorders[0]],
        12,
        tiny_bert(lr=None),
        limit_train_batches=5,
        max_epochs=1,
    )
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = [OneCycleLR(**options), recorders[1]]
    fit(tmp_path, text_data(), resumed, 12, tiny_bert(lr=None), ckpt_path=tmp_path / "half.ckpt")
    rates, momenta = torch_one_cycle(12, anneal_strategy="linear", **options)
    assert (len(recorders[0].rates), len(recorders[1].rates)) == (5, 7)
    assert recorders[0].rates + recorders[1].rates == rates
    assert recorders[0].momenta + recorders[1].momenta == momenta


def test_a_cycle_cannot_be_made_longer(tmp_path: Path, text_data: Data) -> None:
    """A resumed schedule is the old one, which is at its end: torch would make one step more, of a negative rate."""
    trainer = fit(tmp_path, text_data(), [OneCycleLR()], max_steps=4)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    recorder = Recorder()
    with pytest.raises(ValueError, match="the checkpoint's cycle is of 4 steps, trainer.max_steps is 8"):
        fit(tmp_path, text_data(), [OneCycleLR(), recorder], max_steps=8, ckpt_path=tmp_path / "end.ckpt")
    assert recorder.rates == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_lr": math.nan}, "max_lr > 0 and pct_start in"),
        ({"max_lr": math.inf}, "max_lr > 0 and pct_start in"),
        ({"pct_start": 1.0}, "pct_start in \\[0, 1\\) expected, got None and 1.0"),
        ({"div_factor": 0.0}, "div_factor > 0 and final_div_factor > 0 expected, got 0.0 and 10000.0"),
        ({"div_factor": -1.0}, "div_factor > 0"),
        ({"final_div_factor": 0.0}, "final_div_factor > 0"),
        ({"base_momentum": 1.5}, "0 <= base_momentum <= max_momentum < 1 expected, got 1.5 and 0.95"),
        ({"max_momentum": 0.5}, "0 <= base_momentum <= max_momentum < 1"),
    ],
)
def test_a_cycle_that_cannot_be_is_an_error(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OneCycleLR(**options)


def test_one_cycle_keeps_the_ratio_of_parameter_groups() -> None:
    weights = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    optimizer = SGD([{"params": weights[0], "lr": 0.1}, {"params": weights[1], "lr": 0.4}], momentum=0.9)
    OneCycleLR(max_lr=2.0, div_factor=10.0).build(optimizer, max_steps=10)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.2])


class WithOwnSchedule(MaskedLanguageModel):
    def configure_optimizers(self) -> tuple[list[Optimizer], list[StepLR]]:
        optimizer = super().configure_optimizers()
        return [optimizer], [StepLR(optimizer, step_size=1)]


def test_a_second_schedule_is_an_error(tmp_path: Path, text_data: Data) -> None:
    with pytest.raises(ValueError, match="OneCycleLR would be a second learning-rate schedule beside StepLR"):
        fit(tmp_path, text_data(), [OneCycleLR()], max_steps=2, module=WithOwnSchedule(CONFIG))
    with pytest.raises(ValueError, match="LinearWarmupDecay would be a second learning-rate schedule beside OneCycleLR"):
        fit(tmp_path, text_data(), [OneCycleLR(), LinearWarmupDecay()], max_steps=2)


@pytest.mark.parametrize("warmup_steps", [4, 0.4])
def test_linear_warmup_decay(tmp_path: Path, text_data: Data, warmup_steps: float) -> None:
    recorder = Recorder()
    trainer = fit(tmp_path, text_data(), [LinearWarmupDecay(warmup_steps), recorder], max_steps=10, module=tiny_bert(lr=0.8))
    assert recorder.rates == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, *(0.8 * left / 6 for left in (5, 4, 3, 2, 1))])
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.0


def test_warmup_and_decay_can_have_a_peak_of_their_own(tmp_path: Path, text_data: Data) -> None:
    recorder = Recorder()
    fit(tmp_path, text_data(), [LinearWarmupDecay(2, max_lr=0.5), recorder], max_steps=4, module=tiny_bert(lr=None))
    assert recorder.rates == pytest.approx([0.0, 0.25, 0.5, 0.25])


@pytest.mark.parametrize("schedule", [OneCycleLR(max_lr=0.5), LinearWarmupDecay(max_lr=0.5), LRRangeTest(max_lr=0.5)])
def test_two_peaks_are_refused_and_one_is_never_ignored(tmp_path: Path, text_data: Data, schedule: Callback) -> None:
    message = rf"model.lr is 0.01 and {type(schedule).__name__}.max_lr 0.5, and both set the peak learning rate"
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, text_data(), [schedule], max_steps=2, module=tiny_bert(lr=0.01))


@pytest.mark.parametrize(
    "callback", [lambda: OneCycleLR(max_lr=0.0), lambda: LinearWarmupDecay(-1), lambda: LRRangeTest(1, 1)]
)
def test_bad_settings_are_errors(callback: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="expected|negative"):
        callback()


def test_range_test_rates() -> None:
    exponential = [range_test_rate(step, 5, 1e-5, 1e-1, "exponential") for step in range(5)]
    assert exponential == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    assert [range_test_rate(step, 5, 1.0, 3.0, "linear") for step in range(5)] == [1.0, 1.5, 2.0, 2.5, 3.0]


def test_smoothing_is_unbiased_from_the_first_value() -> None:
    assert smooth([3.0] * 10) == pytest.approx([3.0] * 10)
    assert smooth([1.0, 0.0])[1] == pytest.approx(0.95 / 1.95)


def test_suggestion_is_half_the_rate_of_the_lowest_loss() -> None:
    rates = [10 ** (-5 + step / 100) for step in range(400)]
    valley = [4 + abs(math.log10(rate) + 2) for rate in rates]  # lowest at 1e-2; smoothing trails behind by some steps
    suggestion, found = suggest_max_lr(rates, valley)
    assert found
    assert 0.5e-2 <= suggestion <= 0.75e-2
    assert suggest_max_lr(rates, [5 - step / 400 for step in range(400)]) == (rates[-1] / 2, False)


def test_range_test_writes_curve_and_suggestion(tmp_path: Path, text_data: Data) -> None:
    recorder, logger = Recorder(), TensorBoardLogger(tmp_path, name="range")
    range_test = LRRangeTest(min_lr=1e-4, max_lr=1e-2)
    callbacks, module = [range_test, recorder], tiny_bert(lr=None)
    fit(tmp_path, text_data(), callbacks, 9, module, accumulate_grad_batches=2, logger=logger)
    result = json.loads((tmp_path / "lr_range_test.json").read_text())
    assert result["lr"] == pytest.approx([1e-4 * 100 ** (step / 8) for step in range(9)])
    assert recorder.rates == pytest.approx(result["lr"])
    assert result["loss"] == pytest.approx([2 * loss for loss in recorder.losses[1::2]])
    assert (result["suggested_max_lr"], result["limit_found"]) == suggest_max_lr(result["lr"], result["loss"])


class Diverges(MaskedLanguageModel):
    """Its loss explodes, or is not a number, after the fourth step."""

    explosion = 100.0

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx) * (self.explosion if batch_idx > 3 else 1.0)


@pytest.mark.parametrize("explosion", [100.0, math.nan])
def test_range_test_stops_when_the_loss_diverges(tmp_path: Path, text_data: Data, explosion: float) -> None:
    module = Diverges(CONFIG)
    module.explosion = explosion
    trainer = fit(tmp_path, text_data(), [LRRangeTest()], max_steps=50, module=module)
    assert trainer.global_step == 5
    result = json.loads((tmp_path / "lr_range_test.json").read_text())
    assert len(result["lr"]) == len(result["loss"]) == (5 if math.isfinite(explosion) else 4)
    assert result["limit_found"]


def test_a_cycle_that_rises_in_one_step_is_named(tmp_path: Path, text_data: Data) -> None:
    with pytest.raises(ValueError, match="pct_start 0.1 of 10 steps is a rise of a single one"):
        fit(tmp_path, text_data(), [OneCycleLR(max_lr=1e-2, pct_start=0.1)], 10, tiny_bert(lr=None))
