"""A sweep before anything runs: all that can be wrong with it is found here, and every trial becomes a command."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from objectives.glue import glue_task
from run_record import model_name
from sweeps.protocol import Protocol, Trial, load_protocol, make_trials, max_steps, search_of
from sweeps.record import Record
from sweeps.trial import Fit


@dataclass(frozen=True)
class Plan:
    """What a sweep will do.

    Attributes:
        protocol: that it follows.
        trials: of the protocol, as far as they are wanted.
        given: task → model to start from in place of a fitted one.
        record: of the sweep.
    """

    protocol: Protocol
    trials: list[Trial]
    given: dict[str, str]
    record: Record


def make_plan(options: argparse.Namespace) -> Plan:
    """The plan of a command line.

    Raises:
        ValueError: an option, the protocol or the directory of the sweep does not fit.
    """
    protocol = load_protocol(options.config)
    given = {}
    for entry in options.start:
        task, _, directory = entry.partition("=")
        given[glue_task(task).name] = check_pretrained(directory)
    trials = [trial for trial in make_trials(protocol, options.tasks) if trial.task not in given]
    if unused := [task for task in given if task not in {trial.start for trial in trials}]:
        raise ValueError(f"--start: nothing here starts from {unused[0]}")
    if protocol.tasks and not options.pretrained:
        raise ValueError("--pretrained is missing: the model that the fits start from")
    pretrained = check_pretrained(options.pretrained) if options.pretrained else ""
    model = options.model or (model_name(pretrained) if pretrained else Path(protocol.config).stem)
    name = options.name or "_".join(dict.fromkeys((options.config.stem, model)))
    header = {
        "name": name,
        "model": model,
        "protocol": options.config.stem,
        "pretrained": pretrained,
        "data.path": check_data(options.data) if options.data else "",
        "extra": options.extra,
    }
    return Plan(protocol, trials, given, Record.open(options.runs.resolve() / name, header, trials))


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


def check_data(data: str) -> str:
    """A path made absolute, or a hub id.

    Raises:
        ValueError: it is written as a path, and there is nothing.
    """
    path = Path(data).expanduser()
    if data.startswith((".", "/", "~")) and not path.exists():
        raise ValueError(f"--data.path: there is no {data}")
    return str(path.resolve()) if path.exists() else data


def fit_of(plan: Plan, trial: Trial, model: str, train: tuple[str, ...], stall: float) -> Fit:
    """A trial as what is run for it.

    Args:
        plan: of the sweep.
        trial: of the plan.
        model: where it starts; empty for none.
        train: the command that takes a fit's options.
        stall: minutes without a sign of life after which it hangs.
    """
    record, search = plan.record, search_of(plan.protocol)
    given = {"data.task": trial.task, "data.path": record.content["data.path"], "model.pretrained": model}
    where = {"runs": record.directory, "experiment": trial.name, "version": 0, "ckpt_path": "last"}
    settings = {key: value for key, value in given.items() if value} | trial.settings | {"seed_everything": trial.seed}
    command = [*train, f"--config={trial.config}", *as_options(settings), "--trainer.enable_progress_bar=false"]
    return Fit(
        directory=record.directory / trial.name,
        command=(*command, *record.content["extra"], *as_options(where)),
        cwd=Path.cwd(),
        stall=stall * 60,
        watch=search.minimise if search else "",
        max_steps=max_steps(plan.protocol) if search else 0,
        keep_checkpoints=not trial.task,
        pruned=record.trials[trial.name]["status"] == "pruned",
    )


def as_options(settings: dict[str, Any]) -> list[str]:
    """Settings as options of ``train.py``."""
    return [f"--{key}={value if isinstance(value, str | Path) else json.dumps(value)}" for key, value in settings.items()]
