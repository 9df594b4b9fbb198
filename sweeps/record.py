"""``sweep.json``: what a sweep has done and what came out, with every maximum beside the spread that it was picked from."""

import json
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from objectives.beyond_glue import FINETUNING
from run_record import RunRecord, read_object, write_json
from strangers import refuse_links_out
from sweeps.trial import is_finished
from sweeps.trials import Trial

PRETRAINING = "pretraining"  # stands for the task of a fit that has none
FILE = "sweep.json"
HEADER = ("name", "model", "protocol", "pretrained", "extra")
SETTINGS = ("protocol", "pretrained", "data.path", "glue.path", "extra")  # not to be mixed
TRIAL = ("task", "seed", "settings", "start", "run", "status")


class Record:
    """The content of ``sweep.json`` and its file.

    Keys: ``name``, ``model``, ``protocol``, ``pretrained``, ``data.path``, ``extra`` (further options of ``train.py``),
    ``trials`` (name → ``task``, ``seed``, ``config``, ``settings``, ``start``, ``given``, ``teachers``, ``run``, ``status``,
    ``error``; see :class:`~sweeps.trials.Trial`) and ``tasks`` (:func:`results`). The status of a trial is waiting, running,
    finished, failed or pruned (ended early by a search).

    With stages there are also ``glue.path`` and ``tuning`` (stages whose fits only choose a point), and a trial has ``stage``,
    ``row``, ``point`` (of the grid; what it starts from has had it too) and, from its beginning, ``tuned``: the point that it
    has taken from another stage, which is in ``settings`` then.
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
            ValueError: the file is not one, or not a whole one, or a trial is kept outside the sweep's directory.
        """
        file = directory / FILE
        try:
            content = read_object(file)
            known = [{key: entry[key] for key in TRIAL} for entry in content["trials"].values()]
            known += [{key: content[key] for key in HEADER}]
            check_trials(content["trials"])
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{file}: not the record of a sweep, or only the beginning of one ({error})") from error
        return cls(directory, content)

    @classmethod
    def open(cls, directory: Path, header: dict[str, Any], trials: list[Trial]) -> "Record":
        """A new record, or that of an interrupted sweep with what it has finished; trials of other tasks stay in it.

        Trials that have not begun are taken as they are now. An old record says nothing of configs and teachers.

        Raises:
            ValueError: the directory holds a sweep of other settings, with which these would be mixed.
        """
        before: dict[str, Any] = {}
        refuse_links_out(directory)
        if (directory / FILE).exists():
            before = cls.load(directory).content
        kept = before.get("trials", {})
        begun = [trial for trial in kept.values() if trial["status"] != "waiting"]
        for key in SETTINGS:
            if key == "glue.path" and not any(trial["task"] for trial in begun):
                continue  # nothing has read from there
            if key in before and before[key] != header.get(key, ""):
                raise ValueError(
                    f"{directory} is of a sweep with {key} {before[key]!r}, not {header.get(key, '')!r}; give another --name"
                )
        points = {trial.name: trial.point for trial in trials}
        planned = {}
        for trial in trials:
            entry = {"task": trial.task, "seed": trial.seed, "settings": trial.settings, "start": trial.start}
            entry |= {"config": trial.config.name, "given": trial.given, "teachers": trial.teachers}
            if trial.stage:
                entry |= {"stage": trial.stage, "row": trial.row, "point": trial.point}
            old = kept.get(trial.name)
            if old and old.get("tuned") in [points[name] for name in trial.tuned_by]:
                entry |= {"tuned": old["tuned"], "settings": trial.settings | old["tuned"]}
            for key, value in entry.items() if old and old["status"] != "waiting" else ():
                if old.get(key, value) != value:
                    raise ValueError(
                        f"{directory} has a trial {trial.name} with {key} {old[key]!r}, not {value!r}; give another --name"
                    )
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

    def begin(self, name: str, tuned: dict[str, Any]) -> None:
        """Note that a trial runs, and the point that it has taken from another stage."""
        self.take(name, tuned)
        self.set(name, "running")

    def take(self, name: str, tuned: dict[str, Any]) -> None:
        """Make the point that a trial has taken from another stage part of its settings."""
        if tuned:
            entry = self.trials[name]
            entry |= {"tuned": tuned, "settings": entry["settings"] | tuned}

    def end(self, name: str, error: str | None = None, stopped: bool = False) -> None:
        """Note the end of a trial by what its run says: one that was not stopped either was ended by the search."""
        if is_finished(self.directory / self.trials[name]["run"]):
            self.set(name, "finished")
        elif error:
            self.set(name, "failed", " ".join(error.split()))
        else:
            self.set(name, "stopped" if stopped else "pruned")

    def save(self) -> None:
        """Write the file, whole or not at all."""
        self.content["tasks"] = results(self.directory, self.trials)
        write_json(self.directory / FILE, self.content)

    def names(self, *statuses: str) -> list[str]:
        """Trials of these statuses."""
        return [name for name, trial in self.trials.items() if trial["status"] in statuses]

    def best(self, names: Iterable[str]) -> str | None:
        """Of these trials the finished one that ranks first."""
        records = {name: record for name in names if (record := self._finished(name))}
        return max(records, key=lambda name: rank(self.trials[name]["task"], figures_of(records[name])), default=None)

    def best_point(self, names: Iterable[str]) -> dict[str, Any] | None:
        """The point of these trials with the lowest eval loss, the mean over its seeds; a run without one counts as infinite."""
        losses: dict[str, list[float]] = {}
        for name in names:
            record = self._finished(name)
            loss = math.inf if record is None or record.eval_loss is None else record.eval_loss
            losses.setdefault(json.dumps(self.trials[name]["point"]), []).append(math.inf if math.isnan(loss) else loss)
        means = {point: statistics.fmean(found) for point, found in losses.items()}
        best = min(means, key=means.__getitem__)
        return json.loads(best) if math.isfinite(means[best]) else None

    def export(self, name: str) -> Path:
        """The exported model of a trial."""
        return self.directory / self.trials[name]["run"] / "export"

    def tuned(self, stage: str, row: str) -> dict[str, Any] | None:
        """The point that fits of a row have taken from another stage already, for the others to take it too."""
        of_row = (trial for trial in self.trials.values() if (trial.get("stage"), trial.get("row")) == (stage, row))
        return next((trial["tuned"] for trial in of_row if "tuned" in trial), None)

    def _finished(self, name: str) -> RunRecord | None:
        trial = self.trials[name]
        return RunRecord.find(self.directory / trial["run"]) if trial["status"] == "finished" else None


