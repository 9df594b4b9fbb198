"""A sweep before anything runs: all that can be wrong with it is found here, and every trial becomes a command."""

import argparse
import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from objectives.beyond_glue import task_named
from run_record import model_name
from sweeps.protocol import Protocol, load_protocol
from sweeps.record import Record
from sweeps.search import max_steps, search_of
from sweeps.trial import Fit
from sweeps.trials import PRETRAINED, Trial, located, make_trials

TOY = "toy"  # name of the model where sizes are
TOY_GLUE = "toy_glue"


@dataclass(frozen=True)
class Plan:
    """What a sweep will do.

    Attributes:
        protocol: that it follows.
        trials: of the protocol, as far as they are wanted.
        record: of the sweep.
        toy: where toy tasks have to be written that stand for GLUE; None for none.
    """

    protocol: Protocol
    trials: list[Trial]
    record: Record
    toy: Path | None = None


def make_plan(options: argparse.Namespace) -> Plan:
    """The plan of a command line.

    Raises:
        ValueError: an option, the protocol or the directory of the sweep does not fit.
    """
    protocol = load_protocol(options.config, options.quick)
    given = {}
    for entry in options.start:
        task, _, directory = entry.partition("=")
        if not directory:
            raise ValueError(f"--start is {entry!r}; expected TASK=DIR")
        given[task_named(task).name] = check_pretrained(directory)
    trials = [
        dataclasses.replace(
            trial, needs=tuple(need for need in trial.needs if need.option != PRETRAINED), given=given[trial.start]
        )
        if trial.start in given
        else trial
        for trial in make_trials(protocol, options.tasks, options.stages, options.rows, options.seeds)
        if trial.task not in given
    ]
    if unused := [task for task in given if task not in {trial.start for trial in trials}]:
        raise ValueError(f"--start: nothing here starts from {unused[0]}")
    if not trials:
        raise ValueError("no fit of this protocol is of all these tasks, stages, rows and seeds")
    if not options.pretrained and any(trial.task and not trial.start for trial in trials):
        raise ValueError("--pretrained is missing: the model that the fits start from")
    if options.glue and not (protocol.staged and protocol.tasks):
        raise ValueError("--glue.path is for protocols with stages, some of which have tasks; give --data.path")
    pretrained = check_pretrained(options.pretrained) if options.pretrained else ""
    config = next(iter(protocol.stages.values())).config
    model = options.model or (TOY if options.quick else model_name(pretrained) if pretrained else Path(config).stem)
    if options.name is not None and (Path(options.name).name != options.name or options.name in ("", ".")):
        raise ValueError(f"--name is {options.name!r}; expected a name, of a directory in {options.runs}")
    own = "_".join(dict.fromkeys((options.config.stem, model)))
    name = options.name or re.sub(r"[^\w.=+%-]", "-", own)  # of the model's card, which may come from a stranger
    directory = options.runs.resolve() / name
    header = {
        "name": name,
        "model": model,
        "protocol": options.config.stem,
        "pretrained": pretrained,
        "data.path": check_data("data.path", options.data),
        "extra": options.extra,
    }
    toy = directory / TOY_GLUE if options.quick and protocol.tasks and not options.glue else None
    if protocol.staged:
        header["tuning"] = protocol.tuning
        header["glue.path"] = str(toy or check_data("glue.path", options.glue))
    return Plan(protocol, trials, Record.open(directory, header, trials), toy)


def check_pretrained(model: str) -> str:
    """A directory made absolute, or a hub id.

    Raises:
        ValueError: there is no such model.
    """
    if Path(model).is_dir():
        if not (Path(model) / "config.json").is_file():
            raise ValueError(
                f"pretrained: {model} has no config.json, expected a save_pretrained directory such as RUN/export"
            )
        return str(Path(model).resolve())
    from hub import local_or_hub  # seconds, for hub ids and mistakes alone

    return local_or_hub(model, "pretrained model")


def check_data(option: str, data: str | None) -> str:
    """A path made absolute, or a hub id; empty for none.

    Raises:
        ValueError: it is written as a path, and there is nothing.
    """
    if not data:
        return ""
    path = Path(data).expanduser()
    if data.startswith((".", "/", "~")) and not path.exists():
        raise ValueError(f"--{option}: there is no {data}")
    return str(path.resolve()) if path.exists() else data


def fit_of(plan: Plan, trial: Trial, taken: dict[str, Any], train: tuple[str, ...], stall: float) -> Fit:
    """A trial as what is run for it.

    Args:
        plan: of the sweep.
        trial: of the plan.
        taken: what it takes from other trials, as options of ``train.py``.
        train: the command that takes a fit's options.
        stall: minutes without a sign of life after which it hangs.
    """
    record, search = plan.record, search_of(plan.protocol)
    data = record.content["glue.path" if trial.task and trial.stage else "data.path"]
    model = trial.given or ("" if trial.start else record.content["pretrained"])
    own = {"data.task": trial.task, "data.path": data, PRETRAINED: model}
    where = {"runs": record.directory, "experiment": trial.name, "version": 0, "ckpt_path": "last"}
    settings = {key: value for key, value in own.items() if value} | located(trial.settings, trial.config) | taken
    settings |= {"seed_everything": trial.seed}
    command = [*train, f"--config={trial.config}", *as_options(settings), "--trainer.enable_progress_bar=false"]
    return Fit(
        directory=record.directory / trial.name,
        command=(*command, *record.content["extra"], *as_options(where)),
        cwd=Path.cwd(),
        stall=stall * 60,
        watch=search.minimise if search else "",
        max_steps=max_steps(plan.protocol.stages[trial.stage]) if search else 0,
        keep_checkpoints=not (trial.task or trial.stage),
        pruned=record.trials[trial.name]["status"] == "pruned",
    )


def as_options(settings: dict[str, Any]) -> list[str]:
    """Settings as options of ``train.py``."""
    return [f"--{key}={value if isinstance(value, str | Path) else json.dumps(value)}" for key, value in settings.items()]
