"""The command: sweeps that are killed and go on, trials that fail or hang and hold nobody, stages, and one line for a mistake."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import sweep
from helpers import tiny_experiment
from sweeps.driver import session_directory
from sweeps.plan import fit_of, make_plan

ROOT = Path(__file__).parent.parent
FAKE = (sys.executable, str(Path(__file__).with_name("fake_fit.py")))


@pytest.fixture
def protocol(tmp_path: Path) -> Path:
    """A protocol of twelve fits of one task."""
    return write_protocol(tmp_path, seeds=12, tasks={"CoLA": None})


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """What looks like an exported model."""
    directory = tmp_path / "bert_100k" / "version_0" / "export"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    return directory


def write_protocol(directory: Path, **content: Any) -> Path:
    (directory / "fit.yaml").touch()
    file = directory / "protocol.yaml"
    file.write_text(yaml.safe_dump({"config": "fit.yaml"} | content, sort_keys=False))
    return file


def start(root: Path, *options: Any, train: tuple[str, ...] = FAKE) -> subprocess.Popen:
    """``sweep.py`` on another training command, in a process of its own, its output in ``root / "output"``."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import sweep; sweep.run(train={train!r})"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HOME": str(root / "home")}
    command = [sys.executable, "-c", program, *map(str, options)]
    with (root / "output").open("a") as output:
        return subprocess.Popen(command, cwd=root, env=environment, stdout=output, stderr=subprocess.STDOUT)


def events(root: Path) -> list[list[str]]:
    log = root / "runs" / "events.log"
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def count(root: Path, event: str) -> Counter[str]:
    return Counter(name for happened, name, *_ in events(root) if happened == event)


