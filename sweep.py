"""Many fits as one protocol: ``python sweep.py --config configs/protocols/bert_hf.yaml --pretrained DIR --data.path GLUE``.

Every fit is a ``train.py fit`` of its own, into ``RUNS/NAME/TRIAL/version_0``; ``RUNS/NAME/sweep.json`` says what came out. A
sweep that was interrupted, however that happened, goes on when it is started again. What follows ``--`` goes to every fit.
"""

import argparse
import getpass
import hashlib
import json
import os
import secrets
import sys
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from arguments import OneLineParser
from objectives.glue import glue_task
from sweeps.protocol import Protocol, Trial, load_protocol, make_trials, max_steps, search_of
from sweeps.record import Record, results_table
from sweeps.trial import Fit

ROOT = Path(__file__).parent
TRAIN = (sys.executable, str(ROOT / "train.py"), "fit")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; what stands after ``--`` is ``extra``."""
    parser = OneLineParser(description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="protocol, a file of configs/protocols")
    parser.add_argument("--pretrained", help="directory or hub id of the model that the fits start from")
    parser.add_argument("--data.path", dest="data", help="data of all fits: a GLUE directory, or text for pretraining")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="directory of all runs")
    parser.add_argument("--name", help="name of the sweep; default: PROTOCOL_MODEL")
    parser.add_argument("--model", help="name of the model in tables; default: the experiment that --pretrained comes from")
    parser.add_argument("--tasks", nargs="+", default=[], metavar="TASK", help="these tasks of the protocol only")
    parser.add_argument(
        "--start", nargs="+", default=[], metavar="TASK=DIR", help="models to start from, instead of fitting TASK"
    )
    parser.add_argument(
        "--address", help="Ray cluster, as ray://HOST:10001, that sees the same files; default: this machine"
    )
    parser.add_argument("--concurrency", type=positive(int), default=2, help="fits at a time")
    parser.add_argument("--cpus", type=positive(float), default=1, help="processors reserved for a fit")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs reserved for a fit; a fraction shares one")
    parser.add_argument("--retries", type=int, default=1, help="further attempts of a fit that failed")
    parser.add_argument(
        "--stall", type=positive(float), default=30, help="minutes without a new byte of a fit after which it hangs"
    )
    parser.add_argument("extra", nargs="*", help="after --: further options of train.py")
    return parser.parse_args(arguments)


def positive(kind: type) -> Any:
    """A parser of numbers above zero."""

    def number(text: str) -> Any:
        if (value := kind(text)) <= 0:
            raise ValueError(text)
        return value

    number.__name__ = f"{kind.__name__} above zero"  # argparse says "invalid … value"
    return number


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
    from transformers.utils import cached_file

    try:
        cached_file(model, "config.json")
    except (OSError, ValueError) as error:
        raise ValueError(f"pretrained: no directory {model!r}, nor a model of that name on the hub") from error
    return model


def model_name(pretrained: str) -> str:
    """What a table calls a model: ``RUNS/EXPERIMENT/version_N/export`` is EXPERIMENT, anything else its last part."""
    path = Path(pretrained)
    exported = path.name == "export" and path.parent.name.startswith("version_")
    return path.parent.parent.name if exported else path.name


def fit_of(
    trial: Trial, options: argparse.Namespace, train: tuple[str, ...], protocol: Protocol, record: Record, model: str
) -> Fit:
    """A trial as what is run for it; ``model`` is where it starts."""
    given = {"data.task": trial.task, "data.path": options.data, "model.pretrained": model}
    where = {"runs": record.directory, "experiment": trial.name, "version": 0, "ckpt_path": "last"}
    settings = {key: value for key, value in given.items() if value} | trial.settings | {"seed_everything": trial.seed}
    command = [*train, f"--config={trial.config}", *as_options(settings), "--trainer.enable_progress_bar=false"]
    search = search_of(protocol)
    return Fit(
        directory=record.directory / trial.name,
        command=(*command, *options.extra, *as_options(where)),
        cwd=Path.cwd(),
        stall=options.stall * 60,
        watch=search.minimise if search else "",
        max_steps=max_steps(protocol) if search else 0,
        keep_checkpoints=not trial.task,
        pruned=record.trials[trial.name]["status"] == "pruned",
    )


def as_options(settings: dict[str, Any]) -> list[str]:
    """Settings as options of ``train.py``."""
    return [f"--{key}={value if isinstance(value, str | Path) else json.dumps(value)}" for key, value in settings.items()]


def plan(options: argparse.Namespace) -> tuple[Protocol, list[Trial], dict[str, str], Record]:
    """All that can be wrong is found here, before Ray starts.

    Returns:
        The protocol, its trials, the models that are given for tasks to start from, and the record.

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
    if options.data and options.data.startswith((".", "/", "~")) and not Path(options.data).expanduser().exists():
        raise ValueError(f"--data.path: there is no {options.data}")
    pretrained = check_pretrained(options.pretrained) if options.pretrained else ""
    model = options.model or (model_name(pretrained) if pretrained else Path(protocol.config).stem)
    name = options.name or "_".join(dict.fromkeys((options.config.stem, model)))
    header = {
        "name": name,
        "model": model,
        "protocol": options.config.stem,
        "pretrained": pretrained,
        "extra": options.extra,
    }
    return protocol, trials, given, Record.open(options.runs.resolve() / name, header, trials)


