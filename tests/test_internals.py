"""What is private in Lightning, torch and transformers does what it is relied on to do."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import datasets
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.optim import AdamW, Optimizer
from transformers import AutoModel

from datamodules import TextDataModule
from helpers import Recorder, assert_identical, copies, fit, parameters, tiny_bert, tiny_trainer
from internals import (
    CommandLineFirst,
    begin_and_end_always,
    count_epochs,
    dataset_fingerprint,
    draw_anew,
    gradients_in_buckets,
    has_trainer,
    is_accumulating,
    leave_unscaling_to_trainer,
    mark_as_saved,
    wait_at_most,
)

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


def test_a_rank_waits_so_long_for_another_unless_the_strategy_says_how_long(tmp_path: Path) -> None:
    ten, seven, one = (
        tiny_trainer(tmp_path, [], 1, strategy=strategy) for strategy in ("ddp", DDPStrategy(timeout=timedelta(7)), "auto")
    )
    for trainer in (ten, seven, one):
        wait_at_most(trainer, 10)
    assert ten.strategy._timeout == timedelta(seconds=10)
    assert seven.strategy._timeout == timedelta(7)
    assert not hasattr(one.strategy, "_timeout")


def test_gradients_are_the_buffers_that_ddp_sends_unless_the_strategy_says_otherwise(tmp_path: Path) -> None:
    ours, told, one = (
        tiny_trainer(tmp_path, [], 1, strategy=strategy)
        for strategy in ("ddp", DDPStrategy(gradient_as_bucket_view=False), "auto")
    )
    for trainer in (ours, told, one):
        gradients_in_buckets(trainer)
    assert [trainer.strategy._ddp_kwargs["gradient_as_bucket_view"] for trainer in (ours, told)] == [True, False]
    assert not hasattr(one.strategy, "_ddp_kwargs")


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


class Micro(Callback):
    """Whether each micro-batch is the last of its optimizer step."""

    def __init__(self) -> None:
        self.accumulating: list[bool] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self.accumulating.append(is_accumulating(trainer))


def test_the_last_micro_batch_of_a_step_is_known(tmp_path: Path, text_data: Data) -> None:
    micro = Micro()
    fit(tmp_path, text_data(), [micro], max_steps=2, accumulate_grad_batches=3)
    assert micro.accumulating == [True, True, False] * 2


def test_a_module_knows_whether_it_has_a_trainer(tmp_path: Path, text_data: Data) -> None:
    module = tiny_bert()
    assert not has_trainer(module)
    fit(tmp_path, text_data(), [], max_steps=1, module=module)
    assert has_trainer(module)


def test_a_fit_of_epochs_with_a_number_of_steps_is_resumed_as_one_of_epochs(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, [], max_steps=4)
    assert trainer.fit_loop._iteration_based_training()
    count_epochs(trainer)
    assert not trainer.fit_loop._iteration_based_training()


def test_weights_that_were_loaded_are_drawn_anew(encoder_dir: Path) -> None:
    model = AutoModel.from_pretrained(encoder_dir)
    layer = model.encoder.layer[1].output.dense
    before, others = layer.weight.detach().clone(), model.encoder.layer[0].output.dense.weight.detach().clone()
    torch.manual_seed(0)
    draw_anew(model, layer)
    assert not torch.equal(layer.weight, before)
    assert float(layer.weight.std()) == pytest.approx(model.config.initializer_range, rel=0.1)
    assert not layer.bias.any()
    assert torch.equal(model.encoder.layer[0].output.dense.weight, others)


def test_the_fingerprint_of_rows_changes_with_them_alone(tmp_path: Path) -> None:
    for name, rows in {"one": ["a", "b"], "same": ["a", "b"], "other": ["a", "c"]}.items():
        datasets.Dataset.from_dict({"text": rows}).save_to_disk(tmp_path / name)
    one, same, other = (
        dataset_fingerprint(datasets.load_from_disk(str(tmp_path / name))) for name in ("one", "same", "other")
    )
    assert one == same
    assert one != other


def test_the_command_line_is_not_replaced_by_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning would put the hyper-parameters of the checkpoint over it."""

    class Module(LightningModule):
        def __init__(self, width: int = 1) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.layer = nn.Linear(1, 1)

    checkpoint = {
        "hyper_parameters": {"width": 5},
        "pytorch-lightning_version": "2.6.0",
        "state_dict": Module().state_dict(),
    }
    torch.save(checkpoint, tmp_path / "five.ckpt")
    monkeypatch.setattr(LightningCLI, "_run_subcommand", lambda *_: None)
    arguments = ["validate", "--model.width=3", f"--ckpt_path={tmp_path / 'five.ckpt'}"]
    widths = [
        kind(Module, args=arguments, save_config_callback=None).model.hparams["width"]
        for kind in (LightningCLI, CommandLineFirst)
    ]
    assert widths == [5, 3]  # or Lightning leaves it alone now
