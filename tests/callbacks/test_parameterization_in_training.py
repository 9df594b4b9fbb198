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
