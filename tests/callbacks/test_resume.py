"""A run that was interrupted and resumed is the uninterrupted run, bit for bit."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from callbacks import OneCycleLR, RandomState, RigL
from datamodules import TextDataModule
from helpers import Recorder, assert_identical, fit, parameters, tiny_bert

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed")

Data = Callable[..., TextDataModule]
STEPS, ACCUMULATE = 12, 2


class ValidationLosses(Callback):
    """``val/loss`` by step."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.losses[trainer.global_step] = float(trainer.callback_metrics["val/loss"])


class Run:
    """One run with everything that has a state; the same settings at every call, another seed where it resumes."""

    def __init__(
        self,
        root: Path,
        data: TextDataModule,
        ckpt_path: Path | None = None,
        interruption: Callback | None = None,
        save_every: int = 5,
        max_steps: int = STEPS,
        **options: object,
    ) -> None:
        self.rigl, self.recorder, self.validation = RigL(sparsity=0.8, every=2, stop=1.0), Recorder(), ValidationLosses()
        self.checkpoints = root / "checkpoints"
        checkpoint = ModelCheckpoint(
            self.checkpoints,
            filename="{step}",
            every_n_train_steps=save_every,
            save_top_k=-1,
            save_on_train_epoch_end=False,
        )
        callbacks = [self.rigl, OneCycleLR(), RandomState(), self.recorder, self.validation, checkpoint]
        self.trainer = fit(
            root,
            data,
            callbacks + ([interruption] if interruption else []),
            max_steps,
            module=tiny_bert(dropout=0.1),
            ckpt_path=ckpt_path,
            seed=0 if ckpt_path is None else 1,
            enable_checkpointing=True,
            accumulate_grad_batches=ACCUMULATE,
            **options,
        )

    def assert_ends_like(self, other: "Run") -> None:
        """Weights, optimizer, schedule and masks at the end, and every loss and rate on the way there, are equal."""
        assert_identical(parameters(self.trainer), parameters(other.trainer))
        assert_identical(self.trainer.optimizers[0].state_dict(), other.trainer.optimizers[0].state_dict())
        schedules = [run.trainer.lr_scheduler_configs[0].scheduler.state_dict() for run in (self, other)]
        assert {**schedules[0], "_anneal_func_type": None} == {**schedules[1], "_anneal_func_type": None}
        assert_identical(dict(self.rigl.masks), dict(other.rigl.masks))
        assert_identical(dict(self.rigl.stepping.explored), dict(other.rigl.stepping.explored))
        steps = len(self.recorder.rates)
        assert self.recorder.rates == other.recorder.rates[-steps:]
        assert self.recorder.momenta == other.recorder.momenta[-steps:]
        assert self.recorder.losses == other.recorder.losses[-steps * ACCUMULATE :]
        assert self.validation.losses == {step: other.validation.losses[step] for step in self.validation.losses}


@pytest.mark.parametrize("options", [{}, {"limit_val_batches": 2, "val_check_interval": 6}], ids=["plain", "validated"])
def test_resume_in_the_middle_of_an_epoch(tmp_path: Path, text_data: Data, options: dict[str, int]) -> None:
    whole = Run(tmp_path / "whole", text_data(), **options)
    resumed = Run(tmp_path / "resumed", text_data(), whole.checkpoints / "step=5.ckpt", **options)
    assert len(resumed.recorder.rates) == STEPS - 5
    resumed.assert_ends_like(whole)
    if options:
        assert sorted(whole.validation.losses) == [3, 6, 9, 12]
        assert sorted(resumed.validation.losses) == [6, 9, 12]


def test_resume_with_loader_processes(tmp_path: Path, text_data: Data) -> None:
    """Which run ahead of the training: what they have made and nobody has seen is made again."""
    whole = Run(tmp_path / "whole", text_data())
    Run(tmp_path / "resumed", text_data(num_workers=1), whole.checkpoints / "step=5.ckpt").assert_ends_like(whole)
    half = Run(tmp_path / "half", text_data(num_workers=1), max_steps=STEPS)
    half.assert_ends_like(whole)
    Run(tmp_path / "again", text_data(), half.checkpoints / "step=5.ckpt").assert_ends_like(whole)


def test_resume_where_checkpoint_and_validation_coincide(tmp_path: Path, text_data: Data) -> None:
    options = {"limit_val_batches": 2, "val_check_interval": 6, "save_every": 6}
    whole = Run(tmp_path / "whole", text_data(), **options)
    Run(tmp_path / "resumed", text_data(), whole.checkpoints / "step=6.ckpt", **options).assert_ends_like(whole)


def test_resume_twice(tmp_path: Path, text_data: Data) -> None:
    whole = Run(tmp_path / "whole", text_data())
    first = Run(tmp_path / "first", text_data(), whole.checkpoints / "step=5.ckpt")
    assert sorted(file.name for file in first.checkpoints.iterdir()) == ["step=10.ckpt"]
    Run(tmp_path / "second", text_data(), first.checkpoints / "step=10.ckpt").assert_ends_like(whole)


class Interruption(Callback):
    """Raises in the first micro-batch after an optimizer step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("the machine went away")


def test_resume_after_a_crash_between_checkpoints(tmp_path: Path, text_data: Data) -> None:
    whole = Run(tmp_path / "whole", text_data())
    with pytest.raises(RuntimeError, match="went away"):
        Run(tmp_path / "crashed", text_data(), interruption=Interruption(step=8))
    assert [file.name for file in (tmp_path / "crashed" / "checkpoints").iterdir()] == ["step=5.ckpt"]
    Run(tmp_path / "resumed", text_data(), tmp_path / "crashed" / "checkpoints" / "step=5.ckpt").assert_ends_like(whole)


def test_resume_crosses_epochs_of_the_data(tmp_path: Path, text_data: Data) -> None:
    whole = Run(tmp_path / "whole", text_data(length=32, batch_size=40))
    resumed = Run(tmp_path / "resumed", text_data(length=32, batch_size=40), whole.checkpoints / "step=5.ckpt")
    assert len(whole.trainer.train_dataloader.dataset) < 5 * ACCUMULATE * 40
    resumed.assert_ends_like(whole)


def test_another_random_state_is_another_run(tmp_path: Path, text_data: Data) -> None:
    """The comparison above can fail: without the restored random state dropout differs."""
    whole = Run(tmp_path / "whole", text_data())
    checkpoint = torch.load(whole.checkpoints / "step=5.ckpt")
    del checkpoint["callbacks"]["RandomState"]
    torch.save(checkpoint, tmp_path / "without.ckpt")
    resumed = Run(tmp_path / "resumed", text_data(), tmp_path / "without.ckpt")
    assert resumed.recorder.losses[0] != whole.recorder.losses[5 * ACCUMULATE]
