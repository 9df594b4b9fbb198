"""An export is an ordinary Hugging Face directory that holds what was trained."""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from transformers import AutoModelForMaskedLM, AutoTokenizer

from callbacks import ExportPretrained, RigL, RunSummary
from datamodules import TextDataModule
from helpers import Recorder, assert_identical, copies, fit, parameters, tiny_bert
from sparsity import load_masks

Data = Callable[..., TextDataModule]


@pytest.fixture
def transformers_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What transformers warns about; its loggers do not propagate."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_an_export_loads_as_it_was_trained(
    tmp_path: Path, text_data: Data, transformers_log: pytest.LogCaptureFixture
) -> None:
    rigl = RigL(sparsity=0.8, every=2, stop=1.0)
    trainer = fit(tmp_path, text_data(), [rigl, ExportPretrained()], max_steps=5)
    weights = parameters(trainer)
    transformers_log.clear()
    model, info = AutoModelForMaskedLM.from_pretrained(tmp_path / "export", output_loading_info=True)
    assert {key: list(names) for key, names in info.items() if names} == {}
    assert [record.getMessage() for record in transformers_log.records if record.levelno >= logging.WARNING] == []
    assert_identical(copies(dict(model.named_parameters())), copies(weights))
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "export")
    assert tokenizer.get_vocab() == trainer.datamodule.tokenizer.get_vocab()


def test_masks_travel_with_the_export(tmp_path: Path, text_data: Data) -> None:
    rigl = RigL(sparsity=0.8, every=4, stop=1.0, distribution="erdos_renyi")
    trainer = fit(tmp_path, text_data(), [rigl, ExportPretrained()], max_steps=5)  # the last step grows zeros
    assert_identical(dict(load_masks(tmp_path / "export")), dict(rigl.masks))
    report = json.loads((tmp_path / "export" / "sparsity.json").read_text())
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "export")
    size = sum(mask.numel() for mask in rigl.masks.values())
    assert report["parameters"] == model.num_parameters()
    assert report["nonzeros"] == model.num_parameters() - round(0.8 * size)
    assert report["made_by"] == {
        "method": "RigL",
        "step": 5,
        "sparsity": 0.8,
        "nonzeros": None,
        "sparsities": {},
        "structure": "unstructured",
        "distribution": "erdos_renyi",
        "scope": "tensors",
        "targets": [],
        "initialization": "random",
        "seed": 0,
        "drop_fraction": 0.3,
        "every": 4,
        "stop": 1.0,
        "initial_nnz": rigl.stepping.initial_nnz,
    }
    for name, weight in parameters(trainer).items():
        if name in rigl.masks:
            assert report["tensors"][name]["nnz"] == rigl.stepping.initial_nnz[name]
            exported = model.get_parameter(name)
            assert torch.equal(exported == 0, weight == 0)
            assert not exported[~rigl.masks[name]].any()


def test_a_dense_export_has_no_mask_files(tmp_path: Path, text_data: Data) -> None:
    fit(tmp_path, text_data(), [ExportPretrained()], max_steps=1)
    assert load_masks(tmp_path / "export") is None
    assert not list((tmp_path / "export").glob("sparsity*"))


def test_training_goes_on_unchanged_from_an_export(tmp_path: Path, text_data: Data) -> None:
    """``model.pretrained`` starts from the very weights."""
    first = fit(tmp_path, text_data(), [ExportPretrained()], max_steps=2)
    recorder = Recorder()
    module = tiny_bert(config=None, pretrained=str(tmp_path / "export"))
    second = fit(tmp_path / "second", text_data(), [recorder], max_steps=1, module=module)
    batch = next(iter(second.datamodule.train_dataloader()))
    with torch.no_grad():
        model = first.lightning_module
        loss = float(model.task_loss(model.predict_logits(model.model, batch), batch))
    assert recorder.losses[0] == pytest.approx(loss, abs=1e-6)


class Counted(ExportPretrained):
    """Counts what it writes."""

    def export(self, trainer: Trainer, pl_module: LightningModule, name: str) -> None:
        super().export(trainer, pl_module, name)
        self.written = [*getattr(self, "written", []), name]


