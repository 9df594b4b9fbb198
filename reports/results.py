"""Results of runs in tables: GLUE as it is published, the spread behind it, and what did not finish."""

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import yaml

from objectives.beyond_glue import BEYOND_GLUE, FINETUNING
from objectives.glue import GLUE
from reports.pretraining import by_model, median_mean_std
from reports.runs import Run, best_run
from reports.tables import Table
from run_record import is_held

PUBLISHED = Path(__file__).with_name("published.yaml")
TASKS = tuple(name for name, task in GLUE.items() if task.trained_on is None)
COLUMNS = (*TASKS, *BEYOND_GLUE)
WITHOUT_WNLI = tuple(name for name in TASKS if name != "WNLI")
DEGENERATE = "†"


@dataclass(frozen=True)
class Result:
    """One row of the table of results.

    Attributes:
        model: its name.
        source: who says so.
        scores: of each task its metrics, in percent.
        eval_loss: masked-LM loss in nats.
        degenerate: tasks on which the best run has learnt nothing.
    """

    model: str
    source: str
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    eval_loss: float | None = None
    degenerate: frozenset[str] = frozenset()

    def average(self, tasks: Sequence[str]) -> float | None:
        """Mean over tasks, of which one with two metrics counts as their mean; None where a task is missing."""
        if not all(self.scores.get(task) for task in tasks):
            return None
        return statistics.fmean(statistics.fmean(self.scores[task].values()) for task in tasks)

    def cell(self, task: str) -> str:
        """The metrics of a task in the order of publication; a metric that stands alone for two is named."""
        scores = self.scores.get(task, {})
        known = [name for name in FINETUNING[task].metrics if name in scores]
        text = "/".join(f"{scores[name]:.2f}" for name in known)
        alone = f" ({known[0]})" if len(known) == 1 < len(FINETUNING[task].metrics) else ""
        return text + alone + (DEGENERATE if task in self.degenerate else "")

    def row(self) -> list[str]:
        """All cells, in the order of :func:`results_table`, with the tasks beyond GLUE."""
        figures = (self.average(WITHOUT_WNLI), self.average(TASKS))
        averages = ["" if value is None else two_decimals(value) for value in figures]
        loss = ["", ""]
        if self.eval_loss is not None:
            perplexity = math.exp(self.eval_loss) if self.eval_loss < 700 else math.inf
            loss = [f"{perplexity:.3f}", f"{self.eval_loss:.3f}"]
        return [self.model, *averages, *(self.cell(task) for task in COLUMNS), *loss, self.source]


def two_decimals(value: float) -> str:
    """Rounded half up, as published averages are: 80.125 is 80.13."""
    return str(Decimal(f"{value:.6f}").quantize(Decimal("0.01"), ROUND_HALF_UP))


def published_results(file: Path = PUBLISHED) -> list[Result]:
    """The published rows.

    Raises:
        ValueError: there is no such task in the table, or no such metric of it.
    """
    rows: dict[str, dict[str, Any]] = yaml.safe_load(file.read_text(encoding="utf-8"))
    for model, row in rows.items():
        for task, scores in row.get("tasks", {}).items():
            if task not in COLUMNS or not scores.keys() <= set(FINETUNING[task].metrics):
                raise ValueError(f"{file}: {model} has {task} with {', '.join(scores)}, which is no task of the table")
    return [Result(model, row["source"], row.get("tasks", {}), row.get("eval_loss")) for model, row in rows.items()]


def by_row_and_task(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    """Finished runs of each row and task, rows in the order of their first run, tasks in the table's.

    A row is a model. One that was finetuned by several protocols has a row for each, as the best of a grid is not the best of
    seeds.
    """
    finished = [run for run in runs if run.record.finished and run.task in COLUMNS]
    protocols: dict[str, set[str]] = {}
    for run in finished:
        protocols.setdefault(run.model, set()).add(run.protocol)

    def row(run: Run) -> str:
        return f"{run.model} ({run.protocol})" if run.protocol and len(protocols[run.model]) > 1 else run.model

    keys = itertools.product(dict.fromkeys(map(row, finished)), COLUMNS)
    groups = {key: [run for run in finished if (row(run), run.task) == key] for key in keys}
    return {key: group for key, group in groups.items() if group}


def own_results(runs: Iterable[Run]) -> list[Result]:
    """All rows with a finished run of a task; of several runs of a task the one that ranks best."""
    runs = list(runs)
    losses = {model: best_run(group).record.eval_loss for model, group in by_model(runs).items()}
    groups = by_row_and_task(runs)
    results = []
    for row in dict.fromkeys(row for row, _ in groups):
        best = {task: best_run(group) for (name, task), group in groups.items() if name == row}
        results.append(
            Result(
                model=row,
                source="these runs",
                scores={task: percent(run, task) for task, run in best.items()},
                eval_loss=losses.get(next(iter(best.values())).model),
                degenerate=frozenset(task for task, run in best.items() if run.degenerate),
            )
        )
    return results


def percent(run: Run, task: str) -> dict[str, float]:
    """The published metrics of a run of a task, in percent."""
    return {name: 100 * run.metrics[name] for name in FINETUNING[task].metrics if name in run.metrics}


def results_table(results: Sequence[Result]) -> Table:
    """One row a model, as published."""
    notes = [
        "A cell is the best of its runs; their spread is in the next table. An average needs all of its tasks. Perplexity and "
        "eval loss are those of the best pretraining run of the model. SQuAD: exact match/F1; CoNLL: F1 of "
        "entities, as conlleval counts them/strictly by IOB2."
    ]
    if any(result.degenerate for result in results):
        notes.append(f"{DEGENERATE} the run has learnt nothing: it always says the same, or scores what guessing does.")
    columns = ["model", "average_bert", "average_glue", *COLUMNS, "perplexity", "eval loss", "source"]
    return Table("GLUE and beyond", columns, [result.row() for result in results], notes)


def spread_table(runs: Iterable[Run]) -> Table:
    """Every metric of every model and task over its finished runs, degenerate ones included as far as they have it."""
    rows, notes = [], []
    for (model, task), group in by_row_and_task(runs).items():
        for metric in FINETUNING[task].metrics:
            values = [100 * run.metrics[metric] for run in group if metric in run.metrics]
            if len(values) < len(group):
                notes = [
                    "A correlation of constants is no number: such a run is counted, and in none of its task's figures."
                ]
            figures = [max(values), *median_mean_std(values)] if values else []
            cells = [f"{value:.2f}" for value in figures] + [""] * (4 - len(figures))
            degenerate = sum(run.degenerate for run in group)
            rows.append([model, task, metric, str(len(group)), *cells, str(degenerate)])
    columns = ["model", "task", "metric", "runs", "max", "median", "mean", "std", "degenerate"]
    return Table("Finished runs of each task", columns, rows, notes)


def status_of(run: Run) -> str:
    """What a run says of itself, but ``died`` where it says that it is running and no process holds it."""
    return "died" if run.record.status == "running" and is_held(run.directory) is False else run.record.status


def unfinished_table(runs: Iterable[Run]) -> Table:
    """Runs that count nowhere."""
    rows = [
        [str(run.directory), run.model, run.task or "", status_of(run), " ".join((run.record.error or "").split())[:80]]
        for run in runs
        if not run.record.finished
    ]
    return Table("Not counted", ["run", "model", "task", "status", "error"], rows)
