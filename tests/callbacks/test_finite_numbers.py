"""Steps that are not finite are skipped, counted and named; too many of them end the run; a jump of the loss is said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from test_internals import mixed

from callbacks import FiniteNumbers, OneCycleLR, RandomState, RigL, RunSummary
from callbacks.finite_numbers import ENOUGH, is_spike, origin
from datamodules import TextDataModule
from helpers import Recorder, assert_identical, copies, fit, parameters, tiny_bert
from internals import is_accumulating
from run_exit import NOT_FINITE, RunEnded
from run_record import RunRecord

Data = Callable[..., TextDataModule]
LAYER = "bert.encoder.layer.0.output.dense.weight"


class Breaks(Callback):
    """Makes a gradient NaN at some steps, and keeps what the weights and Adam's moments were before and after them."""

    def __init__(self, *steps: int, name: str = LAYER) -> None:
        self.steps, self.name = steps, name
        self.weights: dict[int, dict[str, torch.Tensor]] = {}
        self.moments: dict[int, torch.Tensor] = {}

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step in self.steps and not is_accumulating(trainer):
            parameters(trainer)[self.name].grad.view(-1)[0] = torch.nan

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        self.weights[trainer.global_step] = copies(parameters(trainer))
        state = trainer.optimizers[0].state[parameters(trainer)[self.name]]
        self.moments[trainer.global_step] = state["exp_avg"].clone()


class Loss(Callback):
    """Multiplies the loss of micro-batches."""

    def __init__(self, factor: float, *calls: int, rank: int = 0) -> None:
        self.factor, self.calls, self.rank, self.made = factor, calls, rank, 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        objective = pl_module.objective

        def broken(*arguments: Any) -> torch.Tensor:
            self.made += 1
            on = self.made in self.calls and trainer.global_rank == self.rank
            return objective(*arguments) * (self.factor if on else 1.0)

        pl_module.objective = broken


def warned(records: pytest.WarningsRecorder) -> list[str]:
    return [str(record.message) for record in records if "step" in str(record.message)]


def test_a_step_with_a_gradient_that_is_not_finite_changes_nothing(
    tmp_path: Path, text_data: Data, recwarn: pytest.WarningsRecorder
) -> None:
    """Also where RigL would have updated its masks, of which there is no second message."""
    numbers, breaks, rigl, recorder = FiniteNumbers(), Breaks(3, 4), RigL(every=2, stop=1.0), Recorder()
    fit(tmp_path, text_data(), [numbers, rigl, OneCycleLR(), breaks, recorder, RunSummary()], max_steps=8)
    for before, after in ((3, 4), (4, 5)):
        assert_identical(breaks.weights[before], breaks.weights[after])
        assert_identical(breaks.moments[before], breaks.moments[after])
    assert not torch.equal(breaks.weights[5][LAYER], breaks.weights[6][LAYER])
    assert len(set(recorder.rates)) == 8  # the schedule goes on
    what = f"the gradient of {LAYER}, the losses being finite, is not finite; the step is skipped"
    assert warned(recwarn) == [f"step 3: {what} (1 in a row, 1 in all)", f"step 4: {what} (2 in a row, 2 in all)"]
    assert RunRecord.read(tmp_path / "summary.json").skipped_steps == 2
    assert rigl.masks.nnz() == rigl.stepping.initial_nnz


def test_without_trouble_nothing_changes(tmp_path: Path, text_data: Data) -> None:
    weights = [copies(parameters(fit(tmp_path, text_data(), [RigL(every=2), *more], 4))) for more in ([], [FiniteNumbers()])]
    assert_identical(*weights)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_not_finite_names_its_micro_batch(
    tmp_path: Path, text_data: Data, recwarn: pytest.WarningsRecorder, accumulate: int
) -> None:
    numbers = FiniteNumbers()
    fit(tmp_path, text_data(), [numbers, Loss(torch.nan, 4)], 5, accumulate_grad_batches=accumulate)
    what = "step 3: the loss" if accumulate == 1 else "step 1: the loss of micro-batch 2 of 2"
    assert warned(recwarn) == [f"{what} is not finite; the step is skipped (1 in a row, 1 in all)"]
    assert numbers.skipped == 1
    assert numbers.skipped_in_a_row == 0


