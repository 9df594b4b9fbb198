"""Runs as their ``summary.json`` tells them; what is not one is named and left out."""

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from objectives.beyond_glue import FINETUNING, task_named
from run_record import SUMMARY, RunRecord, model_name, read_object

SWEEP = "sweep.json"
TUNE = "tune"  # stands for the stages of runs that choose an option


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        directory: where its summary is.
        record: what is in it, its task under its official name.
        model: what it is a run of: of a finetuning run, the model that it started from.
        protocol: of the sweep that it is part of; empty for none.
        row: of the tables of a sweep that has rows; empty for none.
        stage: of that sweep. What was fitted to choose an option (:data:`TUNE`, whatever it is called) is a run of no model.
        settings: options that its sweep gave it.
        point: of these, those of the grid.
    """

    directory: Path
    record: RunRecord
    model: str
    protocol: str = ""
    row: str = ""
    stage: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    point: dict[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> str | None:
        return self.record.task

    @property
    def length(self) -> int:
        """Optimizer steps that a sweep gave the run, else those it made."""
        steps = self.settings.get("trainer.max_steps")
        return steps if isinstance(steps, int) else self.record.steps or 0

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
        value = self.metrics.get(FINETUNING[self.task].rank_by, -math.inf) if self.task else -loss
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
    """The runs at or below ``paths``, those of a sweep with rows in its order, and one line for each file that is broken.

    Rows of two sweeps that have the same name and are different fits also have the name of their sweep (:func:`told_apart`).

    Raises:
        FileNotFoundError: a path is not there or holds no run.
    """
    runs, sweeps, complaints = [], dict[Path, dict[str, Any]](), {}
    for file in find_summaries(paths):
        try:
            record = checked_task(RunRecord.read(file))
        except (OSError, ValueError) as error:
            complaints[file] = f"{file} skipped: {error}"
            continue
        above = (parent / SWEEP for parent in file.resolve().parents)
        sweep_file = next((file for file in above if file.exists()), None)
        if sweep_file is not None and sweep_file not in sweeps:
            try:
                sweeps[sweep_file] = checked_sweep(read_object(sweep_file))
            except (OSError, ValueError) as error:
                complaints[sweep_file] = f"{sweep_file} skipped, so that rows have the names of what was finetuned: {error}"
                sweeps[sweep_file] = {}
        runs.append(run_of(file, record, sweep_file, sweeps[sweep_file] if sweep_file else {}))
    return in_order_of_sweeps(by_method(told_apart(runs, sweeps)), sweeps), list(complaints.values())


def checked_sweep(sweep: dict[str, Any]) -> dict[str, Any]:
    """The record of a sweep, if its trials are what tables rely on.

    Raises:
        ValueError: they are something else.
    """
    kinds = {"row": str, "stage": str, "settings": dict, "point": dict}
    trials = sweep.get("trials", {})
    if not isinstance(trials, dict):
        raise ValueError(f"trials: an object expected, not {trials!r:.40}")
    if not isinstance(tuning := sweep.get("tuning", []), list):
        raise ValueError(f"tuning: a list of stages expected, not {tuning!r:.40}")
    for name, trial in trials.items():
        if not isinstance(trial, dict) or not all(isinstance(trial.get(key, kind()), kind) for key, kind in kinds.items()):
            raise ValueError(f"trials.{name}: an object with row, stage, settings and point expected, not {trial!r:.40}")
    return sweep


def run_of(file: Path, record: RunRecord, sweep_file: Path | None, sweep: dict[str, Any]) -> Run:
    """A run by its summary and by the sweep that it is part of, whose trials are directories beside ``sweep.json``."""
    trial_name = file.resolve().relative_to(sweep_file.parent).parts[0] if sweep_file else ""
    trial = sweep.get("trials", {}).get(trial_name, {})
    row, stage = trial.get("row", ""), trial.get("stage", "")
    stage = TUNE if stage in sweep.get("tuning", []) else stage
    model = row if row and stage != TUNE else name_of(record, str(sweep.get("model", "")))
    settings, point = trial.get("settings", {}), trial.get("point", {})
    return Run(file.parent, record, model, str(sweep.get("protocol", "")), row, stage, settings, point)


def told_apart(runs: list[Run], sweeps: dict[Path, dict[str, Any]]) -> list[Run]:
    """The runs, with rows called ``static (one_peak)`` where sweeps have rows of the same name that are not the same fits.

    They are the same if the sweeps have the same model, data and further options, and the pretraining of the row the same
    settings but for its length: such sweeps go on with each other.
    """
    of_rows: dict[tuple[str, Path], list[Run]] = {}
    for run in runs:
        if run.row:
            of_rows.setdefault((run.row, sweep_of(run)), []).append(run)
    kinds: dict[str, dict[str, Path]] = {}  # row → what it is → the first sweep that has it so
    first = {
        (row, sweep): kinds.setdefault(row, {}).setdefault(kind_of(sweeps.get(sweep, {}), own), sweep)
        for (row, sweep), own in of_rows.items()
    }

    def renamed(run: Run) -> Run:
        if len(kinds.get(run.row, ())) < 2:
            return run
        name = f"{run.row} ({name_among(first[run.row, sweep_of(run)], sweeps)})"
        return dataclasses.replace(run, row=name, model=name if run.model == run.row else run.model)

    return [renamed(run) for run in runs]


def sweep_of(run: Run) -> Path:
    """The record of the sweep that a run with a row is part of."""
    return run.directory.resolve().parents[1] / SWEEP


def kind_of(sweep: dict[str, Any], runs: Iterable[Run]) -> str:
    """What the runs of a row are fits of, as a text that is the same for the same."""
    fits = [run.settings for run in runs if run.task is None and run.stage != TUNE]
    fits = [{key: value for key, value in fit.items() if key != "trainer.max_steps"} for fit in fits]
    texts = sorted({json.dumps(fit, sort_keys=True, default=str) for fit in fits})
    extra = without_length(sweep.get("extra") or [])
    return json.dumps([*(sweep.get(key, "") for key in ("model", "data.path")), extra, texts], default=str)


def without_length(options: list[str]) -> list[str]:
    """Options of a command line without ``--trainer.max_steps``, which two lengths of the same fit have differently."""
    length = "--trainer.max_steps"
    return [
        option
        for before, option in zip(["", *options], options, strict=False)
        if length not in (before, option) and not str(option).startswith(f"{length}=")
    ]


def by_method(runs: list[Run]) -> list[Run]:
    """The runs, with those of an experiment that has several methods called ``cpu_bench, RigL``: they are no seeds of one model.

    Runs of a sweep's row stay one.
    """
    methods: dict[str, set[str]] = {}
    for run in runs:
        if not (run.row or run.task):
            methods.setdefault(run.model, set()).add(method_of(run.record))

    def named(run: Run) -> Run:
        method = method_of(run.record)
        several = not (run.row or run.task) and len(methods[run.model]) > 1
        return dataclasses.replace(run, model=f"{run.model}, {method}") if several and method else run

    return [named(run) for run in runs]


def method_of(record: RunRecord) -> str:
    """What a run's model was made sparse by, or ``dense``; empty where the record, of an older version, does not say."""
    return record.masks or ("dense" if record.parameters is not None and record.nonzeros == record.parameters else "")


