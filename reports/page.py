"""The page of results as it is published: a row a model, losses with their spread, GLUE, and what a model costs."""

import dataclasses
import math
import statistics
from collections.abc import Sequence

from objectives.beyond_glue import FINETUNING
from reports.pretraining import figure
from reports.results import COLUMNS, DEGENERATE, TASKS, percent, published_results, results_table
from reports.rows import (
    LOSS_NAMES,
    Loss,
    Row,
    common_loss,
    find_row,
    mean,
    rows_of,
    scientific,
    spread,
    training_flops,
    unpaired,
)
from reports.runs import Run
from reports.tables import Table
from reports.tuning import tuning_table
from run_record import RunRecord

CONTROLS = ("dense + KD", "dense")
LOSS_NOTE = (
    "Losses in nats: mean ± standard deviation over seeds; where fewer runs have a figure, their number stands behind it. "
    "Perplexity is the exponential of the mean loss."
)
GLUE_NOTE = (
    "GLUE in percent: maximum / median ± standard deviation of the metric that ranks runs. The mean is over {tasks}, a task with "
    "two metrics counting as their mean, with its deviation over the seeds that have all, and empty where a run has no score. "
    f"{DEGENERATE} a run has learnt nothing."
)
COST_NOTE = (
    "FLOPs are those of the matrix products of the whole run. Sparse: what they would be where zeros are free, that is, "
    "products with a sparse tensor times its average density. The dense gradient that RigL needs at each update is left out: "
    "once in every ΔT steps. A distilled model's include its teacher's forward passes, but no row's the training of its teacher."
)
PUBLISHED_NOTE = (
    "BERT-base as published; GLUE in percent, losses in nats. These losses do not compare with those above: text, vocabulary, "
    "size of the model and length of training are others."
)


def page_tables(runs: Sequence[Run], control: str | None = None) -> tuple[list[Table], list[str]]:
    """The table of rows, the published ones beside it, what was tuned, and a line for whatever does not count.

    Args:
        runs: of pretraining and of tasks.
        control: the row that losses are compared with; by default the first of :data:`CONTROLS` that is there.

    Raises:
        ValueError: there is no such row.
    """
    rows, complaints = rows_of(runs)
    against = find_row(rows, control, CONTROLS, "--control")
    complaints += unpaired(rows, against, common_loss(run for row in rows for run in row.runs))
    if against is None and len(rows) > 1:
        complaints.append(f"no differences: none of the rows is called {' or '.join(CONTROLS)}; --control names another")
    tables = [rows_table(rows, against), published_table(), tuning_table(runs)]
    return [table for table in tables if table.rows], complaints


def rows_table(rows: Sequence[Row], control: Row | None) -> Table:
    """One row a model."""
    loss = common_loss(run for row in rows for run in row.runs)
    tasks = [task for task in COLUMNS if any(task in row.tasks for row in rows)]
    cells = [row_cells(row, control, loss, tasks) for row in rows]
    notes = [LOSS_NOTE]
    if control is not None:
        notes.append(f"Differences to {control.name}: mean ± standard deviation of those of runs with the same seed.")
    notes += [*([GLUE_NOTE.format(tasks=", ".join(task for task in tasks if task in TASKS))] if tasks else []), COST_NOTE]
    return Table("Results", list(cells[0]) if cells else [], [list(row.values()) for row in cells], notes)


def row_cells(row: Row, control: Row | None, loss: Loss, tasks: Sequence[str]) -> dict[str, str]:
    """The cells of a row by the titles of their columns.

    Args:
        row: a model.
        control: the row that its losses are compared with.
        loss: that is compared.
        tasks: that any row has.
    """
    of_glue = [task for task in tasks if task in TASKS]
    seeds, records, name = len(row.runs), [run.record for run in row.runs], LOSS_NAMES[loss]
    costs = [training_flops(record) for record in records]
    cells = {"model": row.name, "seeds": str(seeds or ""), name: spread(row.losses(loss), ".4f", seeds)}
    if control is not None:
        difference = "control" if row is control else spread(row.differences(control, loss), "+.4f", seeds)
        cells[f"{name}\n− {control.name}"] = difference
    if loss != "eval_loss":
        cells["eval loss"] = spread(row.losses("eval_loss"), ".4f", seeds)
    cells["perplexity" if loss == "eval_loss" else "test\nperplexity"] = figure(exponential(row.losses(loss)), ".2f")
    cells |= {f"{task}\n{FINETUNING[task].rank_by}": task_cell(row, task) for task in tasks}
    cells |= {"GLUE\nmean": glue_mean(row, of_glue)} if of_glue else {}
    return cells | {
        "on-params": figure(mean(record.nonzeros for record in records), ",.0f"),
        "average\ndensity": figure(mean(density(record) for record in records), ".3f"),
        "tokens": figure(mean(record.tokens for record in records), ",.0f"),
        "FLOPs\ndense": scientific(mean(dense for dense, _ in costs)),
        "FLOPs\nsparse": scientific(mean(sparse for _, sparse in costs)),
    }


def exponential(losses: Sequence[float]) -> float | None:
    """The perplexity of the mean loss."""
    mean_loss = statistics.fmean(losses) if losses else None
    return None if mean_loss is None else math.exp(mean_loss) if mean_loss < 700 else math.inf


def density(record: RunRecord) -> float | None:
    """Average density of a run's sparse tensors, which is 1 without masks; None where it is not known."""
    dense = record.parameters is not None and record.nonzeros == record.parameters
    return 1.0 if record.average_density is None and dense else record.average_density


def task_cell(row: Row, task: str) -> str:
    """Maximum, median and standard deviation of the metric that ranks a task's runs, in percent."""
    group, metric = row.tasks.get(task, []), FINETUNING[task].rank_by
    scores = [100 * run.metrics[metric] for run in group if metric in run.metrics]
    mark = DEGENERATE if any(run.degenerate for run in group) else ""
    if not scores:
        return mark
    deviation = f" / {statistics.median(scores):.1f} ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    number = f" ({len(scores)})" if len(scores) != len(row.runs) else ""
    return f"{max(scores):.1f}{deviation}{mark}{number}"


def glue_mean(row: Row, tasks: Sequence[str]) -> str:
    """Mean over tasks of their mean scores, and its standard deviation over the seeds that have all of them.

    Empty where a task is missing, or a run has no score, as the correlation of constants: it would count as if it had not been.
    """
    scores: dict[str, list[tuple[int | None, float]]] = {}
    for task in tasks:
        for run in row.tasks.get(task, []):
            if not (metrics := percent(run, task)):
                return ""
            scores.setdefault(task, []).append((run.record.seed, statistics.fmean(metrics.values())))
    if len(scores) < len(tasks):
        return ""
    whole = statistics.fmean(statistics.fmean(score for _, score in found) for found in scores.values())
    seeds = set.intersection(*({seed for seed, _ in found} for found in scores.values())) - {None}
    of_seeds = [
        statistics.fmean(statistics.fmean(score for other, score in found if other == seed) for found in scores.values())
        for seed in seeds
    ]
    return f"{whole:.1f}" + (f" ± {statistics.stdev(of_seeds):.1f}" if len(of_seeds) > 1 else "")


def published_table() -> Table:
    """The rows of others, in a table of their own: their losses are of another text, another vocabulary and a larger model."""
    return dataclasses.replace(results_table(published_results()), title="Published", notes=[PUBLISHED_NOTE])
