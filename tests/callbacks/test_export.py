"""An export is an ordinary Hugging Face directory that holds what was trained."""

import json
import logging
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger
from safetensors.torch import load_file
from torch import Tensor
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
        "parameterization": "standard",
        "distribution": "erdos_renyi",
        "scope": "tensors",
        "targets": [],
        "initialization": "random",
        "seed": 0,
        "drop_fraction": 0.3,
        "every": 4,
        "start": 0.0,
        "stop": 1.0,
        "initial_sparsity": None,
        "growth": "gradient",
        "random_share": 0.0,
        "random_until": 0.0,
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


class Killed(BaseException):
    """The process ends here; nothing of this project catches it."""


def zeroed(module: LightningModule) -> None:
    """Another model than the one before, to be told from it."""
    with torch.no_grad():
        module.model.get_input_embeddings().weight.zero_()


def is_zeroed(export: Path) -> bool:
    """Which of both models an export holds; whole, with masks and tokenizer."""
    model = AutoModelForMaskedLM.from_pretrained(export)
    AutoTokenizer.from_pretrained(export)
    assert load_masks(export) is not None
    return not model.get_input_embeddings().weight.any()


@pytest.mark.parametrize("moment", range(8))
def test_a_death_at_any_moment_leaves_a_whole_export_after_the_next_start(
    tmp_path: Path, text_data: Data, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """The old model or the new one: before, in the middle of and after each change to the file system."""
    export = ExportPretrained()
    trainer = fit(tmp_path, text_data(), [RigL(), export], max_steps=1)
    zeroed(trainer.lightning_module)
    done: list[str] = []

    def dying(change: Callable[..., object], halfway: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object, **options: object) -> object:
            if len(done) == moment:
                halfway(arguments[0])
                raise Killed
            done.append(change.__name__)
            return change(*arguments, **options)

        return wrapped

    def remove_half(directory: Path) -> None:
        for file in list(Path(directory).glob("model*")):
            file.unlink()

    def nothing(_: object) -> None:
        pass

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying(Path.rename, nothing))
        patch.setattr(shutil, "rmtree", dying(shutil.rmtree, remove_half))
        patch.setattr(
            type(trainer.datamodule.tokenizer),
            "save_pretrained",
            dying(type(trainer.datamodule.tokenizer).save_pretrained, nothing),
        )
        try:
            export.export(trainer, trainer.lightning_module, "export")
        except Killed:
            died = True
        else:
            died = False
    ExportPretrained().setup(trainer, trainer.lightning_module, "fit")
    assert is_zeroed(tmp_path / "export") == (done.count("rename") >= 2), done
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    assert died == (moment < 7)
    export.export(trainer, trainer.lightning_module, "export")
    assert is_zeroed(tmp_path / "export")
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_a_start_brings_the_export_back_that_was_set_aside(tmp_path: Path, text_data: Data) -> None:
    """Also one of a chosen step, below a directory of its own."""
    exports = tmp_path / "exports"
    fit(tmp_path, text_data(), [RigL(), ExportPretrained(str(exports), at_steps={1: "early"})], max_steps=1)
    for name in ("export", "early"):
        (exports / name).rename(exports / f".{name}.replaced")
    fit(tmp_path, text_data(), [ExportPretrained(str(exports), at_steps={1: "early"})], max_steps=1, fast_dev_run=True)
    assert sorted(path.name for path in exports.iterdir()) == [".early.replaced", ".export.replaced"]
    trainer = fit(tmp_path / "other", text_data(), [], max_steps=1)
    ExportPretrained(str(exports), at_steps={1: "early"}).setup(trainer, trainer.lightning_module, "validate")
    assert sorted(path.name for path in exports.iterdir()) == [".early.replaced", ".export.replaced"]
    ExportPretrained(str(exports), at_steps={1: "early"}).setup(trainer, trainer.lightning_module, "fit")
    assert sorted(path.name for path in exports.iterdir()) == ["early", "export"]
    assert load_masks(exports / "early") is not None


@pytest.mark.parametrize(("umask", "file_mode", "directory_mode"), [(0o022, 0o644, 0o755), (0o027, 0o640, 0o750)])
def test_an_export_has_the_modes_that_the_umask_gives(
    tmp_path: Path, text_data: Data, umask: int, file_mode: int, directory_mode: int
) -> None:
    data = text_data()
    before = os.umask(umask)
    try:
        fit(tmp_path / "run", data, [RigL(), ExportPretrained()], max_steps=1)
    finally:
        os.umask(before)
    written = [tmp_path / "run" / "export", *(tmp_path / "run" / "export").iterdir()]
    assert {"model.safetensors", "sparsity_masks.safetensors", "config.json"} < {path.name for path in written}
    for path in written:
        assert stat.S_IMODE(path.stat().st_mode) == (directory_mode if path.is_dir() else file_mode), path


def test_an_export_goes_to_the_directory_of_the_run_whatever_its_loggers(tmp_path: Path, text_data: Data) -> None:
    logger = CSVLogger(str(tmp_path / "logs"))
    fit(tmp_path / "run", text_data(), [ExportPretrained()], max_steps=1, logger=logger)
    assert (tmp_path / "run" / "export" / "config.json").exists()
    assert not list((tmp_path / "logs").rglob("config.json"))


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.float32), ("bf16-true", torch.bfloat16)])
def test_an_export_of_lower_precision_keeps_its_type_and_its_zeros(
    tmp_path: Path, text_data: Data, precision: str, dtype: torch.dtype
) -> None:
    rigl = RigL(sparsity=0.8, every=3, stop=1.0)  # grows at the fourth step, and the fifth gives all a value
    trainer = fit(tmp_path, text_data(), [rigl, ExportPretrained()], max_steps=5, precision=precision)
    weights: dict[str, Tensor] = copies(parameters(trainer))
    saved = load_file(tmp_path / "export" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {weight.dtype for weight in weights.values()} == {dtype}
    masks = load_masks(tmp_path / "export")
    assert masks is not None
    assert_identical(dict(masks), dict(rigl.masks))
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "export", dtype=torch.float32)
    assert_identical(copies(dict(model.named_parameters())), {name: weight.float() for name, weight in weights.items()})
    for name, mask in masks.items():
        assert torch.equal(model.get_parameter(name) != 0, mask), name
    assert model(input_ids=torch.tensor([[1, 2, 3]])).logits.isfinite().all()


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
