"""The fits of a protocol, by name, and what each of them needs from others."""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from objectives.beyond_glue import task_named
from sweeps.protocol import Protocol, Row, Stage, TaskPlan, slug
from sweeps.search import draw, search_of

PRETRAINED, TEACHERS = "model.pretrained", "distillation.teachers"


@dataclass(frozen=True)
class Need:
    """What a trial takes from others when all of them have come to an end.

    Attributes:
        trials: their names.
        option: of ``train.py`` that gets the exported model of the best of them; empty where it is their best point that is
            taken, as settings.
    """

    trials: tuple[str, ...]
    option: str = ""


@dataclass(frozen=True)
class Trial:
    """One fit.

    Attributes:
        name: of its directory.
        task: of GLUE; empty for pretraining.
        seed: of the run.
        config: the experiment.
        settings: options of ``train.py``, but for those that it takes from other trials.
        start: the task, or with stages the trial, whose model it starts from; empty for none.
        given: model that it starts from in place of that one; empty for none.
        stage: of the protocol; empty where there are none.
        row: of the tables; empty where there are none.
        point: of the grid.
        needs: what has to come to an end first.
    """

    name: str
    task: str
    seed: int
    config: Path
    settings: dict[str, Any]
    start: str = ""
    given: str = ""
    stage: str = ""
    row: str = ""
    point: dict[str, Any] = field(default_factory=dict)
    needs: tuple[Need, ...] = ()

    @property
    def tuned_by(self) -> list[str]:
        """Names of the trials of which it takes the best point."""
        return [name for need in self.needs if not need.option for name in need.trials]

    @property
    def teachers(self) -> list[str]:
        """Names of the trials whose models teach it."""
        return [name for need in self.needs if need.option == TEACHERS for name in need.trials]


def make_trials(
    protocol: Protocol,
    tasks: Sequence[str] = (),
    stages: Sequence[str] = (),
    rows: Sequence[str] = (),
    seeds: int | None = None,
) -> list[Trial]:
    """All fits of a protocol, or some of them and those which these need.

    Args:
        protocol: whose fits.
        tasks: of these tasks alone.
        stages: of these stages alone.
        rows: of these rows alone, as in tables or as in directories.
        seeds: the first so many seeds of each stage alone; None for all.

    Raises:
        ValueError: a task, stage or row is no part of the protocol, or two fits would have the same name.
    """
    wanted = {
        "task": parts("task", [task_named(name).name for name in tasks], protocol.tasks),
        "stage": parts("stage", stages, protocol.stages if protocol.staged else ()),
        "row": parts("row", rows, protocol.rows if protocol.staged else ()),
    }
    trials: dict[str, Trial] = {}
    for stage in protocol.stages:
        for trial in of_stage(protocol, stage, list(trials.values())):
            if trials.setdefault(trial.name, trial) is not trial:
                raise ValueError(f"two fits would be called {trial.name}; give each point of the grid once")
    kept: set[str] = set()
    left = [
        trial.name
        for trial in trials.values()
        if all(not names or getattr(trial, kind) in names for kind, names in wanted.items())
        and (seeds is None or trial.seed < seeds)
    ]
    while left:
        if (name := left.pop()) not in kept:
            kept.add(name)
            left += [other for need in trials[name].needs for other in need.trials]
    return [trial for trial in trials.values() if trial.name in kept]


def parts(kind: str, names: Sequence[str], there: Iterable[str]) -> set[str]:
    """Parts of a protocol by their names, or by those of their directories.

    Raises:
        ValueError: the protocol has no such part.
    """
    known = {slug(name): name for name in there}
    for name in names:
        if slug(name) not in known:
            raise ValueError(f"{name} is no {kind} of this protocol; it has {', '.join(known.values()) or 'none'}")
    return {known[slug(name)] for name in names}


