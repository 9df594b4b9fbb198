"""What was tuned before the runs of a row were made: every value that was tried, and the one that was taken."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from reports.rows import loss_of, spread
from reports.runs import TUNE, Run
from reports.tables import Table

CHOSEN = "*"
Point = tuple[tuple[str, Any], ...]
"""Options and their values."""


def tuning_table(runs: Iterable[Run]) -> Table:
    """One row a model whose options were tuned, a column a point: the eval loss there, and which point was chosen."""
    runs = [run for run in runs if run.row and not run.task]
    tuned = [run for run in runs if run.stage == TUNE]
    points = {id(run): point_of(run, tuned) for run in tuned}
    columns = sorted({point for point in points.values() if point}, key=lambda point: [(o, order(v)) for o, v in point])
    cells = []
    for row in dict.fromkeys(run.row for run in tuned):
        losses: dict[Point, list[float]] = {}
        for run in tuned:
            if run.row == row and run.record.finished and (loss := loss_of(run, "eval_loss")) is not None:
                losses.setdefault(points[id(run)], []).append(loss)
        runs_with = max(map(len, losses.values()), default=0)
        texts = {point: spread(found, ".4f", runs_with) for point, found in losses.items()}
        if (chosen := chosen_point(row, runs, losses)) in texts:
            texts[chosen] += CHOSEN
        cells.append([row, *(texts.get(point, "") for point in columns)])
    heads = [", ".join(f"{option}={value}" for option, value in point) for point in columns]
    steps = {run.record.steps for run in tuned if run.record.finished and run.record.steps}
    length = f", after {min(steps):,} steps" if len(steps) == 1 else ""
    note = f"Eval loss in nats{length}. {CHOSEN} what the row's runs were then made with. None of these runs counts above."
    return Table("Tuned", ["model", *heads], cells if columns else [], [note])


def point_of(run: Run, tuned: Sequence[Run]) -> Point:
    """The options of a run that differ between the runs by which its row was tuned, and their values."""
    others = [other.settings for other in tuned if other.row == run.row]
    return tuple(
        (option, plain(value))
        for option, value in run.settings.items()
        if option != "seed_everything" and any(other.get(option) != value for other in others)
    )


def plain(value: Any) -> int | float | str:
    """A value as a title can have it: lists and the like as text."""
    return value if isinstance(value, int | float | str) else str(value)


def order(value: Any) -> tuple[bool, float, str]:
    """Sorts numbers before texts."""
    number = isinstance(value, int | float)
    return not number, value if number else 0.0, "" if number else value


def chosen_point(row: str, runs: Sequence[Run], losses: dict[Point, list[float]]) -> Point | None:
    """The point that the row's own runs have in their settings; where these do not say, the one of the lowest mean loss."""
    for run in runs:
        if run.row == row and run.stage != TUNE:
            for point in losses:
                if point and all(plain(run.settings.get(option)) == value for option, value in point):
                    return point
    return min(losses, key=lambda point: statistics.fmean(losses[point]), default=None)
