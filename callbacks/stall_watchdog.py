"""Signs of life of a run, and what happens when there are none."""

import dataclasses
import faulthandler
import math
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerStatus

from run_exit import STALLED
from run_record import Heartbeat, RunRecord

POLL = 1.0  # seconds
BETWEEN_HEARTBEATS = 5.0  # seconds
WINDOW = 32  # steps of which the median is the usual time
ENOUGH = 3  # of them, after the first, which compiles and starts the loader


class Patience:
    """How long a run has made no optimizer step, counted in ticks of the watcher.

    A process that was stopped (SIGSTOP, a suspended machine) has not been hanging: a tick counts for twice its length at most.

    Args:
        times: the usual time of a step that may pass without one.
        at_least: seconds that may pass in any case.
    """

    def __init__(self, times: float, at_least: float) -> None:
        self.times, self.at_least = times, at_least
        self.idle, self.watching = 0.0, False
        self._took: deque[float] = deque(maxlen=WINDOW)

    @property
    def usual(self) -> float | None:
        """Median time of a step in seconds; None before there are enough."""
        return statistics.median(self._took) if len(self._took) >= ENOUGH else None

    @property
    def limit(self) -> float | None:
        """Seconds without a step after which a run has stalled; None while nobody can say."""
        return None if self.usual is None else max(self.times * self.usual, self.at_least)

    def step_took(self, seconds: float) -> None:
        """An optimizer step has been made."""
        self._took.append(seconds)
        self.idle = 0.0

    def tick(self, seconds: float) -> bool:
        """Count the time since the last tick; whether the run has stalled."""
        self.idle = self.idle + min(seconds, 2 * POLL) if self.watching else 0.0
        return self.limit is not None and self.idle > self.limit


class StallWatchdog(Callback):
    """Ends a run that makes no optimizer step for many times the usual, and writes ``heartbeat.json`` while it does.

    Every rank watches itself. The stacks of its threads go to ``stacks_rankN.txt`` in the run's directory; the process then ends
    with code 76, a little later, so that the others write theirs too. What has no usual length is not watched: the first steps
    (compilation, the start of the loader), validation and tests, and the writing of a checkpoint. Waiting for a batch is.

    Args:
        times: the usual (median) time of a step that may pass without one.
        at_least: seconds that may pass in any case.
    """

    def __init__(self, times: float = 20.0, at_least: float = 600.0) -> None:
        if times <= 1 or at_least <= 0:
            raise ValueError(f"watchdog.times > 1 and watchdog.at_least > 0 expected, got {times} and {at_least}")
        self.patience = Patience(times, at_least)
        self._since: float | None = None  # when the step at hand began; None where it is not measured
        self._steps, self._made_one, self._beat_at = 0, False, 0.0
        self._ended = threading.Event()
        self._ended.set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended, self._steps = threading.Event(), trainer.global_step
        self._since, self._made_one, self._beat_at = None, False, -math.inf
        arguments = self.patience, self._ended, self._end_process(trainer), lambda: is_running(trainer)
        threading.Thread(target=watch, args=arguments, name="stall-watchdog", daemon=True).start()
        self._beat(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if self._since is None and self._made_one:
            self._since = time.monotonic()
        self.patience.watching = self._since is not None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.global_step != self._steps:
            now = time.monotonic()
            if self._since is not None:
                self.patience.step_took(now - self._since)
            self._steps, self._made_one, self._since = trainer.global_step, True, now
        self._beat(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._pause()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        self._beat(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause()

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        self._beat(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause()  # the last validation, the test and the export follow

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended.set()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._ended.set()

    def _pause(self) -> None:
        """Neither watch nor measure until the next batch is there."""
        self._since, self.patience.watching = None, False

    def _beat(self, trainer: Trainer) -> None:
        """Give a sign of life, if the latest is some time ago; of a fit only."""
        now = time.monotonic()
        if self._ended.is_set() or now - self._beat_at < BETWEEN_HEARTBEATS:
            return
        self._beat_at = now
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            Heartbeat(trainer.global_step, self.patience.usual).write(Path(trainer.default_root_dir))

    def _end_process(self, trainer: Trainer) -> Callable[[], None]:
        rank, run = trainer.global_rank, Path(trainer.default_root_dir)
        return lambda: end_stalled(self.patience, trainer.global_step, rank, run)


def is_running(trainer: Trainer) -> bool:
    """Whether a fit is under way: not one that an error has ended, even if nobody could be told because of another."""
    return trainer.state.status == TrainerStatus.RUNNING


def watch(
    patience: Patience, ended: threading.Event, stalled: Callable[[], None], running: Callable[[], bool] = lambda: True
) -> None:
    """Tick until the run has ended, or has stalled."""
    before = time.monotonic()
    while not ended.wait(POLL) and running():
        now = time.monotonic()
        if patience.tick(now - before):
            return stalled()
        before = now


def end_stalled(patience: Patience, step: int, rank: int, run: Path) -> None:
    """Write down where every thread of this process is, and end it; the thread that hangs cannot."""
    stacks = run / f"stacks_rank{rank}.txt"
    line = f"step {step}: no optimizer step for {patience.idle:.0f} s, where one takes {patience.usual:.3g} s"
    try:
        run.mkdir(parents=True, exist_ok=True)
        with stacks.open("w", encoding="utf-8") as file:
            print(line, file=file, flush=True)
            faulthandler.dump_traceback(file, all_threads=True)
        record = RunRecord.find(run)
        if rank == 0 and record is not None:
            dataclasses.replace(record, status="failed", error=line).write(run)
    except OSError as error:  # the disk may be what hangs
        line = f"{line} ({error})"
    print(f"error: {line}; rank {rank} was at {stacks}", file=sys.stderr, flush=True)
    time.sleep(3 * POLL + 0.1 * patience.idle)  # or the others would fail for want of this rank, before they tell
    os._exit(STALLED)
