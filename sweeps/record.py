"""``sweep.json``: what a sweep has done and what came out, with every maximum beside the spread that it was picked from."""

import math
import statistics
from pathlib import Path
from typing import Any

from rich.table import Table

from objectives.glue import GLUE
from run_record import RunRecord, read_object, write_json
from sweeps.protocol import Trial
from sweeps.trial import is_finished

PRETRAINING = "pretraining"  # stands for the task of a fit that has none
FILE = "sweep.json"
HEADER = ("name", "model", "protocol", "pretrained", "extra")
SETTINGS = ("protocol", "pretrained", "data.path", "extra")  # not to be mixed
TRIAL = ("task", "seed", "settings", "start", "run", "status")


class Record:
    """The content of ``sweep.json`` and its file.

    Keys: ``name``, ``model``, ``protocol``, ``pretrained``, ``data.path``, ``extra`` (further options of ``train.py``),
    ``trials`` (name → ``task``, ``seed``, ``settings``, ``start``, ``run``, ``status``, ``error``) and ``tasks``
    (:func:`results`). The status of a trial is waiting, running, finished, failed or pruned (ended early by a search).
    """

    def __init__(self, directory: Path, content: dict[str, Any]) -> None:
        self.directory, self.content = directory, content

    @property
    def trials(self) -> dict[str, dict[str, Any]]:
        return self.content["trials"]

    @classmethod
    def load(cls, directory: Path) -> "Record":
        """The record of a sweep.

        Raises:
            ValueError: the file is not one, or not a whole one.
        """
        file = directory / FILE
        try:
            content = read_object(file)
            known = [{key: entry[key] for key in TRIAL} for entry in content["trials"].values()]
            known += [{key: content[key] for key in HEADER}]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{file}: not the record of a sweep, or only the beginning of one ({error})") from error
        return cls(directory, content)

    @classmethod
    def open(cls, directory: Path, header: dict[str, Any], trials: list[Trial]) -> "Record":
        """A new record, or that of an interrupted sweep with what it has finished; trials of other tasks stay in it.

        Raises:
            ValueError: the directory holds a sweep of other settings, with which these would be mixed.
        """
        before: dict[str, Any] = {}
        if (directory / FILE).exists():
            before = cls.load(directory).content
        kept = before.get("trials", {})
        for key in SETTINGS:
            if key in before and before[key] != header[key]:
                raise ValueError(
                    f"{directory} is of a sweep with {key} {before[key]!r}, not {header[key]!r}; give another --name"
                )
        planned = {}
        for trial in trials:
            entry = {"task": trial.task, "seed": trial.seed, "settings": trial.settings, "start": trial.start}
            old = kept.get(trial.name)
            if old and {key: old[key] for key in entry} != entry:
                raise ValueError(f"{directory} has a trial {trial.name} of other settings; give another --name")
            run = f"{trial.name}/version_0"
            status = "finished" if is_finished(directory / run) else "waiting"
            if old and old["status"] == "pruned":
                status = "pruned"
            planned[trial.name] = entry | {"run": run, "status": status}
        return cls(directory, header | {"trials": kept | planned, "tasks": {}})

    def set(self, name: str, status: str, error: str | None = None) -> None:
        """Note what became of a trial, and write the file."""
        entry = self.trials[name]
        entry.pop("error", None)
        entry |= {"status": status} | ({"error": error} if error else {})
        self.save()

    def end(self, name: str, error: str | None = None) -> None:
        """Note the end of a trial by what its run says: one that neither finished nor failed was ended by the search."""
        if is_finished(self.directory / self.trials[name]["run"]):
            self.set(name, "finished")
        else:
            self.set(name, "failed" if error else "pruned", " ".join(error.split()) if error else None)

    def save(self) -> None:
        """Write the file, whole or not at all."""
        self.content["tasks"] = results(self.directory, self.trials)
        write_json(self.directory / FILE, self.content)

    def names(self, *statuses: str) -> list[str]:
        """Trials of these statuses."""
        return [name for name, trial in self.trials.items() if trial["status"] in statuses]

    def best(self, task: str) -> Path | None:
        """The exported model of the task's best run."""
        task_results = results(self.directory, self.trials).get(task)
        return self.directory / task_results["best"] / "version_0" / "export" if task_results else None


