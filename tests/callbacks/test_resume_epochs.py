"""A finetuning that was interrupted, in the middle of an epoch or between two, ends bit for bit like one that was not."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from callbacks import LinearWarmupDecay, OneCycleLR, RandomState, RunSummary
from datamodules import GLUEDataModule
from helpers import Recorder, assert_identical, fit, parameters
from lightning_modules import SequenceClassifier

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed")

Data = Callable[..., GLUEDataModule]
EPOCHS, BATCHES, ACCUMULATE = 3, 5, 2  # three steps an epoch, of 2, 2 and 1 batches
STEPS = 9


class Run:
    """Three epochs with dropout, saved after every step and after every epoch; another seed where it resumes."""

    def __init__(
        self, root: Path, data: GLUEDataModule, encoder: Path, ckpt_path: Path | None = None, **options: object
    ) -> None:
        self.checkpoints, self.recorder, self.summary = root / "checkpoints", Recorder(), RunSummary()
        saved = {"dirpath": self.checkpoints, "save_top_k": -1}
        callbacks = [
            *(LinearWarmupDecay(0.25), RandomState(), self.recorder, self.summary),
            ModelCheckpoint(filename="{step}", every_n_train_steps=1, save_on_train_epoch_end=False, **saved),
            ModelCheckpoint(filename="{epoch}", every_n_epochs=1, save_on_train_epoch_end=True, **saved),
        ]
        options = {"max_epochs": EPOCHS, "accumulate_grad_batches": ACCUMULATE, "limit_val_batches": 1.0} | options
        module = SequenceClassifier(str(encoder), lr=1e-3, weight_decay=0.1)
        seed = 0 if ckpt_path is None else 1
        self.trainer: Trainer = fit(
            root, data, callbacks, -1, module=module, ckpt_path=ckpt_path, seed=seed, enable_checkpointing=True, **options
        )

    def assert_ends_like(self, other: "Run", steps: int, batches: int) -> None:
        """After so many steps and batches of its own everything is equal, every loss and rate on the way included."""
        assert (len(self.recorder.rates), len(self.recorder.losses)) == (steps, batches)
        assert self.recorder.losses == other.recorder.losses[len(other.recorder.losses) - batches :]
        assert self.recorder.rates == other.recorder.rates[len(other.recorder.rates) - steps :]
        assert_identical(parameters(self.trainer), parameters(other.trainer))
        assert_identical(self.trainer.optimizers[0].state_dict(), other.trainer.optimizers[0].state_dict())
        assert (self.trainer.global_step, self.trainer.current_epoch) == (other.trainer.global_step, EPOCHS)
        assert self.summary.tokens == other.summary.tokens
        assert self.summary.results.keys() == other.summary.results.keys()
        assert self.summary.results["metrics"] == other.summary.results["metrics"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, glue_data: Data, encoder_dir: Path) -> Run:
    return Run(tmp_path_factory.mktemp("whole"), glue_data("MRPC"), encoder_dir)


def test_steps_and_rates_of_an_uninterrupted_run(whole: Run) -> None:
    assert whole.trainer.global_step == whole.trainer.max_steps == STEPS
    assert len(whole.recorder.losses) == EPOCHS * BATCHES
    factors = [0, 1 / 2, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7]
    assert whole.recorder.rates == pytest.approx([1e-3 * factor for factor in factors])
    assert whole.trainer.optimizers[0].param_groups[0]["lr"] == 0.0
    epochs = [f"epoch={epoch}.ckpt" for epoch in range(EPOCHS)]
    assert sorted(file.name for file in whole.checkpoints.iterdir()) == epochs + [
        f"step={n}.ckpt" for n in range(1, STEPS + 1)
    ]


@pytest.mark.parametrize("step", [1, 2, 3, 4, 6, 8])
def test_resume_after_a_step(tmp_path: Path, whole: Run, glue_data: Data, encoder_dir: Path, step: int) -> None:
    """3 and 6 are the last of an epoch."""
    epoch, within = divmod(step, 3)
    resumed = Run(tmp_path, glue_data("MRPC"), encoder_dir, whole.checkpoints / f"step={step}.ckpt")
    resumed.assert_ends_like(whole, STEPS - step, (EPOCHS - epoch) * BATCHES - within * ACCUMULATE)


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("workers", [0, 2])
def test_resume_after_an_epoch(
    tmp_path: Path, whole: Run, glue_data: Data, encoder_dir: Path, epoch: int, workers: int
) -> None:
    left = EPOCHS - 1 - epoch
    data = glue_data("MRPC", num_workers=workers)
    resumed = Run(tmp_path, data, encoder_dir, whole.checkpoints / f"epoch={epoch}.ckpt")
    resumed.assert_ends_like(whole, left * 3, left * BATCHES)


@pytest.mark.parametrize("saved", ["step=3", "step=4", "epoch=0", "epoch=1"])
def test_resume_where_nothing_is_validated_and_epochs_are_short(
    tmp_path: Path, glue_data: Data, encoder_dir: Path, saved: str
) -> None:
    """Three batches, two steps, of every epoch."""
    options = {"limit_val_batches": 0, "limit_train_batches": 3}
    whole = Run(tmp_path / "whole", glue_data("MRPC"), encoder_dir, **options)
    assert (whole.trainer.global_step, len(whole.recorder.losses)) == (6, 9)
    whole.summary.results["metrics"] = None
    resumed = Run(tmp_path / "resumed", glue_data("MRPC"), encoder_dir, whole.checkpoints / f"{saved}.ckpt", **options)
    resumed.summary.results["metrics"] = None
    steps, batches = {"step=3": (3, 4), "step=4": (2, 3), "epoch=0": (4, 6), "epoch=1": (2, 3)}[saved]
    resumed.assert_ends_like(whole, steps, batches)


def test_a_run_that_has_ended_goes_on_for_more_epochs(tmp_path: Path, glue_data: Data, encoder_dir: Path) -> None:
    """With a rate that does not depend on its length."""
    data, module = glue_data("RTE"), SequenceClassifier(str(encoder_dir), lr=1e-3)
    trainers = [fit(tmp_path, data, [RandomState()], -1, module=module, max_epochs=1)]
    trainers[0].save_checkpoint(tmp_path / "one.ckpt")
    for path, seed in ((None, 0), (tmp_path / "one.ckpt", 1)):
        module = SequenceClassifier(str(encoder_dir), lr=1e-3)
        options = {"module": module, "max_epochs": 3, "ckpt_path": path, "seed": seed}
        trainers.append(fit(tmp_path, glue_data("RTE"), [RandomState()], -1, **options))
    assert [trainer.global_step for trainer in trainers] == [5, 15, 15]
    assert_identical(parameters(trainers[2]), parameters(trainers[1]))


def test_one_cycle_ends_where_it_should(tmp_path: Path, glue_data: Data, encoder_dir: Path) -> None:
    recorder, module = Recorder(), SequenceClassifier(str(encoder_dir))
    cycle = OneCycleLR(max_lr=1e-3, div_factor=10, final_div_factor=100)
    fit(tmp_path, glue_data("RTE"), [cycle, recorder], -1, module=module, max_epochs=2, accumulate_grad_batches=ACCUMULATE)
    assert len(recorder.rates) == 6
    assert recorder.rates[0] == pytest.approx(1e-4)
    assert recorder.rates[-1] == pytest.approx(1e-6)


def test_another_random_state_is_another_run(tmp_path: Path, whole: Run, glue_data: Data, encoder_dir: Path) -> None:
    """The comparisons above can fail."""
    checkpoint = torch.load(whole.checkpoints / "epoch=0.ckpt", weights_only=False)
    del checkpoint["callbacks"]["RandomState"]
    torch.save(checkpoint, tmp_path / "without.ckpt")
    resumed = Run(tmp_path, glue_data("MRPC"), encoder_dir, tmp_path / "without.ckpt")
    assert resumed.recorder.losses[0] != whole.recorder.losses[BATCHES]
