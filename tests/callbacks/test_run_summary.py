"""``summary.json`` is the contract between a run and its readers."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from callbacks import GMP, LRRangeTest, OneCycleLR, RandomState, RigL, RunSummary
from datamodules import TextDataModule
from helpers import Recorder, fit, parameters

Data = Callable[..., TextDataModule]

ALWAYS = {
    *("status", "steps", "tokens", "seconds", "tokens_per_second", "parameters", "nonzeros", "sparsity"),
    *("flops_per_step", "peak_memory_mb", "versions", "command"),
}
OF_LOGGER_AND_SEED = {"experiment", "seed"}
OF_VALIDATION = {"eval_loss", "perplexity", "unigram_loss", "eval_step"}


def read(root: Path) -> dict[str, Any]:
    return json.loads((root / "summary.json").read_text())


def test_keys_and_values_of_a_finished_run(tmp_path: Path, text_data: Data) -> None:
    logger, rigl = TensorBoardLogger(tmp_path, name="sparse_80"), RigL(sparsity=0.8)
    trainer = fit(
        tmp_path,
        text_data(),
        [rigl, RunSummary()],
        max_steps=4,
        accumulate_grad_batches=2,
        limit_val_batches=2,
        logger=logger,
    )
    summary = read(Path(logger.log_dir))
    assert summary.keys() - {"revision"} == ALWAYS | OF_LOGGER_AND_SEED | OF_VALIDATION | {"average_density"}
    assert summary["status"] == "finished"
    assert (summary["experiment"], summary["seed"]) == ("sparse_80", 0)
    assert (summary["steps"], summary["eval_step"]) == (4, 4)
    assert summary["tokens"] == 4 * 2 * 8 * 16
    assert summary["tokens_per_second"] * (summary["seconds"] + 0.01) >= summary["tokens"]  # validation is not in the rate
    assert summary["average_density"] == pytest.approx(0.2, abs=1e-4)
    metrics = trainer.callback_metrics
    assert summary["eval_loss"] == pytest.approx(float(metrics["val/loss"]))
    assert summary["perplexity"] == pytest.approx(float(metrics["val/perplexity"]))
    assert summary["unigram_loss"] == pytest.approx(float(metrics["val/unigram_loss"]))


def test_counts_of_weights_are_exact(tmp_path: Path, text_data: Data) -> None:
    targets = ("*.encoder.*.weight", "*word_embeddings.weight")
    rigl = RigL(sparsity=0.8, every=2, stop=1.0, targets=targets)
    trainer = fit(tmp_path, text_data(), [rigl, RunSummary()], max_steps=4)
    summary, weights = read(tmp_path), parameters(trainer)
    masked = sum(mask.numel() for mask in rigl.masks.values())
    total = sum(weight.numel() for weight in weights.values())
    assert (summary["parameters"], summary["nonzeros"]) == (total, total - round(0.8 * masked))
    parts = {"model": "", "encoder": "bert.encoder.", "embeddings": "bert.embeddings."}
    assert summary["sparsity"].keys() == parts.keys()
    for part, prefix in parts.items():
        counted = {name: weight for name, weight in weights.items() if name.startswith(prefix)}
        size = sum(weight.numel() for weight in counted.values() if part != "encoder" or weight.dim() == 2)
        zeros = sum(int((~mask).sum()) for name, mask in rigl.masks.items() if name.startswith(prefix))
        assert summary["sparsity"][part] == zeros / size


def test_what_has_no_meaning_is_absent(tmp_path: Path, text_data: Data) -> None:
    fit(tmp_path, text_data(), [RunSummary()], max_steps=2)
    summary = read(tmp_path)
    assert summary.keys() - {"revision"} == ALWAYS | {"seed"}
    assert summary["nonzeros"] == summary["parameters"]
    assert summary["sparsity"] == {"model": 0.0, "encoder": 0.0, "embeddings": 0.0}
    assert summary["versions"]["torch"] == torch.__version__


def test_flops_of_a_step_are_those_of_its_matrix_products(tmp_path: Path, text_data: Data) -> None:
    fit(tmp_path, text_data(), [RunSummary()], max_steps=1, accumulate_grad_batches=2)
    batch, length, masked, hidden, inner, vocabulary = 8, 16, 2, 32, 64, 120
    linear = 2 * 2 * batch * length * (4 * hidden * hidden + 2 * hidden * inner)
    head = 2 * batch * masked * hidden * (hidden + vocabulary)
    attention = 2 * 2 * 2 * batch * length * length * hidden
    # the backward pass has two products for each of the forward pass, and fused attention computes its scores again
    assert read(tmp_path)["flops_per_step"] == 2 * (3 * (linear + head) + 3.5 * attention)


class At(Callback):
    """Does something when a step has been made."""

    def __init__(self, step: int, action: Callable[[Trainer], None]) -> None:
        self.step, self.action = step, action

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            self.action(trainer)


def crash(trainer: Trainer) -> None:
    raise RuntimeError("out of luck")


def interrupt(trainer: Trainer) -> None:
    raise KeyboardInterrupt


def stop_early(trainer: Trainer) -> None:
    trainer.should_stop = True


def test_status_from_running_to_finished(tmp_path: Path, text_data: Data) -> None:
    seen = []
    watch = At(2, lambda trainer: seen.append(read(tmp_path)))
    fit(tmp_path, text_data(), [RunSummary(), watch], max_steps=4, val_check_interval=2, limit_val_batches=1)
    assert [(summary["status"], summary["steps"], summary["eval_step"]) for summary in seen] == [("running", 2, 2)]
    assert (read(tmp_path)["status"], read(tmp_path)["steps"]) == ("finished", 4)


@pytest.mark.parametrize(
    ("action", "exception", "status"),
    [(crash, RuntimeError, "failed"), (interrupt, (KeyboardInterrupt, SystemExit), "stopped")],
)
def test_status_of_a_run_that_ends_with_an_exception(
    tmp_path: Path, text_data: Data, action: Callable[[Trainer], None], exception: type[BaseException], status: str
) -> None:
    with pytest.raises(exception):
        fit(tmp_path, text_data(), [RunSummary(), At(2, action)], max_steps=4)
    summary = read(tmp_path)
    assert (summary["status"], summary["steps"], summary["tokens"]) == (status, 2, 2 * 8 * 16)
    assert summary.get("error") == ("RuntimeError: out of luck" if status == "failed" else None)


def test_status_of_a_run_that_stops_early(tmp_path: Path, text_data: Data) -> None:
    fit(tmp_path, text_data(), [RunSummary(), At(2, stop_early)], max_steps=9)
    assert (read(tmp_path)["status"], read(tmp_path)["steps"]) == ("stopped", 3)


def test_the_summary_goes_on_across_a_resume(tmp_path: Path, text_data: Data) -> None:
    """Steps 1 to 3 take a second at least; a checkpoint after them; then three more."""
    pause = At(2, lambda trainer: time.sleep(1.0))
    callbacks = [RunSummary(), pause, RigL(every=2), OneCycleLR(), RandomState()]
    trainer = fit(tmp_path, text_data(), callbacks, max_steps=6, limit_train_batches=3, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    half = read(tmp_path)
    assert half["status"] == "stopped"

    recorder = Recorder()
    callbacks = [RunSummary(), recorder, RigL(every=2), OneCycleLR(), RandomState()]
    fit(tmp_path, text_data(), callbacks, max_steps=6, ckpt_path=tmp_path / "half.ckpt")
    whole = read(tmp_path)
    assert len(recorder.losses) == 3
    assert (whole["status"], whole["steps"], whole["tokens"]) == ("finished", 6, 6 * 8 * 16)
    assert whole["seconds"] > half["seconds"] > 1.0
    assert whole["flops_per_step"] == half["flops_per_step"]


def test_a_checkpoint_in_the_middle_of_a_run_holds_the_time_until_then(tmp_path: Path, text_data: Data) -> None:
    def pause_and_save(trainer: Trainer) -> None:
        time.sleep(0.5)
        trainer.save_checkpoint(tmp_path / "middle.ckpt")

    fit(tmp_path, text_data(), [RunSummary(), At(2, pause_and_save)], max_steps=4)
    state = torch.load(tmp_path / "middle.ckpt")["callbacks"]["RunSummary"]
    assert state["tokens"] == 2 * 8 * 16
    assert state["seconds"] > 0.5
    assert state["train_seconds"] > 0.5


def test_average_density_is_that_of_the_forward_passes_also_across_a_resume(tmp_path: Path, text_data: Data) -> None:
    """Pruned by a cubic curve from 0 to 80 % at steps 2, 3 and 4 of 8: pass 4 sees half of the ramp."""

    def callbacks() -> list[Callback]:
        return [RunSummary(), GMP(sparsity=0.8, start=0.25, end=0.5, every=1), OneCycleLR(), RandomState()]

    trainer = fit(tmp_path, text_data(), callbacks(), max_steps=8, limit_train_batches=6, max_epochs=1)
    half_pruned = 1 - 0.8 * (1 - 0.5**3)
    assert read(tmp_path)["average_density"] == pytest.approx((4 + half_pruned + 0.2) / 6, abs=1e-4)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    fit(tmp_path, text_data(), callbacks(), max_steps=8, ckpt_path=tmp_path / "half.ckpt")
    assert read(tmp_path)["average_density"] == pytest.approx((4 + half_pruned + 3 * 0.2) / 8, abs=1e-4)


def test_a_range_test_that_stops_is_summed_up(tmp_path: Path, text_data: Data) -> None:
    fit(tmp_path, text_data(), [RunSummary(), LRRangeTest(min_lr=1e-3, max_lr=1e3)], max_steps=60)
    assert read(tmp_path)["status"] == "stopped"


def test_fast_dev_run_writes_no_summary(tmp_path: Path, text_data: Data) -> None:
    fit(tmp_path, text_data(), [RunSummary()], max_steps=1, fast_dev_run=True)
    assert not (tmp_path / "summary.json").exists()