def figures_of(record: RunRecord) -> dict[str, float]:
    """A run's figures: those of its task, NaN where they are not defined, or of pretraining."""
    if record.task or record.metrics:
        return record.metrics
    losses = {"perplexity": record.perplexity, "eval_loss": record.eval_loss}
    return {name: value for name, value in losses.items() if value is not None}


def spread(values: list[float], degenerate: int = 0) -> dict[str, float]:
    """Max, median, mean, sample standard deviation and min of the finite values, of which there are ``runs``.

    A correlation of a model that always says the same is not defined: such a run counts as degenerate, not as a number. Of a
    single run there is no standard deviation.
    """
    finite = [value for value in values if math.isfinite(value)]
    figures: dict[str, float] = {"runs": len(finite), "degenerate": degenerate}
    if finite:
        figures |= {"max": max(finite), "median": statistics.median(finite), "mean": statistics.mean(finite)}
        figures |= {"std": statistics.stdev(finite)} if len(finite) > 1 else {}
        figures |= {"min": min(finite)}
    return figures


def results(directory: Path, trials: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Task → ``best`` (the trial that ranks first) and ``metrics`` (metric → :func:`spread`), over the finished trials."""
    by_task: dict[str, dict[str, RunRecord]] = {}
    for name, trial in trials.items():
        if trial["status"] == "finished" and (record := RunRecord.find(directory / trial["run"])):
            by_task.setdefault(trial["task"] or PRETRAINING, {})[name] = record
    found = {}
    for task, records in by_task.items():
        figures = {name: figures_of(record) for name, record in records.items()}
        degenerate = sum(bool(record.degenerate) for record in records.values())
        metrics = dict.fromkeys(metric for run in figures.values() for metric in run)
        best = max(figures, key=lambda name: rank(task, figures[name]))
        found[task] = {
            "best": best,
            "metrics": {
                metric: spread([run[metric] for run in figures.values() if metric in run], degenerate) for metric in metrics
            },
        }
    return found


def rank(task: str, figures: dict[str, float]) -> float:
    """What sorts the runs of a task, more being better; a figure that is missing or not finite comes last."""
    value = figures.get(GLUE[task].rank_by) if task in GLUE else -figures.get("perplexity", math.inf)
    return value if value is not None and math.isfinite(value) else -math.inf


def results_table(record: Record) -> Table:
    """A row a task and metric, as far as the sweep has come; GLUE metrics in percent, the best of perplexities is the min."""
    pretraining = any(not trial["task"] for trial in record.trials.values())
    figures = ["min" if pretraining else "max", "median", "mean", "std"]
    table = Table(
        title=f"{record.content['name']} ({record.content['model']})", title_justify="left", box=None, padding=(0, 1, 0, 0)
    )
    for column in ("task", "metric", "done", "failed", "degenerate", *figures):
        table.add_column(column, justify="left" if column in ("task", "metric") else "right")
    for task in dict.fromkeys(trial["task"] for trial in record.trials.values()):
        statuses = [trial["status"] for trial in record.trials.values() if trial["task"] == task]
        done = f"{statuses.count('finished') + statuses.count('pruned')}/{len(statuses)}"
        task_metrics = record.content["tasks"].get(task or PRETRAINING, {}).get("metrics") or {"": {}}
        for metric, row in task_metrics.items():
            percent = 100 if task else 1
            cells = [f"{row[figure] * percent:.2f}" if figure in row else "" for figure in figures]
            counts = [done, str(statuses.count("failed")), str(row.get("degenerate", ""))]
            table.add_row(task or PRETRAINING, metric, *counts, *cells)
    return table