def name_among(sweep_file: Path, others: Iterable[Path]) -> str:
    """The directory of a sweep as told from those of others: by its name, or by its path."""
    directory = sweep_file.parent
    alike = [other for other in others if other != sweep_file and other.parent.name == directory.name]
    return str(directory) if alike else directory.name


def in_order_of_sweeps(runs: list[Run], sweeps: dict[Path, dict[str, Any]]) -> list[Run]:
    """The runs of each sweep with rows in the order of its trials, where the first of them was; the others stay in place."""
    begins, keys = dict[Path, int](), {}
    for number, run in enumerate(runs):
        trial = run.directory.resolve().parent
        trials = list(sweeps.get(sweep_of(run), {}).get("trials", {})) if run.row else []
        place = begins.setdefault(sweep_of(run), number) if run.row else number
        keys[run.directory] = (place, trials.index(trial.name) if trial.name in trials else 0)
    return sorted(runs, key=lambda run: keys[run.directory])


def checked_task(record: RunRecord) -> RunRecord:
    """The record with the task's official name, if the tables can rely on it.

    Raises:
        ValueError: there is no such task, or a finished run has no score.
    """
    if record.task is None:
        return record
    task = task_named(record.task).name
    task = FINETUNING[task].trained_on or task
    if record.finished and FINETUNING[task].rank_by not in record.metrics:
        raise ValueError(f"metrics of a finished run of {task} expected, {FINETUNING[task].rank_by} among them")
    return dataclasses.replace(record, task=task)


def name_of(record: RunRecord, swept: str) -> str:
    """What a run is a run of: of a task, the model that was finetuned; of pretraining, its experiment.

    Args:
        record: of the run.
        swept: model of the sweep that it is part of, whose trials of pretraining are points of a search and seeds; or empty.
    """
    if record.task:
        return swept or record.pretrained_name or model_name(record.pretrained or record.experiment)
    if swept:
        return f"{swept} {record.experiment.removesuffix(f'seed={record.seed}').rstrip('_')}".rstrip()
    return Path(record.experiment).name
