"""A sparse encoder stays sparse while it is finetuned: exactly the same zeros before and after, wherever they come from."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel

from callbacks import ExportPretrained, InheritedSparsity, KnowledgeDistillation, RigL, RunSummary, StaticSparsity
from callbacks.resume import ResumeRules
from datamodules import GLUEDataModule, TextDataModule
from helpers import CONFIG, assert_identical, fit, parameters, tiny_bert
from lightning_modules import SequenceClassifier
from sparsity import load_masks

Data = Callable[..., GLUEDataModule]
MATRICES = 2 * (4 * 32 * 32 + 2 * 32 * 64)  # weights of two layers


@pytest.fixture(scope="module")
def sparse_dir(tmp_path_factory: pytest.TempPathFactory, text_data: Callable[..., TextDataModule]) -> Path:
    """A masked LM of which RigL has left a fifth of the encoder; its last step has grown weights, which are on and 0.0."""
    root = tmp_path_factory.mktemp("sparse")
    fit(root, text_data(), [RigL(sparsity=0.8, every=2, stop=1.0), ExportPretrained()], 5)
    return root / "export"


def zeros(directory: Path) -> dict[str, Tensor]:
    """Where the matrices of the encoder's layers are 0.0, by their names in the bare encoder."""
    weights = AutoModel.from_pretrained(directory).named_parameters()
    return {name: weight == 0 for name, weight in weights if ".layer." in name and weight.dim() == 2}


def finetune(root: Path, data: GLUEDataModule, path: Path, *callbacks: Callback, **options: object) -> Trainer:
    """Two epochs of ten steps in all, exported."""
    module = SequenceClassifier(str(path), lr=1e-2, weight_decay=0.1, **options)
    return fit(root, data, [*callbacks, ExportPretrained(), RunSummary()], -1, module=module, max_epochs=2)


def test_zeros_of_an_export_are_held(tmp_path: Path, glue_data: Data, sparse_dir: Path) -> None:
    trainer = finetune(tmp_path, glue_data("MRPC"), sparse_dir)
    assert trainer.global_step == 10
    masks = {name.removeprefix("bert."): mask for name, mask in load_masks(sparse_dir).items()}
    before, after = zeros(sparse_dir), zeros(tmp_path / "export")
    assert sum(int(mask.sum()) for mask in after.values()) == round(0.8 * MATRICES)
    grown = 0
    for name, mask in masks.items():
        assert_identical(after[name], ~mask)
        grown += int((before[name] & mask).sum())
        assert not bool((after[name] & ~before[name]).any())
    assert grown > 0  # which were on, so that they have learnt

    assert_identical(dict(load_masks(tmp_path / "export")), {f"bert.{name}": mask for name, mask in masks.items()})
    made = json.loads((tmp_path / "export" / "sparsity.json").read_text())["made_by"]
    assert made["method"] == "InheritedMasks"
    assert made["sparsity"] == pytest.approx(round(0.8 * MATRICES) / MATRICES)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["sparsity"]["encoder"] == pytest.approx(round(0.8 * MATRICES) / MATRICES)
    assert summary["nonzeros"] == summary["parameters"] - round(0.8 * MATRICES)


def save(model: PreTrainedModel, directory: Path, tokenizer_dir: Path) -> Path:
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(tokenizer_dir).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("auto", [AutoModelForMaskedLM, AutoModel])
def test_zeros_of_a_model_without_masks_are_held(
    tmp_path: Path, glue_data: Data, sparse_dir: Path, tokenizer_dir: Path, auto: type
) -> None:
    path = save(auto.from_pretrained(sparse_dir), tmp_path / "plain", tokenizer_dir)
    finetune(tmp_path, glue_data("STS-B"), path)
    assert_identical(zeros(tmp_path / "export"), zeros(path))


