"""Runs as their ``summary.json`` tells them; what is not one is named and left out."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from objectives.glue import GLUE, glue_task

STATUSES = ("running", "finished", "failed", "stopped")
LARGEST = 2**63  # no count is
FIGURES = ("nonzeros", "eval_loss", "perplexity", "unigram_loss", "tokens_per_second")


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        directory: where its summary is.
        summary: all of it.
        model: what it is a run of: of a finetuning run, the model that it started from.
        task: of GLUE; None for a pretraining run.
        metrics: of the task, as fractions of 1; one that is not a number (a correlation of constants) is left out.
        protocol: of the sweep that it is part of; empty for none.
    """

    directory: Path
    summary: dict[str, Any]
    model: str
    task: str | None
    metrics: dict[str, float]
    protocol: str = ""

    @property
    def status(self) -> str:
        return self.summary["status"]

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def degenerate(self) -> bool:
        return bool(self.summary.get("degenerate"))


def find_summaries(paths: Iterable[Path]) -> list[Path]:
    """Every ``summary.json`` at or below ``paths``, once, versions of an experiment in the order of their numbers.

    Raises:
        FileNotFoundError: a path is not there or holds no run.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        files = sorted(path.rglob("summary.json"), key=lambda file: (file.parents[1], len(file.parent.name), file))
        if not files:
            raise FileNotFoundError(f"{path}: no summary.json there or below")
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def read_runs(paths: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """The runs at or below ``paths``, and one line for each file that is broken.

    Raises:
        FileNotFoundError: a path is not there or holds no run.
    """
    runs, complaints = [], {}
    for file in find_summaries(paths):
        try:
            summary = checked_summary(read_object(file))
        except (OSError, ValueError) as error:
            complaints[file] = f"{file} skipped: {error}"
            continue
        record = next((parent / "sweep.json" for parent in file.parents if (parent / "sweep.json").exists()), None)
        sweep: dict[str, Any] = {}
        if record is not None:
            try:
                sweep = read_object(record)
            except (OSError, ValueError) as error:
                complaints[record] = f"{record} skipped, so that rows have the names of what was finetuned: {error}"
        runs.append(
            Run(
                directory=file.parent,
                summary=summary,
                model=str(sweep.get("model") or model_name(summary)),
                task=summary.get("task"),
                metrics={name: value for name, value in summary.get("metrics", {}).items() if math.isfinite(value)},
                protocol=str(sweep.get("protocol", "")),
            )
        )
    return runs, list(complaints.values())


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of JSON and of UTF-8; of braces without end
        raise ValueError(f"not JSON, or only the beginning of it ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"a JSON object expected, not {type(content).__name__}")
    return content


def checked_summary(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary with the task's official name, if the tables can rely on it.

    Raises:
        ValueError: a key is missing, or holds what it cannot hold.
    """
    experiment = summary.get("experiment")
    if not isinstance(experiment, str) or not experiment or summary.get("status") not in STATUSES:
        raise ValueError(f"not the summary of a run: an experiment and a status ({', '.join(STATUSES)}) expected")
    sparsity = summary.get("sparsity", {})
    if not isinstance(sparsity, dict):
        raise ValueError(f"sparsity: an object of numbers expected, not {sparsity!r}")
    figures = {name: summary[name] for name in FIGURES if summary.get(name) is not None}
    _check_numbers(figures | {f"sparsity.{name}": value for name, value in sparsity.items()})
    if (task := summary.get("task")) is None:
        return summary
    if not isinstance(task, str):
        raise ValueError(f"task: a name expected, not {task!r}")
    task = glue_task(task).name
    task = GLUE[task].trained_on or task
    metrics, ranking = summary.get("metrics", {}), GLUE[task].rank_by
    if not isinstance(metrics, dict) or (summary["status"] == "finished" and ranking not in metrics):
        raise ValueError(f"metrics of a finished run of {task} expected, {ranking} among them")
    metrics = {name: math.nan if value is None else value for name, value in metrics.items()}
    _check_numbers(metrics)
    return summary | {"task": task, "metrics": metrics}


def _check_numbers(figures: dict[str, Any]) -> None:
    for name, value in figures.items():
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or (isinstance(value, int) and abs(value) > LARGEST)
        ):
            raise ValueError(f"{name}: a number expected, not {value!r:.40}")


def model_name(summary: dict[str, Any]) -> str:
    """What a run finetunes: the experiment of an exported model, or the last part of a hub id; else its own experiment.

    ``runs/bert_1mi/version_0/export`` is ``bert_1mi``, and ``runs/bert_1mi/version_0/bert_100k`` is ``bert_100k``.
    """
    pretrained = summary.get("pretrained") if summary.get("task") else None
    path = Path(str(pretrained or summary["experiment"]))
    if path.name == "export":
        path = path.parent
    if path.name.startswith("version_"):
        path = path.parent
    return path.name or summary["experiment"]


def newest_versions(runs: Iterable[Run]) -> list[Run]:
    """Of each experiment the run that is last in the order of :func:`find_summaries`."""
    return list({run.directory.resolve().parent: run for run in runs}.values())
