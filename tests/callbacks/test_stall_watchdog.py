"""A run that hangs ends by itself and says where; one that is slow, validates or saves does not."""

import multiprocessing
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from callbacks import RunSummary, StallWatchdog
from callbacks.stall_watchdog import POLL, Patience, watch
from datamodules import TextDataModule
from helpers import fit
from run_exit import STALLED
from run_record import Heartbeat, RunRecord

Data = Callable[..., TextDataModule]


def patience(*took: float, times: float = 20, at_least: float = 600) -> Patience:
    patient = Patience(times, at_least)
    for seconds in took:
        patient.step_took(seconds)
    patient.watching = True
    return patient


def test_the_limit_follows_the_usual_step() -> None:
    assert patience(1.0, 1.0).limit is None  # too few to say
    assert patience(0.1, 0.1, 30.0).limit == 600
    slow = patience(480.0, 500.0, 470.0)  # a BERT-base on one core
    assert (slow.usual, slow.limit) == (480.0, 9600.0)


def test_only_time_without_a_step_counts() -> None:
    run = patience(1, 1, 1, times=2, at_least=10)
    ticks = [run.tick(POLL) for _ in range(11)]
    assert ticks == [False] * 10 + [True]
    run.step_took(1.0)
    assert not run.tick(POLL)
    run.watching = False  # validation, a checkpoint
    assert not any(run.tick(POLL) for _ in range(100))
    run.watching = True
    assert not run.tick(POLL)


def test_a_process_that_was_stopped_has_not_hung() -> None:
    run = patience(1, 1, 1, times=2, at_least=10)
    assert not run.tick(3600.0)


def test_the_watch_ends_with_the_run() -> None:
    ended, stalled = threading.Event(), threading.Event()
    thread = threading.Thread(target=watch, args=(patience(1, 1, 1), ended, stalled.set))
    thread.start()
    ended.set()
    thread.join(5)
    assert not thread.is_alive()
    assert not stalled.is_set()


class Sleeps(Callback):
    """Sleeps in validation and while a checkpoint is written, and, given a step, for ever in its batch."""

    def __init__(self, step: int | None = None) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        time.sleep(600 if trainer.global_step == self.step else 1.5 if trainer.global_step == 0 else 0)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        time.sleep(1.5)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]) -> None:
        time.sleep(1.5)


def test_a_slow_start_validation_and_checkpoint_are_no_stall(
    tmp_path: Path, text_data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callbacks.stall_watchdog.POLL", 0.05)
    monkeypatch.setattr("callbacks.stall_watchdog.BETWEEN_HEARTBEATS", 0.0)
    monkeypatch.setattr("callbacks.stall_watchdog.end_stalled", lambda *_: stalled.set())
    stalled = threading.Event()
    saving = ModelCheckpoint(tmp_path, every_n_train_steps=5)
    callbacks = [StallWatchdog(at_least=1.0), Sleeps(), saving]
    options = {
        "limit_val_batches": 1,
        "val_check_interval": 6,
        "check_val_every_n_epoch": None,
        "enable_checkpointing": True,
    }
    fit(tmp_path, text_data(), callbacks, 7, **options)
    assert not stalled.is_set()
    heartbeat = Heartbeat.find(tmp_path)
    assert heartbeat is not None
    assert heartbeat.step == 7
    assert 0 < (heartbeat.step_seconds or 0) < 1  # without what is no part of a step


def hang(root: Path, data: TextDataModule) -> None:
    with (root / "said").open("w") as sys.stderr:
        fit(root, data, [StallWatchdog(at_least=1.5), Sleeps(step=5), RunSummary()], 8)


def test_a_run_that_hangs_tells_where_and_ends_with_a_code_of_its_own(tmp_path: Path, text_data: Data) -> None:
    process = multiprocessing.get_context("fork").Process(target=hang, args=(tmp_path, text_data()))
    process.start()
    process.join(60)
    assert process.exitcode == STALLED
    stacks = (tmp_path / "stacks_rank0.txt").read_text()
    assert "in on_train_batch_start" in stacks  # of this file, where it sleeps
    assert "step 5: no optimizer step for " in (tmp_path / "said").read_text()
    record = RunRecord.read(tmp_path / "summary.json")
    assert record.status == "failed"
    assert (record.error or "").startswith("step 5: no optimizer step for ")


def test_a_heartbeat_that_is_broken_is_none(tmp_path: Path) -> None:
    assert Heartbeat.find(tmp_path) is None
    for content in ('{"step": "a"}', "[]", '{"step": 3, "step_seconds": "x"}', '{"step"'):
        (tmp_path / "heartbeat.json").write_text(content)
        assert Heartbeat.find(tmp_path) is None
    Heartbeat(3, 1.5).write(tmp_path)
    assert Heartbeat.find(tmp_path) == Heartbeat(3, 1.5)


class Broken(Callback):
    """Fails, and fails again when it is told that the fit has failed, so that callbacks after it are not told."""

    def on_train_batch_end(self, *_: object) -> None:
        raise RuntimeError("the first")

    def on_exception(self, *_: object) -> None:
        raise RuntimeError("the second")


def test_nothing_watches_a_fit_that_has_failed_twice(tmp_path: Path, text_data: Callable[..., TextDataModule]) -> None:
    """A thread that went on would end the process minutes later, whatever it does by then."""
    with pytest.raises(RuntimeError, match="the second"):
        fit(tmp_path, text_data(), [Broken(), StallWatchdog()], 3)
    deadline = time.monotonic() + 10
    while any(thread.name == "stall-watchdog" for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(thread.name == "stall-watchdog" for thread in threading.enumerate())
