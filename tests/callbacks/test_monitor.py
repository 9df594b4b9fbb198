"""TensorBoard shows the tags that the documentation promises, with the right numbers."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import (
    GMP,
    ExportPretrained,
    GlobalRigL,
    KnowledgeDistillation,
    OneCycleLR,
    RandomState,
    ResumeRules,
    RigL,
    SparseTraining,
    SparsityMonitor,
    StaticSparsity,
    StepMonitor,
)
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
    callbacks = [rigl, OneCycleLR(), distillation, StepMonitor(), SparsityMonitor(tensors=True), recorder]
    options = {"accumulate_grad_batches": 2, "val_check_interval": 8, "limit_val_batches": 1, "logger": logger}
    trainer = fit(tmp_path, text_data(), callbacks, max_steps=8, **options)
    log = events(logger)
    tags = set(log.Tags()["scalars"])
    assert tags - {"epoch", "hp_metric"} == {
        *("train/loss", "val/loss", "val/perplexity", "val/unigram_loss", "lr", "momentum", "throughput/tokens_per_sec"),
        *("val/loss_per_word", "val/loss_per_character"),
        *("sparsity/model", "sparsity/encoder", "sparsity/embeddings", "kd/loss"),
        *("sparsity/dead_neurons", "sparsity/dead_embedding_rows"),
        *("rigl/drop_fraction", "rigl/churn", "rigl/explored", "rigl/growth_concentration", "rigl/survival"),
        "rigl/growth_concentration_by_chance",
        *(f"sparsity/{kind}/{name}" for kind in ("density", "replaced") for name in rigl.masks),
    }
    assert {tag: [event.step for event in log.Images(tag)] for tag in log.Tags()["images"]} == {
        "sparsity/density_per_layer": [0, 4, 8],
        "sparsity/replaced_per_layer": [4, 8],
        "sparsity/dead_neurons_per_layer": [0, 4, 8],  # of 32 weights all are off now and then, by chance
        "sparsity/mask": [0, 4, 8],
    }

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


class Masks(Callback):
    """Copies of all masks when the fit starts and after every validation."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen.append({name: mask.clone() for name, mask in sparse_training(trainer).masks.items()})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_start(trainer, pl_module)


def watched(
    root: Path, data: TextDataModule, sparse: SparseTraining, *others: Callback, **options: object
) -> EventAccumulator:
    """The log of eight steps with validations after the fourth and the eighth."""
    logger = TensorBoardLogger(root, name="run")
    callbacks = [sparse, *others, SparsityMonitor(**options)]
    fit(root, data, callbacks, max_steps=8, val_check_interval=4, limit_val_batches=1, logger=logger)
    return events(logger)


def images(log: EventAccumulator, tag: str) -> list[int]:
    """Steps with a figure, none where the tag is not there."""
    return [event.step for event in log.Images(tag)] if tag in log.Tags()["images"] else []


def test_replaced_weights_are_those_that_came_since_the_last_look(tmp_path: Path, text_data: Data) -> None:
    masks = Masks()
    log = watched(tmp_path, text_data(), RigL(every=2, stop=0.6), masks, tensors=True)  # updates at steps 2 and 4
    for name, mask in masks.seen[1].items():
        share = int((mask & ~masks.seen[0][name]).sum()) / int(mask.sum())
        assert share > 0.1
        assert scalars(log, f"sparsity/replaced/{name}")[4] == pytest.approx(share)
    assert images(log, "sparsity/replaced_per_layer") == [4, 8]


def test_what_does_not_move_has_no_figure(tmp_path: Path, text_data: Data) -> None:
    log = watched(tmp_path, text_data(), StaticSparsity(sparsity=0.2), tensors=True)
    assert set(log.Tags()["images"]) == {"sparsity/density_per_layer", "sparsity/mask"}
    assert not [tag for tag in log.Tags()["scalars"] if tag.startswith("sparsity/replaced")]


@pytest.mark.parametrize(
    ("sparse", "changed", "replaced"),
    [
        (lambda: GMP(start=0.5, end=0.75, every=1), [8], []),
        (lambda: GlobalRigL(every=2, stop=1.0), [4, 8], [4, 8]),
        (lambda: RigL(every=2, stop=1.0), [], [4, 8]),
    ],
)
def test_on_parameters_change_where_tensors_win_or_lose_weights(
    tmp_path: Path, text_data: Data, sparse: Callable[[], SparseTraining], changed: list[int], replaced: list[int]
) -> None:
    log = watched(tmp_path, text_data(), sparse())
    assert images(log, "sparsity/delta_on_params") == changed
    assert images(log, "sparsity/replaced_per_layer") == replaced


