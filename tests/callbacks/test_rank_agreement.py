"""Ranks that do not train the same model any more are found; so is one that is gone."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.strategies import FSDPStrategy
from torch.optim import Optimizer

from callbacks import FiniteNumbers, RankAgreement, RigL, RollCall, naming_lost_peers
from callbacks.rank_agreement import disagreement, tensor_hash
from callbacks.roll_call import LOST, Peer, is_dead, silent, this_process
from datamodules import TextDataModule
from helpers import copies, fit, parameters
from run_exit import PEER_LOST, ended_with_code

Data = Callable[..., TextDataModule]
NAME = "bert.encoder.layer.0.output.dense.weight"

ranks = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")
quiet = pytest.mark.filterwarnings("ignore:.*")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.bool, torch.int64])
def test_any_change_of_one_element_changes_the_hash(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callbacks.rank_agreement.PIECE", 8)
    tensor = (torch.arange(35).view(5, 7) % 3).to(dtype)
    hashes = {int(tensor_hash(tensor))}
    for index in range(35):
        other = tensor.clone()
        other.view(-1)[index] = other.view(-1)[index] == 0
        hashes.add(int(tensor_hash(other)))
    assert len(hashes) == 36
    assert int(tensor_hash(tensor.clone())) in hashes
    assert int(tensor_hash(tensor.t())) not in hashes  # the same elements elsewhere


def test_a_number_and_its_complement_have_different_hashes() -> None:
    numbers = torch.tensor([1.5, -2.25, 1e300, 0.0], dtype=torch.float64)
    for index in range(len(numbers)):
        bits = numbers.clone().view(torch.int64)
        bits[index] = ~bits[index]
        assert int(tensor_hash(bits)) != int(tensor_hash(numbers))


def test_the_hash_does_not_depend_on_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.randn(100)
    whole = tensor_hash(tensor)
    monkeypatch.setattr("callbacks.rank_agreement.PIECE", 7)
    assert int(tensor_hash(tensor)) == int(whole)


def test_what_differs_is_named_with_its_ranks() -> None:
    same = torch.tensor([[1, 2, 3]] * 4)
    assert disagreement(["a", "b", "c"], same) is None
    same[2, 1], same[1, 2] = 5, 6
    assert disagreement(["a", "b", "c"], same) == "b on rank 2 is not that of rank 0, 1, 3, and 1 more of 3 tensors differ"


class Differs(Callback):
    """Changes one weight, or one place of one mask, on the second rank."""

    def __init__(self, step: int, rigl: RigL | None = None) -> None:
        self.step, self.rigl = step, rigl

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.global_step == self.step and trainer.global_rank == 1:
            if self.rigl is None:
                parameters(trainer)[NAME].data[3, 4] += 1e-7
            else:
                self.rigl.masks.replace(NAME, self.rigl.masks[NAME].flip(0))


@ranks
@quiet
@pytest.mark.slow
@pytest.mark.parametrize("mask", [False, True])
def test_a_run_whose_ranks_differ_ends_on_all(tmp_path: Path, text_data: Data, mask: bool) -> None:
    rigl = RigL(every=2, stop=1.0)
    callbacks = [rigl, Differs(3, rigl if mask else None), RankAgreement(every=4)]
    what = f"the mask of {NAME}" if mask else NAME
    with pytest.raises(Exception, match=f"step 4: {what} on rank 1 is not that of rank 0"):  # ties go to the lower rank
        fit(tmp_path, text_data(batch_size=4), callbacks, 8, strategy="ddp_fork", devices=2)


@ranks
@quiet
@pytest.mark.slow
def test_a_loss_on_one_rank_skips_the_step_of_all(tmp_path: Path, text_data: Data) -> None:
    numbers = FiniteNumbers()

    class Harvest(Callback):
        """One rank's loss at step 2 is not finite, though its gradient would be; RankAgreement sees what comes of it."""

        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            objective = pl_module.objective
            pl_module.objective = lambda *arguments: (
                objective(*arguments) + (torch.inf if trainer.global_step == 2 and trainer.global_rank == 1 else 0.0)
            )

        def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
            (tmp_path / f"{trainer.global_rank}_{trainer.global_step}").write_text(str(numbers.skipped))

        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            torch.save(copies(parameters(trainer)), tmp_path / f"{trainer.global_rank}.pt")

    callbacks = [numbers, RigL(every=2, stop=1.0), RankAgreement(every=1), RollCall(), Harvest()]
    fit(tmp_path, text_data(batch_size=4), callbacks, 4, strategy="ddp_fork", devices=2)
    for rank in range(2):
        assert [(tmp_path / f"{rank}_{step}").read_text() for step in range(4)] == ["0", "0", "1", "1"]
        assert all(bool(weight.isfinite().all()) for weight in torch.load(tmp_path / f"{rank}.pt").values())


class Dies(Callback):
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.global_rank == 1 and trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def in_a_process_of_its_own(rank: int, root: Path, data: TextDataModule, port: int) -> None:
    """One of two ranks that nobody else looks after; it ends with the code that ``train.py`` ends with."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank)}
    with (root / f"said{rank}").open("w") as said:
        sys.stderr = said
        with ended_with_code(), naming_lost_peers():
            fit(root, data, [RollCall(), Dies()], 8, strategy="ddp", devices=2)


@ranks
@quiet
@pytest.mark.slow
def test_a_rank_that_is_killed_is_named_by_the_other(tmp_path: Path, text_data: Data) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork, data = multiprocessing.get_context("fork"), text_data(batch_size=4)
    processes = [fork.Process(target=in_a_process_of_its_own, args=(rank, tmp_path, data, port)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [PEER_LOST, -signal.SIGKILL]
    first, *_, last = (line for line in (tmp_path / "said0").read_text().splitlines() if "gone" in line)
    assert first.startswith(f"rank 0, step 2: rank 1 (process {processes[1].pid} on ")
    assert last == f"error: {LOST}"


def test_a_dead_process_is_known_before_anybody_has_waited_for_it() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert not is_dead(process.pid)
    process.kill()
    until = time.monotonic() + 10
    while not is_dead(process.pid):
        assert time.monotonic() < until
    process.wait()
    assert is_dead(process.pid)
    assert not is_dead(this_process(0).pid)


def test_those_whose_signs_of_life_have_ended_are_gone() -> None:
    peers = [Peer(rank, "host", 1, "") for rank in range(3)]
    answers = iter([[b"1", b"5", b"0"], [b"2", b"5", b"3"]])
    assert silent(peers, lambda: next(answers), listen=0) == [peers[1]]


def test_weights_in_pieces_are_refused() -> None:
    sparse = RigL()
    trainer = SimpleNamespace(callbacks=[sparse], strategy=FSDPStrategy())
    with pytest.raises(
        ValueError, match=r"RigL needs whole weights on every device \(one device or DDP\), not FSDPStrategy"
    ):
        sparse.on_fit_start(trainer, None)
    with pytest.raises(ValueError, match="a run, .* needs whole weights on every device .* not FSDPStrategy"):
        RankAgreement().setup(trainer, None, "fit")  # also of a dense run


def test_one_rank_is_left_alone(tmp_path: Path, text_data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callbacks.rank_agreement.tensor_hash", None)
    fit(tmp_path, text_data(), [RankAgreement(every=1), RollCall()], 2)


def test_never_is_not_how_often_ranks_are_compared() -> None:
    with pytest.raises(ValueError, match=r"agreement\.every >= 1 expected, got 0"):
        RankAgreement(every=0)
