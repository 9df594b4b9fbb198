"""Where a run is kept, what it goes on from, and that no two processes write there."""

import re
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer

from callbacks import newest_whole
from run_record import SUMMARY, RunLock, RunRecord

CHECKPOINTS = "checkpoints"
EVENTS = "events.out.tfevents.*"


def version_of(run: Path) -> int | None:
    """N of ``version_N``."""
    found = re.fullmatch(r"version_(\d+)", run.name)
    return int(found[1]) if found else None


def newest_version(experiment: Path) -> int | None:
    """The highest N of the runs of an experiment; None where there is none."""
    return max((number for run in experiment.glob("version_*") if (number := version_of(run)) is not None), default=None)


def begun(run: Path) -> bool:
    """Whether a directory has what a run leaves."""
    return (run / SUMMARY).exists() or any(run.glob(f"{CHECKPOINTS}/*.ckpt")) or any(run.glob(EVENTS))


def last_checkpoint(run: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a run, and a line for each newer one that is not.

    Raises:
        ValueError: there are some and none is whole, or the run has finished and they are gone.
    """
    checkpoint, complaints = newest_whole(run / CHECKPOINTS)
    if checkpoint is None and complaints:
        raise ValueError(f"ckpt_path last: {complaints[0]}, and {run} has no other: give another --version to begin anew")
    record = RunRecord.find(run)
    if checkpoint is None and record is not None and record.finished:
        raise ValueError(f"ckpt_path last: {run} has finished, and its checkpoints are gone: give another --version")
    return checkpoint, complaints


def directory_of(experiment: Path, version: int | None, checkpoint: str | None) -> Path:
    """The directory of a run: the version asked for, that of the checkpoint it goes on from, or the next one that is free.

    Raises:
        ValueError: another run is there already.
    """
    continued = Path(checkpoint).resolve().parent.parent if checkpoint else None
    if continued is not None and continued.parent == experiment.resolve() and version in (None, version_of(continued)):
        return experiment / continued.name
    if version is None:
        newest = newest_version(experiment)
        return experiment / f"version_{0 if newest is None else newest + 1}"
    run = experiment / f"version_{version}"
    if begun(run):
        raise ValueError(
            f"{run} holds a run already: --ckpt_path last goes on with it; another --version, or none, begins a new one"
        )
    return run


def clear_attempt(run: Path) -> None:
    """Remove what a run has left that died before its first checkpoint, so that another does not mix with it."""
    for file in [*run.glob(EVENTS), run / SUMMARY, run / "config.yaml", *run.glob(f"{CHECKPOINTS}/*.partial")]:
        file.unlink(missing_ok=True)


class HoldRun(Callback):
    """Holds a lock in the run's directory while the fit is under way: of two processes the second is refused.

    The system lets go of it when the process is gone, however it ended; so a summary that says ``running`` where nobody holds
    the lock is that of a run that died.
    """

    def __init__(self) -> None:
        self._lock: RunLock | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the lock.

        Raises:
            ValueError: another process has it.
        """
        if stage != "fit" or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        run = Path(trainer.default_root_dir)
        run.mkdir(parents=True, exist_ok=True)
        lock = RunLock(run)
        if not lock.take():
            lock.file.close()
            raise ValueError(f"{run} is being written by another process: wait for its end, or give another --version")
        self._lock = lock

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None
