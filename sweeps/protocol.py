"""A protocol is data: which fits, with which settings, over how many seeds. Here it becomes a list of trials."""

import dataclasses
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

import yaml

from objectives.glue import glue_task

T = TypeVar("T")
SMALLER_IS_BETTER = ("perplexity", "eval_loss")


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
class Search:
    """Points drawn at random, of which the worse are ended early (ASHA: Li et al. 2018, arXiv 1810.05934).

    Attributes:
        trials: points to draw.
        space: option → {distribution of ``ray.tune``: its arguments}.
        minimise: the key of ``summary.json``, perplexity or eval_loss, that ranks them after each validation.
        first_cut: optimizer steps after which a fit may be ended for the first time.
        reduction: of the fits that come to a cut one in so many goes on; cuts are at ``first_cut · reduction^k`` steps.
    """

    trials: int
    space: dict
    minimise: str = "perplexity"
    first_cut: int = 100
    reduction: int = 4


@dataclass(frozen=True)
class Protocol:
    """One file of ``configs/protocols``.

    Attributes:
        config: the experiment that every fit runs, from the protocol's own folder.
        settings: options of ``train.py`` that every fit has.
        seeds: fits of every point, with seeds 0, 1, ….
        tasks: GLUE task → what it has of its own; none for pretraining.
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
class Trial:
    """One fit: ``settings`` are its options of ``train.py``, ``start`` is the task whose model it starts from."""

    name: str
    task: str
    seed: int
    config: Path
    settings: dict[str, Any]
    start: str = ""


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


def load_protocol(file: Path) -> Protocol:
    """A file's protocol, its paths absolute and its tasks under their official names.

    Raises:
        ValueError: the file is not a protocol.
    """
    try:
        given = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"protocol {file}: {' '.join(str(error).split())}") from error
    protocol = checked(Protocol, given, str(file))
    config = (file.parent / protocol.config).resolve()
    if not config.is_file():
        raise ValueError(f"{file}: config {config} is no file")
    if protocol.grid and protocol.search:
        raise ValueError(f"{file}: a protocol has a grid or a search, not both")
    if "grid" in (given or {}) and not (protocol.grid and all(isinstance(v, list) and v for v in protocol.grid.values())):
        raise ValueError(f"{file}: the grid is empty; give at least one value for each of its options")
    tasks = {glue_task(name).name: checked(TaskPlan, plan, f"{file}: {name}") for name, plan in protocol.tasks.items()}
    for name, plan in tasks.items():
        if plan.start and (plan.start not in tasks or tasks[plan.start].start):
            raise ValueError(f"{file}: {name} starts from {plan.start!r}, expected a task here that starts from nothing")
    return dataclasses.replace(protocol, config=str(config), tasks=tasks)


def search_of(protocol: Protocol) -> Search | None:
    """The protocol's search, if it is one.

    Raises:
        ValueError: it is not well-formed, or has no end: ASHA compares at steps, so the fits need ``trainer.max_steps``.
    """
    if not protocol.search:
        return None
    search = checked(Search, protocol.search, "search")
    if not search.space:
        raise ValueError("search: the space is empty; give at least one option with its distribution")
    if search.minimise not in SMALLER_IS_BETTER:
        raise ValueError(f"search: minimise is {search.minimise!r}, expected {' or '.join(SMALLER_IS_BETTER)}")
    if search.reduction < 2:
        raise ValueError(f"search: reduction is {search.reduction}, expected 2 or more")
    if search.first_cut >= max_steps(protocol):
        raise ValueError(f"search: first_cut is {search.first_cut}, expected less than trainer.max_steps")
    return search


def max_steps(protocol: Protocol) -> int:
    """Optimizer steps of a fit of a search."""
    if not isinstance(steps := protocol.settings.get("trainer.max_steps"), int):
        raise ValueError(f"search: settings.trainer.max_steps is {steps!r}, expected the steps of a fit")
    return steps


def draw(search: Search) -> list[dict[str, Any]]:
    """The points of a search: always the same ones, so that an interrupted search goes on."""
    import numpy as np
    from ray import tune

    generator = np.random.RandomState(0)
    domains = {}
    for option, distribution in search.space.items():
        try:
            ((name, arguments),) = distribution.items()
            domains[option] = getattr(tune, name)(arguments) if name == "choice" else getattr(tune, name)(*arguments)
            domains[option].sample(random_state=np.random.RandomState(0))
        except (AttributeError, TypeError, ValueError, AssertionError) as error:
            example = "{loguniform: [1.0e-4, 1.0e-2]}"
            raise ValueError(f"search: {option} has {distribution!r}, expected one distribution as in {example}") from error
    return [
        {option: rounded(domain.sample(random_state=generator)) for option, domain in domains.items()}
        for _ in range(search.trials)
    ]


def rounded(value: Any) -> Any:
    """Numbers to three digits, as ordinary Python numbers."""
    value = value.item() if hasattr(value, "item") else value
    return float(f"{value:.3g}") if isinstance(value, float) else value


def points(protocol: Protocol) -> list[dict[str, Any]]:
    """What varies beside task and seed."""
    if search := search_of(protocol):
        return draw(search)
    return [dict(zip(protocol.grid, values, strict=True)) for values in itertools.product(*protocol.grid.values())]


def make_trials(protocol: Protocol, tasks: Iterable[str] = ()) -> list[Trial]:
    """All fits of a protocol, or of some of its tasks and those which these start from.

    Raises:
        ValueError: a task is unknown or no part of the protocol.
    """
    wanted = [glue_task(name).name for name in tasks] or list(protocol.tasks)
    if absent := [name for name in wanted if name not in protocol.tasks]:
        raise ValueError(f"{absent[0]} is no task of this protocol; it has {', '.join(protocol.tasks) or 'none'}")
    wanted += [plan.start for name, plan in protocol.tasks.items() if name in wanted]
    plans = {name: plan for name, plan in protocol.tasks.items() if name in wanted} or {"": TaskPlan()}
    trials = []
    for task, plan in plans.items():
        for number, point in enumerate(points(protocol)):
            for seed in range(plan.seeds or protocol.seeds):
                settings = protocol.settings | plan.settings | point
                parts = [task, f"{number:03}" if protocol.search else "", *_words(point), f"seed={seed}"]
                name = "_".join(part for part in parts if part)
                trials.append(Trial(name, task, seed, Path(protocol.config), settings, plan.start))
    return trials


def _words(point: dict[str, Any]) -> list[str]:
    """A point as parts of a directory's name: ``lr=2e-05``."""
    return [re.sub(r"[^\w.=+-]", "-", f"{option.rsplit('.', 1)[-1]}={value}") for option, value in point.items()]
