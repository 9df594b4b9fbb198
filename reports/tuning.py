"""What was tuned before the runs of a row were made: every value that was tried, and the one that was taken."""

from collections.abc import Iterable
from typing import Any

from reports.rows import loss_of, spread
from reports.runs import TUNE, Run
from reports.tables import Table

CHOSEN = "*"
Point = tuple[tuple[str, Any], ...]
"""Options and their values."""


def tuning_table(runs: Iterable[Run]) -> Table:
    """One row a model whose options were tuned, a column a point: the eval loss there, and which the row's own runs then had."""
    runs = [run for run in runs if run.row and not run.task]
    tuned = [run for run in runs if run.stage == TUNE]
    columns = sorted({point_of(run) for run in tuned if run.point}, key=lambda point: [(o, order(v)) for o, v in point])
    cells = []
    for row in dict.fromkeys(run.row for run in tuned):
        losses: dict[Point, list[float]] = {}
        for run in tuned:
            if run.row == row and run.record.finished and (loss := loss_of(run, "eval_loss")) is not None:
                losses.setdefault(point_of(run), []).append(loss)
        runs_with = max(map(len, losses.values()), default=0)
        texts = {point: spread(found, ".4f", runs_with) for point, found in losses.items()}
        made = [run.settings for run in runs if run.row == row and run.stage != TUNE]
        for point in texts:
            if any(all(plain(settings.get(option)) == value for option, value in point) for settings in made):
                texts[point] += CHOSEN
        cells.append([row, *(texts.get(point, "") for point in columns)])
    heads = [", ".join(f"{option}={value}" for option, value in point) for point in columns]
    steps = {run.record.steps for run in tuned if run.record.finished and run.record.steps}
    length = f", after {min(steps):,} steps" if len(steps) == 1 else ""
    note = f"Eval loss in nats{length}. {CHOSEN} what the row's runs were then made with. None of these runs counts above."
    return Table("Tuned", ["model", *heads], cells if columns else [], [note])


def point_of(run: Run) -> Point:
    """The options that were tuned, and their values in a run."""
    return tuple((option, plain(value)) for option, value in run.point.items())


def plain(value: Any) -> int | float | str:
    """A value as a title can have it: lists and the like as text."""
    return value if isinstance(value, int | float | str) else str(value)


def order(value: Any) -> tuple[bool, float, str]:
    """Sorts numbers before texts."""
    number = isinstance(value, int | float)
    return not number, value if number else 0.0, "" if number else value
