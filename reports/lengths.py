"""What the length of training does to a method: its loss beside that of a dense model after as many steps."""

from collections.abc import Iterable
from dataclasses import dataclass

from reports.rows import LOSS_NAMES, Loss, Row, common_loss, counted_runs, find_row, spread
from reports.runs import Run
from reports.tables import Table

NEVER = "never"


@dataclass(frozen=True)
class Lengths:
    """Rows at several lengths.

    Attributes:
        rows: row → optimizer steps → its runs of this length.
        control: the row that losses are compared with.
        baseline: the row that the others have to beat; empty where there is none.
        loss: that is compared.
    """

    rows: dict[str, dict[int, Row]]
    control: str
    baseline: str
    loss: Loss

    @property
    def steps(self) -> list[int]:
        """All lengths, from the shortest."""
        return sorted({steps for lengths in self.rows.values() for steps in lengths})

    def differences(self, name: str, steps: int, against: str) -> list[float]:
        """Losses of a row minus those of another for equal seeds and steps, in nats."""
        own, other = self.rows[name].get(steps), self.rows[against].get(steps)
        return own.differences(other, self.loss) if own and other else []

    def below_from(self, name: str) -> str:
        """The length from which on the mean loss of a row is below the baseline's; ``never``, or empty where none compares."""
        found, compared = NEVER, False
        for steps in reversed(self.steps):
            if differences := self.differences(name, steps, self.baseline):
                compared = True
                if sum(differences) >= 0:
                    break
                found = f"{steps:,}"
        return found if compared else ""


def lengths_of(runs: Iterable[Run], control: str | None = None, baseline: str | None = None) -> tuple[Lengths, list[str]]:
    """Pretraining runs by row and steps, and a line for whatever does not count.

    Args:
        runs: of sweeps over ``trainer.max_steps``, or of several directories.
        control: name of a row; by default ``dense``.
        baseline: name of a row; by default ``static``, if it is there.

    Raises:
        ValueError: there is no such row, or no control.
    """
    counted, complaints = counted_runs(run for run in runs if run.task is None)
    by_row: dict[str, dict[int, list[Run]]] = {}
    for run in counted:
        if run.length:
            by_row.setdefault(run.model, {}).setdefault(run.length, []).append(run)
    rows = {
        name: {steps: Row(name, group, {}) for steps, group in sorted(lengths.items())} for name, lengths in by_row.items()
    }
    any_length = [next(iter(lengths.values())) for lengths in rows.values()]
    against = find_row(any_length, control, ("dense",), "--control")
    if against is None:
        raise ValueError(f"no row 'dense' to compare with; --control names another of {', '.join(rows) or 'none'}")
    beaten = find_row(any_length, baseline, ("static",), "--baseline")
    return Lengths(rows, against.name, beaten.name if beaten else "", common_loss(counted)), complaints


def lengths_table(lengths: Lengths) -> Table:
    """Rows by steps: the losses of the control, and what the others' are above or below it."""
    rows = []
    for name, runs in lengths.rows.items():
        cells = [
            spread(runs[steps].losses(lengths.loss), ".4f")
            if name == lengths.control and steps in runs
            else spread(lengths.differences(name, steps, lengths.control), "+.4f")
            if name != lengths.control
            else ""
            for steps in lengths.steps
        ]
        beats = [lengths.below_from(name) if name != lengths.baseline else "baseline"] if lengths.baseline else []
        rows.append([name, *cells, *beats])
    rows.sort(key=lambda row: row[0] != lengths.control)
    beats = [f"below {lengths.baseline}\nfrom"] if lengths.baseline else []
    loss = LOSS_NAMES[lengths.loss]
    note = (
        f"In nats: mean ± standard deviation, in brackets the number of runs. Of {lengths.control} the {loss} itself; of the "
        f"others the {loss} minus that of {lengths.control} with the same seed after as many steps."
    )
    if lengths.baseline:
        note += f" The last column: from which length on the mean is below that of {lengths.baseline} with the same seeds."
    return Table("", ["model", *(f"{steps:,}\nsteps" for steps in lengths.steps), *beats], rows, [note])
