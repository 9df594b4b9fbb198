"""Every method through a real trainer: pretraining and finetuning, accumulation, skipped steps, resume, export."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.utils.data import DataLoader
from transformers import AutoModelForMaskedLM, BertConfig, BertForSequenceClassification

from callbacks import (
    GMP,
    SET,
    STE,
    ExportPretrained,
    GlobalRigL,
    Movement,
    OneCycleLR,
    OneShot,
    RandomState,
    RigL,
    SparseTraining,
    StaticSparsity,
)
from datamodules import TextDataModule
from helpers import CONFIG, TinyBertWithMomentum, assert_identical, copies, fit, parameters, tiny_bert, tiny_trainer
from lightning_modules import MaskedLanguageModel
from sparsity import load_masks

Data = Callable[..., TextDataModule]
METHODS: dict[str, Callable[..., SparseTraining]] = {
    "static": StaticSparsity,
    "set": lambda **options: SET(every=3, stop=1.0, **options),
    "rigl": lambda **options: RigL(every=3, stop=1.0, **options),
    "global": lambda **options: GlobalRigL(every=3, stop=1.0, **options),
    "gmp": lambda **options: GMP(every=2, **options),
    "one_shot": lambda **options: OneShot(at=0.5, **options),
    "ste": STE,
    "movement": lambda **options: Movement(every=2, **options),
}
every_method = pytest.mark.parametrize("name", METHODS)
pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed")


def zeros(trainer: Trainer, sparse: SparseTraining) -> int:
    """Zeros of the sparse tensors; what is off is asserted to be among them."""
    weights = parameters(trainer)
    assert not any(weights[name][~mask].any() for name, mask in sparse.masks.items())
    return sum(int((~mask).sum()) for mask in sparse.masks.values())


class SparseBetweenSteps(Callback):
    """Sees the model in forward, validation and at the end of a batch: always the sparse weights."""

    def __init__(self, sparse: SparseTraining) -> None:
        self.sparse, self.seen = sparse, 0

    def look(self, trainer: Trainer, *_: object) -> None:
        weights = parameters(trainer)
        assert not any(weights[name][~mask].any() for name, mask in self.sparse.masks.items())
        self.seen += 1

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        self.look(trainer)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self.look(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.look(trainer)


@every_method
@pytest.mark.parametrize("sgd", [False, True], ids=["adamw", "sgd"])
def test_the_model_is_sparse_between_steps_and_its_export_is_what_was_trained(
    tmp_path: Path, text_data: Data, name: str, sgd: bool
) -> None:
    sparse = METHODS[name](sparsity=0.8)
    looks = SparseBetweenSteps(sparse)
    module = TinyBertWithMomentum(CONFIG) if sgd else tiny_bert()
    callbacks = [looks, sparse, ExportPretrained(at_steps={5: "half"}), OneCycleLR()]
    options = {"limit_val_batches": 1, "val_check_interval": 6, "accumulate_grad_batches": 2, "gradient_clip_val": 1.0}
    trainer = fit(tmp_path, text_data(batch_size=4), callbacks, max_steps=12, module=module, **options)
    assert looks.seen == 2 * 12 * 2 + 4
    size = sum(mask.numel() for mask in sparse.masks.values())
    assert zeros(trainer, sparse) == round(0.8 * size)

    exported = dict(AutoModelForMaskedLM.from_pretrained(tmp_path / "export").named_parameters())
    assert_identical(copies(exported), copies(parameters(trainer)))
    assert_identical(dict(load_masks(tmp_path / "export")), dict(sparse.masks))
    report = json.loads((tmp_path / "export" / "sparsity.json").read_text())
    total = sum(weight.numel() for weight in exported.values())
    assert (report["parameters"], report["nonzeros"]) == (total, total - round(0.8 * size))
    assert report["made_by"]["method"] == type(sparse.method).__name__
    half = dict(AutoModelForMaskedLM.from_pretrained(tmp_path / "half").named_parameters())
    for tensor, mask in load_masks(tmp_path / "half").items():
        assert not half[tensor][~mask].any()


@every_method
def test_resume_is_bit_exact(tmp_path: Path, text_data: Data, name: str) -> None:
    def run(root: Path, ckpt_path: Path | None = None) -> tuple[Trainer, SparseTraining]:
        sparse = METHODS[name](sparsity=0.8, structure={"*attention*": "rows", "*": "unstructured"})
        checkpoint = ModelCheckpoint(root / "saved", filename="{step}", every_n_train_steps=5, save_top_k=-1)
        callbacks = [sparse, OneCycleLR(), RandomState(), checkpoint]
        module = tiny_bert(dropout=0.1)
        options = {"enable_checkpointing": True, "accumulate_grad_batches": 2}
        trainer = fit(root, text_data(), callbacks, 12, module, ckpt_path, seed=0 if ckpt_path is None else 1, **options)
        return trainer, sparse

    whole, first = run(tmp_path / "whole")
    resumed, second = run(tmp_path / "resumed", tmp_path / "whole" / "saved" / "step=5.ckpt")
    assert_identical(parameters(resumed), parameters(whole))
    assert_identical(resumed.optimizers[0].state_dict(), whole.optimizers[0].state_dict())
    assert_identical(dict(second.masks), dict(first.masks))
    assert_identical(dict(second.stepping.explored), dict(first.stepping.explored))
    assert_identical(second.method.memory, first.method.memory)
    assert second.stepping.last_update == first.stepping.last_update
    torch.load(tmp_path / "whole" / "saved" / "step=5.ckpt", weights_only=True)


@pytest.mark.parametrize("name", ["ste", "movement"])
def test_accumulation_of_two_equals_a_batch_twice_as_large(tmp_path: Path, text_data: Data, name: str) -> None:
    weights = []
    for batch_size, accumulate in ((4, 2), (8, 1)):
        sparse = METHODS[name](sparsity=0.8)
        options = {"accumulate_grad_batches": accumulate, "precision": "64-true"}
        trainer = fit(tmp_path, text_data(batch_size=batch_size), [sparse], max_steps=10, **options)
        weights.append(copies(parameters(trainer)) | copies(sparse.method.memory["pruned_values"]))
    torch.testing.assert_close(*weights, rtol=0, atol=1e-9)


class DenseSTE(MaskedLanguageModel):
    """Straight-through training written another way: a forward hook that masks, and a gradient that ignores the mask."""

    nnz: dict[str, int]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        dense = {name: self.model.get_parameter(name) for name in self.nnz}
        sparse = {}
        for name, weight in dense.items():
            threshold = weight.detach().abs().flatten().sort(descending=True).values[self.nnz[name] - 1]
            sparse[name] = weight + (weight.detach() * (weight.detach().abs() >= threshold) - weight.detach())
        positions = (batch["input_ids"], batch["positions"])

        class Head(torch.nn.Module):
            def __init__(self, module: LightningModule) -> None:
                super().__init__()
                self.module = module

            def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
                return self.module.predict_logits(self.module.model, {"input_ids": input_ids, "positions": positions})

        named = {f"module.model.{name}": weight for name, weight in sparse.items()}
        logits = torch.func.functional_call(Head(self), named, positions)
        return self.task_loss(logits, batch)


def test_ste_is_the_straight_through_estimator_of_autograd(tmp_path: Path, text_data: Data) -> None:
    ste = STE(sparsity=0.8)
    trainer = fit(tmp_path, text_data(), [ste], max_steps=8, precision="64-true")
    other = DenseSTE(CONFIG, lr=1e-2, weight_decay=0.1)
    other.nnz = ste.masks.nnz()
    reference = fit(tmp_path, text_data(), [], max_steps=8, module=other, precision="64-true")
    for name, weight in parameters(reference).items():
        mine = parameters(trainer)[name] + ste.method.memory["pruned_values"].get(name, torch.zeros(()))
        torch.testing.assert_close(mine, weight, rtol=0, atol=1e-9)


class Overflow(Callback):
    """An infinite gradient at one optimizer step, as fp16 makes them; before gradients are unscaled."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == self.step:
            next(iter(parameters(trainer).values())).grad.view(-1)[0] = torch.inf


