"""However a run comes to its end, its results are those of its final weights, to the last digit."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from callbacks import FinalValidation, OneCycleLR, RandomState, RigL, RunSummary
from datamodules import GLUEDataModule, TextDataModule
from helpers import assert_identical, copies, fit, parameters
from lightning_modules import SequenceClassifier
from run_record import RunRecord

Data = Callable[..., TextDataModule]
RESULTS = ("status", "steps", "tokens", "eval_step", "eval_loss", "perplexity", "unigram_loss", "average_density")

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:.*is not empty")


class Validations(Callback):
    """The step of every validation."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps.append(trainer.global_step)


def run(root: Path, data: TextDataModule, *further: Callback, ckpt_path: Path | None = None, **options: object) -> list[int]:
    """Six steps with dropout, validated and saved as a run of the command line is; the steps of its validations."""
    validations = Validations()
    callbacks = [
        *(RigL(every=2, stop=1.0), OneCycleLR(), RandomState(), FinalValidation(), *further, validations, RunSummary()),
        ModelCheckpoint(root / "checkpoints", filename="{step}", every_n_train_steps=2, save_top_k=-1, save_last=True),
    ]
    settings = {"max_steps": 6, "val_check_interval": 3, "limit_val_batches": 1.0, "enable_checkpointing": True} | options
    fit(root, data, callbacks, ckpt_path=ckpt_path, seed=0 if ckpt_path is None else 1, **settings)
    return validations.steps


def results(root: Path) -> dict[str, object]:
    record = RunRecord.read(root / "summary.json")
    return {name: getattr(record, name) for name in RESULTS}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, text_data: Data) -> Path:
    """A run whose last step is validated as a matter of course."""
    root = tmp_path_factory.mktemp("whole")
    assert run(root, text_data()) == [3, 6]
    return root


def test_a_last_step_that_is_due_is_validated_once(whole: Path) -> None:
    assert results(whole)["eval_step"] == results(whole)["steps"] == 6


@pytest.mark.parametrize("interval", [2, 4, 5])
def test_validations_that_do_not_change_the_model_find_the_same_in_the_end(
    tmp_path: Path, whole: Path, text_data: Data, interval: int
) -> None:
    """The last of 4 and 5 would be that of step 4 and of step 5."""
    steps = run(tmp_path, text_data(), val_check_interval=interval)
    assert steps == [*range(interval, 6, interval), 6]
    assert results(tmp_path) == results(whole)


def test_a_finished_run_that_is_started_once_more_keeps_its_results(tmp_path: Path, whole: Path, text_data: Data) -> None:
    """The checkpoint of the last step was written before the validation of that step."""
    run(tmp_path, text_data())
    last = tmp_path / "checkpoints" / "last.ckpt"
    for _ in range(2):
        saved = last.stat().st_mtime_ns
        assert run(tmp_path, text_data(), ckpt_path=last) == [6]
        assert results(tmp_path) == results(whole)
        assert last.stat().st_mtime_ns == saved
    assert sorted(file.name for file in last.parent.iterdir()) == ["last.ckpt", *(f"step={n}.ckpt" for n in (2, 4, 6))]


@pytest.mark.parametrize("step", [2, 4])
def test_a_resumed_run_ends_with_the_results_of_one_that_was_not(
    tmp_path: Path, whole: Path, text_data: Data, step: int
) -> None:
    run(tmp_path, text_data(), ckpt_path=whole / "checkpoints" / f"step={step}.ckpt")
    assert results(tmp_path) == results(whole)


class KillAtLastValidation(Callback):
    """``kill -9`` in the middle of the validation of the last step."""

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.global_step == trainer.max_steps and batch_idx == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_run_that_is_killed_in_its_last_validation_ends_like_one_that_was_not(
    tmp_path: Path, whole: Path, text_data: Data
) -> None:
    data = text_data()
    child = os.fork()
    if not child:
        try:
            run(tmp_path, data, KillAtLastValidation())
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert (results(tmp_path)["status"], results(tmp_path)["eval_step"]) == ("running", 3)
    assert run(tmp_path, text_data(), ckpt_path=tmp_path / "checkpoints" / "last.ckpt") == [6]
    assert results(tmp_path) == results(whole)


