"""A protocol is data: which fits, with which settings, over how many seeds, in which stages; here its file is read."""

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

import yaml

from objectives.beyond_glue import task_named

T = TypeVar("T")


@dataclass(frozen=True)
class TaskPlan:
    """What a task has of its own.

    Attributes:
        seeds: fits of every point, with seeds 0, 1, …; 0 takes the protocol's number.
        settings: options of ``train.py`` that replace the protocol's.
        start: task whose best model the fits start from; empty for the pretrained model itself.
    """

    seeds: int = 0
    settings: dict = field(default_factory=dict)
    start: str = ""


@dataclass(frozen=True)
class Fits:
    """What a protocol without stages has.

    Attributes:
        config: the experiment that every fit runs, from the protocol's own folder.
        settings: options of ``train.py`` that every fit has; a YAML file among them is looked up from the folder of ``config``.
        seeds: fits of every point, with seeds 0, 1, ….
        tasks: name of a task → what it has of its own; none for pretraining.
        grid: option → values, of which every combination is a point.
        search: points drawn at random, in place of a grid.
    """

    config: str
    settings: dict = field(default_factory=dict)
    seeds: int = 1
    tasks: dict = field(default_factory=dict)
    grid: dict = field(default_factory=dict)
    search: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Stage(Fits):
    """One of several stages: it fits every row, or goes on with the models of a stage before it.

    Attributes:
        rows: names of its rows; by default all, and where others tune by it, those that take no other row's point.
        distillation: settings of the distillation in rows that have a teacher.
        best_of: stage with a grid, of which each row takes the point with the lowest eval loss, the mean over its seeds.
        start: stage from whose models the fits start: one fit a model and task, with the seed of the model.
    """

    rows: list = field(default_factory=list)
    distillation: dict = field(default_factory=dict)
    best_of: str = ""
    start: str = ""


@dataclass(frozen=True)
class Row:
    """One row of the tables: a way to train, over all seeds.

    Attributes:
        settings: options of ``train.py`` that replace those of the stage.
        teacher: row whose model of the same stage and seed is its teacher; empty for none.
        tuned: row whose point it takes where a stage is the best of another; empty for its own.
    """

    settings: dict = field(default_factory=dict)
    teacher: str = ""
    tuned: str = ""


@dataclass(frozen=True)
class StagesFile:
    """What a file with stages has.

    Attributes:
        stages: name → :class:`Stage`, in order; one may use those before it.
        rows: name in tables → :class:`Row`.
        quick: toy sizes, laid over the rest of the file key by key by ``--quick``.
    """

    stages: dict
    rows: dict
    quick: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Protocol:
    """One file of ``configs/protocols``.

    Attributes:
        stages: by name, in order. A protocol without stages is a single one, whose name is empty.
        rows: by name; without stages a single one, whose name is empty.
    """

    stages: dict[str, Stage]
    rows: dict[str, Row]

    @property
    def staged(self) -> bool:
        return "" not in self.stages

    @property
    def tasks(self) -> list[str]:
        """Tasks of all stages."""
        return list(dict.fromkeys(task for stage in self.stages.values() for task in stage.tasks))

    @property
    def tuning(self) -> list[str]:
        """Names of the stages by whose fits rows choose a point."""
        return [name for name in self.stages if any(stage.best_of == name for stage in self.stages.values())]

    def rows_of(self, stage: str) -> list[str]:
        """Names of the rows of a stage."""
        plan = self.stages[stage]
        if plan.rows:
            return plan.rows
        if plan.start:
            return self.rows_of(plan.start)
        return [name for name, row in self.rows.items() if not (stage in self.tuning and row.tuned)]


def checked(kind: type[T], given: Any, where: str) -> T:
    """A mapping as a dataclass.

    Raises:
        ValueError: a key is unknown or missing, or a value is not of its type.
    """
    given = {} if given is None else given
    hints = get_type_hints(kind)
    if not isinstance(given, dict):
        raise ValueError(f"{where}: expected keys and values ({', '.join(hints)}), got {given!r}")
    if unknown := [key for key in given if key not in hints]:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; there are {', '.join(hints)}")
    for key, value in given.items():
        wanted = get_origin(hints[key]) or hints[key]
        if not isinstance(value, wanted) or (wanted is int and value < 1):
            raise ValueError(f"{where}: {key} is {value!r}, expected {'1 or more' if wanted is int else wanted.__name__}")
    needed = [entry.name for entry in dataclasses.fields(kind) if entry.default is entry.default_factory]  # type: ignore[arg-type]
    if missing := [key for key in needed if key not in given]:
        raise ValueError(f"{where}: {missing[0]} is missing")
    return kind(**given)


def load_protocol(file: Path, quick: bool = False) -> Protocol:
    """A file's protocol, its paths absolute and its tasks under their official names.

    Args:
        file: of ``configs/protocols``.
        quick: at toy size.

    Raises:
        ValueError: the file is not a protocol, or has no toy size.
    """
    try:
        given = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"protocol {file}: {' '.join(str(error).split())}") from error
    staged = isinstance(given, dict) and "stages" in given
    if quick and not (staged and given.get("quick")):
        raise ValueError(f"--quick: {file} says no toy size; expected stages, and quick with what is smaller")
    if not staged:
        only = Stage(**vars(checked(Fits, given, str(file))))
        return Protocol({"": checked_fits(only, file.parent, str(file), "grid" in (given or {}))}, {"": Row()})
    content = checked(StagesFile, given, str(file))
    if quick:
        content = checked(StagesFile, laid_over(given, content.quick), f"{file} with quick")
    rows = {name: checked(Row, row, f"{file}: {name}") for name, row in content.rows.items()}
    stages = {}
    for name, entry in content.stages.items():
        where = f"{file}: {name}"
        stages[name] = checked_fits(checked(Stage, entry, where), file.parent, where, "grid" in (entry or {}))
    protocol = Protocol(stages, rows)
    check_names(protocol, str(file))
    for name in stages:
        check_stage(protocol, name, f"{file}: {name}")
    return protocol


