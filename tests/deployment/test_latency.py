"""A comparison of a dense and a sparse model counts, times and compares what it says."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

import cpu
from deployment import compare_latency, inference, latency, load_model
from deployment.inference import LayerChoice, SparseLinear


def tiny_bert() -> BertForMaskedLM:
    """Two layers of 32, of whose weights in matrices four fifths are zero."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 97}
    model = BertForMaskedLM(BertConfig(**sizes, max_position_embeddings=32)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(torch.rand_like(weight) < 0.2)
    return model


def test_a_comparison_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Round by round the sparse model takes 1/2, 1/4 and 1/8 of the dense time; medians and best times from those."""
    seconds = {"dense": [0.002, 0.008, 0.004], "sparse": [0.001, 0.002, 0.0005]}
    asked = []

    def timed(calls: dict[str, object], rounds: int) -> dict[str, list[float]]:
        asked.append((list(calls), rounds))
        return seconds

    monkeypatch.setattr(latency, "interleaved_seconds", timed)
    monkeypatch.setattr(inference, "measured_speedup", lambda pairs, tokens, transposed: 2.0)
    model = tiny_bert()
    found = compare_latency(model, batch=2, length=16, rounds=3)
    assert asked == [(["dense", "sparse"], 3)]
    assert (found.linear_layers, found.sparse_layers) == (14, 14)
    assert (found.dense_ms, found.sparse_ms) == pytest.approx((4.0, 1.0))
    assert (found.speedup, found.best_speedup) == pytest.approx((4.0, 4.0))
    assert 0 < found.difference < 1e-4
    assert found.library == cpu.matmul_library()
    assert not any(isinstance(module, SparseLinear) for module in model.modules())


def test_layers_are_timed_for_the_tokens_of_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def kept(model: object, tokens: int) -> dict[str, LayerChoice]:
        asked.append(tokens)
        return {"dense": LayerChoice(0.2, 1.0, False)}

    monkeypatch.setattr(latency, "sparsify_linears_", kept)
    found = compare_latency(tiny_bert(), batch=3, length=8, rounds=1)
    assert asked == [24]
    assert (found.linear_layers, found.sparse_layers, found.difference) == (1, 0, 0.0)


def test_a_model_is_loaded_in_fp32_as_what_it_was_saved_from(tmp_path: Path) -> None:
    model = tiny_bert().bfloat16()
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert type(loaded) is BertForMaskedLM
    assert not loaded.training
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    for name, parameter in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter.float())
