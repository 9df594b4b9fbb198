"""Every method in every precision: with a teacher, clipping, accumulation, a resume in the middle and an export."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.precision import MixedPrecision
from transformers import AutoModelForMaskedLM

from callbacks import ExportPretrained, KnowledgeDistillation, OneCycleLR, RandomState, SparseTraining
from datamodules import TextDataModule
from helpers import assert_identical, fit, parameters, tiny_bert
from sparsity import load_masks, methods

Data = Callable[..., TextDataModule]
METHODS: dict[str, Callable[[], methods.SparseMethod]] = {
    "static": lambda: methods.Static(sparsity=0.8),
    "set": lambda: methods.SET(sparsity=0.8, every=3, stop=1.0),
    "rigl": lambda: methods.RigL(sparsity=0.8, every=3, stop=1.0),
    "rigl_blocks": lambda: methods.RigL(sparsity=0.75, every=3, stop=1.0, structure="4x4"),
    "global_rigl": lambda: methods.GlobalRigL(sparsity=0.8, every=3, stop=1.0),
    "gmp": lambda: methods.GMP(sparsity=0.8, every=2),
    "one_shot": lambda: methods.OneShot(sparsity=0.8, at=0.5),
    "ste": lambda: methods.STE(sparsity=0.8),
    "movement": lambda: methods.Movement(sparsity=0.8, every=2),
}
PRECISIONS = {
    "32-true": torch.float32,
    "bf16-mixed": torch.float32,
    "16-mixed": torch.float32,
    "bf16-true": torch.bfloat16,
}
CLIP = 0.1

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:.*lr_scheduler.step.*before.*")


def of(precision: str) -> dict[str, Any]:
    """Arguments of a trainer; fp16 with loss scaling has to be put in by hand on the CPU."""
    if precision == "16-mixed":
        return {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10))]}
    return {"precision": precision}


class Gradients(Callback):
    """Norms of what the optimizer steps by, and whether anything of it belongs to a weight that is off."""

    def __init__(self, sparse: SparseTraining) -> None:
        self.sparse, self.norms = sparse, list[float]()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        clip = pl_module.configure_gradient_clipping

        def clip_and_look(*arguments: Any, **settings: Any) -> None:
            clip(*arguments, **settings)
            self.look(pl_module)

        pl_module.configure_gradient_clipping = clip_and_look

    def look(self, pl_module: LightningModule) -> None:
        gradients = {name: weight.grad for name, weight in pl_module.model.named_parameters() if weight.grad is not None}
        if gradients:
            self.norms.append(float(torch.stack([gradient.float().norm() for gradient in gradients.values()]).norm()))
        if not isinstance(self.sparse.method, methods.STE):  # whose dense weights have gradients
            assert not any(gradients[name][~mask].any() for name, mask in self.sparse.masks.items() if name in gradients)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_method_in_every_precision(
    tmp_path: Path, text_data: Data, encoder_dir: Path, name: str, precision: str
) -> None:
    def run(root: Path, ckpt_path: Path | None = None) -> tuple[Trainer, SparseTraining, Gradients]:
        sparse = SparseTraining(METHODS[name]())
        gradients = Gradients(sparse)
        saved = ModelCheckpoint(root / "saved", filename="{step}", every_n_train_steps=4, save_top_k=-1)
        teacher = KnowledgeDistillation(str(encoder_dir), factor=0.5)
        callbacks = [OneCycleLR(), teacher, sparse, RandomState(), gradients, ExportPretrained(str(root)), saved]
        options = {"accumulate_grad_batches": 2, "gradient_clip_val": CLIP, "enable_checkpointing": True, **of(precision)}
        data, module = text_data(batch_size=4), tiny_bert(dropout=0.1)
        return fit(root, data, callbacks, 10, module, ckpt_path, **options), sparse, gradients

    whole, sparse, gradients = run(tmp_path / "whole")
    weights, stepping = parameters(whole), sparse.stepping
    assert {weight.dtype for weight in weights.values()} == {PRECISIONS[precision]}
    assert all(bool(weight.isfinite().all()) for weight in weights.values())
    skipped = 2 if name in ("set", "rigl", "rigl_blocks", "global_rigl") else 0  # at steps 3, 6 and 9, the last one of which
    assert len(gradients.norms) in (10 - skipped, 10 - skipped - 1)  # replaces nothing as f(T_end) is small
    assert max(gradients.norms) <= CLIP * 1.01
    assert min(gradients.norms) > 0.5 * CLIP
    size = sum(mask.numel() for mask in sparse.masks.values())
    assert sum(sparse.masks.nnz().values()) == size - round(sparse.method.sparsity * size)
    assert not any(weights[tensor][~mask].any() for tensor, mask in sparse.masks.items())
    assert bool(stepping.last_update) == (name != "static")

    resumed, other, _ = run(tmp_path / "resumed", tmp_path / "whole" / "saved" / "step=4.ckpt")
    assert_identical(parameters(resumed), weights)
    assert_identical(dict(other.masks), dict(sparse.masks))
    assert_identical(other.method.memory, sparse.method.memory)
    assert_identical(resumed.optimizers[0].state_dict(), whole.optimizers[0].state_dict())

    exported = AutoModelForMaskedLM.from_pretrained(tmp_path / "whole" / "export", dtype=torch.float32)
    for tensor, mask in load_masks(tmp_path / "whole" / "export").items():
        assert not exported.get_parameter(tensor)[~mask].any()
        assert torch.equal(exported.get_parameter(tensor), weights[tensor].float())
