"""Sparse layers compute what the dense ones do, take their place only where they are faster, and nowhere else."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import cpu
from deployment import inference
from deployment.inference import MAX_DENSITY, SparseLinear, density_of, interleaved_seconds, sparsify_linears_, widens
from kernels import kernels_given_back


def sparse_layer(in_features: int, out_features: int, density: float, bias: bool = True, seed: int = 0) -> nn.Linear:
    """A layer with random weights and a random mask."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(in_features, out_features, bias=bias)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        layer.weight.mul_(torch.rand(out_features, in_features, generator=generator) < density)
    return layer


@settings(deadline=None, max_examples=60)
@given(
    shape=st.sampled_from([(), (1,), (5,), (32,), (33,), (2, 40), (3, 2, 31), (2, 0)]),
    features=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    density=st.sampled_from((0.0, 0.03, 0.2, 1.0)),
    bias=st.booleans(),
    dtype=st.sampled_from((torch.float32, torch.float64)),
    seed=st.integers(0, 100),
)
def test_a_sparse_layer_computes_what_the_dense_one_does(
    shape: tuple[int, ...], features: tuple[int, int], density: float, bias: bool, dtype: torch.dtype, seed: int
) -> None:
    dense = sparse_layer(*features, density, bias, seed).to(dtype)
    inputs = torch.randn(*shape, features[0], dtype=dtype, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected, output = dense(inputs), SparseLinear(dense)(inputs)
    assert output.dtype == dtype
    assert output.shape == expected.shape
    assert output.is_contiguous() or widens(*features)
    assert output.view(-1, features[1]).shape[1] == features[1]  # as heads of attention and losses take it
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-12)


def test_inputs_that_are_not_contiguous() -> None:
    dense = sparse_layer(24, 40, 0.2)
    inputs = torch.randn(24, 50, generator=torch.Generator().manual_seed(0)).T
    torch.testing.assert_close(SparseLinear(dense)(inputs), dense(inputs), rtol=0, atol=1e-4)


def test_a_feed_forward_block_transposes_once() -> None:
    """The first layer's output has tokens side by side in memory, the activation keeps that, the second copies nothing."""
    block = nn.Sequential(sparse_layer(16, 64, 0.2), nn.GELU(), sparse_layer(64, 16, 0.2, seed=1))
    sparse = nn.Sequential(SparseLinear(block[0]), nn.GELU(), SparseLinear(block[2]))
    inputs = torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        hidden = sparse[1](sparse[0](inputs))
        assert hidden.flatten(0, 1).T.is_contiguous()
        assert sparse(inputs).is_contiguous()
        torch.testing.assert_close(sparse(inputs), block(inputs), rtol=0, atol=1e-4)
        assert SparseLinear(sparse_layer(16, 48, 0.2))(inputs).is_contiguous()  # a joint projection of attention
        assert SparseLinear(sparse_layer(4, 300, 0.2))(inputs[..., :4]).is_contiguous()  # a vocabulary


def test_indices_take_32_bits_and_the_dense_layer_is_untouched() -> None:
    dense = sparse_layer(16, 8, 0.25)
    before = dense.weight.detach().clone()
    rows = SparseLinear(dense).weight
    assert rows.col_indices().dtype == rows.crow_indices().dtype == torch.int32
    assert rows.values().numel() == before.count_nonzero()
    assert torch.equal(rows.to_dense(), before)
    assert torch.equal(dense.weight, before)


def model() -> nn.Sequential:
    """Layers of 10 %, 60 %, 100 % and 0 % density, and a subclass of nn.Linear."""
    layers = [sparse_layer(32, 32, density, seed=number) for number, density in enumerate((0.1, 0.6, 1.0, 0.0))]
    return nn.Sequential(*layers, nn.GELU(), nn.modules.linear.NonDynamicallyQuantizableLinear(32, 32))