def test_a_finetuned_export_is_finetuned_further(tmp_path: Path, glue_data: Data, sparse_dir: Path) -> None:
    finetune(tmp_path / "mnli", glue_data("MNLI"), sparse_dir)
    finetune(tmp_path / "rte", glue_data("RTE"), tmp_path / "mnli" / "export")
    assert_identical(zeros(tmp_path / "rte" / "export"), zeros(tmp_path / "mnli" / "export"))


def test_layers_that_start_anew_are_as_sparse(tmp_path: Path, glue_data: Data, sparse_dir: Path) -> None:
    finetune(tmp_path, glue_data("RTE"), sparse_dir, reinitialize_layers=2)
    masks = load_masks(sparse_dir)
    assert_identical(zeros(tmp_path / "export"), {name.removeprefix("bert."): ~mask for name, mask in masks.items()})


def test_a_sparse_student_of_a_dense_teacher(tmp_path: Path, glue_data: Data, sparse_dir: Path) -> None:
    finetune(tmp_path / "teacher", glue_data("RTE"), sparse_dir, keep_sparsity=False)
    finetune(tmp_path, glue_data("RTE"), sparse_dir, KnowledgeDistillation(str(tmp_path / "teacher" / "export")))
    assert sum(int(mask.sum()) for mask in zeros(tmp_path / "export").values()) == round(0.8 * MATRICES)


def test_sparsity_may_be_given_up(tmp_path: Path, glue_data: Data, sparse_dir: Path) -> None:
    trainer = finetune(tmp_path, glue_data("RTE"), sparse_dir, keep_sparsity=False)
    assert not any(isinstance(callback, InheritedSparsity) for callback in trainer.callbacks)
    assert sum(int(mask.sum()) for mask in zeros(tmp_path / "export").values()) < 0.01 * MATRICES
    assert load_masks(tmp_path / "export") is None


def test_another_method_takes_its_place(tmp_path: Path, glue_data: Data, encoder_dir: Path, sparse_dir: Path) -> None:
    trainer = finetune(tmp_path, glue_data("RTE"), sparse_dir, StaticSparsity(sparsity=0.5, initialization="magnitude"))
    assert not any(isinstance(callback, InheritedSparsity) for callback in trainer.callbacks)
    assert sum(int(mask.sum()) for mask in zeros(tmp_path / "export").values()) >= 0.5 * MATRICES


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_dense_model_has_no_masks(
    tmp_path: Path, glue_data: Data, encoder_dir: Path, tokenizer_dir: Path, family: str
) -> None:
    """Not for the zero row of the padding token, nor for RoBERTa's table of segments, which is zero and not in use."""
    fields = CONFIG | {"model_type": family, "vocab_size": 120, "pad_token_id": 0, "type_vocab_size": 1}
    model = AutoModel.from_config(AutoConfig.for_model(**fields))
    model.embeddings.word_embeddings.weight.data[0] = 0.0
    model.embeddings.token_type_embeddings.weight.data.zero_()
    path = save(model, tmp_path / "dense", tokenizer_dir)
    assert InheritedSparsity(pretrained=str(path)).found is None
    trainer = finetune(tmp_path, glue_data("RTE"), path)
    assert not any(isinstance(callback, InheritedSparsity) for callback in trainer.callbacks)


def test_looking_for_masks_draws_no_random_numbers(encoder_dir: Path) -> None:
    state = torch.get_rng_state()
    assert InheritedSparsity(pretrained=str(encoder_dir)).found is None
    assert_identical(torch.get_rng_state(), state)


def test_a_sparse_embedding_table_is_held(tmp_path: Path, glue_data: Data, tokenizer_dir: Path) -> None:
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(**CONFIG, vocab_size=120))
    table = model.bert.embeddings.word_embeddings.weight
    table.data[torch.rand(table.shape, generator=torch.Generator().manual_seed(0)) < 0.5] = 0.0
    off = table.detach() == 0
    path = save(model, tmp_path / "sparse", tokenizer_dir)
    trainer = finetune(tmp_path, glue_data("RTE"), path)
    assert_identical(parameters(trainer)["bert.embeddings.word_embeddings.weight"] == 0, off)