def of_stage(protocol: Protocol, name: str, before: Sequence[Trial]) -> list[Trial]:
    """All fits of a stage.

    Args:
        protocol: that it is part of.
        name: of the stage.
        before: all fits of the stages before it.
    """
    stage = protocol.stages[name]
    made = []
    for row in protocol.rows_of(name):
        own = Row() if stage.start else protocol.rows[row]
        distillation = {f"distillation.{key}": value for key, value in stage.distillation.items()} if own.teacher else {}
        for task, plan in (stage.tasks or {"": TaskPlan()}).items():
            for number, point in enumerate(points(protocol, stage)):
                for seed, model in starts(stage, plan, row, before):
                    inherited = model.point if model else {}
                    words = [task, f"{number:03}" if stage.search else "", *_words(point), f"seed={seed}"]
                    trial = Trial(
                        name="_".join(filter(None, [name, slug(row), *_words(inherited), *words])),
                        task=task,
                        seed=seed,
                        config=Path(stage.config),
                        settings=stage.settings | distillation | own.settings | plan.settings | point,
                        start=plan.start or (model.name if model else ""),
                        stage=name,
                        row=row,
                        point=inherited | point,
                    )
                    check_files(trial)
                    made.append(trial)
    return [dataclasses.replace(trial, needs=tuple(needs_of(protocol, trial, made, before))) for trial in made]


def starts(stage: Stage, plan: TaskPlan, row: str, before: Sequence[Trial]) -> list[tuple[int, Trial | None]]:
    """The seeds of a row, each with the trial whose model the fit starts from, if there is one."""
    if stage.start:
        return [(trial.seed, trial) for trial in before if (trial.stage, trial.row) == (stage.start, row)]
    return [(seed, None) for seed in range(plan.seeds or stage.seeds)]


def needs_of(protocol: Protocol, trial: Trial, same: Sequence[Trial], before: Sequence[Trial]) -> Iterator[Need]:
    """What a trial takes from others.

    Args:
        protocol: that it is part of.
        trial: whose needs.
        same: all fits of its stage.
        before: all fits of the stages before.
    """
    stage, row = protocol.stages[trial.stage], protocol.rows[trial.row]
    if start := stage.tasks[trial.task].start if trial.task else "":
        there = [other for other in same if (other.row, other.task) == (trial.row, start)]
        if stage.start:  # of the same pretrained model
            there = [other for other in there if (other.seed, other.point) == (trial.seed, trial.point)]
        yield Need(tuple(other.name for other in there), PRETRAINED)
    elif stage.start:
        yield Need((trial.start,), PRETRAINED)
    if row.teacher and not stage.start:
        like = (row.teacher, trial.task, trial.seed, trial.point)
        yield Need(tuple(other.name for other in same if (other.row, other.task, other.seed, other.point) == like), TEACHERS)
    if stage.best_of:
        source = (stage.best_of, row.tuned or trial.row)
        yield Need(tuple(other.name for other in before if (other.stage, other.row) == source))


def points(protocol: Protocol, stage: Stage) -> list[dict[str, Any]]:
    """What varies beside row, task and seed."""
    if stage.search and (search := search_of(protocol)):
        return draw(search)
    return [dict(zip(stage.grid, values, strict=True)) for values in itertools.product(*stage.grid.values())]


def _words(point: dict[str, Any]) -> list[str]:
    """A point as parts of a directory's name: ``lr=2e-05``."""
    return [re.sub(r"[^\w.=+-]", "-", f"{option.rsplit('.', 1)[-1]}={value}") for option, value in point.items()]


def located(settings: dict[str, Any], config: Path) -> dict[str, Any]:
    """Settings with the YAML files among them found from the folder of ``config``, as those that it names itself."""
    found = {}
    for option, value in settings.items():
        is_there = isinstance(value, str) and value.endswith(".yaml") and (config.parent / value).is_file()
        found[option] = str((config.parent / value).resolve()) if is_there else value
    return found


def check_files(trial: Trial) -> None:
    """The YAML files among the settings are there.

    Raises:
        ValueError: one is not.
    """
    for option, value in located(trial.settings, trial.config).items():
        if isinstance(value, str) and value.endswith(".yaml") and not Path(value).is_file():
            raise ValueError(f"{option} is {value}, which is no file, from {trial.config.parent} or from here")
