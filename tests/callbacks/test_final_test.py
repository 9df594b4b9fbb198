"""The final weights are scored once on documents that nobody chose on, and training does not notice."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from callbacks import ExportPretrained, FinalTest, FinalValidation, OneCycleLR, RandomState, RigL, RunSummary
from datamodules import GLUEDataModule, TextDataModule
from helpers import fit, parameters, tiny_bert, tiny_trainer
from lightning_modules import MaskedLanguageModel, SequenceClassifier
from run_record import RunRecord

Data = Callable[..., TextDataModule]
FIGURES = ("loss", "perplexity", "loss_per_word", "loss_per_character")

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:.*is not empty")


class Seen(Callback):
    """The step of every test."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps.append(trainer.global_step)


def run(
    root: Path, data: TextDataModule, *further: Callback, test: bool = True, every: int = 2, **options: Any
) -> tuple[Trainer, list[int]]:
    """Six steps with dropout, saved as a run of the command line is; and the steps of its tests."""
    tests = Seen()
    callbacks = [
        *(RigL(every=2, stop=1.0), OneCycleLR(), RandomState(), FinalValidation(), *([FinalTest()] if test else [])),
        *(*further, tests, RunSummary()),
        ModelCheckpoint(root / "checkpoints", filename="{step}", every_n_train_steps=every, save_top_k=-1, save_last=True),
    ]
    settings = {"max_steps": 6, "val_check_interval": 4, "limit_val_batches": 1.0, "enable_checkpointing": True} | options
    settings["module"] = settings.get("module") or tiny_bert(dropout=0.1)
    return fit(root, data, callbacks, seed=0 if "ckpt_path" not in settings else 1, **settings), tests.steps


def read(root: Path) -> RunRecord:
    return RunRecord.read(root / "summary.json")


def of_test(record: RunRecord) -> dict[str, float | None]:
    return {name: getattr(record, f"test_{name}") for name in FIGURES}


def test_the_final_weights_are_scored_on_the_test_split(tmp_path: Path, text_data: Data) -> None:
    data = text_data(test_share=0.2)
    trainer, tests = run(tmp_path, data, ExportPretrained())
    assert tests == [6]
    record = read(tmp_path)
    again = tiny_trainer(tmp_path, [], 1)
    module = MaskedLanguageModel(pretrained=str(tmp_path / "export"))
    (metrics,) = again.test(module, text_data(test_share=0.2, eval_batch_size=3), verbose=False)
    assert of_test(record) == {name: pytest.approx(metrics[f"test/{name}"], rel=1e-6) for name in FIGURES}
    assert record.test_loss != record.eval_loss
    assert record.eval_loss == float(trainer.callback_metrics["val/loss"])
    assert record.loss_per_word == float(trainer.callback_metrics["val/loss_per_word"])
    assert record.loss_per_character == float(trainer.callback_metrics["val/loss_per_character"])
    assert (trainer.state.fn, trainer.lightning_module.training) == ("fit", True)


def test_what_is_no_test_split_is_not_tested(
    tmp_path: Path, text_data: Data, glue_data: Callable[..., GLUEDataModule], encoder_dir: Path
) -> None:
    _, tests = run(tmp_path, text_data())
    assert (tests, set(of_test(read(tmp_path)).values())) == ([], {None})
    of_glue = Seen()
    fit(
        tmp_path,
        glue_data("RTE"),
        [FinalTest(), of_glue],
        1,
        module=SequenceClassifier(str(encoder_dir)),
        limit_val_batches=1,
    )
    assert of_glue.steps == []


@pytest.mark.parametrize("every", [2, 1000])
def test_checkpoints_weights_and_validation_are_those_of_a_run_without_it(
    tmp_path: Path, text_data: Data, every: int
) -> None:
    """Also the checkpoint that is written when training has ended, because none was due before."""
    found = []
    for test in (True, False):
        root = tmp_path / str(test)
        trainer, _ = run(root, text_data(test_share=0.2), test=test, every=every)
        checkpoint = torch.load(root / "checkpoints" / "last.ckpt", weights_only=False)
        assert checkpoint["global_step"] == 6
        assert checkpoint["callbacks"].pop("FinalTest", None) is None
        for taken in ("seconds", "train_seconds"):
            del checkpoint["callbacks"]["RunSummary"][taken]
        (saved,) = (key for key in checkpoint["callbacks"] if key.startswith("ModelCheckpoint"))
        del checkpoint["callbacks"][saved]  # the names of its files
        found.append((leaves(checkpoint), leaves(dict(parameters(trainer))), read(root).eval_loss))
    assert found[0] == found[1]


