"""A packed model in a program: one call, pipelines on sparse layers, and saved again as an ordinary model."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from deployment import inference, load, load_model, pack
from deployment.inference import SparseLinear, sparsify_linears_


@pytest.fixture(params=[AutoModelForMaskedLM, AutoModelForSequenceClassification])
def export(request: pytest.FixtureRequest, encoder_dir: Path, tmp_path: Path) -> Path:
    """A model with four fifths of its matrices zero, and its tokenizer."""
    torch.manual_seed(0)
    model = request.param.from_pretrained(encoder_dir)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(torch.rand_like(weight) < 0.2)
    model.save_pretrained(tmp_path / "export")
    AutoTokenizer.from_pretrained(encoder_dir).save_pretrained(tmp_path / "export")
    return tmp_path / "export"


@pytest.fixture(autouse=True)
def always_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "measured_speedup", lambda pairs, tokens, transposed: 2.0)


def test_a_packed_file_is_a_model_and_its_tokenizer(export: Path, tmp_path: Path) -> None:
    pack(export, tmp_path / "packed")
    model, tokenizer = load(tmp_path / "packed")
    dense = load_model(export)
    assert type(model) is type(dense)
    assert not model.training
    assert all(torch.equal(weight, dense.get_parameter(name)) for name, weight in model.named_parameters())
    assert tokenizer is not None
    assert tokenizer("sparse models")["input_ids"] == AutoTokenizer.from_pretrained(export)("sparse models")["input_ids"]
    for file in export.glob("tokenizer*"):
        file.unlink()
    assert load(export).tokenizer is None
    with pytest.raises(FileNotFoundError, match="no such directory of a model, or packed file"):
        load(tmp_path / "missing")


def test_pipelines_run_on_sparse_layers(export: Path) -> None:
    answers = []
    for tokens in (None, 16):
        model, tokenizer = load(export, sparse_tokens=tokens)
        assert any(isinstance(module, SparseLinear) for module in model.modules()) == (tokens is not None)
        masked = "MaskedLM" in type(model).__name__
        ask = pipeline("fill-mask" if masked else "text-classification", model=model, tokenizer=tokenizer, device="cpu")
        found = ask(f"sparse {tokenizer.mask_token} models." if masked else ["sparse models.", "dense models."])
        answers.append([(each.get("token_str", each.get("label")), each["score"]) for each in found])
    for (dense, expected), (sparse, score) in zip(*answers, strict=True):
        assert sparse == dense
        assert score == pytest.approx(expected, abs=1e-5)


def test_a_sparse_model_is_saved_as_the_dense_one_it_was(export: Path, tmp_path: Path) -> None:
    dense, sparse = load_model(export), load_model(export)
    sparsify_linears_(sparse)
    sparse.save_pretrained(tmp_path / "saved")
    again, info = type(dense).from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert {key: list(names) for key, names in info.items() if names} == {}
    assert again.state_dict().keys() == dense.state_dict().keys()
    assert all(torch.equal(tensor, dense.state_dict()[name]) for name, tensor in again.state_dict().items())
    if again.get_output_embeddings() is not None:
        assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    pack(tmp_path / "saved", tmp_path / "packed")
    packed = load(tmp_path / "packed").model.state_dict()
    assert all(torch.equal(tensor, dense.state_dict()[name]) for name, tensor in packed.items())


def test_the_example_classifies_two_sentences(encoder_dir: Path, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(encoder_dir)
    model.save_pretrained(tmp_path / "export")
    AutoTokenizer.from_pretrained(encoder_dir).save_pretrained(tmp_path / "export")
    pack(tmp_path / "export", tmp_path / "packed")
    script = Path(__file__).parents[2] / "examples" / "classify.py"
    command = [sys.executable, script, "packed", "dense models.", "sparse models."]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    first, second = run.stdout.splitlines()
    label, score, sentence = first.split(maxsplit=2)
    assert (label[:6], sentence) == ("LABEL_", "dense models.")
    assert 0.5 <= float(score) <= 1
    assert second.endswith("sparse models.")
