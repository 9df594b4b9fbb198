"""What is private in Lightning, torch and transformers does what it is relied on to do."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn
from torch.optim import AdamW, Optimizer

from datamodules import TextDataModule
from helpers import Recorder, assert_identical, copies, fit, parameters
from internals import begin_and_end_always, leave_unscaling_to_trainer, mark_as_saved

Data = Callable[..., TextDataModule]


class Ends(Callback):
    """Which of the ends of training have been seen, and how many batches between them."""

    def __init__(self, always: bool) -> None:
        self.always, self.seen, self.batches = always, list[str](), 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.always:
            begin_and_end_always(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen.append("start")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self.batches += 1

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen.append("end")


def test_a_fit_without_a_step_to_make_begins_and_ends(tmp_path: Path, text_data: Data) -> None:
    fit(tmp_path, text_data(), [], max_steps=2).save_checkpoint(tmp_path / "last.ckpt")
    for always, steps, batches in ((False, 2, 0), (True, 2, 0), (True, 3, 1)):
        ends = Ends(always)
        fit(tmp_path, text_data(), [ends], max_steps=steps, ckpt_path=tmp_path / "last.ckpt")
        assert ends.seen == (["start", "end"] if always else [])  # or Lightning calls them by itself now
        assert ends.batches == batches
    nothing = Ends(always=True)
    fit(tmp_path, text_data(), [nothing], max_steps=2, limit_train_batches=0)
    assert nothing.seen == []


class Marked(Callback):
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for checkpoint in trainer.checkpoint_callbacks:
            mark_as_saved(checkpoint, trainer.global_step)


def test_a_checkpoint_that_is_there_is_not_written_again(tmp_path: Path, text_data: Data) -> None:
    def run(*further: Callback, **options: object) -> list[int]:
        saved = ModelCheckpoint(tmp_path / "saved", filename="{step}", every_n_train_steps=2, save_last=True, save_top_k=-1)
        callbacks = [saved, Ends(always=True), *further]
        fit(tmp_path, text_data(), callbacks, max_steps=2, enable_checkpointing=True, **options)
        return [file.stat().st_mtime_ns for file in sorted((tmp_path / "saved").iterdir())]

    written = run(Marked())
    assert len(written) == 2
    last = tmp_path / "saved" / "last.ckpt"
    assert run(Marked(), ckpt_path=last) == written
    assert run(ckpt_path=last) != written


SCALE = 1024.0


def mixed(precision: str) -> MixedPrecision:
    """Mixed precision on the CPU; loss scaling by ``SCALE`` with fp16."""
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE) if precision == "16-mixed" else None
    return MixedPrecision(precision, "cpu", scaler)


class Norms(Callback):
    """Norms of all gradients, before clipping and as the optimizer has seen them; an infinite gradient at step ``overflow``."""

    def __init__(self, overflow: int | None = None) -> None:
        self.overflow, self.before, self.seen = overflow, list[float](), list[float]()
        self.weights: list[dict[str, torch.Tensor]] = []

    def norm(self, optimizer: Optimizer) -> float:
        weights = (weight for group in optimizer.param_groups for weight in group["params"])
        return float(nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None]))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.fused = [group["fused"] for group in trainer.optimizers[0].param_groups]
        trainer.optimizers[0].register_step_post_hook(lambda optimizer, *_: self.seen.append(self.norm(optimizer)))

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == self.overflow:
            next(iter(parameters(trainer).values())).grad.view(-1)[0] = torch.inf

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self.before.append(self.norm(optimizer))
        self.weights.append(copies(parameters(trainer)))


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_gradients_of_a_fused_optimizer_are_unscaled_and_clipped(tmp_path: Path, text_data: Data, precision: str) -> None:
    single, norms = Norms(), Norms()
    fit(tmp_path, text_data(), [single], max_steps=4, gradient_clip_val=0.5)
    trainer = fit(tmp_path, text_data(), [norms], max_steps=4, gradient_clip_val=0.5, plugins=[mixed(precision)])
    assert all(norms.fused)
    assert min(norms.before) > 0.5
    assert norms.before == pytest.approx(single.before, rel=0.02)  # half the digits, and no factor
    assert norms.seen == pytest.approx([0.5] * 4, rel=1e-4)

    trainer.save_checkpoint(tmp_path / "four.ckpt")
    further = Norms()
    options = {"gradient_clip_val": 0.25, "plugins": [mixed(precision)], "ckpt_path": tmp_path / "four.ckpt"}
    fit(tmp_path, text_data(), [further], max_steps=6, **options)
    assert further.seen == pytest.approx([0.25] * 2, rel=1e-4)


def test_a_gradient_that_is_not_finite_skips_the_step_of_a_fused_optimizer(tmp_path: Path, text_data: Data) -> None:
    norms, losses, plugin = Norms(overflow=2), Recorder(), mixed("16-mixed")
    trainer = fit(tmp_path, text_data(), [norms, losses], max_steps=5, gradient_clip_val=0.5, plugins=[plugin])
    assert plugin.scaler.get_scale() == SCALE / 2
    assert len(norms.seen) == 4
    before, after = norms.weights[2:4]
    assert_identical(after, before)
    assert not torch.equal(*(next(iter(weights.values())) for weights in (norms.weights[1], before)))
    state = trainer.optimizers[0].state.values()
    assert {float(moments["step"]) for moments in state} == {4.0}
    assert all(bool(weight.isfinite().all()) for weight in parameters(trainer).values())


def test_the_mark_that_keeps_lightning_from_clipping_is_what_is_taken_away() -> None:
    plugin, marks = mixed("bf16-mixed"), []
    for mend in (lambda optimizer: None, leave_unscaling_to_trainer):
        weight = nn.Parameter(torch.zeros(4))
        optimizer = AdamW([weight], fused=True)
        mend(optimizer)
        weight.grad = torch.full((4,), 3.0)
        try:
            plugin.clip_gradients(optimizer, 1.5)
            marks.append(float(weight.grad.norm()))
        except RuntimeError as error:
            marks.append(str(error).split(",")[0])
    assert marks == ["The current optimizer", pytest.approx(1.5, rel=1e-5)]
