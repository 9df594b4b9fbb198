"""TensorBoard shows the tags that the documentation promises, with the right numbers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import ExportPretrained, KnowledgeDistillation, OneCycleLR, RigL, SparsityMonitor, StaticSparsity, StepMonitor
from callbacks.sparse_training import sparse_training
from datamodules import TextDataModule
from helpers import Recorder, fit, parameters

Data = Callable[..., TextDataModule]


def events(logger: TensorBoardLogger) -> EventAccumulator:
    accumulator = EventAccumulator(logger.log_dir, size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def scalars(log: EventAccumulator, tag: str) -> dict[int, float]:
    """Values by step."""
    return {event.step: event.value for event in log.Scalars(tag)}


def test_tags_and_values(tmp_path: Path, text_data: Data) -> None:
    fit(tmp_path, text_data(), [ExportPretrained()], max_steps=1)
    rigl, recorder, logger = RigL(sparsity=0.8, every=2, stop=1.0), Recorder(), TensorBoardLogger(tmp_path, name="run")
    distillation = KnowledgeDistillation(str(tmp_path / "export"))
    callbacks = [rigl, OneCycleLR(), distillation, StepMonitor(), SparsityMonitor(), recorder]
    options = {"accumulate_grad_batches": 2, "val_check_interval": 8, "limit_val_batches": 1, "logger": logger}
    trainer = fit(tmp_path, text_data(), callbacks, max_steps=8, **options)
    log = events(logger)
    tags = set(log.Tags()["scalars"])
    assert tags - {"epoch", "hp_metric"} == {
        *("train/loss", "val/loss", "val/perplexity", "val/unigram_loss", "lr", "momentum", "throughput/tokens_per_sec"),
        *("sparsity/model", "sparsity/encoder", "sparsity/embeddings", "kd/loss"),
        *("sparsity/dead_neurons", "sparsity/dead_embedding_rows"),
        *("rigl/drop_fraction", "rigl/churn", "rigl/explored"),
        *(f"sparsity/density/{name}" for name in rigl.masks),
    }
    assert set(log.Tags()["images"]) == {"sparsity/density_per_layer", "sparsity/delta_on_params"}
    assert [event.step for event in log.Images("sparsity/delta_on_params")] == [0, 4, 8]

    assert list(scalars(log, "lr").values()) == pytest.approx(recorder.rates)
    assert list(scalars(log, "momentum").values()) == pytest.approx(recorder.momenta)
    assert set(scalars(log, "rigl/churn")) == {2, 4, 6}
    assert scalars(log, "rigl/drop_fraction") == pytest.approx(
        {step: rigl.method.drop_fraction_at(step, 8) for step in (2, 4, 6)}
    )
    zeros = sum(int((~mask).sum()) for mask in rigl.masks.values())
    size = sum(weight.numel() for weight in parameters(trainer).values())
    assert scalars(log, "sparsity/model") == pytest.approx(dict.fromkeys((0, 4, 8), zeros / size))
    assert min(scalars(log, "throughput/tokens_per_sec").values()) > 0


class Cut(Callback):
    """Turns rows and columns of masks off before the first step."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        masks, off = sparse_training(trainer).masks, torch.tensor(False)
        query, words = (masks[name].clone() for name in (QUERY, WORDS))
        query[3], query[:, 5:7], words[[2, 4, 8]], words[:, 0] = off, off, off, off
        masks.replace(QUERY, query)
        masks.replace(WORDS, words)


QUERY, WORDS = "bert.encoder.layer.1.attention.self.query.weight", "bert.embeddings.word_embeddings.weight"


def test_dead_neurons_and_embedding_rows_are_counted(tmp_path: Path, text_data: Data) -> None:
    """One output and two inputs of a linear layer, three tokens; a column of an embedding table is no neuron."""
    static = StaticSparsity(sparsity=0.1, targets=(QUERY, WORDS))
    logger = TensorBoardLogger(tmp_path, name="run")
    monitor = SparsityMonitor(figures=False)
    fit(tmp_path, text_data(), [static, Cut(), monitor], max_steps=1, limit_val_batches=1, logger=logger)
    log = events(logger)
    assert set(scalars(log, "sparsity/dead_neurons").values()) == {3}
    assert set(scalars(log, "sparsity/dead_embedding_rows").values()) == {3}


def test_a_dense_run_has_no_tags_of_sparsity(tmp_path: Path, text_data: Data) -> None:
    logger = TensorBoardLogger(tmp_path, name="dense")
    fit(tmp_path, text_data(), [StepMonitor(), SparsityMonitor()], max_steps=2, logger=logger, limit_val_batches=1)
    tags = events(logger).Tags()
    assert not [tag for tag in tags["scalars"] + tags["images"] if tag.startswith(("sparsity", "rigl", "kd"))]
