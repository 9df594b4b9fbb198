"""Runs a plan: what Ray has to know before it is imported, one sweep at a time in a directory."""

import dataclasses
import getpass
import hashlib
import os
import secrets
from argparse import Namespace
from pathlib import Path

from filelock import FileLock

from sweeps.agenda import Agenda, mark
from sweeps.plan import Plan, make_plan
from sweeps.record import Record

ROOT = Path(__file__).parents[1]


def ray_environment(address: str | None) -> dict[str, str]:
    """What Ray has to know before it is imported: it says nothing by itself, and on this machine alone it stays there."""
    settings = {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),  # of its workers
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",  # the new one cannot be replaced
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "RAY_kill_child_processes_on_worker_exit": "0",  # which would kill the guard before it can stop the fit
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a search is told of a fit that was stopped, without its metric
    }
    if not address:
        settings["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on Linux too it is this that binds Ray to loopback
        settings["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # else Ray leaves one in the user's home
    return settings


def session_directory(directory: Path) -> Path:
    """Where Ray keeps its files for a sweep: short, because of the sockets among them, and found again to be removed."""
    root = Path(os.environ.get("RAY_TMPDIR", "/tmp"))
    return root / f"ray_{getpass.getuser()[:16]}_{hashlib.sha256(str(directory).encode()).hexdigest()[:8]}"


def run_sweep(options: Namespace, train: tuple[str, ...]) -> Plan:
    """Every fit of a plan, each when what it needs from others is there; the plan with what became of it.

    Args:
        options: of the command line.
        train: the command that takes a fit's options.

    Raises:
        ValueError: an option, the protocol or the directory of the sweep does not fit.
        ImportError: Ray is not installed.
        filelock.Timeout: another process runs this sweep.
    """
    os.environ.update(ray_environment(options.address))
    plan = make_plan(options)
    record, directory = plan.record, plan.record.directory
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / ".lock", timeout=0):
        mark(plan.trials, record)
        record.save()
        if not any(record.trials[trial.name]["status"] == "waiting" for trial in plan.trials):
            return plan
        from sweeps import tuning  # which takes its time, and takes Ray's environment as it is now

        if plan.toy:
            from datamodules import write_toy_glue

            print(f"toy tasks, made from docstrings, stand for GLUE: {plan.toy}")
            write_toy_glue(plan.toy)
        agenda = Agenda(plan, train, options.stall)
        try:
            with tuning.cluster(options.address, session_directory(directory)):
                tuning.run_agenda(agenda, options.concurrency, options.cpus, options.gpus, options.retries)
        finally:
            record = Record.load(directory)
            for name in record.names("running"):  # the sweep was told to stop, and its fits with it
                record.set(name, "stopped")
            mark(plan.trials, record)
            record.save()
    return dataclasses.replace(plan, record=record)
