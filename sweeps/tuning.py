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
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from sweeps.protocol import Search
from sweeps.record import Record, results_table
from sweeps.trial import Fit, FitError, last_line, run_on_ray

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


def run_stage(
    fits: dict[str, Fit], record: Record, search: Search | None, concurrency: int, cpus: float, gpus: float, retries: int
) -> None:
    """Run ``fits``, by name, to their ends, whatever these are, and keep ``record``.

    Ray's own state is of no use afterwards: what is finished is in the runs.

    Args:
        fits: trials of the record.
        record: of the whole sweep; it is written by whoever drives Tune, which with ``ray://`` is another process.
        search: ends the worse fits early.
        concurrency: fits at a time, at most.
        cpus: reserved for each of them.
        gpus: reserved for each of them; a fraction shares one.
        retries: further attempts after a failure.
    """
    storage = record.directory / ".tune"
    scheduler: TrialScheduler | None = None
    if search:
        scheduler = ASHAScheduler(
            time_attr="steps",
            metric=search.minimise,
            mode="min",
            max_t=next(iter(fits.values())).max_steps + 1,  # that no fit is ended at its end
            grace_period=search.first_cut,
            reduction_factor=search.reduction,
        )

    def of_spec(spec: Any) -> Fit:
        return fits[spec.config.name]

    tuner = tune.Tuner(
        tune.with_resources(run_on_ray, {"cpu": cpus, "gpu": gpus}),
        param_space={"name": tune.grid_search(list(fits)), "fit": tune.sample_from(of_spec)},
        tune_config=tune.TuneConfig(
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
        """The table, and what is running for how long."""
        now = time.monotonic()
        running = [f"{name} ({(now - began) / 60:.0f} min)" for name, began in list(self.began.items())]
        return Group(results_table(self.record), Text("running: " + (", ".join(running) or "nothing yet")))

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self.began[trial.config["name"]] = time.monotonic()
        self.record.set(trial.config["name"], "running")

    def on_trial_result(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict, **info: Any) -> None:
        """The scheduler's business."""

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._ended(trial, error=None)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._ended(trial, last_line(Path(trial.error_file)).removeprefix(f"{FitError.__module__}.{FitError.__name__}: "))

    def _ended(self, trial: TuneTrial, error: str | None) -> None:
        name = trial.config["name"]
        self.began.pop(name, None)
        self.record.end(name, error)
        entry = self.record.trials[name]
        done = f"{len(self.record.names('finished', 'pruned', 'failed'))}/{len(self.record.trials)}"
        message = f"{entry['status']}: {entry['error']}" if "error" in entry else entry["status"]
        self.console.print(f"{done} {name}: {message}", markup=False, highlight=False, soft_wrap=True)

    def on_experiment_end(self, trials: list[TuneTrial], **info: Any) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None
