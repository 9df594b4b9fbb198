"""What a loss costs: every row by its non-zeros and by its training FLOPs, and which rows no other beats in both."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from reports.pretraining import figure
from reports.rows import LOSS_NAMES, Loss, Row, common_loss, mean, scientific, spread, training_flops
from reports.tables import Table

COSTS = {"non-zeros": "non-zeros", "FLOPs": "training FLOPs where zeros are free, without a teacher's training"}
"""What the costs of a point are called, in tables and at an axis."""


@dataclass(frozen=True)
class Point:
    """A row.

    Attributes:
        name: of the row.
        losses: of its runs, in nats.
        costs: by the keys of :data:`COSTS`, as far as they are known.
    """

    name: str
    losses: list[float]
    costs: dict[str, float] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """Mean over the runs."""
        return statistics.fmean(self.losses)

    @property
    def deviation(self) -> float:
        """Standard deviation of the sample; 0 of one run."""
        return statistics.stdev(self.losses) if len(self.losses) > 1 else 0.0


def frontier_points(rows: Sequence[Row]) -> tuple[list[Point], Loss, list[str]]:
    """The rows that have a loss, which loss that is, and a line for each row of pretraining that has none.

    Raises:
        ValueError: none has.
    """
    loss = common_loss(run for row in rows for run in row.runs)
    points, complaints = [], []
    for row in rows:
        records = [run.record for run in row.runs]
        costs = {
            "non-zeros": mean(record.nonzeros for record in records),
            "FLOPs": mean(training_flops(record)[1] for record in records),
        }
        if losses := row.losses(loss):
            points.append(Point(row.name, losses, {name: cost for name, cost in costs.items() if cost}))
        elif row.runs:
            complaints.append(f"{row.name} left out: it has no {LOSS_NAMES[loss]}, by which rows are compared here")
    lengths = sorted({run.length for row in rows if row.losses(loss) for run in row.runs if run.length})
    if len(lengths) > 1:
        complaints.append(
            f"rows of different lengths are compared: of {' and '.join(f'{steps:,}' for steps in lengths)} steps"
        )
    if not points:
        raise ValueError("nothing to compare: no finished pretraining run with a loss")
    return points, loss, complaints


def front(points: Sequence[Point], cost: str) -> list[Point]:
    """The points that no other beats, being cheaper or as cheap with a lower loss; from the cheapest to the dearest."""
    found: list[Point] = []
    known = [point for point in points if cost in point.costs]
    for point in sorted(known, key=lambda point: (point.costs[cost], point.loss)):
        if not found or point.loss < found[-1].loss:
            found.append(point)
    return found


def frontier_table(points: Sequence[Point], loss: Loss) -> Table:
    """One row a point, with the costs in which it is on the front."""
    fronts = {cost: front(points, cost) for cost in COSTS}
    rows = [
        [
            point.name,
            spread(point.losses, ".4f"),
            figure(point.costs.get("non-zeros"), ",.0f"),
            scientific(point.costs.get("FLOPs")),
            ", ".join(cost for cost in COSTS if point in fronts[cost]),
        ]
        for point in points
    ]
    note = (
        "On the front of a cost are the rows that no cheaper row, nor one as cheap, beats by its mean loss. FLOPs: of training, "
        "where zeros are free, without the training of a teacher. In brackets the number of runs."
    )
    return Table("", ["model", LOSS_NAMES[loss], "non-zeros", "FLOPs", "on the front of"], rows, [note])
