"""Faults on purpose: each ends with one line, loses nothing, and the same command goes on when the fault is mended."""

import contextlib
import errno
import json
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pytorch_lightning import Callback, LightningModule, Trainer
from safetensors.torch import save_file

import deploy
import report
import train
from callbacks import ExportPretrained
from datamodules.cache import build_once
from deployment.compressed import FORMAT
from helpers import tiny_experiment
from reports.curves import logged_scalars
from run_directory import last_checkpoint, newest_version
from run_record import RunRecord
from sparsity import read_safetensors

pytestmark = pytest.mark.filterwarnings("ignore")
QUIET = ("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1")
MEGABYTE = 1 << 20


def latest_checkpoint(experiment: Path) -> Path | None:
    """What ``--ckpt_path last`` takes."""
    return last_checkpoint(experiment / f"version_{newest_version(experiment)}")[0]


def mounted(place: Path, *options: str) -> Iterator[Path]:
    """A small file system in memory, for as long as a test lasts."""
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", place], capture_output=True).returncode:
        pytest.skip("this user may not mount a file system of a few megabytes")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Eight megabytes."""
    yield from mounted(tmp_path / "disk", "-o", "size=8m")


def fill(disk: Path) -> None:
    """Leave no byte."""
    with (disk / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


class FillDisk(Callback):
    """Fills the disk of a run after the third step, before the checkpoint of the fourth."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.global_step == 3:
            fill(Path(trainer.default_root_dir).parents[2])


class KillLoader(Callback):
    """Kills a process that makes batches."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.global_step == 3:
            (first, *_) = multiprocessing.active_children()
            os.kill(first.pid, signal.SIGKILL)
            time.sleep(0.5)


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory, corpus: Path, tokenizer_dir: Path) -> Callable[..., list[str]]:
    """The command line of a fit of six steps into a directory, with a checkpoint every two."""
    place = tmp_path_factory.mktemp("fit")
    masks = {"class_path": "RigL", "init_args": {"sparsity": 0.5, "every": 2}}
    more = {"masks": masks, "checkpoint": {"every_n_train_steps": 2}}
    trainer = {"max_steps": 6, "limit_val_batches": 1}
    content = tiny_experiment(corpus, tokenizer_dir, place / "cache", trainer, **more)
    (place / "fit.yaml").write_text(yaml.safe_dump(content))
    return lambda runs, *options: ["fit", f"--config={place / 'fit.yaml'}", f"--runs={runs}", *QUIET, *options]


@pytest.fixture(scope="module")
def finished(fit: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that nothing has happened to; tests do not change it."""
    runs = tmp_path_factory.mktemp("finished")
    train.main(fit(runs))
    return runs


@pytest.fixture
def undisturbed(finished: Path) -> bytes:
    """The weights of that run."""
    return weights(finished)


def weights(runs: Path) -> bytes:
    return (runs / "tiny" / "version_0" / "export" / "model.safetensors").read_bytes()


def refused(run: Callable[[list[str]], object], arguments: list[str]) -> str:
    """The line that a command ends with."""
    with pytest.raises(SystemExit) as stop:
        run(arguments)
    line = stop.value.code
    assert isinstance(line, str)
    assert line.startswith("error: ")
    assert "\n" not in line
    return line


def test_a_full_disk_costs_no_checkpoint(fit: Callable[..., list[str]], disk: Path, undisturbed: bytes) -> None:
    line = refused(train.run, fit(disk / "runs", "--trainer.callbacks+=test_faults.FillDisk"))
    assert "No space left on device" in line
    assert "free some space" in line
    last = latest_checkpoint(disk / "runs" / "tiny")
    assert last is not None
    assert torch.load(last, weights_only=True)["global_step"] == 2
    RunRecord.read(disk / "runs" / "tiny" / "version_0" / "summary.json")
    (disk / "filler").unlink()
    train.main(fit(disk / "runs", "--ckpt_path=last"))
    assert weights(disk / "runs") == undisturbed
    assert [path.name for path in (disk / "runs" / "tiny").iterdir()] == ["version_0"]


