"""What is private in Lightning and transformers does what it is relied on to do."""

from collections.abc import Callable
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from datamodules import TextDataModule
from helpers import fit
from internals import begin_and_end_always, mark_as_saved

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
