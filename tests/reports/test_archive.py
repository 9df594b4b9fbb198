"""Archives: the tables that they print are those of the runs, and no path of a machine is in them."""

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import report
from helpers import write_events
from reports.archive import archive, without_paths
from reports.curves import TRAIN, VALIDATION, logged_scalars, read_curves
from reports.rows import rows_of
from reports.runs import read_runs

WriteRun = Callable[..., Path]


def test_paths_of_a_machine_go() -> None:
    root = Path("/", "home", "me", "runs", "sweep")
    code, data = Path("/", "opt", "code"), Path("/", "data", "text")
    command = f"train.py fit --config={code}/configs/a.yaml --data.path={data} --model.pretrained={root}/a/export"
    texts = ["hub/id", "0.8", "a/b", "./c", "~/d", "https://host.org/a/b", "<s></s>"]
    value = {"command": command, "n": [1, None, *texts], "lr": 5e-3}
    assert without_paths(value, root) == {
        "command": "train.py fit --config=a.yaml --data.path=text --model.pretrained=a/export",
        "n": [1, None, *texts],
        "lr": 5e-3,
    }
    assert without_paths(f'it says "{data.parent}/x": no', root) == 'it says "x": no'
    elsewhere = [str(Path("/", "mnt", "runs", "bert", "version_1", "export")), str(Path("/", "mnt", "export"))]
    assert without_paths(elsewhere, root) == ["bert/version_1/export", "mnt/export"]


def test_an_archive_prints_the_same_page(tmp_path: Path, write_trial: WriteRun, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        for row, loss in {"dense": 3.0, "static": 3.25}.items():
            pretrained = write_trial(f"{row}_{seed}", row, "pretrain", seed=seed, steps=10, eval_loss=loss + seed / 8)
            scores = {"task": "RTE", "metrics": {"accuracy": 0.5 + loss / 100}, "pretrained": str(pretrained / "export")}
            write_trial(f"rte_{row}_{seed}", row, "finetune", seed=seed, **scores)
    sweep, kept = tmp_path / "sweep", tmp_path / "kept"
    report.run(["archive", str(sweep), str(kept)])
    assert capsys.readouterr().out == f"9 files in {kept}\n"
    assert not any(str(tmp_path) in file.read_text() for file in kept.rglob("*.json"))
    printed = []
    for directory in (sweep, kept):
        report.run(["page", str(directory)])
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert "3.0625 ± 0.0884" in printed[0]
    assert len(archive(sweep, kept)) == 9  # again


def test_an_archive_knows_which_tasks_are_those_of_shorter_runs(tmp_path: Path, write_trial: WriteRun) -> None:
    for steps, accuracy in ((10, 0.9), (20, 0.6)):
        pretrained = write_trial(f"p_{steps}", "dense", "pretrain", {"trainer.max_steps": steps}, seed=0, steps=steps)
        scores = {"task": "RTE", "metrics": {"accuracy": accuracy}, "pretrained": str(pretrained / "export")}
        write_trial(f"rte_{steps}", "dense", "finetune", seed=0, steps=5, **scores)
    archive(tmp_path, tmp_path.with_name("kept"))
    moved = (tmp_path / "sweep").rename(tmp_path / "moved")
    for directory in (tmp_path.with_name("kept") / "sweep", moved):
        (row,), _ = rows_of(read_runs([directory])[0])
        assert [run.metrics["accuracy"] for run in row.tasks["RTE"]] == [0.6], directory


def test_an_archive_draws_the_same_curves(tmp_path: Path, write_trial: WriteRun) -> None:
    """Also when it is made again, of an archive, and of a run whose logs are gone."""
    run = write_trial("a", "dense", "pretrain", seed=0, eval_loss=1.0)
    other = write_trial("b", "static", "pretrain", seed=0, eval_loss=1.0)
    finetuned = write_trial("rte", "static", "finetune", seed=0, task="RTE", metrics={"accuracy": 0.5})
    for directory in (run, other, finetuned):
        write_events(directory, TRAIN, {50: 2.5, 100: 1 / 3})
    write_events(run, VALIDATION, {100: 1.25})
    sweep, kept, again = (tmp_path / name for name in ("sweep", "kept", "again"))
    assert len(archive(sweep, kept)) == 3 + 1 + 2
    archive(kept, again)
    for directory in (kept, again):
        curves, complaints = read_curves(rows_of(read_runs([directory])[0])[0])
        assert not complaints
        assert [(curve.name, curve.train, curve.validation) for curve in curves] == [
            ("dense", {50: 2.5, 100: 0.333333}, {100: 1.25}),
            ("static", {50: 2.5, 100: 0.333333}, {}),
        ]
    for events in other.glob("events*"):
        events.unlink()
    archive(sweep, kept)
    assert logged_scalars(kept / "b" / "version_0") == {TRAIN: {}, VALIDATION: {}}


def test_nothing_is_written_of_what_is_broken_or_into_itself(tmp_path: Path, write_trial: WriteRun) -> None:
    write_trial("a", "dense", "pretrain", eval_loss=1.0)
    (write_trial("b", "dense", "pretrain") / "summary.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        archive(tmp_path / "sweep", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    with pytest.raises(ValueError, match="give a directory elsewhere"):
        archive(tmp_path / "sweep", tmp_path / "sweep" / "kept")
    with pytest.raises(FileNotFoundError):
        archive(tmp_path / "nowhere", tmp_path / "kept")
    assert json.loads((tmp_path / "sweep" / "sweep.json").read_text())["name"] == "sweep"


def test_a_disk_that_fills_leaves_the_losses_of_before(
    tmp_path: Path, write_trial: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_events(write_trial("a", "dense", "pretrain", eval_loss=1.0), TRAIN, {50: 2.5})
    sweep, kept = tmp_path / "sweep", tmp_path / "kept"
    (losses,) = (file for file in archive(sweep, kept) if file.suffix == ".csv")
    before = losses.read_text()

    def half(file: Path, text: str, **_: str) -> None:
        with file.open("w") as stream:
            stream.write(text[: len(text) // 2])
        if "csv" in file.name:
            raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(Path, "write_text", half)
    monkeypatch.setattr("reports.archive.write_json", lambda *_: None)
    with pytest.raises(OSError, match="no space left"):
        archive(sweep, kept)
    assert losses.read_text() == before
    assert [file.name for file in losses.parent.iterdir()] == [losses.name]