def test_a_full_disk_leaves_the_export_before_it(
    fit: Callable[..., list[str]], disk: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: bytes
) -> None:
    train.main(fit(disk / "runs", "--trainer.max_steps=4"))
    before = weights(disk / "runs")
    export = ExportPretrained.export

    def full(self: ExportPretrained, trainer: Trainer, pl_module: LightningModule, name: str) -> None:
        fill(disk)
        export(self, trainer, pl_module, name)

    monkeypatch.setattr(ExportPretrained, "export", full)
    options = ("--ckpt_path=last", "--trainer.max_steps=6", "--resume.allow=trainer.max_steps")
    line = refused(train.run, fit(disk / "runs", *options))
    assert "No space left on device" in line
    assert "free some space" in line
    assert weights(disk / "runs") == before
    monkeypatch.undo()
    (disk / "filler").unlink()
    train.main(fit(disk / "runs", *options))
    assert not list((disk / "runs" / "tiny" / "version_0").glob(".export*"))
    assert len(weights(disk / "runs")) == len(undisturbed)


def test_a_full_disk_leaves_the_summary_before_it(disk: Path) -> None:
    before = RunRecord(experiment="a", status="running", steps=1)
    before.write(disk)
    fill(disk)
    with pytest.raises(OSError, match="No space left on device") as error:
        RunRecord(experiment="a" * MEGABYTE, status="running", steps=2).write(disk)
    assert error.value.errno == errno.ENOSPC
    assert RunRecord.read(disk / "summary.json") == before
    assert {path.name for path in disk.iterdir()} == {"summary.json", "filler"}


def test_a_full_disk_leaves_no_half_of_a_cache(fit: Callable[..., list[str]], disk: Path, undisturbed: bytes) -> None:
    (disk / "cache").mkdir()
    fill(disk)
    line = refused(train.run, fit(disk.parent / "runs", f"--data.cache_dir={disk / 'cache'}"))
    assert "No space left on device" in line
    assert str(disk / "cache") in line
    assert not list(disk.parent.glob("runs/*/*"))
    assert not [path for path in (disk / "cache").glob("tokens-*") if path.is_dir()]
    (disk / "filler").unlink()
    train.main(fit(disk.parent / "runs", f"--data.cache_dir={disk / 'cache'}"))
    assert weights(disk.parent / "runs") == undisturbed


def test_what_is_packed_or_unpacked_on_a_full_disk_is_whole_or_not_there(encoder_dir: Path, disk: Path) -> None:
    deploy.main(["pack", str(encoder_dir), str(disk / "packed")])
    whole = (disk / "packed").read_bytes()
    fill(disk)
    for arguments in (
        ["pack", str(encoder_dir), str(disk / "packed")],
        ["unpack", str(disk / "packed"), str(disk / "copy")],
    ):
        assert "No space left on device" in refused(deploy.run, arguments)
        assert {path.name for path in disk.iterdir()} == {"packed", "filler"}
        assert (disk / "packed").read_bytes() == whole


def test_a_directory_that_cannot_be_written_is_named_before_anything_is_trained(
    fit: Callable[..., list[str]], tmp_path: Path
) -> None:
    for runs in mounted(tmp_path / "disk", "-o", "ro,size=1m"):
        line = refused(train.run, fit(runs))
        assert "Read-only file system" in line
        assert str(runs) in line


