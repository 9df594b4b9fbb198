"""Whose turn it is: a fit begins when all that it needs from others has come to an end."""

from dataclasses import dataclass, field
from typing import Any, Literal

from sweeps.plan import Plan, fit_of
from sweeps.record import Record
from sweeps.search import search_of
from sweeps.trial import Fit
from sweeps.trials import Need, Trial

Outlook = Literal["ended", "now", "later", "stopped", "never"]
ENDED = ("finished", "failed", "pruned")


def found(need: Need, trial: Trial, record: Record) -> dict[str, Any] | None:
    """What a trial takes from others that have come to an end, as options of ``train.py``; None where none of them has it."""
    if not need.option:
        return record.tuned(trial.stage, trial.row) or record.best_point(need.trials)
    best = record.best(need.trials)
    return {need.option: str(record.export(best))} if best else None


def outlooks(trials: list[Trial], record: Record) -> dict[str, Outlook]:
    """What may become of each trial: it has ended, can begin now, or has to wait for others; or these were stopped, or failed."""
    by_name = {trial.name: trial for trial in trials}
    known: dict[str, Outlook] = {}

    def of(name: str) -> Outlook:
        if name not in known:
            status = record.trials[name]["status"]
            known[name] = "ended" if status in ENDED else "stopped" if status == "stopped" else of_needs(by_name[name])
        return known[name]

    def of_needs(trial: Trial) -> Outlook:
        open_needs = [need for need in trial.needs if need.option or not record.tuned(trial.stage, trial.row)]
        others = {of(other) for need in open_needs for other in need.trials}
        if others & {"now", "later"}:
            return "later"
        if "stopped" in others:
            return "stopped"
        return "now" if all(found(need, trial, record) for need in open_needs) else "never"

    return {trial.name: of(trial.name) for trial in trials}


def taken(trial: Trial, record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a trial whose turn it is takes from others, as options of ``train.py``: models, and a point."""
    models: dict[str, Any] = {}
    point: dict[str, Any] = {}
    for need in trial.needs:
        (models if need.option else point).update(found(need, trial, record) or {})
    return models, point


def mark(trials: list[Trial], record: Record) -> None:
    """Note which trials can never begin, and the point of those that were finished when nobody had noted it."""
    for trial, outlook in zip(trials, outlooks(trials, record).values(), strict=True):
        entry = record.trials[trial.name]
        if outlook == "never":
            missing = next(need for need in trial.needs if not found(need, trial, record))
            others = f", or another of {len(missing.trials)}," if len(missing.trials) > 1 else ""
            record.set(trial.name, "failed", f"it needs {missing.trials[0]}{others} to come to a good end")
        elif entry["status"] == "finished" and trial.tuned_by and "tuned" not in entry:
            record.take(trial.name, taken(trial, record)[1])


@dataclass(frozen=True)
class Turn:
    """What is run next.

    Attributes:
        name: of the trial.
        fit: of it.
        tuned: the point that it has taken from another stage.
    """

    name: str
    fit: Fit
    tuned: dict[str, Any]


@dataclass
class Agenda:
    """Hands out what is to be run, each fit once.

    It reads the record from its file, as whoever writes it may be another process.

    Args:
        plan: of the sweep.
        train: the command that takes a fit's options.
        stall: minutes without a sign of life after which a fit hangs.
    """

    plan: Plan
    train: tuple[str, ...]
    stall: float
    handed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        again = search_of(self.plan.protocol) is not None  # ASHA has yet to hear of the finished
        trials = self.plan.record.trials
        self.open = [trial for trial in self.plan.trials if again or trials[trial.name]["status"] != "finished"]

    def next(self) -> Turn | None:
        """The next fit; None where none can begin now."""
        record = Record.load(self.plan.record.directory)
        outlook = outlooks(self.plan.trials, record)
        for trial in self.open:
            if trial.name not in self.handed and outlook[trial.name] in ("now", "ended"):
                self.handed.add(trial.name)
                models, point = taken(trial, record)
                return Turn(trial.name, fit_of(self.plan, trial, models | point, self.train, self.stall), point)
        return None

    @property
    def over(self) -> bool:
        """Whether nothing is left that may come."""
        outlook = outlooks(self.plan.trials, Record.load(self.plan.record.directory))
        return all(trial.name in self.handed or outlook[trial.name] in ("stopped", "never") for trial in self.open)
