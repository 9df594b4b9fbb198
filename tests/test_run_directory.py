"""Checkpoints that are torn or damaged, versions that died, directories that are taken: nothing is lost, mixed or swapped."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import report
import train
from callbacks.checkpoint_files import CheckedCheckpointIO, by_age, check_whole, newest_whole, written_beside
from helpers import complaint, tiny_experiment
from run_directory import directory_of
from run_record import is_held

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.usefixtures("command_line"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*is not empty", "ignore:.*max_epochs"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, corpus: Path, tokenizer_dir: Path) -> tuple[Path, list[str]]:
    """A run of six steps, with checkpoints of the second, fourth and sixth, and its command but for ``--runs``."""
    root = tmp_path_factory.mktemp("directories")
    trainer = {"max_steps": 6, "limit_val_batches": 1, "accelerator": "cpu", "enable_progress_bar": False}
    schedule = {"class_path": "OneCycleLR", "init_args": {"max_lr": 0.01}}
    more = {"schedule": schedule, "checkpoint": {"every_n_train_steps": 2}}
    experiment = tiny_experiment(corpus, tokenizer_dir, root / "cache", trainer, **more)
    (root / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    command = ["fit", "--config", str(root / "experiment.yaml")]
    train.run([*command, f"--runs={root}/runs"])
    return root / "runs", command


@pytest.fixture
def runs(tmp_path: Path, made: tuple[Path, list[str]]) -> tuple[Path, list[str], Path]:
    """A copy of it, its command, and the directory of its run."""
    root, command = made
    shutil.copytree(root, tmp_path / "runs")
    return tmp_path / "runs", [*command, f"--runs={tmp_path / 'runs'}"], tmp_path / "runs" / "tiny" / "version_0"


def tear(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    """One bit of the content of one record."""
    with zipfile.ZipFile(file) as archive:
        largest = max(archive.infolist(), key=lambda record: record.file_size)
    content = bytearray(file.read_bytes())
    content[largest.header_offset + 200] ^= 1
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def test_the_last_two_are_kept_beside_the_last(made: tuple[Path, list[str]]) -> None:
    files = sorted(file.name for file in (made[0] / "tiny" / "version_0" / "checkpoints").iterdir())
    assert files == ["last.ckpt", "step=4.ckpt", "step=6.ckpt"]


@pytest.mark.parametrize("damage", [tear, flip, empty])
def test_a_damaged_last_is_named_and_the_one_before_is_taken(
    runs: tuple[Path, list[str], Path], capsys: pytest.CaptureFixture[str], damage: Any
) -> None:
    _, command, run = runs
    loss = summary(run)["eval_loss"]
    for name in ("last.ckpt", "step=6.ckpt"):
        damage(run / "checkpoints" / name)
    train.run([*command, "--ckpt_path=last"])
    said = capsys.readouterr().err
    for name in ("last.ckpt", "step=6.ckpt"):
        assert f"ckpt_path last: {run / 'checkpoints' / name} is " in said
    assert f"ckpt_path last: {run / 'checkpoints' / 'step=4.ckpt'}\n" in said
    assert (summary(run)["status"], summary(run)["eval_loss"]) == ("finished", loss)
    check_whole(run / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize("subcommand", ["fit", "validate"])
def test_a_damaged_one_that_was_asked_for_is_an_error(
    runs: tuple[Path, list[str], Path], capsys: pytest.CaptureFixture[str], subcommand: str
) -> None:
    _, command, run = runs
    flip(run / "checkpoints" / "step=4.ckpt")
    line = complaint(capsys, subcommand, *command[1:], f"--ckpt_path={run / 'checkpoints' / 'step=4.ckpt'}")
    assert "step=4.ckpt is damaged: the checksum of its record" in line


def test_where_none_is_whole_nothing_begins_over_it(
    runs: tuple[Path, list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, command, run = runs
    for file in (run / "checkpoints").iterdir():
        tear(file)
    line = complaint(capsys, *command, "--ckpt_path=last")
    assert "is torn" in line
    assert "give another --version to begin anew" in line


def test_no_bit_of_a_record_flips_unseen(made: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Of 300 flipped bits anywhere in the file each is found, refused by torch, or changes nothing that is loaded."""
    source = made[0] / "tiny" / "version_0" / "checkpoints" / "last.ckpt"
    content, draw, files = source.read_bytes(), random.Random(0), CheckedCheckpointIO()
    weights = torch.load(source)["state_dict"]
    found = 0
    for _ in range(300):
        changed = bytearray(content)
        changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (tmp_path / "flipped.ckpt").write_bytes(changed)
        try:
            loaded = files.load_checkpoint(tmp_path / "flipped.ckpt")["state_dict"]
        except ValueError:
            found += 1
        else:
            assert all(torch.equal(loaded[name], weight) for name, weight in weights.items())
    assert found > 200