def ray_environment(address: str | None) -> dict[str, str]:
    """What Ray has to know before it is imported: it says nothing by itself, and on this machine alone it stays there."""
    settings = {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),  # of its workers
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",  # the new one cannot be replaced
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    }
    if not address:
        settings["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on Linux too it is this that binds Ray to loopback
        settings["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # else Ray leaves one in the user's home
    return settings


def session_directory(directory: Path) -> Path:
    """Where Ray keeps its files for a sweep: short, because of the sockets among them, and found again to be removed."""
    root = Path(os.environ.get("RAY_TMPDIR", "/tmp"))
    return root / f"ray_{getpass.getuser()[:16]}_{hashlib.sha256(str(directory).encode()).hexdigest()[:8]}"


def run_sweep(options: argparse.Namespace, train: tuple[str, ...]) -> Record:
    """First what starts from the pretrained model, then what starts from the best of that."""
    os.environ.update(ray_environment(options.address))
    protocol, trials, given, record = plan(options)
    directory, search, session = record.directory, search_of(protocol), session_directory(record.directory)
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / ".lock", timeout=0):
        record.save()
        if not any(record.trials[trial.name]["status"] == "waiting" for trial in trials):
            return record
        from sweeps import tuning  # which takes its time, and takes Ray's environment as it is now

        with tuning.cluster(options.address, session):
            for later in (False, True):
                fits: dict[str, Fit] = {}
                for trial in (trial for trial in trials if bool(trial.start) == later):
                    model = given.get(trial.start) or record.best(trial.start) if later else record.content["pretrained"]
                    if model is None:
                        record.set(trial.name, "failed", f"{trial.start}, from which it starts, has no finished run")
                    elif record.trials[trial.name]["status"] != "finished" or search:  # ASHA has yet to hear of the finished
                        fits[trial.name] = fit_of(trial, options, train, protocol, record, str(model))
                if fits:
                    tuning.run_stage(fits, record, search, options.concurrency, options.cpus, options.gpus, options.retries)
                    record = Record.load(directory)
    return record


def main(arguments: list[str] | None = None, train: tuple[str, ...] = TRAIN) -> None:
    """Run a sweep, print what came out, and exit with 1 if not all of it did.

    Args:
        arguments: the command line by default.
        train: the command that takes a fit's options.
    """
    try:
        record = run_sweep(parse(arguments), train)
    except Timeout as error:
        sys.exit(f"error: another sweep.py is running this sweep ({error.lock_file} is locked)")
    except ImportError as error:
        sys.exit(f"error: {error}; sweeps need Ray: pip install -e '.[sweep]'")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    Console().print(results_table(record))
    for name in record.names("failed"):
        print(f"failed: {name}: {record.trials[name]['error']} ({record.directory / name / 'log.txt'})")
    if waiting := record.names("waiting", "running"):
        print(f"{len(waiting)} fits have not been run; the same command goes on with them")
    print(record.directory / "sweep.json")
    sys.exit(bool(waiting or record.names("failed")))


if __name__ == "__main__":
    main()