def test_named_exports_at_chosen_optimizer_steps(tmp_path: Path, text_data: Data) -> None:
    export = Counted(str(tmp_path / "exports"), at_steps={2: "early", 4: "last", 9: "never"})
    with pytest.warns(UserWarning, match="never will not be there, as a run of 4 steps has no step 9"):
        trainer = fit(tmp_path, text_data(), [RigL(every=3), export], max_steps=4, accumulate_grad_batches=2)
    assert export.written == ["early", "last", "export"]
    assert sorted(path.name for path in (tmp_path / "exports").iterdir()) == ["early", "export", "last"]
    early, last, end = (
        copies(dict(AutoModelForMaskedLM.from_pretrained(tmp_path / "exports" / name).named_parameters()))
        for name in ("early", "last", "export")
    )
    assert_identical(end, copies(parameters(trainer)))
    assert_identical(last, end)
    short = fit(tmp_path / "short", text_data(), [RigL(every=3)], max_steps=2, accumulate_grad_batches=2)
    assert_identical(early, copies(parameters(short)))


@pytest.mark.parametrize("place", ["file/below", "file"])
def test_a_directory_that_cannot_be_written_is_an_error_before_training(tmp_path: Path, text_data: Data, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    recorder = Recorder()
    with pytest.raises(ValueError, match=rf"export directory .*{place} is not writable"):
        fit(tmp_path, text_data(), [ExportPretrained(str(tmp_path / place)), recorder], max_steps=1)
    assert recorder.losses == []
    assert (tmp_path / "file").read_text() == "in the way"


def test_the_half_written_export_of_a_crash_does_no_harm(tmp_path: Path, text_data: Data) -> None:
    partial = tmp_path / ".export.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    (partial / "leftover.bin").write_bytes(b"half")
    fit(tmp_path, text_data(), [ExportPretrained()], max_steps=1)
    assert not partial.exists()
    assert not (tmp_path / "export" / "leftover.bin").exists()
    AutoModelForMaskedLM.from_pretrained(tmp_path / "export")


def test_an_export_replaces_the_one_before_as_a_whole(tmp_path: Path, text_data: Data) -> None:
    fit(tmp_path, text_data(), [RigL(), ExportPretrained()], max_steps=1)
    fit(tmp_path, text_data(), [ExportPretrained()], max_steps=1)
    assert load_masks(tmp_path / "export") is None


def test_fast_dev_run_writes_nothing(tmp_path: Path, text_data: Data) -> None:
    fit(tmp_path / "run", text_data(), [ExportPretrained()], max_steps=1, fast_dev_run=True)
    assert not (tmp_path / "run").exists()


def test_a_run_that_died_after_its_last_step_ends_when_it_is_continued(tmp_path: Path, text_data: Data) -> None:
    """Its checkpoint leaves nothing to train, but the export is missing, and the summary says that it runs."""
    whole = fit(tmp_path, text_data(), [RigL(every=2)], max_steps=3, limit_val_batches=1, enable_checkpointing=True)
    checkpoint = tmp_path / "last.ckpt"
    whole.save_checkpoint(checkpoint)
    fit(tmp_path, text_data(), [RigL(every=2), RunSummary(), ExportPretrained()], max_steps=3, ckpt_path=checkpoint)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("finished", 3)
    exported = AutoModelForMaskedLM.from_pretrained(tmp_path / "export")
    assert_identical(copies(dict(exported.named_parameters())), copies(parameters(whole)))


def test_a_run_has_finished_when_its_export_is_there(tmp_path: Path, text_data: Data) -> None:
    class Full(ExportPretrained):
        def export(self, trainer: Trainer, pl_module: LightningModule, name: str) -> None:
            assert json.loads((tmp_path / "summary.json").read_text())["status"] == "running"
            raise OSError("no space left on device")

    class Slow(ExportPretrained):
        def export(self, trainer: Trainer, pl_module: LightningModule, name: str) -> None:
            time.sleep(1.0)

    fit(tmp_path, text_data(), [RunSummary(), Slow()], max_steps=1)
    summary = json.loads((tmp_path / "summary.json").read_text())
    training = summary["tokens"] / summary["tokens_per_second"]
    assert summary["seconds"] - training > 0.9  # the export is none of it
    with pytest.raises(OSError, match="no space left"):
        fit(tmp_path, text_data(), [RunSummary(), Full()], max_steps=1)
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "failed"