class Fp16(MixedPrecision):
    """Loss scaling on the CPU."""

    def __init__(self) -> None:
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=8.0))


@pytest.mark.parametrize("name", ["rigl", "gmp", "ste", "movement"])
def test_a_step_that_loss_scaling_skips_leaves_sparse_weights(tmp_path: Path, text_data: Data, name: str) -> None:
    sparse = METHODS[name](sparsity=0.8)
    module = TinyBertWithMomentum(CONFIG)
    looks = SparseBetweenSteps(sparse)
    trainer = fit(tmp_path, text_data(), [looks, Overflow(step=4), sparse], max_steps=10, module=module, plugins=[Fp16()])
    assert trainer.precision_plugin.scaler.get_scale() == 4.0  # halved once: the step was skipped
    assert looks.seen == 20
    assert zeros(trainer, sparse) == round(0.8 * sum(mask.numel() for mask in sparse.masks.values()))
    assert all(bool(weight.isfinite().all()) for weight in parameters(trainer).values())


class Choices(Callback):
    """The steps at which masks were chosen."""

    def __init__(self, sparse: SparseTraining) -> None:
        self.sparse, self.steps, self.last = sparse, [], None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.last = self.sparse.stepping.last_update

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if self.sparse.stepping.last_update is not self.last:
            self.steps.append(trainer.global_step - 1)
        self.last = self.sparse.stepping.last_update


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_step_that_loss_scaling_skips_does_not_shift_the_others(tmp_path: Path, text_data: Data, step: int) -> None:
    ste = STE(sparsity=0.8, every=2)
    choices = Choices(ste)
    callbacks = [Overflow(step=step), ste, choices]
    fit(tmp_path, text_data(), callbacks, max_steps=6, module=TinyBertWithMomentum(CONFIG), plugins=[Fp16()])
    assert choices.steps == [1, 3, 5]