@pytest.fixture
def gain(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The speedup that every measurement finds, to be set, so that no clock decides."""
    value = [2.0]
    monkeypatch.setattr(inference, "measured_speedup", lambda pairs, tokens, transposed: value[0])
    return value


def test_only_sparse_layers_that_are_faster_are_replaced(gain: list[float]) -> None:
    sparse, dense = model(), model()
    kept = list(sparse)
    choices = sparsify_linears_(sparse)
    assert [type(layer) is SparseLinear for layer in sparse] == [True, False, False, True, False, False]
    assert all(sparse[index] is kept[index] for index in (1, 2, 4, 5))
    assert {name: choice.is_sparse for name, choice in choices.items()} == {"0": True, "1": False, "2": False, "3": True}
    assert {name: choice.speedup for name, choice in choices.items()} == {"0": 2.0, "1": None, "2": None, "3": 2.0}
    assert choices["1"].density == density_of(dense[1]) > MAX_DENSITY
    dense.load_state_dict({**dense.state_dict(), **kept[5].state_dict(prefix="5.")})
    inputs = torch.randn(2, 20, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sparse(inputs), dense(inputs), rtol=0, atol=1e-4)


@pytest.mark.parametrize("found", [0.4, 1.0, 1.09])
def test_what_is_not_clearly_faster_stays_the_same_object(gain: list[float], found: float) -> None:
    gain[0] = found
    layers = model()
    before = list(layers.modules())
    choices = sparsify_linears_(layers)
    assert all(one is other for one, other in zip(layers.modules(), before, strict=True))
    assert choices["0"].speedup == found
    assert not any(choice.is_sparse for choice in choices.values())


def test_a_shared_layer_stays_shared(gain: list[float]) -> None:
    layer = sparse_layer(32, 32, 0.1)
    layers = nn.ModuleDict({"a": nn.Sequential(layer), "b": nn.Sequential(layer, nn.GELU())})
    choices = sparsify_linears_(layers)
    assert choices.keys() == {"a.0", "b.0"}
    assert layers["a"][0] is layers["b"][0]
    assert type(layers["a"][0]) is SparseLinear


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_types_without_a_sparse_product_stay_dense(gain: list[float], dtype: torch.dtype) -> None:
    assert not any(choice.is_sparse for choice in sparsify_linears_(model().to(dtype)).values())


def test_layers_are_timed_by_shape_and_density(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = []

    def measured(pairs: list[tuple[nn.Linear, SparseLinear]], tokens: int, transposed: bool) -> float:
        groups.append((tokens, [pair[0] for pair in pairs]))
        return 2.0

    monkeypatch.setattr(inference, "measured_speedup", measured)
    sizes = [(64, 64, 0.1), (64, 128, 0.1), (64, 64, 0.1), (64, 64, 0.3)]
    layers = nn.Sequential(*(sparse_layer(*size, seed=number) for number, size in enumerate(sizes)))
    expected = [[layers[0], layers[2]], [layers[1]], [layers[3]]]
    sparsify_linears_(layers, tokens=77)
    assert groups == [(77, group) for group in expected]


def test_calls_are_interleaved_and_the_first_two_rounds_are_not_counted() -> None:
    order: list[str] = []
    seconds = interleaved_seconds({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 5
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}
    assert all(time >= 0 for times in seconds.values() for time in times)


QUIET = {"dense": [3.0, 3.1, 9.0], "sparse": [2.0, 2.1, 2.9]}
WAITING = {"dense": [16.0, 16.0, 16.1], "sparse": [32.0, 32.0, 32.0]}
ALONE = {"dense": [6.0, 6.1, 60.0], "sparse": [2.0, 20.0, 20.0]}


@pytest.mark.parametrize(("first", "expected"), [(QUIET, 1.5), (WAITING, 3.0)])
def test_a_busy_machine_does_not_decide(
    first: dict[str, list[float]], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best times count; where threads wait for each other, those of a single thread."""
    used: list[int] = []

    def timed(calls: object, rounds: int) -> dict[str, list[float]]:
        used.append(torch.get_num_threads())
        return first if len(used) == 1 else ALONE

    monkeypatch.setattr(inference, "interleaved_seconds", timed)
    layer = sparse_layer(8, 8, 0.1)
    torch.set_num_threads(2)
    try:
        assert inference.measured_speedup([(layer, SparseLinear(layer))], tokens=4) == expected
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert used == [2, 1]


def test_a_layer_of_one_percent_is_found_to_be_faster() -> None:
    """At 1 % even a machine that does other things shows it: MKL does a hundredth of the work."""
    layers = nn.Sequential(sparse_layer(1024, 1024, 0.01))
    assert sparsify_linears_(layers)["0"].is_sparse


@pytest.mark.parametrize("tokens", [0, -1])
def test_a_count_of_no_tokens_is_refused(tokens: int) -> None:
    with pytest.raises(ValueError, match=f"tokens is {tokens}; expected the batch size"):
        sparsify_linears_(model(), tokens=tokens)


@pytest.mark.parametrize("first_is_faster", [True, False])
def test_second_layers_are_timed_with_the_tokens_they_will_get(
    monkeypatch: pytest.MonkeyPatch, first_is_faster: bool
) -> None:
    asked = {}

    def speedup(pairs: list[tuple[nn.Linear, SparseLinear]], tokens: int, transposed: bool) -> float:
        asked[pairs[0][0].in_features] = transposed
        return 2.0 if first_is_faster or pairs[0][0].in_features == 64 else 1.0

    monkeypatch.setattr(inference, "measured_speedup", speedup)
    block = nn.Sequential(sparse_layer(64, 16, 0.2), sparse_layer(16, 64, 0.2))
    sparsify_linears_(block)
    assert asked == {16: False, 64: first_is_faster}
    assert isinstance(block[1], SparseLinear) == first_is_faster


@pytest.mark.parametrize("switch", ["0", "1"])
def test_dense_layers_are_timed_with_the_products_in_force(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With oneDNN every dense product of the measurement is its own, and without it none."""
    calls: list[int] = []
    inner = cpu._onednn
    monkeypatch.setattr(cpu, "_onednn", lambda *arguments: calls.append(1) or inner(*arguments))
    monkeypatch.setattr(cpu, "ONEDNN_PRODUCTS", 1)
    monkeypatch.setenv(cpu.SWITCH, switch)
    layer = sparse_layer(64, 64, 0.1)
    with kernels_given_back():
        assert cpu.multiply_with_onednn() == (switch == "1")
        inference.measured_speedup([(layer, SparseLinear(layer))], tokens=8, rounds=5)
    assert len(calls) == (7 if switch == "1" else 0)