def laid_over(below: Any, above: Any) -> Any:
    """``above`` in the place of ``below``, where both are mappings key by key."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: laid_over(below.get(key), value) for key, value in above.items()}


def checked_fits(stage: Stage, folder: Path, where: str, has_grid: bool) -> Stage:
    """A stage, its config found in ``folder`` and its tasks under their official names.

    Raises:
        ValueError: there is no such config or task, the grid is empty, or a task starts from what is not there.
    """
    config = (folder / stage.config).resolve()
    if not config.is_file():
        raise ValueError(f"{where}: config {config} is no file")
    if stage.grid and stage.search:
        raise ValueError(f"{where}: a protocol has a grid or a search, not both")
    if has_grid and not (stage.grid and all(isinstance(values, list) and values for values in stage.grid.values())):
        raise ValueError(f"{where}: the grid is empty; give at least one value for each of its options")
    tasks = {task_named(name).name: checked(TaskPlan, plan, f"{where}: {name}") for name, plan in stage.tasks.items()}
    for name, plan in tasks.items():
        if plan.start and (plan.start not in tasks or tasks[plan.start].start):
            raise ValueError(f"{where}: {name} starts from {plan.start!r}, expected a task here that starts from nothing")
    return dataclasses.replace(stage, config=str(config), tasks=tasks)


def slug(name: str) -> str:
    """A name as part of a directory's: ``RigL + KD`` is ``rigl-kd``."""
    return re.sub(r"[^a-z0-9.=]+", "-", name.lower()).strip("-")


def check_names(protocol: Protocol, where: str) -> None:
    """Stages and rows are told apart by the names of their directories.

    Raises:
        ValueError: two are not, or one has none.
    """
    for kind, names in (("stage", protocol.stages), ("row", protocol.rows)):
        if not names:
            raise ValueError(f"{where}: there is no {kind}; give at least one")
        found: dict[str, str] = {}
        for name in names:
            if not isinstance(name, str) or not slug(name):
                raise ValueError(f"{where}: {kind} {name!r} has no name that a directory can have")
            if (other := found.setdefault(slug(name), name)) != name:
                raise ValueError(f"{where}: {kind}s {other!r} and {name!r} would both be called {slug(name)} in directories")


def check_stage(protocol: Protocol, name: str, where: str) -> None:
    """What a stage and its rows refer to is there.

    Raises:
        ValueError: it is not, or cannot be used so.
    """
    stage, before = protocol.stages[name], list(protocol.stages)[: list(protocol.stages).index(name)]
    if stage.search:
        raise ValueError(f"{where}: a search stands in a protocol without stages; give a grid")
    for key, other in (("best_of", stage.best_of), ("start", stage.start)):
        if other and other not in before:
            raise ValueError(f"{where}: {key} is {other!r}, expected a stage before it ({listed(before)})")
    if stage.best_of and (protocol.stages[stage.best_of].tasks or not protocol.stages[stage.best_of].grid):
        raise ValueError(f"{where}: best_of is {stage.best_of!r}, expected a stage with a grid and without tasks")
    own = stage.best_of or stage.distillation or stage.seeds > 1 or any(plan.seeds for plan in stage.tasks.values())
    if stage.start and own:
        raise ValueError(f"{where}: models, seeds and distillation are those of {stage.start}, from which it starts")
    there = protocol.rows_of(stage.start) if stage.start else list(protocol.rows)
    if absent := [row for row in stage.rows if row not in there]:
        raise ValueError(f"{where}: {absent[0]!r} is no row; there are {listed(there)}")
    if not stage.start:
        check_rows(protocol, name, where)


def check_rows(protocol: Protocol, name: str, where: str) -> None:
    """The teachers of a stage's rows, and the rows whose points they take, are there.

    Raises:
        ValueError: one is not, or is its own teacher in the end.
    """
    rows, best_of = protocol.rows_of(name), protocol.stages[name].best_of
    tuned = protocol.rows_of(best_of) if best_of else []
    for row in rows:
        chain = [row]
        while teacher := protocol.rows[chain[-1]].teacher:
            if teacher not in rows:
                raise ValueError(f"{where}: {chain[-1]!r} has the teacher {teacher!r}, expected a row here ({listed(rows)})")
            if teacher in chain:
                raise ValueError(f"{where}: {' is taught by '.join(map(repr, [*chain, teacher]))}; one has to come first")
            chain.append(teacher)
        if best_of and (source := protocol.rows[row].tuned or row) not in tuned:
            raise ValueError(
                f"{where}: {row!r} takes the point of {source!r}, expected a row of {best_of} ({listed(tuned)})"
            )


def listed(names: Iterable[str]) -> str:
    """Names as an error lists them."""
    return ", ".join(names) or "there is none"
