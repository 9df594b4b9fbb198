"""ONNX and OpenVINO files compute what torch does, on real sentences, and keep every zero."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.configuration_auto import AutoConfig

from benchmarks.finetuning import packaged_minilm
from datamodules import train_tokenizer
from deployment import TOLERANCE, agreement, constants, exchange, export, kept_zeros, session
from helpers import CONFIG

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
Model = tuple[PreTrainedModel, PreTrainedTokenizerBase]
MODERN = {
    **{"model_type": "modernbert", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2},
    **{"intermediate_size": 48, "local_attention": 8, "max_position_embeddings": 130},
}


def sparse(model: PreTrainedModel) -> PreTrainedModel:
    """Four fifths of the matrices of ``model`` at zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(torch.rand(weight.shape, generator=generator) < 0.2)
    return model.eval()


@pytest.fixture(scope="module")
def sentences(realdata: Path) -> list[str]:
    """A hundred of the Wikipedia, of very different lengths."""
    lines = (realdata / "text/wikipedia/wiki_00.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip()][:100]


@pytest.fixture(scope="module", params=["bert", "modernbert", "minilm"])
def model(request: pytest.FixtureRequest, sentences: list[str]) -> Model:
    torch.manual_seed(0)
    if request.param == "minilm":  # with the head that finetuning gives it
        classifier = AutoModelForSequenceClassification.from_pretrained(packaged_minilm(), num_labels=3)
        return sparse(classifier), AutoTokenizer.from_pretrained(packaged_minilm())
    tokenizer = train_tokenizer(lambda: iter(sentences), vocabulary_size=400)
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    fields = MODERN | special if request.param == "modernbert" else CONFIG | {"max_position_embeddings": 130}
    config = AutoConfig.for_model(**fields, vocab_size=len(tokenizer))
    return sparse(AutoModelForMaskedLM.from_config(config)), tokenizer


@pytest.mark.realdata
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_file_agrees_with_torch_on_real_sentences(
    model: Model, sentences: list[str], tmp_path: Path, format: exchange.Format
) -> None:
    network, tokenizer = model
    file = export(network, tmp_path, format)
    found = agreement(network, session(file, format, 1), tokenizer, sentences)
    assert found.sentences == 100
    assert found.difference < TOLERANCE
    assert found.same == 1.0
    zeros = kept_zeros(network, constants(file, format))
    assert zeros == sum(int((weight == 0).sum()) for weight in network.parameters() if weight.ndim == 2)
    assert zeros > 0.7 * sum(weight.numel() for weight in network.parameters() if weight.ndim == 2)
