"""Pretraining in tables: a row a model, whose runs differ in their seeds, and a row a run."""

import math
import statistics
from collections.abc import Iterable
from itertools import groupby

from objectives.beyond_glue import FINETUNING
from reports.runs import Run, best_run
from reports.tables import Table

NOTE = "Of several runs a row is the best; median, mean and std are of the eval losses of all that finished."


def by_model(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Finished pretraining runs of each model, in the order of its first run."""
    finished = [run for run in runs if run.record.finished and run.task is None]
    models = list(dict.fromkeys(run.model for run in finished))
    finished.sort(key=lambda run: models.index(run.model))
    return {model: list(group) for model, group in groupby(finished, key=lambda run: run.model)}


def by_model_and_length(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """:func:`by_model`, but rows of a sweep that were pretrained for several lengths are as many: ``RigL, 1,000 steps``."""
    found: dict[str, list[Run]] = {}
    for model, group in by_model(runs).items():
        lengths = sorted({run.length for run in group})
        if len(lengths) < 2 or not all(run.row for run in group):
            found[model] = group
        else:
            found |= {f"{model}, {steps:,} steps": [run for run in group if run.length == steps] for steps in lengths}
    return found


def pretraining_table(runs: Iterable[Run]) -> Table:
    """One row a model, with the spread of its eval losses where any model has several finished runs."""
    groups = by_model_and_length(runs)
    several = any(len(group) > 1 for group in groups.values())
    rows = []
    for model, group in groups.items():
        record = best_run(group).record
        losses = [loss for run in group if (loss := run.record.eval_loss) is not None and math.isfinite(loss)]
        spread = [f"{value:.4f}" for value in median_mean_std(losses)]
        rows.append(
            [
                model,
                figure(record.sparsity.get("encoder"), ".4f"),
                figure(record.sparsity.get("model"), ".4f"),
                figure(record.nonzeros, ","),
                *([str(len(group))] if several else []),
                figure(record.eval_loss, ".4f"),
                *(spread + [""] * (3 - len(spread)) if several else []),
                figure(record.perplexity, ".2f"),
                figure(record.unigram_loss, ".4f"),
                figure(record.tokens_per_second, ",.0f"),
            ]
        )
    columns = ["model", "encoder\nzeros", "model\nzeros", "non-zeros", *(["runs"] if several else []), "eval\nloss"]
    columns += [*(["median", "mean", "std"] if several else []), "perplexity", "unigram\nloss", "tokens/s"]
    return Table("", columns, rows, [NOTE] if several else [])


def median_mean_std(values: list[float]) -> list[float]:
    """Median, mean, and where there are two values the standard deviation of the sample; nothing of nothing."""
    figures = [statistics.median(values), statistics.fmean(values)] if values else []
    return [*figures, statistics.stdev(values)] if len(values) > 1 else figures


def runs_table(runs: Iterable[Run]) -> Table:
    """One row a run, of pretraining and of tasks, whatever its status; scores in percent."""
    rows = []
    for run in runs:
        record = run.record
        score = run.metrics.get(FINETUNING[run.task].rank_by) if run.task else None
        counts = [figure(record.seed, "d"), figure(record.steps, ",")]
        results = [figure(record.eval_loss, ".4f"), figure(score and 100 * score, ".2f")]
        rows.append([str(run.directory), run.model, run.task or "", record.status, *counts, *results])
    return Table("Runs", ["run", "model", "task", "status", "seed", "steps", "eval loss", "score"], rows)


def figure(value: float | None, form: str) -> str:
    """A number in a cell; empty where there is none."""
    return "" if value is None or math.isnan(value) else format(value, form)