def check_trials(trials: dict[str, dict[str, Any]]) -> None:
    """Trials are directories beside ``sweep.json``, with the settings and the point of one.

    Raises:
        ValueError: one is elsewhere, or something in it is of another kind.
    """
    kinds = {"task": str, "seed": int, "settings": dict, "start": str, "run": str, "status": str, "stage": str, "row": str}
    for name, trial in trials.items():
        if name in ("", ".", "..") or Path(name).name != name or trial["run"] != f"{name}/version_0":
            raise ValueError(f"trial {name!r} in {trial['run']!r}; expected one in NAME/version_0 of the sweep's directory")
        for key, kind in (kinds | {"point": dict, "tuned": dict}).items():
            if key in trial and not isinstance(trial[key], kind):
                raise ValueError(f"trial {name!r}: {key} is {trial[key]!r:.40}, expected {kind.__name__}")


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


def group_of(trial: dict[str, Any]) -> str:
    """What is one line of figures: a task; with stages, the same stage, row and point of the grid."""
    if "stage" not in trial:
        return trial["task"] or PRETRAINING
    return " / ".join(filter(None, [trial["stage"], trial["row"], short(trial["point"]), trial["task"]]))


def short(point: dict[str, Any]) -> str:
    """A point of the grid as tables show it: ``max_lr=0.005``."""
    return " ".join(f"{option.rsplit('.', 1)[-1]}={value}" for option, value in point.items())


def results(directory: Path, trials: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """:func:`group_of` → ``best`` (the finished trial that ranks first) and ``metrics`` (metric → :func:`spread`)."""
    groups: dict[str, dict[str, RunRecord]] = {}
    for name, trial in trials.items():
        if trial["status"] == "finished" and (record := RunRecord.find(directory / trial["run"])):
            groups.setdefault(group_of(trial), {})[name] = record
    found = {}
    for group, records in groups.items():
        figures = {name: figures_of(record) for name, record in records.items()}
        degenerate = sum(bool(record.degenerate) for record in records.values())
        metrics = dict.fromkeys(metric for run in figures.values() for metric in run)
        best = max(figures, key=lambda name: rank(trials[name]["task"], figures[name]))
        found[group] = {
            "best": best,
            "metrics": {
                metric: spread([run[metric] for run in figures.values() if metric in run], degenerate) for metric in metrics
            },
        }
    return found


def rank(task: str, figures: dict[str, float]) -> float:
    """What sorts the runs of a task, more being better; a figure that is missing or not finite comes last."""
    value = figures.get(FINETUNING[task].rank_by) if task in FINETUNING else -figures.get("perplexity", math.inf)
    return value if value is not None and math.isfinite(value) else -math.inf


def results_table(record: Record) -> Table:
    """A row a task and metric, as far as the sweep has come; GLUE metrics in percent, the best of perplexities is the min.

    With stages, a row for each stage, row and point, with the figure that ranks its runs: the eval loss, or the task's metric.
    """
    trials = record.trials.values()
    staged = any("stage" in trial for trial in trials)
    best = "best" if staged else "min" if any(not trial["task"] for trial in trials) else "max"
    labels = ["stage", "row", "point", "task", "metric"] if staged else ["task", "metric"]
    figures = [best, "median", "mean", "std"]
    title = f"{record.content['name']} ({record.content['model']})"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for column in (*labels, "done", "failed", "degenerate", *figures):
        table.add_column(column, justify="left" if column in labels else "right")
    groups: dict[str, list[dict[str, Any]]] = {}
    for trial in trials:
        groups.setdefault(group_of(trial), []).append(trial)
    for group, members in groups.items():
        trial, statuses = members[0], [trial["status"] for trial in members]
        task = trial["task"]
        names = [trial["stage"], trial["row"], short(trial["point"]), task] if staged else [task or PRETRAINING]
        done = f"{statuses.count('finished') + statuses.count('pruned')}/{len(statuses)}"
        metrics = record.content["tasks"].get(group, {}).get("metrics") or {"": {}}
        if staged and metrics.keys() != {""}:
            ranking = FINETUNING[task].rank_by if task else "eval_loss"
            metrics = {ranking: metrics.get(ranking, {})}
        for metric, row in metrics.items():
            row = row | ({"best": row["max" if task else "min"]} if "max" in row else {})
            digits = 3 if staged and not task else 2
            cells = [f"{row[figure] * (100 if task else 1):.{digits}f}" if figure in row else "" for figure in figures]
            counts = [done, str(statuses.count("failed")), str(row.get("degenerate", ""))]
            table.add_row(*map(escape, names), metric, *counts, *cells)  # a name may have brackets
    return table
