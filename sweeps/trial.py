"""One fit in processes of its own: continued where it was, watched for signs of life, and never run by two at a time."""

import contextlib
import fcntl
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from run_exit import NOT_FINITE, STOPPED_BY_SIGNAL
from run_record import Heartbeat, RunRecord

GUARD = Path(__file__).with_name("guard.py")
POLL = 0.5  # seconds
LOCK_WAIT = 90.0  # seconds; the processes of an interrupted sweep are gone after the guard's grace
SLOW = 20  # times the usual time of its optimizer step that a fit is given in any case
STOPPED = "stopped"  # reported in place of figures, of a fit that a signal has ended: Tune would take an error for a failure
DIVERGED = "diverged"  # the same of one whose numbers are not finite, and would not be the next time: Tune would try again
WORST = 1e12  # stands for a figure that is not finite, and so absent, which ASHA could not rank
WITHOUT_FIGURES = {STOPPED_BY_SIGNAL: STOPPED, NOT_FINITE: DIVERGED}


@dataclass(frozen=True)
class Fit:
    """One trial as the worker that runs it sees it.

    Attributes:
        directory: of the trial; the run is ``version_0`` in it, beside ``log.txt``.
        command: what is run.
        cwd: where it is run.
        stall: seconds without a change of any file of the trial after which it counts as hung; more where its steps are slow.
        watch: key of the summary to report after each validation; empty for none.
        max_steps: where ``watch`` is set, steps of the whole fit.
        keep_checkpoints: of a finished run. A BERT-base with its optimizer takes gigabytes, and what has its export is done.
        pruned: it was ended early once, so that its reports are all that is wanted.
    """

    directory: Path
    command: tuple[str, ...]
    cwd: Path
    stall: float
    watch: str = ""
    max_steps: int = 0
    keep_checkpoints: bool = True
    pruned: bool = False

    @property
    def run(self) -> Path:
        return self.directory / "version_0"

    @property
    def log(self) -> Path:
        return self.directory / "log.txt"


class FitError(RuntimeError):
    """A fit came to no end."""


def is_finished(run: Path) -> bool:
    """Whether a run came to its end: its own summary says so, and nothing else does."""
    record = RunRecord.find(run)
    return record is not None and record.finished


def last_line(log: Path) -> str:
    """The last words of a file."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), f"there is no {log.name}")


def run_fit(fit: Fit, report: Callable[[dict[str, float]], None]) -> None:
    """Run a fit to its end, unless it has come to it before; ``report`` gets what is watched, of an earlier attempt too.

    One that was told to stop, by a signal to it alone, has not failed: :data:`STOPPED` is reported, and it can go on another day.
    One that diverged has, but would do so again to the bit: :data:`DIVERGED` is reported.

    Raises:
        FitError: the command failed, hung or ended early; what it says is also the last line of ``log.txt``.
    """
    fit.directory.mkdir(parents=True, exist_ok=True)
    reports = Reports(fit, report)
    with (fit.directory / "lock").open("w") as lock:  # inherited by all that run the fit: free when all of them are gone
        acquire(lock)
        if fit.pruned or is_finished(fit.run):
            return
        with fit.log.open("a", encoding="utf-8") as log:
            print(f"$ {shlex.join(fit.command)}", file=log, flush=True)
            guard = subprocess.Popen(
                [sys.executable, str(GUARD), *fit.command],
                cwd=fit.cwd,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[lock.fileno()],
                start_new_session=True,
            )
            try:
                hung = not watch(fit, guard, reports)
            finally:
                assert guard.stdin is not None  # a pipe
                guard.stdin.close()
                code = guard.wait()
            if hung:
                print(f"no sign of life for {patience(fit) / 60:g} minutes", file=log)
            elif code in WITHOUT_FIGURES:
                return report({WITHOUT_FIGURES[code]: 1.0})
            elif code == 0 and not is_finished(fit.run):
                record = RunRecord.find(fit.run)
                print(f"ended with status {record.status if record else 'missing'!r}, not 'finished'", file=log)
    if not is_finished(fit.run):
        raise FitError(last_line(fit.log))
    reports.update(final=True)
    if not fit.keep_checkpoints:
        shutil.rmtree(fit.run / "checkpoints", ignore_errors=True)


def run_on_ray(config: dict[str, Any]) -> None:
    """What a worker of Ray does for the trial ``config["fit"]``. It stands here because this module is quick to import."""
    from ray import tune

    run_fit(config["fit"], tune.report)


def acquire(lock: TextIO) -> None:
    """Wait until processes of an earlier attempt, which may be ending at this moment, have let go of a trial."""
    patience = time.monotonic() + LOCK_WAIT
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > patience:
                raise FitError(f"{Path(lock.name).parent} is still being run by other processes") from None
            time.sleep(POLL)


def watch(fit: Fit, guard: subprocess.Popen, reports: "Reports") -> bool:
    """Wait for the end of a fit, reporting; False if it hangs."""
    latest, since = None, time.monotonic()
    while guard.poll() is None:
        time.sleep(POLL)
        reports.update()
        if (changed := newest_change(fit.directory)) != latest:  # compared, as clocks of file servers differ
            latest, since = changed, time.monotonic()
        elif time.monotonic() - since > patience(fit):
            return False
    return True


def patience(fit: Fit) -> float:
    """Seconds that a fit may leave its files as they are: a slow model on a slow machine is not a hung one."""
    heartbeat = Heartbeat.find(fit.run)
    usual = 0.0 if heartbeat is None or heartbeat.step_seconds is None else heartbeat.step_seconds
    return max(fit.stall, SLOW * usual)


def newest_change(directory: Path) -> float:
    """When any file below was last written: logs, events, checkpoints, the summary."""
    times = [0.0]
    for folder, _, files in os.walk(directory):  # which takes it that folders come and go, as Path.rglob does not
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                times.append(os.stat(os.path.join(folder, file)).st_mtime)
    return max(times)


class Reports:
    """What a fit has reported, kept in ``reports.jsonl`` so that a search that goes on knows it again."""

    def __init__(self, fit: Fit, report: Callable[[dict[str, float]], None]) -> None:
        self.fit, self.report, self.last = fit, report, -1
        self.file = fit.directory / "reports.jsonl"
        kept = ""
        for line in self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []:
            try:
                self._send(json.loads(line))
            except ValueError:  # a full disk has cut it off
                self.file.write_text(kept, encoding="utf-8")
                break
            kept += f"{line}\n"

    def update(self, final: bool = False) -> None:
        """Report the newest validation. That of the last step waits for the end, or a cut there would cost the export."""
        record = RunRecord.find(self.fit.run) if self.fit.watch else None
        if record is None or record.eval_step is None or record.eval_step <= self.last:
            return
        if record.eval_step >= self.fit.max_steps and not final:
            return
        value = getattr(record, self.fit.watch)
        line = {"steps": record.eval_step, self.fit.watch: WORST if value is None or not math.isfinite(value) else value}
        with self.file.open("a", encoding="utf-8") as file:
            print(json.dumps(line), file=file)
        self._send(line)

    def _send(self, line: dict[str, float]) -> None:
        self.last = int(line["steps"])
        self.report(line)