@pytest.mark.parametrize("name", ["train.bin", "validation.bin", "train_counts.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut off", "removed"])
def test_a_damaged_token_cache_is_made_again(name: str, damage: str, text_data: Callable[..., Any], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    text_data(cache_dir=str(cache)).setup("fit")
    (directory,) = (path for path in cache.glob("tokens-*") if path.is_dir())
    whole = {file.name: file.read_bytes() for file in directory.iterdir()}
    content = whole[name]
    if damage == "removed":
        (directory / name).unlink()
    elif damage == "cut off":
        (directory / name).write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        (directory / name).write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    text_data(cache_dir=str(cache)).setup("fit")
    assert {file.name: file.read_bytes() for file in directory.iterdir()} == whole


def build_slowly(directory: Path) -> str:
    def build(to: Path) -> None:
        with (directory.parent / "builds").open("a") as log:
            log.write("once\n")
        (to / "half").write_text("half")
        time.sleep(0.2)
        (to / "half").rename(to / "whole")

    return build_once(directory, build, lambda found: (found / "whole").read_text())


def test_two_processes_build_a_cache_once(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=build_slowly, args=(tmp_path / "built",)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(30)
    assert [process.exitcode for process in both] == [0, 0]
    assert (tmp_path / "builds").read_text() == "once\n"
    assert build_slowly(tmp_path / "built") == "half"


def test_a_loader_that_is_killed_ends_the_run_which_goes_on(
    fit: Callable[..., list[str]], tmp_path: Path, undisturbed: bytes
) -> None:
    options = ("--data.num_workers=2", "--trainer.callbacks+=test_faults.KillLoader")
    line = refused(train.run, fit(tmp_path / "runs", *options))
    assert "a process that makes batches was ended" in line
    assert "--data.num_workers" in line
    assert RunRecord.read(tmp_path / "runs" / "tiny" / "version_0" / "summary.json").status == "failed"
    train.main(fit(tmp_path / "runs", "--ckpt_path=last"))
    assert weights(tmp_path / "runs") == undisturbed


@pytest.mark.parametrize("devices", ["gpu", "cuda"])
def test_gpus_that_are_not_there(
    devices: str, fit: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    line = refused(train.run, fit(tmp_path / "runs", f"--trainer.accelerator={devices}", "--trainer.devices=8"))
    assert f"trainer.accelerator is {devices}, and torch sees no GPU here" in line
    assert "--trainer.accelerator cpu" in line
    assert not list(tmp_path.glob("runs/*/*"))


def test_a_checkpoint_of_another_architecture(fit: Callable[..., list[str]], finished: Path) -> None:
    runs = finished
    before = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    for option in (
        "--model.config.hidden_size=64",
        "--model.config.num_hidden_layers=1",
        "--model.config.model_type=roberta",
    ):
        line = refused(train.run, fit(runs, "--ckpt_path=last", option))
        assert "checkpoint" in line
        assert len(line) < 500
    assert {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()} == before


def test_files_of_a_newer_format(fit: Callable[..., list[str]], tmp_path: Path, finished: Path, encoder_dir: Path) -> None:
    last = latest_checkpoint(finished / "tiny")
    assert last is not None
    newer = tmp_path / "newer.ckpt"
    torch.save(torch.load(last, weights_only=True) | {"trifecta_format": 99}, newer)
    line = refused(train.run, fit(tmp_path / "runs", f"--ckpt_path={newer}"))
    assert "format 99, and this release reads formats up to 1: take a newer one" in line
    packed = tmp_path / "packed"
    deploy.main(["pack", str(encoder_dir), str(packed)])
    stored, metadata = read_safetensors(packed)
    save_file(stored, packed, {FORMAT: json.dumps(json.loads(metadata[FORMAT]) | {"version": 99})})
    line = refused(deploy.run, ["unpack", str(packed), str(tmp_path / "copy")])
    assert "version 99 of the format; this release reads" in line


def test_a_clock_that_is_set_back(
    fit: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    undisturbed: bytes,
) -> None:
    """By a day between a run and its resume, and by a second at every look while it goes on."""
    runs = tmp_path / "runs"
    train.main(fit(runs, "--checkpoint.save_top_k=-1"))
    train.main(fit(runs, "--trainer.max_steps=2"))
    for path in (runs / "tiny" / "version_1").rglob("*"):
        os.utime(path, (0, 0))
    clock, looks = time.time() - 86_400, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: clock - next(looks))
    assert latest_checkpoint(runs / "tiny") == runs / "tiny" / "version_1" / "checkpoints" / "last.ckpt"
    train.main(fit(runs, f"--ckpt_path={runs / 'tiny' / 'version_0' / 'checkpoints' / 'step=4.ckpt'}"))
    record = RunRecord.read(runs / "tiny" / "version_0" / "summary.json")
    assert (record.status, record.steps) == ("finished", 6)
    assert record.seconds is not None
    assert record.seconds >= (record.train_seconds or 0) > 0
    assert weights(runs) == undisturbed
    assert list(logged_scalars(runs / "tiny" / "version_0")["train/loss"]) == [0, 1, 2, 3, 4, 5]
    report.run([str(runs), "--format", "csv"])
    assert "tiny" in capsys.readouterr().out
