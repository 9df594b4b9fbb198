"""SµPar through a real trainer: new weights start larger, those of a pretrained model as they are, and a resume is exact."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from callbacks import ExportPretrained, OneCycleLR, RandomState, RigL, SparseTraining, StaticSparsity
from datamodules import TextDataModule
from helpers import assert_identical, copies, fit, parameters, tiny_bert
from lightning_modules import MaskedLanguageModel

Data = Callable[..., TextDataModule]


class WeightsAtTheStart(Callback):
    """After the masks were drawn, before the first step."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights = copies(parameters(trainer))


@pytest.mark.parametrize("pretrained", [False, True])
def test_the_size_of_weights_at_the_start(tmp_path: Path, text_data: Data, pretrained: bool) -> None:
    fit(tmp_path, text_data(), [ExportPretrained()], max_steps=1)
    options = {"config": None, "pretrained": str(tmp_path / "export")} if pretrained else {}

    def start(*callbacks: Callback) -> WeightsAtTheStart:
        seen = WeightsAtTheStart()
        fit(tmp_path / "second", text_data(), [*callbacks, seen], max_steps=1, module=tiny_bert(**options))
        return seen

    sparse = StaticSparsity(sparsity=0.75, initialization="magnitude", parameterization="sparse_mup")
    dense, scaled = start().weights, start(sparse).weights
    assert len(sparse.masks) == 12
    for name, weight in scaled.items():
        mask = sparse.masks.get(name)
        factor = 1.0 if mask is None or pretrained else 2.0
        on = slice(None) if mask is None else mask
        torch.testing.assert_close(weight[on], dense[name][on] * factor)


def test_a_run_ends_the_same_where_it_was_resumed(tmp_path: Path, text_data: Data) -> None:
    def run(root: Path, ckpt_path: Path | None = None) -> tuple[Trainer, SparseTraining]:
        sparse = RigL(every=3, stop=1.0, initial_sparsity=0.0, parameterization="sparse_mup")
        checkpoint = ModelCheckpoint(root / "saved", filename="{step}", every_n_train_steps=5, save_top_k=-1)
        callbacks = [sparse, OneCycleLR(), RandomState(), checkpoint]
        options = {"enable_checkpointing": True, "accumulate_grad_batches": 2}
        seed = 0 if ckpt_path is None else 1
        return fit(root, text_data(), callbacks, 12, tiny_bert(dropout=0.1), ckpt_path, seed=seed, **options), sparse

    whole, first = run(tmp_path / "whole")
    resumed, second = run(tmp_path / "resumed", tmp_path / "whole" / "saved" / "step=5.ckpt")
    assert_identical(parameters(resumed), parameters(whole))
    assert_identical(dict(second.masks), dict(first.masks))


def test_embeddings_that_are_sparse_start_as_they_were_drawn(tmp_path: Path, text_data: Data) -> None:
    def start(**options: str) -> dict[str, torch.Tensor]:
        seen = WeightsAtTheStart()
        sparse = StaticSparsity(sparsity=0.5, targets=["*word_embeddings*", "*query*"], **options)
        fit(tmp_path, text_data(), [sparse, seen], max_steps=1)
        return seen.weights

    standard, scaled = start(), start(parameterization="sparse_mup")
    for name, weight in scaled.items():
        torch.testing.assert_close(weight, standard[name] * (2**0.5 if "query" in name and weight.dim() == 2 else 1))


def test_a_model_is_scaled_once_however_often_it_is_fitted(tmp_path: Path, text_data: Data) -> None:
    module, sparse = tiny_bert(lr=1e-6), StaticSparsity(sparsity=0.75, parameterization="sparse_mup")
    ends = []
    for _ in range(2):
        trainer = fit(tmp_path, text_data(), [sparse], max_steps=1, module=module)
        ends.append((copies(parameters(trainer)), dict(sparse.masks)))
    (first, masks), (second, masks_again) = ends
    assert_identical(masks_again, masks)
    torch.testing.assert_close(second, first, rtol=0, atol=1e-4)
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    loaded = MaskedLanguageModel.load_from_checkpoint(tmp_path / "saved.ckpt")
    seen = WeightsAtTheStart()
    other = StaticSparsity(sparsity=0.75, initialization="magnitude", parameterization="sparse_mup")
    fit(tmp_path, text_data(), [other, seen], max_steps=1, module=loaded)
    assert_identical(seen.weights, copies(parameters(trainer)))