def test_the_mask_of_a_feed_forward_matrix_is_drawn_unless_another_is_named(tmp_path: Path, text_data: Data) -> None:
    masks = {name: torch.ones(2, 2, dtype=torch.bool) for name in ("layer.0.attn.Wo", "layer.0.mlp.Wi", "layer.1.mlp.Wi")}
    assert SparsityMonitor().drawn(masks) == "layer.0.mlp.Wi"
    assert SparsityMonitor().drawn({"embeddings": masks["layer.0.attn.Wo"]}) == "embeddings"
    assert SparsityMonitor(mask="*1.mlp*").drawn(masks) == "layer.1.mlp.Wi"
    with pytest.raises(ValueError, match=r"mask: '\*query\*' matches no parameter; there are layer\.0\.attn\.Wo"):
        SparsityMonitor(mask="*query*").drawn(masks)


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
    fit(tmp_path, text_data(), [static, Cut(), SparsityMonitor()], max_steps=1, limit_val_batches=1, logger=logger)
    log = events(logger)
    assert images(log, "sparsity/dead_neurons_per_layer") == [0, 1]
    assert set(scalars(log, "sparsity/dead_neurons").values()) == {3}
    assert set(scalars(log, "sparsity/dead_embedding_rows").values()) == {3}


class Collapse(Callback):
    """Turns half of the neurons of a layer off once training has begun."""

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        masks = sparse_training(trainer).masks
        query = masks[QUERY].clone()
        query[: len(query) // 2] = False
        masks.replace(QUERY, query)


@pytest.mark.parametrize(("cut", "said"), [(Collapse(), 1), (Cut(), 0)], ids=["later", "from the start"])
def test_a_collapse_is_warned_of_once(tmp_path: Path, text_data: Data, cut: Callback, said: int) -> None:
    """Only of neurons that die in training: many more than the 5 % of those of one layer, at two validations."""
    static, options = StaticSparsity(targets=(QUERY, WORDS)), {"val_check_interval": 1, "limit_val_batches": 1}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, text_data(), [static, cut, SparsityMonitor()], max_steps=2, **options)
    messages = [str(warning.message) for warning in caught if "have no active weight" in str(warning.message)]
    assert len(messages) == said
    assert all(
        re.match(r"step 1: 1\d of \d+ inputs and outputs .* 0 when training started", message) for message in messages
    )


def test_a_collapse_is_measured_from_the_start_of_the_run_also_across_a_resume(tmp_path: Path, text_data: Data) -> None:
    """The masks collapse in the first half; what is dead then is more than at the start, not less than when it went on."""

    def callbacks() -> list[Callback]:
        return [StaticSparsity(targets=(QUERY, WORDS)), SparsityMonitor(), OneCycleLR(), RandomState(), ResumeRules()]

    options = {"val_check_interval": 1, "limit_val_batches": 1}
    trainer = fit(tmp_path, text_data(), [*callbacks(), Collapse()], max_steps=4, limit_train_batches=1, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    with pytest.warns(UserWarning, match="have no active weight, 0 when training started"):
        fit(tmp_path, text_data(), callbacks(), max_steps=4, ckpt_path=tmp_path / "half.ckpt", **options)


def test_throughput_is_logged_where_epochs_are_short(tmp_path: Path, text_data: Data) -> None:
    logger = TensorBoardLogger(tmp_path, name="run")
    options = {"logger": logger, "log_every_n_steps": 5, "limit_train_batches": 2}
    fit(tmp_path, text_data(), [StepMonitor()], max_steps=20, **options)
    assert len(scalars(events(logger), "throughput/tokens_per_sec")) == 4


def test_throughput_goes_on_being_logged_in_a_resumed_run(tmp_path: Path, text_data: Data) -> None:
    """One that goes on between two writes of the logger writes with it, and not beside it."""
    fit(tmp_path, text_data(), [StepMonitor()], max_steps=3).save_checkpoint(tmp_path / "three.ckpt")
    logger = TensorBoardLogger(tmp_path, name="run")
    options = {"logger": logger, "log_every_n_steps": 5, "ckpt_path": tmp_path / "three.ckpt", "accumulate_grad_batches": 1}
    fit(tmp_path, text_data(), [StepMonitor()], max_steps=20, **options)
    assert len(scalars(events(logger), "throughput/tokens_per_sec")) == 4


def test_a_dense_run_has_no_tags_of_sparsity(tmp_path: Path, text_data: Data) -> None:
    logger = TensorBoardLogger(tmp_path, name="dense")
    fit(tmp_path, text_data(), [StepMonitor(), SparsityMonitor()], max_steps=2, logger=logger, limit_val_batches=1)
    tags = events(logger).Tags()
    assert not [tag for tag in tags["scalars"] + tags["images"] if tag.startswith(("sparsity", "rigl", "kd"))]
