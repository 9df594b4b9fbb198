"""A BERT of 2 layers of 32, small enough to train in a test, and runs of it on the tiny corpus."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.utils.tensorboard import SummaryWriter

import train
from datamodules import TextDataModule
from lightning_modules import MaskedLanguageModel

CONFIG = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def tiny_bert(dropout: float = 0.0, **options: Any) -> MaskedLanguageModel:
    """The module; ``options`` are its other arguments."""
    config = CONFIG | {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return MaskedLanguageModel(**{"config": config, "lr": 1e-2, "weight_decay": 0.1} | options)


def tiny_experiment(
    corpus: Path, tokenizer_dir: Path, cache_dir: Path, trainer: dict[str, Any], **more: Any
) -> dict[str, Any]:
    """An experiment of that BERT as its YAML file holds it: batches of 8 × 16; ``more`` are further keys."""
    data = {"path": str(corpus), "tokenizer": str(tokenizer_dir), "cache_dir": str(cache_dir), "length": 16, "batch_size": 8}
    return {
        "experiment": "tiny",
        "model": {"class_path": "MaskedLanguageModel", "init_args": {"config": CONFIG}},
        "data": {"class_path": "TextDataModule", "init_args": data},
        "trainer": trainer,
    } | more


class TinyBertWithMomentum(MaskedLanguageModel):
    """The module under SGD with momentum and (coupled) weight decay."""

    def configure_optimizers(self) -> Optimizer:
        return SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)


def tiny_trainer(root: Path, callbacks: Sequence[Callback], max_steps: int, **options: Any) -> Trainer:
    """A silent trainer on the CPU that writes below ``root`` only."""
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
    }
    return Trainer(
        **{"default_root_dir": root, "max_steps": max_steps, "callbacks": list(callbacks)} | silent | defaults | options
    )


def fit(
    root: Path,
    data: TextDataModule,
    callbacks: Sequence[Callback],
    max_steps: int,
    module: MaskedLanguageModel | None = None,
    ckpt_path: Path | None = None,
    seed: int = 0,
    **options: Any,
) -> Trainer:
    """One run from one seed; ``options`` go to the trainer."""
    seed_everything(seed)
    trainer = tiny_trainer(root, callbacks, max_steps, **options)
    trainer.fit(tiny_bert() if module is None else module, data, ckpt_path=ckpt_path)
    return trainer


def parameters(trainer: Trainer) -> dict[str, Tensor]:
    """Parameters of the Hugging Face model in a trainer, by name."""
    return dict(trainer.lightning_module.model.named_parameters())


def copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies that later steps do not change."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def assert_identical(first: Any, second: Any) -> None:
    """Two nested structures are equal, tensors bit for bit."""
    torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)


class Recorder(Callback):
    """Training losses (every micro-batch), and rates and momenta (every optimizer step, before it)."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.momenta: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])
        self.momenta.append(optimizer.param_groups[0]["betas"][0])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, Tensor], batch: object, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The line a mistaken command of ``train.py`` ends with."""
    with pytest.raises(SystemExit) as stop:
        train.run(list(arguments))
    assert "usage:" not in capsys.readouterr().err
    assert isinstance(stop.value.code, str)  # which Python prints on stderr, and exits with 1
    assert "\n" not in stop.value.code
    assert len(stop.value.code) < 500
    return stop.value.code


def write_events(run: Path, tag: str, losses: dict[int, float]) -> None:
    """Log a scalar of a run as TensorBoard's logger does."""
    with SummaryWriter(str(run)) as writer:
        for step, loss in losses.items():
            writer.add_scalar(tag, loss, step)
