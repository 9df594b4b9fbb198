"""One trainer, one module or one callback in several fits of a program: each is as it would be alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging
from transformers import AutoModelForMaskedLM

from callbacks import SET, ExportPretrained, FinalValidation, LRRangeTest, RigL, StaticSparsity
from datamodules import TextDataModule
from helpers import assert_identical, copies, fit, parameters, tiny_bert, tiny_trainer
from lightning_modules import MaskedLanguageModel
from sparsity import load_masks

Data = Callable[..., TextDataModule]


def test_a_module_is_validated_fitted_and_validated(tmp_path: Path, text_data: Data) -> None:
    """What a validation has kept under inference mode, a fit could not go on with."""
    module, trainer = tiny_bert(), tiny_trainer(tmp_path, [], 3, limit_val_batches=2)
    ((before),) = trainer.validate(module, text_data(), verbose=False)
    trainer.fit(module, text_data())
    during = float(trainer.callback_metrics["val/loss"])
    ((after),) = trainer.validate(module, text_data(), verbose=False)
    assert before["val/loss"] > during == pytest.approx(after["val/loss"], abs=1e-6)


def test_masks_go_on_where_the_same_module_is_fitted_again(tmp_path: Path, text_data: Data) -> None:
    module, rigl = tiny_bert(), RigL(every=2, stop=1.0)
    fit(tmp_path, text_data(), [rigl], max_steps=3, module=module)
    before = dict(rigl.masks)
    fit(tmp_path, text_data(), [rigl], max_steps=1, module=module)  # before the first update
    assert_identical(dict(rigl.masks), before)


def test_masks_are_drawn_for_each_module_with_the_seed_of_its_run(tmp_path: Path, text_data: Data) -> None:
    rigl, masks = StaticSparsity(), []
    for seed in 0, 0, 1:
        trainer = fit(tmp_path, text_data(), [rigl], max_steps=2, seed=seed)
        masks.append(dict(rigl.masks))
    assert_identical(masks[1], masks[0])
    assert any((masks[2][name] != masks[0][name]).any() for name in masks[0])
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    resumed = StaticSparsity()
    fit(tmp_path, text_data(), [resumed], max_steps=3, ckpt_path=tmp_path / "two.ckpt", seed=0)
    assert_identical(dict(resumed.masks), masks[2])
    fit(tmp_path, text_data(), [resumed], max_steps=3, seed=0)
    assert_identical(dict(resumed.masks), masks[0])


def test_a_trainer_holds_the_zeros_of_each_model_that_it_trains(tmp_path: Path, text_data: Data) -> None:
    for seed in 1, 2:
        sparse = StaticSparsity(sparsity=0.8, seed=seed)
        fit(tmp_path / str(seed), text_data(), [sparse, ExportPretrained()], max_steps=1)
    fit(tmp_path / "0", text_data(), [ExportPretrained()], max_steps=1)
    trainer = tiny_trainer(tmp_path, [], 2)
    for count, name in enumerate(("1", "2", "0"), start=1):
        trainer.fit_loop.epoch_loop.max_steps = 2 * count
        trainer.fit(MaskedLanguageModel(pretrained=str(tmp_path / name / "export")), text_data())
        masks = load_masks(tmp_path / name / "export") or {}
        for tensor, mask in masks.items():
            assert not parameters(trainer)[tensor][~mask].any()
            assert int(parameters(trainer)[tensor].count_nonzero()) == int(mask.sum())
    assert not masks
    assert all(
        weight.count_nonzero() > 0.9 * weight.numel() for name, weight in parameters(trainer).items() if "query.w" in name
    )


class Validations(Callback):
    """The step of every validation."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps.append(trainer.global_step)


def test_a_range_test_and_a_last_validation_begin_anew(tmp_path: Path, text_data: Data) -> None:
    ranges, last, validations = LRRangeTest(min_lr=1e-4, max_lr=1e-2), FinalValidation(), Validations()
    for fits in 1, 2:
        callbacks = [ranges, last, validations]
        fit(tmp_path, text_data(), callbacks, 3, tiny_bert(lr=None), limit_val_batches=1, val_check_interval=2)
        assert len(ranges.losses) == 3
        assert validations.steps == [2, 3] * fits


def test_a_mean_of_weights_is_sparse_too(tmp_path: Path, text_data: Data) -> None:
    sparse, mean = SET(sparsity=0.8, every=2, stop=1.0, drop_fraction=0.5), EMAWeightAveraging(decay=0.9)
    options = {"max_steps": 20, "limit_val_batches": 1, "val_check_interval": 5}
    with pytest.raises(ValueError, match="put WeightAveraging before SET"):
        fit(tmp_path, text_data(), [sparse, mean, ExportPretrained()], **options)
    fit(tmp_path, text_data(), [mean, sparse, ExportPretrained()], **options)
    exported = dict(AutoModelForMaskedLM.from_pretrained(tmp_path / "export").named_parameters())
    for name, mask in load_masks(tmp_path / "export").items():
        assert not exported[name][~mask].any()
    plain = SET(sparsity=0.8, every=2, stop=1.0, drop_fraction=0.5)
    trainer = fit(tmp_path, text_data(), [plain], max_steps=20)
    last = copies(parameters(trainer))
    assert any((last[name] != weight).any() for name, weight in exported.items())  # a mean it is
