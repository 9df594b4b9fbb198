"""Runs as their ``summary.json`` tells them; what is not one is named and left out."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from objectives.glue import GLUE, glue_task
from run_record import SUMMARY, RunRecord, model_name, read_object


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        directory: where its summary is.
        record: what is in it, its task under its official name.
        model: what it is a run of: of a finetuning run, the model that it started from.
        protocol: of the sweep that it is part of; empty for none.
    """

    directory: Path
    record: RunRecord
    model: str
    protocol: str = ""

    @property
    def task(self) -> str | None:
        return self.record.task

    @property
    def degenerate(self) -> bool:
        return bool(self.record.degenerate)

    @property
    def metrics(self) -> dict[str, float]:
        """Of the task, as fractions of 1; one that is not a number (a correlation of constants) is left out."""
        return {name: value for name, value in self.record.metrics.items() if math.isfinite(value)}

    @property
    def rank(self) -> float:
        """What sorts the runs of a model, more being better: the metric of the task, or the eval loss; a run without is last."""
        loss = math.inf if self.record.eval_loss is None else self.record.eval_loss
        value = self.metrics.get(GLUE[self.task].rank_by, -math.inf) if self.task else -loss
        return -math.inf if math.isnan(value) else value


def best_run(runs: Sequence[Run]) -> Run:
    """The run of one model and task that ranks first; the earliest of equals."""
    return max(runs, key=lambda run: run.rank)


def find_summaries(paths: Iterable[Path]) -> list[Path]:
    """Every ``summary.json`` at or below ``paths``, once, versions of an experiment in the order of their numbers.

    Raises:
        FileNotFoundError: a path is not there or holds no run.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        files = {file.resolve(): file for file in path.rglob(SUMMARY)}
        if not files:
            raise FileNotFoundError(f"{path}: no {SUMMARY} there or below")
        for place in sorted(files, key=lambda place: (place.parent.parent, len(place.parent.name), place)):
            found.setdefault(place, files[place])
    return list(found.values())


def read_runs(paths: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """The runs at or below ``paths``, and one line for each file that is broken.

    Raises:
        FileNotFoundError: a path is not there or holds no run.
    """
    runs, complaints = [], {}
    for file in find_summaries(paths):
        try:
            record = checked_task(RunRecord.read(file))
        except (OSError, ValueError) as error:
            complaints[file] = f"{file} skipped: {error}"
            continue
        above = (parent / "sweep.json" for parent in file.resolve().parents)
        sweep_file, sweep = next((file for file in above if file.exists()), None), dict[str, Any]()
        if sweep_file is not None:
            try:
                sweep = read_object(sweep_file)
            except (OSError, ValueError) as error:
                complaints[sweep_file] = f"{sweep_file} skipped, so that rows have the names of what was finetuned: {error}"
        runs.append(Run(file.parent, record, name_of(record, str(sweep.get("model", ""))), str(sweep.get("protocol", ""))))
    return runs, list(complaints.values())


def checked_task(record: RunRecord) -> RunRecord:
    """The record with the task's official name, if the tables can rely on it.

    Raises:
        ValueError: there is no such task, or a finished run has no score.
    """
    if record.task is None:
        return record
    task = glue_task(record.task).name
    task = GLUE[task].trained_on or task
    if record.finished and GLUE[task].rank_by not in record.metrics:
        raise ValueError(f"metrics of a finished run of {task} expected, {GLUE[task].rank_by} among them")
    return dataclasses.replace(record, task=task)


def name_of(record: RunRecord, swept: str) -> str:
    """What a run is a run of: of a task, the model that was finetuned; of pretraining, its experiment.

    Args:
        record: of the run.
        swept: model of the sweep that it is part of, whose trials of pretraining are points of a search and seeds; or empty.
    """
    if record.task:
        return swept or model_name(record.pretrained or record.experiment)
    if swept:
        return f"{swept} {record.experiment.removesuffix(f'seed={record.seed}').rstrip('_')}".rstrip()
    return Path(record.experiment).name