def processes(script: str, option: str) -> list[int]:
    """Ids of the processes that run a Python script with an option."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            command = file.read_text().split("\0")
            found += [int(file.parent.name)] if option in command and command[1].endswith(script) else []
    return found


def record(root: Path, name: str) -> dict[str, Any]:
    return json.loads((root / "runs" / name / "sweep.json").read_text())


def statuses(root: Path, name: str) -> dict[str, str]:
    return {trial: entry["status"] for trial, entry in record(root, name)["trials"].items()}


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_repeats_nothing(tmp_path: Path, protocol: Path, pretrained: Path) -> None:
    arguments = ("--config", protocol, "--pretrained", pretrained, "--", "--seconds=0.6")
    name = "protocol_bert_100k"
    driver = start(tmp_path, *arguments)
    try:
        while sum(count(tmp_path, "ends").values()) < 5 or count(tmp_path, "begins") == count(tmp_path, "ends"):
            assert driver.poll() is None, (tmp_path / "output").read_text()
            time.sleep(0.02)  # until it is in the middle of a fit
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    done = count(tmp_path, "ends")
    assert 5 <= sum(done.values()) < 12
    finished = {trial for trial, status in statuses(tmp_path, name).items() if status == "finished"}
    assert start(tmp_path, *arguments).wait(120) == 0, (tmp_path / "output").read_text()

    everyone = {f"CoLA_seed={seed}": 1 for seed in range(12)}
    assert count(tmp_path, "ends") == everyone
    assert all(count(tmp_path, "begins")[trial] == 1 for trial in finished)
    assert statuses(tmp_path, name) == dict.fromkeys(everyone, "finished")
    figures = record(tmp_path, name)["tasks"]["CoLA"]["metrics"]["matthews"]
    assert figures == {
        **{"runs": 12, "degenerate": 1, "max": 1.1, "min": 0.0},  # seeds 0 … 11, in tenths
        **{"median": pytest.approx(0.55), "mean": pytest.approx(0.55), "std": pytest.approx(0.13**0.5)},
    }
    begun = len(events(tmp_path))
    assert start(tmp_path, *arguments).wait(60) == 0
    assert len(events(tmp_path)) == begun
    assert not list((tmp_path / "home").glob("*ray*"))
    assert not (tmp_path / "home" / ".ray").exists()
    assert not session_directory(tmp_path / "runs" / name).exists()


@pytest.mark.slow
def test_a_failed_and_a_hung_trial_hold_nobody(tmp_path: Path, pretrained: Path) -> None:
    """Of three tasks seed 1 raises, diverges or hangs; what starts from the last still runs. What diverged is not tried again."""
    tasks = {
        "CoLA": {"settings": {"behaviour": "fails"}},
        "MRPC": {"seeds": 2, "settings": {"behaviour": "diverges"}},
        "MNLI": {"settings": {"behaviour": "hangs"}},
        "RTE": {"seeds": 1, "start": "MNLI"},
    }
    file = write_protocol(tmp_path, seeds=3, tasks=tasks)
    driver = start(tmp_path, "--config", file, "--pretrained", pretrained, "--name=s", "--stall=0.1", "--concurrency=2")
    assert driver.wait(120) == 1
    failed = {trial for trial, status in statuses(tmp_path, "s").items() if status == "failed"}
    assert failed == {"CoLA_seed=1", "MRPC_seed=1", "MNLI_seed=1"}
    again = failed - {"MRPC_seed=1"}
    assert count(tmp_path, "begins") == {trial: 1 + (trial in again) for trial in statuses(tmp_path, "s")}
    assert all(trial in failed or count(tmp_path, "ends")[trial] == 1 for trial in statuses(tmp_path, "s"))
    errors = {trial: entry.get("error") for trial, entry in record(tmp_path, "s")["trials"].items() if trial in failed}
    assert errors == {
        "CoLA_seed=1": "RuntimeError: the loss is not finite",
        "MRPC_seed=1": "error: 10 steps in a row were not finite",
        "MNLI_seed=1": "no sign of life for 0.1 minutes",
    }
    output = (tmp_path / "output").read_text()
    assert "failed: CoLA_seed=1: RuntimeError: the loss is not finite" in output
    assert "Traceback" not in output

    summary = json.loads((tmp_path / "runs" / "s" / "RTE_seed=0" / "version_0" / "summary.json").read_text())
    assert summary["pretrained"] == str(tmp_path / "runs" / "s" / "MNLI_seed=2" / "version_0" / "export")  # the best of them


@pytest.mark.slow
@pytest.mark.parametrize("search", [False, True])
def test_a_fit_that_was_told_to_stop_is_left_for_another_day(tmp_path: Path, search: bool) -> None:
    """It counts as no failure, is not tried again at once, and what needs it waits; the same command goes on with all of it."""
    settings = {"schedule.max_lr": 0.2, "best": 0.2, "behaviour": f"seed {0 if search else 1} stops"}
    if search:
        settings |= {"trainer.max_steps": 20}
        space = {"trials": 1, "space": {"masks.every": {"choice": [10]}}, "first_cut": 10, "reduction": 2}
        file = write_protocol(tmp_path, settings=settings, search=space)
    else:
        stages = {
            "pretrain": {"config": "fit.yaml", "seeds": 2, "settings": settings},
            "finetune": {"config": "fit.yaml", "start": "pretrain", "tasks": {"CoLA": {}}},
        }
        file = write_protocol(tmp_path, config=None, stages=stages, rows={"dense": {}})
        file.write_text(file.read_text().replace("config: null\n", ""))
    arguments = ("--config", file, "--name=s")
    assert start(tmp_path, *arguments).wait(120) == 1
    output = (tmp_path / "output").read_text()
    assert "the same command goes on with them" in output
    assert "failed:" not in output
    (stopped,) = (name for name, status in statuses(tmp_path, "s").items() if status == "stopped")
    assert count(tmp_path, "begins")[stopped] == 1
    if not search:
        expected = {"pretrain_dense_seed=0": "finished", stopped: "stopped", "finetune_dense_CoLA_seed=0": "finished"}
        assert statuses(tmp_path, "s") == expected | {"finetune_dense_CoLA_seed=1": "waiting"}
    assert start(tmp_path, *arguments).wait(120) == 0, (tmp_path / "output").read_text()
    assert set(statuses(tmp_path, "s").values()) == {"finished"}
    assert count(tmp_path, "begins")[stopped] == 2


@pytest.mark.slow
def test_a_search_ends_the_worst_early(tmp_path: Path) -> None:
    """One fit after the other, each compared with those before it: of four, one in the best quarter goes on."""
    rates = {"model.lr": {"loguniform": [1e-3, 10.0]}}
    search = {"trials": 5, "space": rates, "first_cut": 10, "reduction": 4}
    file = write_protocol(tmp_path, settings={"trainer.max_steps": 30, "behaviour": "searches"}, search=search)
    assert start(tmp_path, "--config", file, "--name=s", "--concurrency=1").wait(120) == 0, (tmp_path / "output").read_text()
    trials = record(tmp_path, "s")["trials"]
    perplexities: list[float] = []
    for name, trial in trials.items():
        own = trial["settings"]["model.lr"] * 100
        kept = not perplexities or own <= np.percentile(perplexities, 25)
        perplexities.append(own)
        assert trial["status"] == ("finished" if kept else "pruned"), name
        assert count(tmp_path, "ends")[name] >= kept  # one that is cut may be at its end before it is told
    assert {trial["status"] for trial in trials.values()} == {"finished", "pruned"}
    best = record(tmp_path, "s")["tasks"]["pretraining"]["metrics"]["perplexity"]
    assert best["min"] == pytest.approx(min(perplexities))


@pytest.mark.slow
def test_a_killed_sweep_of_stages_goes_on_with_what_it_had_chosen(tmp_path: Path) -> None:
    """Tuned, pretrained from a teacher, finetuned; killed at the first fit that had to wait for others."""
    stages = {
        "tune": {"config": "fit.yaml", "grid": {"schedule.max_lr": [0.1, 0.2, 0.4]}},
        "pretrain": {"config": "fit.yaml", "seeds": 2, "best_of": "tune"},
        "finetune": {"config": "fit.yaml", "start": "pretrain", "tasks": {"CoLA": {}}},
    }
    rows = {"dense": {"settings": {"best": 0.2}}, "wide": {"settings": {"best": 0.4}}}
    rows["wide + KD"] = {"settings": {"best": 0.1}, "teacher": "dense", "tuned": "wide"}
    (tmp_path / "fit.yaml").touch()
    (tmp_path / "staged.yaml").write_text(yaml.safe_dump({"stages": stages, "rows": rows}, sort_keys=False))
    arguments = ("--config", tmp_path / "staged.yaml", "--model", "m")
    driver = start(tmp_path, *arguments)
    try:
        while not any(trial.startswith("pretrain") for trial in count(tmp_path, "ends")):
            assert driver.poll() is None, (tmp_path / "output").read_text()
            time.sleep(0.02)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    finished = {trial for trial, status in statuses(tmp_path, "staged_m").items() if status == "finished"}
    assert start(tmp_path, *arguments).wait(120) == 0, (tmp_path / "output").read_text()

    begun = [name for event, name, *_ in events(tmp_path) if event == "begins"]
    assert len(set(begun)) == 6 + 6 + 6
    assert all(begun.count(trial) == 1 for trial in finished)
    runs = tmp_path / "runs" / "staged_m"
    given = {file.parents[1].name: json.loads(file.read_text()) for file in runs.glob("*/version_0/options.json")}
    for seed in (0, 1):
        for row, rate in {"dense": "0.2", "wide": "0.4", "wide-kd": "0.4"}.items():
            assert given[f"pretrain_{row}_seed={seed}"]["schedule.max_lr"] == rate
            model = runs / f"pretrain_{row}_seed={seed}" / "version_0" / "export"
            assert given[f"finetune_{row}_CoLA_seed={seed}"]["model.pretrained"] == str(model)
        teacher = runs / f"pretrain_dense_seed={seed}" / "version_0" / "export"
        assert given[f"pretrain_wide-kd_seed={seed}"]["distillation.teachers"] == str(teacher)
        assert "distillation.teachers" not in given[f"pretrain_wide_seed={seed}"]
    figures = record(tmp_path, "staged_m")["tasks"]
    assert figures["pretrain / wide"]["metrics"]["eval_loss"]["max"] == pytest.approx(3)
    assert figures["finetune / wide + KD / CoLA"]["metrics"]["matthews"]["runs"] == 2


@pytest.mark.slow
def test_a_real_fit(tmp_path: Path, corpus: Path, tokenizer_dir: Path) -> None:
    """``train.py`` itself: killed after its first checkpoint, it is tried again and ends as if nothing had happened."""
    trainer = {"accelerator": "cpu", "limit_val_batches": 2, "val_check_interval": 0.5}
    fit = tiny_experiment(corpus, tokenizer_dir, tmp_path / "cache", trainer, checkpoint={"every_n_train_steps": 20})
    (tmp_path / "real.yaml").write_text(yaml.safe_dump(fit))
    file = write_protocol(tmp_path, config="real.yaml", settings={"trainer.max_steps": 200})
    run = tmp_path / "runs" / "protocol_real" / "seed=0" / "version_0"
    driver = start(tmp_path, "--config", file, train=sweep.TRAIN)
    while not (run / "checkpoints" / "last.ckpt").exists():
        assert driver.poll() is None, (tmp_path / "output").read_text()
        time.sleep(0.05)
    (process,) = processes("train.py", f"--runs={run.parent.parent}")
    os.kill(process, signal.SIGKILL)
    assert driver.wait(120) == 0, (tmp_path / "output").read_text()
    log = (run.parent / "log.txt").read_text()
    assert "ended by SIGKILL" in log
    assert f"ckpt_path last: {run / 'checkpoints' / 'last.ckpt'}" in log
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["steps"], summary["experiment"]) == ("finished", 200, "seed=0")
    assert summary["tokens"] == 200 * 8 * 16  # none twice
    assert set(record(tmp_path, "protocol_real")["tasks"]["pretraining"]["metrics"]) == {"perplexity", "eval_loss"}


def test_without_ray_there_is_one_line_that_says_what_to_install(
    tmp_path: Path, protocol: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sweeps.tuning", None)
    monkeypatch.setattr("sweeps.driver.ray_environment", lambda address: {})
    with pytest.raises(SystemExit) as stop:
        sweep.run(["--config", str(protocol), "--runs", str(tmp_path / "runs"), "--pretrained", str(pretrained)])
    assert str(stop.value.code).endswith("sweeps need Ray: pip install 'trifecta[sweep]'")


def test_a_sweep_goes_on_with_the_data_that_it_began_with(
    tmp_path: Path, protocol: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it is written; a hub id is no path. A record of before it was noted goes on with any."""
    for name in ("glue", "other"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    common = ["--config", str(protocol), "--pretrained", str(pretrained), "--runs", str(tmp_path / "runs"), "--data.path"]
    begun = make_plan(sweep.parse([*common, "glue"])).record
    begun.save()
    assert json.loads((begun.directory / "sweep.json").read_text())["data.path"] == str(tmp_path / "glue")
    make_plan(sweep.parse([*common, "./other/../glue"]))
    for other in ("other", "nyu-mll/glue"):
        with pytest.raises(ValueError, match=r"is of a sweep with data\.path '.*/glue', not '.*'; give another --name"):
            make_plan(sweep.parse([*common, other]))
    del begun.content["data.path"]
    begun.save()
    make_plan(sweep.parse([*common, "other"]))


def test_a_command_answers_for_what_it_asked_for(
    tmp_path: Path, pretrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What else the sweep has left or failed is told, but no failure of this command."""
    file = write_protocol(tmp_path, seeds=2, tasks={"CoLA": None, "RTE": None})
    arguments = ["--config", str(file), "--pretrained", str(pretrained), "--runs", str(tmp_path / "runs")]
    record = make_plan(sweep.parse(arguments)).record
    for seed in (0, 1):
        run = record.directory / f"CoLA_seed={seed}" / "version_0"
        run.mkdir(parents=True)
        (run / "summary.json").write_text('{"experiment": "a", "status": "finished"}')
    record.end("RTE_seed=0", "out of memory")
    record.end("RTE_seed=1", stopped=True)
    with pytest.raises(SystemExit) as stop:
        sweep.run([*arguments, "--tasks", "CoLA"])
    said = capsys.readouterr().out
    assert stop.value.code == 0
    assert "failed: RTE_seed=0: out of memory" in said
    assert "1 further fits of this sweep have not been run; they are not among those of this command" in said
    assert "the same command" not in said


def test_a_selection_of_nothing_is_a_mistake(tmp_path: Path) -> None:
    tune = {"config": "fit.yaml", "grid": {"schedule.max_lr": [0.1]}}
    finetune = {"config": "fit.yaml", "start": "tune", "tasks": {"CoLA": {}}}
    (tmp_path / "fit.yaml").touch()
    file = tmp_path / "staged.yaml"
    file.write_text(yaml.safe_dump({"rows": {"dense": {}}, "stages": {"tune": tune, "finetune": finetune}}, sort_keys=False))
    options = sweep.parse(["--config", str(file), "--runs", str(tmp_path / "runs"), "--stages", "tune", "--tasks", "CoLA"])
    with pytest.raises(ValueError, match="no fit of this protocol is of all these tasks, stages, rows and seeds"):
        make_plan(options)
    assert not (tmp_path / "runs").exists()


def test_command_of_a_trial(tmp_path: Path, pretrained: Path) -> None:
    """What is given after ``--`` comes after the protocol's settings; where a run goes comes last."""
    file = write_protocol(tmp_path, settings={"model.lr": 1e-5, "a": True}, seeds=2, tasks={"STS-B": None})
    extra = ["--trainer.callbacks+=StaticSparsity", "--model.lr=2"]
    arguments = [
        "--config",
        str(file),
        "--pretrained",
        str(pretrained),
        "--data.path",
        "GLUE",
        "--runs",
        str(tmp_path),
        "--",
    ]
    plan = make_plan(sweep.parse(arguments + extra))
    fit = fit_of(plan, plan.trials[1], {"model.pretrained": "MODEL"}, ("train",), stall=30)
    assert fit.command == (
        *("train", f"--config={tmp_path / 'fit.yaml'}", "--data.task=STS-B", "--data.path=GLUE", "--model.pretrained=MODEL"),
        *("--model.lr=1e-05", "--a=true", "--seed_everything=1", "--trainer.enable_progress_bar=false", *extra),
        *(f"--runs={tmp_path / 'protocol_bert_100k'}", "--experiment=STS-B_seed=1", "--version=0", "--ckpt_path=last"),
    )
    assert (fit.run, fit.stall) == (tmp_path / "protocol_bert_100k" / "STS-B_seed=1" / "version_0", 1800)


def test_a_name_in_a_strangers_card_leads_nowhere_else(tmp_path: Path, protocol: Path, pretrained: Path) -> None:
    card = "---\nmodel-index:\n- name: ../../../escaped\n  results: []\n---\n"
    (pretrained / "README.md").write_text(card)
    arguments = ["--config", str(protocol), "--pretrained", str(pretrained), "--runs", str(tmp_path / "runs")]
    assert make_plan(sweep.parse(arguments)).record.directory.parent == tmp_path / "runs"


@pytest.mark.parametrize(("option", "number"), [("--cpus", "4096"), ("--gpus", "64")])
def test_what_no_machine_has_is_not_waited_for(
    tmp_path: Path, protocol: Path, pretrained: Path, option: str, number: str
) -> None:
    driver = start(tmp_path, "--config", protocol, "--pretrained", pretrained, option, number)
    assert driver.wait(60) == 1
    assert f"error: {option} is {number}, and Ray has " in (tmp_path / "output").read_text()