def test_a_resumed_run_is_the_whole_one_also_between_two_skipped_steps(tmp_path: Path, text_data: Data) -> None:
    def run(ckpt_path: Path | None = None) -> tuple[FiniteNumbers, Trainer]:
        numbers = FiniteNumbers()
        saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=4, save_top_k=-1)
        callbacks = [numbers, RigL(every=2, stop=1.0), OneCycleLR(), RandomState(), Breaks(3, 4), saving]
        options = {"ckpt_path": ckpt_path, "enable_checkpointing": True, "module": tiny_bert(dropout=0.1)}
        return numbers, fit(tmp_path, text_data(), callbacks, 8, **options)

    whole, first = run()
    resumed, second = run(tmp_path / "step=4.ckpt")
    assert whole.state_dict() == resumed.state_dict()
    assert_identical(copies(parameters(first)), copies(parameters(second)))


@pytest.mark.parametrize(("kept", "good"), [(-1, "step=2.ckpt"), (1, "step=4.ckpt")])
def test_too_many_in_a_row_end_the_run_and_name_the_last_good_checkpoint(
    tmp_path: Path, text_data: Data, kept: int, good: str
) -> None:
    """That of before the first of them, or where it has made room for a later one, that one: its weights are the same."""
    saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=kept)
    callbacks = [FiniteNumbers(in_a_row=3), Breaks(1, 3, 4, 5), saving, RunSummary()]
    line = rf"step 5: .* \(3 in a row, 4 in all\); .*The last good checkpoint: {tmp_path / good}$"
    with pytest.raises(RunEnded, match=line) as end:
        fit(tmp_path, text_data(), callbacks, 8, enable_checkpointing=True)
    assert (tmp_path / good).exists()
    assert end.value.code == NOT_FINITE
    assert RunRecord.read(tmp_path / "summary.json").status == "failed"


def test_a_checkpoint_with_a_weight_that_is_not_finite_is_no_good_one(tmp_path: Path, text_data: Data) -> None:
    """Another callback, or a device, has broken a weight; the checkpoint of step 4 has it already."""

    class BreaksWeight(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
            if trainer.global_step == 4:
                with torch.no_grad():
                    parameters(trainer)[LAYER][0, 0] = torch.inf

    saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1, save_last=True)
    line = rf"step 4: the weight {LAYER} is not finite; .*The last good checkpoint: {tmp_path / 'step=2.ckpt'}"
    with pytest.raises(RunEnded, match=line):
        fit(tmp_path, text_data(), [BreaksWeight(), saving, FiniteNumbers(in_a_row=1)], 8, enable_checkpointing=True)
    assert (tmp_path / "step=4.ckpt").exists()


def test_the_scalers_own_skips_do_not_count_and_a_loss_does(tmp_path: Path, text_data: Data) -> None:
    overflow, loss = FiniteNumbers(), FiniteNumbers()
    fit(tmp_path, text_data(), [overflow, Breaks(1, 2)], 4, plugins=[mixed("16-mixed")])
    assert overflow.skipped == 0
    fit(tmp_path, text_data(), [loss, Loss(torch.inf, 2)], 4, plugins=[mixed("16-mixed")])
    assert loss.skipped == 1


def test_a_jump_of_the_loss_is_said_once(tmp_path: Path, text_data: Data, recwarn: pytest.WarningsRecorder) -> None:
    numbers = FiniteNumbers()
    fit(tmp_path, text_data(), [numbers, Loss(4.0, 36, 37)], 40)
    assert numbers.spikes == 1
    assert [line.split(" to ")[0] for line in warned(recwarn)] == ["step 35: the loss jumps"]


def test_what_a_spike_is() -> None:
    steady = [2.0, 2.1, 1.9, 2.05, 1.95] * 10
    assert not is_spike(100.0, steady[: ENOUGH - 1])
    assert not is_spike(2.4, steady)
    assert is_spike(2.5, steady)  # 2 + 6 · 1.4826 · 0.05 = 2.445
    assert not is_spike(2.11, [2.0] * 50)  # 6 · 1 % of the median
    assert is_spike(2.13, [2.0] * 50)


def test_what_is_named() -> None:
    assert origin({0: [1.0], 1: [float("nan")]}, None, "w") == "the loss on rank 1"
    assert origin({0: [1.0, float("inf")]}, None, "w") == "the loss of micro-batch 2 of 2"
    assert origin({0: [float("nan")]}, "v", "w") == "the weight v"
