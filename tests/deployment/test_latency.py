"""A comparison of a dense and a sparse model counts, times and compares what it says."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

import cpu
import deploy
from deployment import compare_latency, inference, latency, load_model
from deployment.inference import LayerChoice, SparseLinear
from deployment.latency import Timing


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
    """Round by round the sparse model takes 1/2, 1/4 and 1/8 of the dense time; one thread is slower for both."""
    asked = []

    def timed(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
        asked.append((list(calls), rounds))
        for call in calls.values():
            call()
        seconds = {"torch dense 2": [0.002, 0.008, 0.004], "torch sparse 2": [0.001, 0.002, 0.0005]}
        return {name: seconds.get(name, [1.0, 1.0, 1.0]) for name in calls}

    monkeypatch.setattr(latency, "interleaved_seconds", timed)
    monkeypatch.setattr(latency, "installed", lambda runtime: False)
    monkeypatch.setattr(inference, "measured_speedup", lambda pairs, tokens, transposed: 2.0)
    model = tiny_bert()
    threads = torch.get_num_threads()
    found = compare_latency(model, batch=2, length=16, rounds=3, threads=[2, 1])
    assert torch.get_num_threads() == threads
    names = ["torch dense", "torch sparse", "torch bf16"]
    assert asked == [([f"{name} {number}" for number in (1, 2) for name in names], 3)]
    assert (found.linear_layers, found.sparse_layers) == (14, 14)
    dense, sparse, bf16 = found.timings
    assert [each.name for each in found.timings] == names
    assert (dense.threads, sparse.threads) == (2, 2)
    assert (dense.milliseconds, sparse.milliseconds) == pytest.approx((4.0, 1.0))
    assert (dense.speedup, sparse.speedup) == pytest.approx((1.0, 4.0))
    assert sparse.difference < 1e-5 < bf16.difference  # of some libraries it is 0
    assert found.fastest() is sparse
    assert found.library == cpu.matmul_library()
    assert not any(isinstance(module, SparseLinear) for module in model.modules())


def test_what_is_off_by_more_than_the_tolerance_is_not_the_fastest() -> None:
    exact, rough = Timing("exact", 1, 2.0, 1.0, 0.0), Timing("rough", 1, 1.0, 2.0, 0.01)
    found = latency.LatencyComparison(1, 0, "MKL", [exact, rough])
    assert found.fastest() is rough
    assert found.fastest(tolerance=0.001) is exact


def test_layers_are_timed_for_the_tokens_of_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def kept(model: object, tokens: int) -> dict[str, LayerChoice]:
        asked.append(tokens)
        return {"dense": LayerChoice(0.2, 1.0, False)}

    monkeypatch.setattr(latency, "sparsify_linears_", kept)
    monkeypatch.setattr(latency, "installed", lambda runtime: False)
    found = compare_latency(tiny_bert(), batch=3, length=8, rounds=1, threads=[1])
    assert asked == [24]
    assert (found.linear_layers, found.sparse_layers, found.timings[1].difference) == (1, 0, 0.0)


@pytest.mark.parametrize("bf16", [True, False])
def test_every_runtime_is_timed_and_computes_the_same(monkeypatch: pytest.MonkeyPatch, bf16: bool) -> None:
    """OpenVINO in bf16 only where the processor has it."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    monkeypatch.setattr(latency, "openvino_has_bf16", lambda: bf16)
    found = compare_latency(tiny_bert(), batch=2, length=16, rounds=1, threads=[1], int8=True)
    off = {each.name: each.difference for each in found.timings}
    openvino = ["OpenVINO", *(["OpenVINO bf16"] if bf16 else []), "OpenVINO int8"]
    assert list(off)[3:] == ["ONNX Runtime", "ONNX Runtime int8", *openvino]
    assert max(off[name] for name in ("torch sparse", "ONNX Runtime", "OpenVINO")) < 1e-5
    assert all(0 < off[name] < 0.2 for name in off if name.endswith(("bf16", "int8")))


def test_a_model_is_loaded_in_fp32_as_what_it_was_saved_from(tmp_path: Path) -> None:
    model = tiny_bert().bfloat16()
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert type(loaded) is BertForMaskedLM
    assert not loaded.training
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    for name, parameter in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter.float())


def test_a_tolerance_below_zero_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tolerance must be at least 0, got -1"):
        deploy.main(["latency", str(tmp_path), "--tolerance", "-1"])