def leaves(value: Any) -> Any:
    """A nested structure with its tensors as bytes, so that it can be compared."""
    if isinstance(value, torch.Tensor):
        return value.detach().numpy().tobytes()
    if isinstance(value, dict):
        return {key: leaves(entry) for key, entry in value.items()}
    return [leaves(entry) for entry in value] if isinstance(value, list | tuple) else value


def test_a_run_that_had_finished_keeps_its_test_and_one_that_goes_on_is_tested_anew(tmp_path: Path, text_data: Data) -> None:
    data = text_data(test_share=0.2)
    run(tmp_path, data)
    first, last = of_test(read(tmp_path)), tmp_path / "checkpoints" / "last.ckpt"
    for _ in range(2):
        _, tests = run(tmp_path, data, ckpt_path=last)
        assert (tests, of_test(read(tmp_path))) == ([], first)
    _, tests = run(tmp_path, data, ckpt_path=tmp_path / "checkpoints" / "step=2.ckpt")
    assert tests == [6]
    assert of_test(read(tmp_path)) == first
    _, tests = run(tmp_path / "other", data, ckpt_path=last)  # in a directory that knows nothing of it
    assert (tests, of_test(read(tmp_path / "other"))) == ([6], first)


def test_only_a_run_that_has_finished_has_a_test(tmp_path: Path, text_data: Data) -> None:
    """While it goes on, that of the weights before says nothing."""
    seen: list[RunRecord] = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
            seen.append(read(tmp_path))

    trainer, _ = run(tmp_path, text_data(test_share=0.2))
    trainer.save_checkpoint(tmp_path / "checkpoints" / "end.ckpt")
    callbacks: list[Callback] = [RandomState(), FinalValidation(), FinalTest(), RunSummary(), Watch()]
    fit(tmp_path, text_data(test_share=0.2), callbacks, 7, tiny_bert(dropout=0.1), tmp_path / "checkpoints" / "end.ckpt")
    assert [(record.status, record.test_loss) for record in seen] == [("running", None)]
    assert read(tmp_path).test_loss is not None


def test_the_test_is_no_training(tmp_path: Path, text_data: Data) -> None:
    class Slow(Callback):
        def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert not pl_module.model.training
            time.sleep(0.5)

    run(tmp_path, text_data(test_share=0.2), Slow(), limit_val_batches=0)
    record = read(tmp_path)
    assert record.seconds - record.train_seconds > 0.5
    assert (record.eval_loss, record.test_loss is None) == (None, False)


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")
@pytest.mark.filterwarnings("ignore:.*")
def test_two_processes_find_what_one_does(tmp_path: Path, text_data: Data) -> None:
    """And know together that a run had finished."""
    options = {"test_share": 0.2, "eval_batch_size": 3}
    run(tmp_path / "one", text_data(**options), module=tiny_bert())
    ranks: dict[str, Any] = {"strategy": "ddp_fork", "devices": 2}
    run(tmp_path / "two", text_data(batch_size=4, **options), module=tiny_bert(), **ranks)
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    assert of_test(two) == {name: pytest.approx(value, abs=1e-3) for name, value in of_test(one).items()}
    assert two.eval_loss == pytest.approx(one.eval_loss, abs=1e-4)

    class Forbidden(Callback):
        def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            raise AssertionError("tested again")

    last = tmp_path / "two" / "checkpoints" / "last.ckpt"
    run(tmp_path / "two", text_data(batch_size=4, **options), Forbidden(), module=tiny_bert(), ckpt_path=last, **ranks)
    assert of_test(read(tmp_path / "two")) == of_test(two)

    module = MaskedLanguageModel(pretrained=str(tmp_path / "export"))
    fit(tmp_path, text_data(**options), [ExportPretrained()], 1)
    (alone,) = tiny_trainer(tmp_path, [], 1).test(module, text_data(**options), verbose=False)
    pair = tiny_trainer(tmp_path, [Written(tmp_path)], 1, **ranks)
    pair.test(MaskedLanguageModel(pretrained=str(tmp_path / "export")), text_data(**options), verbose=False)
    assert torch.load(tmp_path / "metrics.pt") == {name: pytest.approx(value, rel=1e-6) for name, value in alone.items()}


class Written(Callback):
    """What rank zero has found, in a file: with the fork of a rank everything else goes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            torch.save({name: float(value) for name, value in trainer.callback_metrics.items()}, self.root / "metrics.pt")