def test_nothing_is_validated_where_validation_is_switched_off(tmp_path: Path, text_data: Data) -> None:
    assert run(tmp_path, text_data(), limit_val_batches=0) == []
    assert results(tmp_path)["eval_loss"] is None


class StopAfter(Callback):
    """Ends a run when its second step has been made."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        trainer.should_stop = trainer.global_step == 2


@pytest.mark.parametrize("every_n_epoch", [1, 2])
def test_a_run_that_a_callback_ends_is_validated_there(tmp_path: Path, text_data: Data, every_n_epoch: int) -> None:
    """Lightning does so where this epoch has validations."""
    steps = run(tmp_path, text_data(), StopAfter(), check_val_every_n_epoch=every_n_epoch)
    assert steps == [2]
    assert (results(tmp_path)["status"], results(tmp_path)["eval_step"]) == ("finished", 2)


def test_early_stopping_is_an_end(tmp_path: Path, text_data: Data) -> None:
    steps = run(tmp_path, text_data(), EarlyStopping("val/loss", patience=1, min_delta=100.0), val_check_interval=2)
    assert steps == [2, 4]
    assert (results(tmp_path)["status"], results(tmp_path)["eval_step"]) == ("finished", 4)


def test_the_final_validation_is_no_training(tmp_path: Path, text_data: Data) -> None:
    """Neither weights nor the time of training know of it; what comes after it is in training mode."""
    seen = {}

    class Watch(Callback):
        def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            seen["before"] = copies(parameters(trainer))

        def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            time.sleep(0.25)

        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            seen["after"], seen["mode"] = copies(parameters(trainer)), (trainer.training, pl_module.training)

    run(tmp_path, text_data(), Watch(), val_check_interval=4)
    assert_identical(seen["after"], seen["before"])
    assert seen["mode"] == (True, True)
    record = RunRecord.read(tmp_path / "summary.json")
    assert record.seconds - record.train_seconds > 0.5


def test_a_finetuning_that_ends_within_an_epoch_is_validated_there(
    tmp_path: Path, glue_data: Callable[..., GLUEDataModule], encoder_dir: Path
) -> None:
    """Four steps of five an epoch; and once more from the checkpoint of the last."""
    ckpt_path = None
    for _ in range(2):
        validations, module = Validations(), SequenceClassifier(str(encoder_dir), lr=1e-3)
        saved = ModelCheckpoint(tmp_path / "checkpoints", every_n_train_steps=1, save_last=True)
        callbacks = [RandomState(), FinalValidation(), validations, RunSummary(), saved]
        options = {"max_epochs": 3, "limit_val_batches": 1.0, "enable_checkpointing": True, "ckpt_path": ckpt_path}
        fit(tmp_path, glue_data("RTE"), callbacks, 4, module=module, **options)
        record = RunRecord.read(tmp_path / "summary.json")
        assert (validations.steps, record.status, record.steps, record.eval_step) == ([4], "finished", 4, 4)
        ckpt_path = tmp_path / "checkpoints" / "last.ckpt"


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")
@pytest.mark.filterwarnings("ignore:.*")
def test_all_ranks_validate_together(tmp_path: Path, text_data: Data) -> None:
    """At the end of training, and when it is started once more."""
    run(tmp_path / "one", text_data(), val_check_interval=4)
    ranks = {"val_check_interval": 4, "strategy": "ddp_fork", "devices": 2}
    run(tmp_path / "two", text_data(batch_size=4), **ranks)
    ended = results(tmp_path / "two")
    assert (ended["status"], ended["eval_step"]) == ("finished", 6)
    assert ended["eval_loss"] == pytest.approx(results(tmp_path / "one")["eval_loss"], abs=1e-4)
    run(tmp_path / "two", text_data(batch_size=4), ckpt_path=tmp_path / "two" / "checkpoints" / "last.ckpt", **ranks)
    assert results(tmp_path / "two") == ended
