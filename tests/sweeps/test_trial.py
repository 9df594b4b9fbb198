"""One fit in processes of its own: it comes to its end, or says why not, and nothing of it outlives who runs it."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from run_record import Heartbeat, RunRecord
from sweeps.trial import (
    DIVERGED,
    GUARD,
    STOPPED,
    Fit,
    FitError,
    Reports,
    is_finished,
    last_line,
    newest_change,
    patience,
    run_fit,
)

ROOT = Path(__file__).parents[2]
FAKE = (sys.executable, str(ROOT / "tests" / "fake_fit.py"))


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., Fit]:
    """A fit of the fake trainer; keywords are its options, but for those of :class:`Fit`."""

    def make(stall: float = 60, watch: str = "", max_steps: int = 0, **options: Any) -> Fit:
        names = {
            "data.task": "CoLA",
            "seed_everything": 1,
            "runs": tmp_path / "s",
            "experiment": "t",
            "version": 0,
        } | options
        command = (*FAKE, *(f"--{name}={value}" for name, value in names.items()))
        return Fit(tmp_path / "s" / "t", command, tmp_path, stall, watch, max_steps)

    return make


def events(root: Path) -> list[list[str]]:
    log = root / "events.log"
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def living(group: int) -> list[int]:
    """Processes of a group that run; zombies do not."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, _, of = stat.read_text().rsplit(")", 1)[1].split()[:3]
            found += [int(stat.parent.name)] if int(of) == group and state != "Z" else []
    return found


def eventually(condition: Callable[[], bool], seconds: float = 30) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.1)
    return False


def no_report(result: dict[str, float]) -> None:
    raise AssertionError(result)


def test_a_finished_fit_is_not_run_again(fit: Callable[..., Fit], tmp_path: Path) -> None:
    run_fit(fit(), no_report)
    run_fit(fit(), no_report)
    assert [event for event, *_ in events(tmp_path)] == ["begins", "ends"]
    assert RunRecord.read(fit().run / "summary.json").metrics == {"matthews": 0.1}
    assert (fit().run / "checkpoints").is_dir()


def test_checkpoints_go_when_they_have_served(fit: Callable[..., Fit]) -> None:
    run_fit(dataclasses.replace(fit(), keep_checkpoints=False), no_report)
    assert not (fit().run / "checkpoints").exists()
    assert (fit().run / "export").is_dir()


def test_the_error_is_the_last_line_of_the_log(fit: Callable[..., Fit]) -> None:
    with pytest.raises(FitError, match=r"^RuntimeError: the loss is not finite$"):
        run_fit(fit(behaviour="fails"), no_report)
    assert last_line(fit().log) == "RuntimeError: the loss is not finite"


def test_a_fit_that_ends_early_has_not_finished(fit: Callable[..., Fit]) -> None:
    with pytest.raises(FitError, match="ended with status 'stopped', not 'finished'"):
        run_fit(fit(behaviour="ends early"), no_report)


def test_a_fit_that_was_told_to_stop_has_not_failed_and_goes_on(fit: Callable[..., Fit], tmp_path: Path) -> None:
    reports: list[dict[str, float]] = []
    run_fit(fit(behaviour="seed 1 stops"), reports.append)
    assert reports == [{STOPPED: 1.0}]
    run_fit(fit(behaviour="seed 1 stops"), no_report)
    assert [event for event, *_ in events(tmp_path)] == ["begins", "begins", "ends"]


def test_a_fit_that_diverged_says_so_once(fit: Callable[..., Fit], tmp_path: Path) -> None:
    """It would do the same, to the bit, were it tried again."""
    reports: list[dict[str, float]] = []
    run_fit(fit(behaviour="diverges"), reports.append)
    assert reports == [{DIVERGED: 1.0}]
    assert last_line(fit().log) == "error: 10 steps in a row were not finite"


def test_a_fit_that_hangs_is_ended_with_all_its_processes(fit: Callable[..., Fit], tmp_path: Path) -> None:
    with pytest.raises(FitError, match=r"^no sign of life for 0\.05 minutes$"):
        run_fit(fit(stall=3, behaviour="hangs"), no_report)
    ((_, _, pid),) = events(tmp_path)
    assert living(int(pid)) == []


def test_a_slow_model_on_a_slow_machine_is_no_hung_one(fit: Callable[..., Fit]) -> None:
    """Its steps take ten minutes; it is given twenty of them."""
    slow = fit(stall=1800)
    assert patience(slow) == 1800
    Heartbeat(3).write(slow.run)
    assert patience(slow) == 1800
    Heartbeat(9, 600.0).write(slow.run)
    assert patience(slow) == 12000


def test_a_fit_killed_from_outside_says_so(fit: Callable[..., Fit], tmp_path: Path) -> None:
    killer = f"import os, signal; os.kill(os.getppid(), signal.{signal.SIGKILL.name})"
    shell = ("sh", "-c", f'{sys.executable} -c "{killer}"; sleep 60')
    with pytest.raises(FitError, match="ended by SIGKILL"):
        run_fit(Fit(tmp_path / "t", shell, tmp_path, stall=60), no_report)


