"""A run that is told to stop writes a checkpoint, exits with its code, and goes on to the bits of one that was not."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from callbacks import (
    CheckedCheckpointIO,
    ExportPretrained,
    FinalValidation,
    OneCycleLR,
    RandomState,
    ResumeRules,
    RigL,
    RunSummary,
    StopOnSignal,
)
from callbacks.stop import SIGNALS
from datamodules import TextDataModule
from helpers import Recorder, assert_identical, fit, parameters, tiny_bert
from run_exit import STOPPED_BY_SIGNAL
from run_record import RunRecord

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:.*")

Data = Callable[..., TextDataModule]
STEPS, ACCUMULATE = 6, 2


class Sender(Callback):
    """Sends signals to this process in the middle of an optimizer step, or of a validation."""

    def __init__(self, step: int, *signals: signal.Signals, validating: bool = False) -> None:
        self.step, self.signals, self.validating = step, signals, validating

    def send(self, step: int) -> None:
        if step == self.step:
            self.step = -1
            for number in self.signals:  # to this very thread: two that another one takes may come as one
                signal.raise_signal(number)

    def on_before_zero_grad(self, trainer: Trainer, *_: object) -> None:
        if not self.validating:
            self.send(trainer.global_step)

    def on_validation_batch_start(self, trainer: Trainer, *_: object) -> None:
        if self.validating:
            self.send(trainer.global_step)


class Run:
    """Six steps with dropout, validated after three, with everything that has a state."""

    def __init__(self, root: Path, data: TextDataModule, *further: Callback, ckpt_path: Path | None = None) -> None:
        self.root, self.recorder, self.rigl = root, Recorder(), RigL(sparsity=0.8, every=2, stop=1.0)
        saving = ModelCheckpoint(root / "checkpoints", filename="{step}", every_n_train_steps=4, save_last=True)
        callbacks = [ResumeRules(), self.rigl, OneCycleLR(), RandomState(), self.recorder, FinalValidation()]
        callbacks += [RunSummary(), ExportPretrained(), StopOnSignal(), *further, saving]
        options = {"limit_val_batches": 3, "val_check_interval": 6, "accumulate_grad_batches": ACCUMULATE}
        options |= {"enable_checkpointing": True, "plugins": [CheckedCheckpointIO()]}
        self.trainer: Trainer = fit(root, data, callbacks, STEPS, tiny_bert(dropout=0.1), ckpt_path, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, text_data: Data) -> Run:
    return Run(tmp_path_factory.mktemp("stop") / "whole", text_data())


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


def test_a_fit_leaves_the_handlers_of_signals_as_they_were(tmp_path: Path, text_data: Data) -> None:
    before = handlers()
    Run(tmp_path, text_data())
    assert handlers() == before


def test_a_fit_that_fails_on_a_full_disk_does_so_too(
    tmp_path: Path, text_data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fill(Callback):
        def on_before_zero_grad(self, *_: object) -> None:
            monkeypatch.setattr(RunRecord, "write", full)
            raise OSError("the disk is full")

    def full(*_: object) -> None:
        raise OSError("no room for a summary")

    before = handlers()
    with (
        pytest.raises(OSError, match="the disk is full"),
        pytest.warns(UserWarning, match="the summary could not be written: no room for a summary"),
    ):
        Run(tmp_path, text_data(), Fill())
    assert handlers() == before


@pytest.mark.parametrize(
    ("number", "step", "validating"),
    [
        (signal.SIGTERM, 2, False),
        (signal.SIGINT, 3, False),
        (signal.SIGUSR1, 5, False),
        (signal.SIGTERM, 3, True),
        (signal.SIGTERM, 6, True),
    ],
)
def test_a_signal_stops_a_run_that_goes_on_to_the_same_bits(
    tmp_path: Path,
    text_data: Data,
    whole: Run,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    step: int,
    validating: bool,
) -> None:
    before = handlers()
    with pytest.raises(SystemExit) as stop:
        Run(tmp_path, text_data(), Sender(step, number, validating=validating))
    assert stop.value.code == STOPPED_BY_SIGNAL == 75
    assert handlers() == before
    reached = step if validating else step + 1
    assert f"stopped by {number.name} at step {reached}, with {tmp_path}" in capsys.readouterr().err
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("stopped", reached)
    assert "error" not in summary
    assert not (tmp_path / "export").exists()

    resumed = Run(tmp_path, text_data(), ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert resumed.recorder.losses == whole.recorder.losses[reached * ACCUMULATE :]
    assert_identical(parameters(resumed.trainer), parameters(whole.trainer))
    assert_identical(resumed.trainer.optimizers[0].state_dict(), whole.trainer.optimizers[0].state_dict())
    assert_identical(dict(resumed.rigl.masks), dict(whole.rigl.masks))
    weights = [(run.root / "export" / "model.safetensors").read_bytes() for run in (resumed, whole)]
    assert weights[0] == weights[1]
    summaries = [json.loads((run.root / "summary.json").read_text()) for run in (resumed, whole)]
    assert summaries[0]["eval_loss"] == summaries[1]["eval_loss"]
    assert [summary["status"] for summary in summaries] == ["finished", "finished"]


def test_a_second_signal_does_not_wait(tmp_path: Path, text_data: Data) -> None:
    with pytest.raises(SystemExit) as stop:
        Run(tmp_path, text_data(), Sender(2, signal.SIGINT, signal.SIGINT))
    assert stop.value.code != STOPPED_BY_SIGNAL
    assert not (tmp_path / "checkpoints").exists()


class Deaf(Callback):
    """Another rank would receive the signal: this one is told by the reduction alone."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.global_rank == 1 and trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all(tmp_path: Path, text_data: Data) -> None:
    """Real processes of their own, as ranks are; both end with the code of a stop, and one checkpoint is there."""
    import multiprocessing

    def rank(root: Path) -> None:
        saving = ModelCheckpoint(root / "checkpoints", every_n_train_steps=100, save_last=True)
        options = {"strategy": "ddp_fork", "devices": 2, "enable_checkpointing": True}
        sys.stderr = (root / "said").open("w")
        fit(root, text_data(batch_size=4), [RandomState(), StopOnSignal(), Deaf(), saving], 50, **options)

    process = multiprocessing.get_context("fork").Process(target=rank, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode not in (None, 0)
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
