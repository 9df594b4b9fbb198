"""``summary.json`` is the contract between a run and its readers."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils._python_dispatch import _len_torch_dispatch_stack

import callbacks.run_summary
from callbacks import (
    GMP,
    SET,
    STE,
    ExportPretrained,
    FinalValidation,
    KnowledgeDistillation,
    LRRangeTest,
    OneCycleLR,
    RandomState,
    ResumeRules,
    RigL,
    RunSummary,
    SparseTraining,
)
from cpu import matmul_library
from datamodules import TextDataModule
from helpers import Recorder, fit, parameters, tiny_bert

Data = Callable[..., TextDataModule]

ALWAYS = {
    *("experiment", "status", "seed", "steps", "tokens", "seconds", "train_seconds", "tokens_per_second"),
    *("parameters", "nonzeros", "sparsity", "flops_per_step", "peak_memory_mb", "matmul", "versions", "command"),
}
OF_VALIDATION = {"eval_loss", "perplexity", "unigram_loss", "loss_per_word", "loss_per_character", "eval_step"}
OF_MASKS = {"masks", "average_density", "sparse_flops_per_step", "saved_flops"}


def read(root: Path) -> dict[str, Any]:
    return json.loads((root / "summary.json").read_text())


def test_keys_and_values_of_a_finished_run(tmp_path: Path, text_data: Data) -> None:
    trainer = fit(
        tmp_path,
        text_data(),
        [RigL(sparsity=0.8), RunSummary()],
        max_steps=4,
        accumulate_grad_batches=2,
        limit_val_batches=2,
    )
    summary = read(tmp_path)
    assert summary.keys() - {"revision"} == ALWAYS | OF_VALIDATION | OF_MASKS
    assert summary["status"] == "finished"
    assert summary["masks"] == "RigL"
    assert (summary["matmul"], summary["seed"]) == (matmul_library(), 0)
    assert (summary["steps"], summary["eval_step"]) == (4, 4)
    assert summary["tokens"] == 4 * 2 * 8 * 16
    assert summary["tokens_per_second"] * (summary["seconds"] + 0.01) >= summary["tokens"]  # validation is not in the rate
    assert 0 < summary["train_seconds"] <= summary["seconds"]
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
    assert summary.keys() - {"revision"} == ALWAYS
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


def test_a_teachers_forward_pass_counts(tmp_path: Path, text_data: Data) -> None:
    fit(tmp_path, text_data(), [ExportPretrained(), RunSummary()], max_steps=1)
    alone = read(tmp_path)["flops_per_step"]
    fit(tmp_path, text_data(), [KnowledgeDistillation(str(tmp_path / "export")), RunSummary()], max_steps=1)
    batch, length, masked, hidden, inner, vocabulary = 8, 16, 2, 32, 64, 120
    linear = 2 * 2 * batch * length * (4 * hidden * hidden + 2 * hidden * inner)
    head = 2 * batch * masked * hidden * (hidden + vocabulary)
    assert read(tmp_path)["flops_per_step"] == alone + linear + head + 2 * 2 * 2 * batch * length * length * hidden


@pytest.mark.parametrize(
    ("method", "table", "operations"),
    [(RigL, False, 6), (RigL, True, 6), (STE, False, 4)],  # STE needs the gradients of weights that are off
)
def test_flops_that_zeros_would_save_are_those_of_products_with_sparse_tensors(
    tmp_path: Path, text_data: Data, method: type[SparseTraining], table: bool, operations: int
) -> None:
    targets = ("*.encoder.*.weight", *(["*word_embeddings.weight"] if table else []))
    sparse = method(sparsity=0.8, targets=targets)
    fit(tmp_path, text_data(), [sparse, RunSummary()], max_steps=1, accumulate_grad_batches=2)
    tokens, masked, hidden, inner, vocabulary = 8 * 16, 8 * 2, 32, 64, 120
    encoder = 2 * (4 * hidden * hidden + 2 * hidden * inner)
    head = vocabulary * hidden if table else 0  # the tied table, at the masked positions; the lookup costs nothing
    assert read(tmp_path)["sparse_flops_per_step"] == 2 * operations * (encoder * tokens + head * masked)


def test_what_zeros_save_is_that_of_each_tensor_by_its_own_density(tmp_path: Path, text_data: Data) -> None:
    targets = ("*.encoder.*.weight", "*word_embeddings.weight")
    sparsity = (0.5 * 16_384 + 0.9 * 3_840) / (16_384 + 3_840)
    sparse = SET(sparsity=sparsity, targets=targets, sparsities={"*word_embeddings.weight": 0.9})
    fit(tmp_path, text_data(), [sparse, RunSummary()], max_steps=3, accumulate_grad_batches=2)
    tokens, masked, hidden, inner, vocabulary = 8 * 16, 8 * 2, 32, 64, 120
    encoder, table = 2 * (4 * hidden * hidden + 2 * hidden * inner), vocabulary * hidden
    saved = 3 * 2 * 6 * (0.5 * encoder * tokens + 0.9 * table * masked)
    assert read(tmp_path)["saved_flops"] == pytest.approx(saved, rel=1e-9)


def test_what_zeros_save_follows_the_masks(tmp_path: Path, text_data: Data) -> None:
    """Passes 1 to 4 of 8 see no zeros, pass 5 half of the ramp, the others 80 %."""
    gmp = GMP(sparsity=0.8, start=0.25, end=0.5, every=1)
    fit(tmp_path, text_data(), [gmp, RunSummary()], max_steps=8)
    encoder = 2 * (4 * 32 * 32 + 2 * 32 * 64)
    saved = 6 * encoder * 8 * 16 * (0.8 * (1 - 0.5**3) + 3 * 0.8)
    assert read(tmp_path)["saved_flops"] == pytest.approx(saved, rel=1e-3)


def test_what_an_older_version_did_not_count_stays_unknown() -> None:
    older = RunSummary().state_dict()
    del older["saved_flops"]
    (summary := RunSummary()).load_state_dict(older)
    assert summary.saved_flops is None


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


def test_an_end_that_a_callback_asked_for_is_an_end(tmp_path: Path, text_data: Data) -> None:
    fit(tmp_path, text_data(), [RunSummary(), At(2, stop_early)], max_steps=9)
    assert (read(tmp_path)["status"], read(tmp_path)["steps"]) == ("finished", 3)


@pytest.mark.parametrize(
    ("directory", "experiment"),
    [("sparse_80/version_3", "sparse_80"), ("sparse_80", "sparse_80"), ("version_x", "version_x")],
)
def test_the_experiment_is_what_the_directory_says_whatever_is_logged_where(
    tmp_path: Path, text_data: Data, directory: str, experiment: str
) -> None:
    loggers = [TensorBoardLogger(tmp_path / "elsewhere", name=f"logger_{number}") for number in range(2)]
    fit(tmp_path / directory, text_data(), [RunSummary()], max_steps=1, logger=loggers)
    assert read(tmp_path / directory)["experiment"] == experiment
    assert len(list(tmp_path.rglob("summary.json"))) == 1


def test_the_revision_is_that_of_the_start(tmp_path: Path, text_data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    revisions = iter(("first", "second"))
    monkeypatch.setattr(callbacks.run_summary, "revision", lambda: next(revisions))
    seen = []
    watch = At(1, lambda trainer: seen.append(read(tmp_path)["revision"]))
    fit(tmp_path, text_data(), [RunSummary(), watch], max_steps=2, val_check_interval=1, limit_val_batches=1)
    assert [*seen, read(tmp_path)["revision"]] == ["first", "first"]
    fit(tmp_path, text_data(), [RunSummary()], max_steps=1)
    assert read(tmp_path)["revision"] == "second"


class Refusal(Callback):
    """Refuses a run in one of its hooks."""

    def __init__(self, hook: str) -> None:
        self.hook = hook

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.refuse("setup")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.refuse("on_fit_start")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.refuse("on_train_start")

    def refuse(self, hook: str) -> None:
        if hook == self.hook:
            raise ValueError("no")


@pytest.mark.parametrize("hook", ["setup", "on_fit_start", "on_train_start"])
def test_a_run_that_is_refused_writes_nothing(tmp_path: Path, text_data: Data, hook: str) -> None:
    with pytest.raises(ValueError, match="no"):
        fit(tmp_path, text_data(), [Refusal(hook), RunSummary()], max_steps=2)
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize("max_steps", [3, 4, 9])
def test_a_refused_resume_leaves_a_finished_run_as_it_was(tmp_path: Path, text_data: Data, max_steps: int) -> None:
    """Of another length than its cycle: shorter, and longer; and the same one goes on."""

    def run_callbacks() -> list[Callback]:
        return [OneCycleLR(), FinalValidation(), RunSummary()]

    trainer = fit(tmp_path, text_data(), run_callbacks(), max_steps=4, limit_val_batches=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    before = (tmp_path / "summary.json").read_bytes()
    if max_steps == 4:
        fit(tmp_path, text_data(), run_callbacks(), max_steps=4, ckpt_path=tmp_path / "last.ckpt", limit_val_batches=1)
        assert read(tmp_path)["status"] == "finished"
        return
    with pytest.raises(ValueError, match="cycle is of 4 steps"):
        fit(tmp_path, text_data(), run_callbacks(), max_steps, ckpt_path=tmp_path / "last.ckpt", limit_val_batches=1)
    assert (tmp_path / "summary.json").read_bytes() == before


def test_the_summary_goes_on_across_a_resume(tmp_path: Path, text_data: Data) -> None:
    """Steps 1 to 3 take a second at least; a checkpoint after them; then three more."""
    pause = At(2, lambda trainer: time.sleep(1.0))
    callbacks = [RunSummary(), pause, RigL(every=2), OneCycleLR(), RandomState()]
    trainer = fit(tmp_path, text_data(), callbacks, max_steps=6, limit_train_batches=3, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    half = read(tmp_path)
    assert (half["status"], half["steps"]) == ("finished", 3)

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


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_average_density_is_that_of_the_forward_passes_also_across_a_resume(
    tmp_path: Path, text_data: Data, micro_batches: int
) -> None:
    """Pruned by a cubic curve from 0 to 80 % at steps 2, 3 and 4 of 8: pass 4 sees half of the ramp."""

    def callbacks() -> list[Callback]:
        schedule = OneCycleLR()
        return [ResumeRules(), RunSummary(), GMP(sparsity=0.8, start=0.25, end=0.5, every=1), schedule, RandomState()]

    trainer = fit(tmp_path, text_data(), callbacks(), max_steps=8, limit_train_batches=6, max_epochs=1)
    half_pruned = 1 - 0.8 * (1 - 0.5**3)
    assert read(tmp_path)["average_density"] == pytest.approx((4 + half_pruned + 0.2) / 6, abs=1e-4)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    data = text_data(batch_size=8 // micro_batches)
    options = {"ckpt_path": tmp_path / "half.ckpt", "accumulate_grad_batches": micro_batches}
    fit(tmp_path, data, callbacks(), max_steps=8, **options)
    assert read(tmp_path)["average_density"] == pytest.approx((4 + half_pruned + 3 * 0.2) / 8, abs=1e-4)


def test_a_range_test_that_stops_is_summed_up(tmp_path: Path, text_data: Data) -> None:
    fit(tmp_path, text_data(), [RunSummary(), LRRangeTest(min_lr=1e-3, max_lr=1e3)], 60, tiny_bert(lr=None))
    assert read(tmp_path)["status"] == "finished"
    assert read(tmp_path)["steps"] < 60


def test_fast_dev_run_writes_no_summary(tmp_path: Path, text_data: Data) -> None:
    fit(tmp_path, text_data(), [RunSummary()], max_steps=1, fast_dev_run=True)
    assert not (tmp_path / "summary.json").exists()


def test_a_first_batch_that_fails_leaves_no_counter_behind(tmp_path: Path, text_data: Data) -> None:
    """Whatever a notebook runs next would go through it."""
    module = tiny_bert()
    module.training_step = lambda *_: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, text_data(), [RunSummary()], 1, module)
    assert _len_torch_dispatch_stack() == 0


def test_a_repository_around_an_environment_is_not_that_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / ".venv" / "callbacks"
    installed.mkdir(parents=True)
    shutil.copy(callbacks.run_summary.__file__, installed)
    identity = ["-c", "user.name=ann", "-c", "user.email=ann@example.org"]
    (tmp_path / ".gitignore").write_text(".venv\n")
    for command in ["init", "-q"], ["add", ".gitignore"], [*identity, "commit", "-q", "-m", "mine"]:
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(callbacks.run_summary, "__file__", str(installed / "run_summary.py"))
    assert callbacks.run_summary.revision() is None
    subprocess.run(["git", "add", "-f", ".venv"], cwd=tmp_path, check=True)
    assert callbacks.run_summary.revision().endswith("-dirty")