def test_nothing_outlives_a_runner_that_is_killed(fit: Callable[..., Fit], tmp_path: Path) -> None:
    """Kill -9 whoever runs a fit: the fit and its own child go, and a restart, which waits for that, runs it to its end."""
    hanging = fit(behaviour="hangs")
    program = f"from pathlib import Path, PosixPath\nfrom sweeps.trial import *\nrun_fit({hanging!r}, print)"
    runner = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    assert eventually(lambda: bool(events(tmp_path)))
    group = int(events(tmp_path)[0][2])
    assert eventually(lambda: len(living(group)) == 2)
    runner.kill()
    runner.wait()
    run_fit(fit(), no_report)
    assert living(group) == []
    assert [event for event, *_ in events(tmp_path)] == ["begins", "begins", "ends"]


def test_a_fit_stops_when_its_guard_is_killed(fit: Callable[..., Fit], tmp_path: Path) -> None:
    """As Ray does it to the children of a worker that ends, or a machine that is short of memory."""
    guard = subprocess.Popen([sys.executable, str(GUARD), *fit(behaviour="hangs").command], stdin=subprocess.PIPE)
    try:
        assert eventually(lambda: bool(events(tmp_path)))
        process = int(events(tmp_path)[0][2])
        assert process in living(process)
        guard.kill()
        assert eventually(lambda: process not in living(process))
    finally:
        guard.kill()
        guard.wait()
        for left in living(int(events(tmp_path)[0][2])):  # the fit's own child
            os.kill(left, signal.SIGKILL)


def test_two_do_not_run_the_same_trial(fit: Callable[..., Fit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.trial.LOCK_WAIT", 0.1)
    hanging = fit(behaviour="hangs")
    program = f"from pathlib import Path, PosixPath\nfrom sweeps.trial import *\nrun_fit({hanging!r}, print)"
    runner = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    try:
        assert eventually(lambda: bool(events(tmp_path)))
        with pytest.raises(FitError, match="is still being run by other processes"):
            run_fit(fit(), no_report)
    finally:
        runner.kill()
        runner.wait()
    assert len(events(tmp_path)) == 1


def test_reports_are_kept_and_told_again(fit: Callable[..., Fit]) -> None:
    """The last validation is reported when the fit has ended; a restart knows all that was reported."""
    searching = fit(watch="perplexity", behaviour="searches", max_steps=30, **{"model.lr": 3.0, "trainer.max_steps": 30})
    told: list[dict[str, float]] = []
    run_fit(searching, lambda line: told.append(line | {"finished": is_finished(searching.run)}))
    assert told[-1] == {"steps": 30, "perplexity": 300.0, "finished": True}
    assert [line["steps"] for line in told] == sorted({line["steps"] for line in told})
    assert not any(line["finished"] for line in told[:-1])
    again: list[dict[str, float]] = []
    run_fit(searching, again.append)
    assert again == [{"steps": line["steps"], "perplexity": line["perplexity"]} for line in told]


def test_a_pruned_trial_only_reports(fit: Callable[..., Fit], tmp_path: Path) -> None:
    told: list[dict[str, float]] = []
    pruned = dataclasses.replace(fit(watch="perplexity"), pruned=True)
    pruned.directory.mkdir(parents=True)
    (pruned.directory / "reports.jsonl").write_text('{"steps": 10, "perplexity": 5.0}\n')
    run_fit(pruned, told.append)
    assert told == [{"steps": 10, "perplexity": 5.0}]
    assert not events(tmp_path)


@pytest.mark.parametrize("figures", ['"perplexity": NaN', '"perplexity": null', '"eval_loss": 3.0'])
def test_a_figure_that_is_not_finite_is_worse_than_any(fit: Callable[..., Fit], figures: str) -> None:
    """It is absent from the file: JSON has no number for it."""
    diverged = fit(watch="perplexity", max_steps=30)
    diverged.run.mkdir(parents=True)
    summary = f'{{"experiment": "t", "status": "running", "eval_step": 10, {figures}}}'
    (diverged.run / "summary.json").write_text(summary)
    told: list[dict[str, float]] = []
    Reports(diverged, told.append).update()
    assert told == [{"steps": 10, "perplexity": 1e12}]


def test_signs_of_life_are_seen_while_directories_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export is written in a directory beside its place, which may be gone between being listed and being looked into."""
    for name in (".export.partial", "checkpoints", "export"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
        os.utime(tmp_path / name / "file", (len(name), len(name)))
    scandir = os.scandir

    def scan(path: Any) -> Any:
        if Path(path).name == ".export.partial":
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert newest_change(tmp_path) == len("checkpoints")


def test_reports_of_a_full_disk_go_on_before_their_half_line(fit: Callable[..., Fit]) -> None:
    chosen = fit(watch="perplexity", max_steps=100)
    chosen.directory.mkdir(parents=True)
    file, whole = chosen.directory / "reports.jsonl", '{"steps": 10, "perplexity": 5.0}\n'
    file.write_text(whole + '{"ste')
    told: list[dict[str, float]] = []
    assert Reports(chosen, told.append).last == 10
    assert (told, file.read_text()) == ([{"steps": 10, "perplexity": 5.0}], whole)