def test_what_fails_while_it_is_written_leaves_what_was_there(tmp_path: Path) -> None:
    file, files = tmp_path / "last.ckpt", CheckedCheckpointIO()
    files.save_checkpoint({"a": torch.ones(3)}, file)
    with pytest.raises(UnicodeEncodeError), written_beside(file) as partial:
        partial.write_text("half\udc00", encoding="utf-8")
    with pytest.raises(AttributeError):
        files.save_checkpoint({"a": lambda: None}, file)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.equal(files.load_checkpoint(file)["a"], torch.ones(3))


def test_the_order_of_checkpoints_is_that_of_steps_whatever_the_clock(tmp_path: Path) -> None:
    for number, name in enumerate(["step=900.ckpt", "last.ckpt", "step=1000.ckpt", "other.ckpt"]):
        torch.save({}, tmp_path / name)
        os.utime(tmp_path / name, (10**9 - number, 10**9 - number))
    assert [file.name for file in by_age(tmp_path)] == ["last.ckpt", "step=1000.ckpt", "step=900.ckpt", "other.ckpt"]
    (tmp_path / "last.ckpt").unlink()
    assert newest_whole(tmp_path) == (tmp_path / "step=1000.ckpt", [])


def test_a_checkpoint_that_would_run_code_is_refused(
    runs: tuple[Path, list[str], Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    _, command, run = runs
    torch.save({"state_dict": Payload()}, run / "checkpoints" / "last.ckpt")
    line = complaint(capsys, *command, f"--ckpt_path={run / 'checkpoints' / 'last.ckpt'}")
    assert "holds more than weights and numbers" in line
    assert not (tmp_path / "ran").exists()


def test_a_fresh_run_over_another_is_refused(runs: tuple[Path, list[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    _, command, run = runs
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    line = complaint(capsys, *command, "--version=0")
    assert f"{run} holds a run already: --ckpt_path last goes on with it; another --version" in line
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    train.run([*command, "--version=1"])
    assert summary(run.with_name("version_1"))["status"] == "finished"


def test_last_is_that_of_the_newest_version_which_begins_anew_where_it_has_none(
    runs: tuple[Path, list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, command, run = runs
    died = run.with_name("version_1")
    died.mkdir()
    (died / ".lock").touch()
    (died / "events.out.tfevents.1.host.2.0").write_bytes(b"of a run that died")
    (died / "summary.json").write_text(json.dumps(summary(run) | {"status": "running", "steps": 1}))
    before = (run / "config.yaml").stat().st_mtime_ns
    train.run([*command, "--ckpt_path=last"])
    assert f"{died} died before its first checkpoint and begins anew" in capsys.readouterr().err
    assert (run / "config.yaml").stat().st_mtime_ns == before
    assert (summary(died)["status"], summary(died)["steps"]) == ("finished", 6)
    assert len(list(died.glob("events.*"))) == 1
    assert sorted(path.name for path in run.parent.iterdir()) == ["version_0", "version_1"]


def test_last_of_a_version_that_was_asked_for(
    runs: tuple[Path, list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, command, run = runs
    train.run([*command, "--version=1"])
    capsys.readouterr()
    train.run([*command, "--version=0", "--ckpt_path=last"])
    assert str(run / "checkpoints" / "last.ckpt") in capsys.readouterr().err


def test_a_finished_run_without_its_checkpoints_is_not_begun_anew(
    runs: tuple[Path, list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, command, run = runs
    shutil.rmtree(run / "checkpoints")
    assert "has finished, and its checkpoints are gone" in complaint(capsys, *command, "--ckpt_path=last")
    assert (run / "export" / "model.safetensors").exists()


@contextlib.contextmanager
def held_by_another_process(run: Path) -> Iterator[None]:
    program = (
        "import sys; from pathlib import Path; from run_record import RunLock\n"
        "lock = RunLock(Path(sys.argv[1])); print(lock.take(), flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(run)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"True\n"
        yield
        holder.kill()


def test_of_two_processes_in_one_directory_the_second_is_refused(
    runs: tuple[Path, list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, command, run = runs
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert is_held(run) is None
    with held_by_another_process(run):
        assert is_held(run)
        line = complaint(capsys, *command, "--ckpt_path=last")
        assert f"{run} is being written by another process" in line
        assert is_held(run)
    assert is_held(run) is False
    (run / ".lock").unlink()
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_a_run_that_died_is_reported_so(runs: tuple[Path, list[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    """A summary says ``running`` for ever when nobody could write another; a process that lives holds the lock."""
    root, _, run = runs
    (run / "summary.json").write_text(json.dumps(summary(run) | {"status": "running"}))

    def status() -> str:
        report.run([str(root), "--format=csv"])
        return capsys.readouterr().out.splitlines()[1].split(",")[3]

    assert status() == "running"  # of another machine, for all one knows
    with held_by_another_process(run):
        assert status() == "running"
    assert status() == "died"


def test_a_checkpoint_is_its_runs_however_the_directory_is_written(tmp_path: Path) -> None:
    experiment = tmp_path / "runs" / "one"
    checkpoint = experiment / "version_0" / "checkpoints" / "step=2.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    for written in experiment, tmp_path / "link" / "one", tmp_path / "runs" / ".." / "runs" / "one":
        assert directory_of(written, None, str(checkpoint)).resolve() == experiment / "version_0"
