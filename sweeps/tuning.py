"""Trials on Ray Tune: who runs where and when, what becomes of those that fail, and a table of how far things are.

Ray reads its environment when it is imported, and so when this is.
"""

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from sweeps.agenda import Agenda
from sweeps.record import Record, results_table
from sweeps.search import max_steps, search_of
from sweeps.trial import DIVERGED, STOPPED, FitError, last_line, run_on_ray

QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}


@contextlib.contextmanager
def cluster(address: str | None, session: Path) -> Iterator[None]:
    """Ray: the cluster at ``address``, or this machine's processors for this process alone, with its files in ``session``."""
    shutil.rmtree(session, ignore_errors=True)  # of a sweep that was killed
    if address:
        ray.init(address, runtime_env={"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}}, **QUIET)
    else:
        ray.init(
            "local",
            include_dashboard=False,
            object_store_memory=100 * 2**20,  # nothing is kept in it
            _node_ip_address="127.0.0.1",
            _temp_dir=str(session),
            **QUIET,
        )
    for name in ("ray.tune.execution.tune_controller", "ray.tune.tune"):  # stack traces of Ray about errors of fits
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(session, ignore_errors=True)


class Turns(Searcher):
    """An agenda as Tune asks for it."""

    def __init__(self, agenda: Agenda) -> None:
        super().__init__()
        self.agenda = agenda

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        turn = self.agenda.next()
        if turn is None:
            return Searcher.FINISHED if self.agenda.over else None  # type: ignore[return-value]  # which Ray asks for
        return {"name": turn.name, "fit": turn.fit, "tuned": turn.tuned}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """The agenda reads it in the record."""

    def save(self, checkpoint_path: str) -> None:
        """Ray's own state is of no use."""


def check_resources(cpus: float, gpus: float) -> None:
    """Refuse to wait for ever for what no machine of the cluster has.

    Raises:
        ValueError: a fit is to have more processors, or more GPUs, than the largest machine.
    """
    for option, wanted, name in ("--cpus", cpus, "CPU"), ("--gpus", gpus, "GPU"):
        most = max((node["Resources"].get(name, 0) for node in ray.nodes() if node["Alive"]), default=0)
        if wanted > most:
            raise ValueError(f"{option} is {wanted:g}, and Ray has {most:g} {name} on a machine")


def run_agenda(agenda: Agenda, concurrency: int, cpus: float, gpus: float, retries: int) -> None:
    """Run the fits of an agenda to their ends, whatever these are, and keep its record.

    Ray's own state is of no use afterwards: what is finished is in the runs.

    Args:
        agenda: of the whole sweep; its record is written by whoever drives Tune, which with ``ray://`` is another process.
        concurrency: fits at a time, at most.
        cpus: reserved for each of them.
        gpus: reserved for each of them; a fraction shares one.
        retries: further attempts after a failure.
    """
    check_resources(cpus, gpus)
    record, search = agenda.plan.record, search_of(agenda.plan.protocol)
    storage = record.directory / ".tune"
    scheduler: TrialScheduler | None = None
    if search:
        (fits,) = agenda.plan.protocol.stages.values()
        scheduler = ASHAScheduler(
            time_attr="steps",
            metric=search.minimise,
            mode="min",
            max_t=max_steps(fits) + 1,  # that no fit is ended at its end
            grace_period=search.first_cut,
            reduction_factor=search.reduction,
        )
    tuner = tune.Tuner(
        tune.with_resources(run_on_ray, {"cpu": cpus, "gpu": gpus}),
        tune_config=tune.TuneConfig(
            search_alg=Turns(agenda),
            num_samples=len(agenda.open),
            scheduler=scheduler,
            max_concurrent_trials=concurrency,
            reuse_actors=search is None,  # saves seconds a trial; one that is ended early ends with its worker
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(storage),
            failure_config=tune.FailureConfig(max_failures=retries),
            callbacks=[Progress(record)],
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(storage, ignore_errors=True)


class Progress(TrialProgressCallback):
    """In place of Tune's own: keeps the record, and shows a line for every trial that ends and, on a terminal, a live table."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record
        self.began: dict[str, float] = {}
        self.live: Live | None = None  # begins in setup, as Tune pickles its callbacks

    def setup(self, *args: Any, **info: Any) -> None:
        self.console = Console()
        if self.console.is_terminal:
            self.live = Live(get_renderable=self.view, console=self.console, refresh_per_second=1)
            self.live.start()

    def view(self) -> Group:
        """What is running for how long, and the table, of which a small terminal shows the beginning."""
        now = time.monotonic()
        running = [f"{name} ({(now - began) / 60:.0f} min)" for name, began in list(self.began.items())]
        return Group(Text("running: " + (", ".join(running) or "nothing yet")), results_table(self.record))

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self.began[trial.config["name"]] = time.monotonic()
        self.record.begin(trial.config["name"], trial.config["tuned"])

    def on_trial_result(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict, **info: Any) -> None:
        """The scheduler's business."""

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        last = trial.last_result or {}
        self._ended(trial, last_line(trial.config["fit"].log) if DIVERGED in last else None, STOPPED in last)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._ended(trial, last_line(Path(trial.error_file)).removeprefix(f"{FitError.__module__}.{FitError.__name__}: "))

    def _ended(self, trial: TuneTrial, error: str | None, stopped: bool = False) -> None:
        name = trial.config["name"]
        self.began.pop(name, None)
        self.record.end(name, error, stopped)
        entry = self.record.trials[name]
        done = f"{len(self.record.names('finished', 'pruned', 'failed'))}/{len(self.record.trials)}"
        message = f"{entry['status']}: {entry['error']}" if "error" in entry else entry["status"]
        self.console.print(f"{done} {name}: {message}", markup=False, highlight=False, soft_wrap=True)

    def on_experiment_end(self, trials: list[TuneTrial], **info: Any) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None