def test_a_resumed_run_has_the_masks_of_its_checkpoint(tmp_path: Path, glue_data: Data, sparse_dir: Path) -> None:
    finetune(tmp_path, glue_data("RTE"), sparse_dir).save_checkpoint(tmp_path / "run.ckpt")
    module, export = SequenceClassifier(str(sparse_dir), weight_decay=0.1), ExportPretrained()
    options = {"max_epochs": 3, "ckpt_path": tmp_path / "run.ckpt"}
    trainer = fit(tmp_path / "resumed", glue_data("RTE"), [export, RunSummary()], -1, module=module, **options)
    (inherited,) = (callback for callback in trainer.callbacks if isinstance(callback, InheritedSparsity))
    assert_identical(dict(inherited.masks), dict(load_masks(sparse_dir)))
    made = json.loads((tmp_path / "resumed" / "export" / "sparsity.json").read_text())["made_by"]
    assert made["sparsity"] == pytest.approx(round(0.8 * MATRICES) / MATRICES)


def test_a_finetuning_goes_on_with_the_settings_that_it_began_with(
    tmp_path: Path, glue_data: Data, sparse_dir: Path
) -> None:
    """Its masks have none that a user could give again."""
    finetune(tmp_path, glue_data("RTE"), sparse_dir, ResumeRules()).save_checkpoint(tmp_path / "run.ckpt")
    module = SequenceClassifier(str(sparse_dir), lr=1e-2, weight_decay=0.1)
    options = {"max_epochs": 3, "ckpt_path": tmp_path / "run.ckpt"}
    trainer = fit(tmp_path / "resumed", glue_data("RTE"), [ResumeRules()], -1, module=module, **options)
    assert trainer.global_step == 15


@pytest.mark.parametrize("targets", [(), ("*.layer.*.weight", "*predictions.transform.dense.weight")])
def test_pretraining_goes_on_with_the_masks_of_an_export(
    tmp_path: Path, text_data: Callable[..., TextDataModule], targets: tuple[str, ...]
) -> None:
    """Those of a head too, which a head of another kind does not take."""
    fit(tmp_path, text_data(), [RigL(sparsity=0.8, every=2, stop=1.0, targets=targets), ExportPretrained()], 5)
    masks = load_masks(tmp_path / "export")
    assert masks is not None
    options: dict[str, object] = {"config": None, "pretrained": str(tmp_path / "export")}
    for keep in (True, False):
        module, root = tiny_bert(keep_sparsity=keep, **options), tmp_path / str(keep)
        fit(root, text_data(), [ExportPretrained(), RunSummary()], 3, module)
        summary = json.loads((root / "summary.json").read_text())
        if keep:
            assert_identical(dict(load_masks(root / "export") or {}), dict(masks))
            assert summary["nonzeros"] == summary["parameters"] - sum(int((~mask).sum()) for mask in masks.values())
        else:
            assert load_masks(root / "export") is None
            assert summary["nonzeros"] == summary["parameters"]


def test_masks_of_another_shape_are_an_error(tmp_path: Path, sparse_dir: Path, tokenizer_dir: Path) -> None:
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(**CONFIG | {"hidden_size": 16}, vocab_size=120))
    path = save(model, tmp_path / "other", tokenizer_dir)
    for file in sparse_dir.glob("sparsity*"):
        (path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=r"mask encoder.layer.0.* of shape \(32, 32\) does not fit the model"):
        _ = InheritedSparsity(pretrained=str(path)).found


@pytest.mark.parametrize(("initialization", "warned"), [("random", True), ("magnitude", False)])
def test_random_masks_on_pretrained_weights_are_worth_a_warning(
    tmp_path: Path, glue_data: Data, sparse_dir: Path, initialization: str, warned: bool
) -> None:
    rigl, module = RigL(sparsity=0.8, initialization=initialization), SequenceClassifier(str(sparse_dir))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, glue_data("RTE"), [rigl], 1, module=module, max_epochs=1)
    assert any("random masks, which cut pretrained weights" in str(warning.message) for warning in caught) == warned
