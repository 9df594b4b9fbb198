"""Two hosts with a network of their own: network namespaces joined by a cable that is cut while they train."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

import train
from helpers import CONFIG, assert_identical
from run_exit import PEER_LOST
from run_record import RunRecord

ROOT = Path(__file__).parent.parent
TORCHRUN = Path(sys.executable).with_name("torchrun")
STEPS, CUT_AT, TIMEOUT = 150, 20, 6
ROLL_CALL = 7  # seconds, at most
NAMES = ("trifecta-a", "trifecta-b")
ADDRESSES = ("10.213.77.1", "10.213.77.2")

pytestmark = pytest.mark.slow


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=20)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Two namespaces, named by process, with a cable from ``eth`` to ``eth``; gone afterwards."""
    if shutil.which("ip") is None:
        pytest.skip("no ip (iproute2) to make network namespaces with")
    names = [f"{name}-{os.getpid()}" for name in NAMES]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "eth", "netns", names[0], "type", "veth", "peer", "name", "eth", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth")
            ip("-n", name, "link", "set", "eth", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not allowed here: {error.stderr.strip()}")
    finally:
        for name in names:
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)


def start(root: Path, host: int, names: list[str], command: list[str]) -> subprocess.Popen[bytes]:
    """One rank of a run on a host, by ``torchrun``; its output goes to a file."""
    torchrun = [str(TORCHRUN), "--nnodes=2", "--nproc-per-node=1", f"--node-rank={host}"]
    torchrun += [f"--master-addr={ADDRESSES[0]}", "--master-port=29511", str(ROOT / "train.py")]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "eth", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with (root / f"host{host}.txt").open("ab") as log:
        inside = ["ip", "netns", "exec", names[host], *torchrun, *command]
        return subprocess.Popen(inside, cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True)


@contextlib.contextmanager
def both(root: Path, names: list[str], command: list[str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A run on both hosts, of which nothing is left afterwards."""
    ranks = [start(root, host, names, command) for host in range(2)]
    try:
        yield ranks
    finally:
        for rank in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(rank.pid, signal.SIGKILL)
            rank.wait()


def said(root: Path, host: int) -> str:
    return (root / f"host{host}.txt").read_text(encoding="utf-8", errors="replace")


def settings(root: Path, corpus: Path, tokenizer_dir: Path) -> list[str]:
    """A tiny run with RigL, dropout and one-cycle on two ranks, wherever these are."""
    data = {"path": str(corpus), "tokenizer": str(tokenizer_dir), "cache_dir": str(root / "cache"), "length": 16}
    config = CONFIG | {"hidden_dropout_prob": 0.1}
    content = {
        "model": {"class_path": "MaskedLanguageModel", "init_args": {"config": config}},
        "data": {"class_path": "TextDataModule", "init_args": data | {"batch_size": 4}},
        "masks": {"class_path": "RigL", "init_args": {"every": 3}},
        "schedule": {"class_path": "OneCycleLR", "init_args": {"max_lr": 1e-2}},
    }
    (root / "config.yaml").write_text(yaml.safe_dump(content))
    options = ["fit", f"--config={root / 'config.yaml'}", f"--trainer={ROOT / 'configs/trainer/torchrun.yaml'}"]
    options += ["--trainer.accelerator=cpu", "--trainer.precision=32-true", "--trainer.enable_progress_bar=false"]
    options += ["--trainer.limit_val_batches=0", "--trainer.logger=false", f"--trainer.max_steps={STEPS}"]
    return [*options, "--checkpoint.every_n_train_steps=10", "--checkpoint.save_top_k=-1", f"--rank_timeout={TIMEOUT}"]


def test_a_cable_is_cut_both_hosts_say_who_is_gone_and_the_run_goes_on_to_the_bit(
    tmp_path: Path, hosts: list[str], corpus: Path, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIFECTA_ONEDNN", "0")  # which a process cannot change that has begun with it
    monkeypatch.chdir(tmp_path)
    options = settings(tmp_path, corpus, tokenizer_dir)
    apart = [*options, "--trainer.devices=1", "--ckpt_path=last"]
    run = tmp_path / "runs" / "default" / "version_0"
    with both(tmp_path, hosts, apart) as ranks:
        until = time.monotonic() + 120
        while not (run / "checkpoints" / f"step={CUT_AT}.ckpt").exists():
            assert time.monotonic() < until, said(tmp_path, 0) + said(tmp_path, 1)
            assert all(rank.poll() is None for rank in ranks), said(tmp_path, 0) + said(tmp_path, 1)
            time.sleep(0.05)
        ip("-n", hosts[0], "link", "set", "eth", "down")
        cut = time.monotonic()
        assert all(rank.wait(60) for rank in ranks)
        assert time.monotonic() - cut < TIMEOUT + ROLL_CALL + 30  # python and torchrun take their time to end
    for host in range(2):
        assert re.search(
            rf"rank {host}, step \d+: rank {1 - host} \(process .*\): gone, or the link is", said(tmp_path, host)
        )
        assert f"exitcode: {PEER_LOST}" in said(tmp_path, host)
    assert RunRecord.read(run / "summary.json").status == "failed"

    ip("-n", hosts[0], "link", "set", "eth", "up")
    with both(tmp_path, hosts, apart) as ranks:
        assert [rank.wait(120) for rank in ranks] == [0, 0], said(tmp_path, 0) + said(tmp_path, 1)
    assert RunRecord.read(run / "summary.json").status == "finished"

    together = ["--trainer.devices=2", "--trainer.num_nodes=1", "--trainer.strategy=ddp_fork", "--experiment=whole"]
    train.main([*options, *together])
    whole = tmp_path / "runs" / "whole" / "version_0"
    last = [torch.load(place / "checkpoints" / "last.ckpt", weights_only=True) for place in (run, whole)]
    assert last[0]["global_step"] == STEPS
    for part in ("state_dict", "optimizer_states"):
        assert_identical(last[0][part], last[1][part])
    assert last[0]["lr_schedulers"] == last[1]["lr_schedulers"]
    for file in ("model.safetensors", "sparsity_masks.safetensors"):
        assert (run / "export" / file).read_bytes() == (whole / "export" / file).read_bytes()