class Finetuning(LightningModule):
    """A classifier on random tokens; any module with a Hugging Face ``model`` can be trained sparse."""

    def __init__(self) -> None:
        super().__init__()
        fields = {name: value for name, value in CONFIG.items() if name != "model_type"}
        self.model = BertForSequenceClassification(BertConfig(**fields, vocab_size=50))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.model(input_ids=batch, labels=(batch[:, 0] > 25).long()).loss

    def configure_optimizers(self) -> Optimizer:
        return AdamW(self.parameters(), lr=1e-3)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(torch.randint(50, (40, 8), generator=torch.Generator().manual_seed(0)), batch_size=4)


@every_method
def test_finetuning_by_epochs(tmp_path: Path, name: str) -> None:
    sparse = METHODS[name](sparsity=0.6)
    trainer = tiny_trainer(tmp_path, [sparse], max_steps=-1, max_epochs=2)
    trainer.fit(Finetuning())
    assert trainer.global_step == 20
    assert set(sparse.masks) == {
        name for name, weight in parameters(trainer).items() if "encoder" in name and weight.dim() == 2
    }
    assert zeros(trainer, sparse) == round(0.6 * sum(mask.numel() for mask in sparse.masks.values()))


def test_a_run_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs the length of the run: set trainer.max_steps or trainer.max_epochs"):
        tiny_trainer(tmp_path, [GMP()], max_steps=-1, max_epochs=-1).fit(Finetuning())


def test_what_an_interruption_saves_is_sparse(tmp_path: Path, text_data: Data) -> None:
    class Interruption(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
            if trainer.global_step == 3:
                raise RuntimeError("in the middle of a step")

    ste, module = STE(sparsity=0.8), tiny_bert()
    with pytest.raises(RuntimeError, match="in the middle of a step"):
        fit(tmp_path, text_data(), [ste, Interruption()], max_steps=5, module=module)
    weights = dict(module.model.named_parameters())
    assert not any(weights[name][~mask].any() for name, mask in ste.masks.items())


@pytest.mark.parametrize("sparse", [lambda: GMP(sparsity=0.8), lambda: OneShot(sparsity=0.8, at=0.5)])
def test_a_ramp_cannot_go_on_over_another_length(
    tmp_path: Path, text_data: Data, sparse: Callable[[], SparseTraining]
) -> None:
    """A longer ramp would have to take weights back, a shorter one might never end."""
    trainer = fit(tmp_path, text_data(), [sparse()], max_steps=8, limit_train_batches=4, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    for steps in (6, 16):
        with pytest.raises(ValueError, match=f"ramps over the length of the run: 8 steps when it began, {steps} now"):
            fit(tmp_path, text_data(), [sparse()], max_steps=steps, ckpt_path=tmp_path / "half.ckpt")
    fit(tmp_path, text_data(), [sparse()], max_steps=8, ckpt_path=tmp_path / "half.ckpt")


def test_what_does_not_ramp_can_go_on_for_longer(tmp_path: Path, text_data: Data) -> None:
    for sparse in (OneShot, StaticSparsity, RigL):
        trainer = fit(tmp_path, text_data(), [sparse()], max_steps=3)
        trainer.save_checkpoint(tmp_path / "three.ckpt")
        longer = fit(tmp_path, text_data(), [sparse()], max_steps=5, ckpt_path=tmp_path / "three.ckpt")
        assert longer.global_step == 5


def test_frozen_weights_can_be_held_but_not_regrown(tmp_path: Path, text_data: Data) -> None:
    class HalfFrozen(MaskedLanguageModel):
        def configure_model(self) -> None:
            super().configure_model()
            self.model.base_model.encoder.layer[1].requires_grad_(False)

    for sparse in (StaticSparsity(), GMP(every=1), SET(every=1), STE()):
        trainer = fit(tmp_path, text_data(), [sparse], max_steps=4, module=HalfFrozen(CONFIG))
        assert zeros(trainer, sparse) == round(0.8 * sum(mask.numel() for mask in sparse.masks.values()))
    with pytest.raises(ValueError, match=r"RigL chooses by gradients, and .*layer\.1\..* is frozen"):
        fit(tmp_path, text_data(), [RigL(sparsity=0.5)], max_steps=2, module=HalfFrozen(CONFIG))
