"""Matrix products by oneDNN: the same numbers as torch's own, in every layout that training uses."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import cpu
from kernels import kernels_given_back, take_out

LAYOUTS = {
    "rows": lambda matrix: matrix,
    "columns": lambda matrix: matrix.t().contiguous().t(),
    "slice of rows": lambda matrix: torch.cat([matrix, matrix], 1)[:, : matrix.shape[1]],
    "every second": lambda matrix: matrix.repeat_interleave(2, 0).repeat_interleave(2, 1)[::2, ::2],
    "expanded": lambda matrix: matrix[:1].expand_as(matrix),
    "expanded columns": lambda matrix: matrix[:, :1].expand_as(matrix),
}


def matrices(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(160, 128, generator=draw).to(dtype), torch.randn(128, 96, generator=draw).to(dtype)


@pytest.mark.parametrize("right_layout", LAYOUTS)
@pytest.mark.parametrize("left_layout", LAYOUTS)
def test_products_are_those_of_torch(left_layout: str, right_layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "ONEDNN_PRODUCTS", 1)
    left, right = matrices()
    left, right, bias = LAYOUTS[left_layout](left), LAYOUTS[right_layout](right), torch.arange(96.0)
    exact = left.double() @ right.double()
    torch.testing.assert_close(cpu._mm(left, right).double(), exact, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(cpu._addmm(bias, left, right).double(), exact + bias, rtol=1e-5, atol=1e-3)


def test_the_gradient_of_a_projection_copies_the_smaller_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    """gᵀx of a vocabulary: by rows, oneDNN would have a copy made of all logits."""
    logits, hidden = torch.randn(64, 300), torch.randn(64, 16)
    firsts: list[tuple[int, ...]] = []
    inner = torch.ops.mkldnn._linear_pointwise
    record = SimpleNamespace(
        _linear_pointwise=lambda first, *others: firsts.append((*first.shape,)) or inner(first, *others)
    )
    monkeypatch.setattr(torch.ops, "mkldnn", record)
    wide, narrow = cpu._onednn(logits.t(), hidden, None), cpu._onednn(hidden.t(), logits, None)
    assert firsts == [(16, 64), (16, 64)]  # the hidden states, both times
    assert wide.is_contiguous()
    assert narrow.is_contiguous()
    close(wide, logits.double().t() @ hidden.double())
    close(narrow, hidden.double().t() @ logits.double())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
def test_other_types_are_left_to_torch(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "ONEDNN_PRODUCTS", 1)
    left, right = matrices(dtype)
    assert torch.equal(cpu._mm(left, right), left @ right)


@pytest.mark.parametrize(("beta", "alpha", "rows"), [(0.5, 1, 1), (1, 2, 1), (1, 1, 160)])
def test_scaled_sums_and_matrix_addends_are_left_to_torch(
    beta: float, alpha: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "ONEDNN_PRODUCTS", 1)
    left, right = matrices()
    for addend in (torch.ones(rows, 96), torch.ones(1)):
        result = cpu._addmm(addend, left, right, beta=beta, alpha=alpha)
        assert torch.equal(result, torch.addmm(addend, left, right, beta=beta, alpha=alpha))


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """oneDNN in force for products of any size."""
    monkeypatch.setattr(cpu, "ONEDNN_PRODUCTS", 1)
    monkeypatch.setenv(cpu.SWITCH, "1")
    with kernels_given_back():
        assert cpu.multiply_with_onednn()
        yield


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An entry for every product that oneDNN does."""
    calls: list[int] = []
    inner = cpu._onednn
    monkeypatch.setattr(cpu, "_onednn", lambda *arguments: calls.append(1) or inner(*arguments))
    return calls


def close(ours: Tensor, exact: Tensor) -> None:
    torch.testing.assert_close(ours.double(), exact.double(), rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("requires_grad", [True, False])
def test_products_in_every_mode_of_gradients(
    context: Callable[[], AbstractContextManager[None]], requires_grad: bool, counted: list[int]
) -> None:
    left, right = matrices()
    left.requires_grad_(requires_grad)
    with context():
        product, sum_ = left @ right, torch.addmm(torch.ones(96), left, right)
    assert len(counted) == 2
    assert product.requires_grad == sum_.requires_grad == (requires_grad and context is torch.enable_grad)
    assert product.is_inference() == (context is torch.inference_mode)
    assert product.is_contiguous()
    close(product.detach(), left.detach().double() @ right.double())
    close(sum_.detach(), left.detach().double() @ right.double() + 1)


@pytest.mark.usefixtures("onednn")
def test_first_and_second_derivatives(counted: list[int]) -> None:
    left, right = matrices()
    left, right = left[:9, :8].clone().requires_grad_(), right[:8, :7].clone().requires_grad_()
    exact = [tensor.detach().double().requires_grad_() for tensor in (left, right)]
    derivatives = []
    for first, second in ((left, right), exact):
        slope = torch.autograd.grad((first @ second).pow(3).sum(), (first, second), create_graph=True)
        derivatives.append([*slope, *torch.autograd.grad(sum(each.pow(2).sum() for each in slope), (first, second))])
    assert len(counted) > 3
    for ours, expected in zip(*derivatives, strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-1)


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("shapes", [((0, 5), (5, 7)), ((5, 0), (0, 7)), ((5, 3), (3, 0)), ((0, 0), (0, 0))])
def test_products_of_nothing(shapes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    left, right = (torch.ones(shape) for shape in shapes)
    expected = torch.zeros(shapes[0][0], shapes[1][1])
    assert torch.equal(left @ right, expected)
    assert torch.equal(torch.addmm(torch.ones(shapes[1][1]), left, right), expected + 1)


@pytest.mark.usefixtures("onednn")
def test_vectors_as_matrices_and_rows_that_overlap() -> None:
    left, right = matrices()
    overlapping = left.as_strided((30, 128), (3, 1))
    for one, other in ((left[:1], right), (left, right[:, :1]), (left[:, :1], right[:1]), (overlapping, right)):
        close(one @ other, one.double() @ other.double())
        close(torch.addmm(torch.ones(1).expand(other.shape[1]), one, other), one.double() @ other.double() + 1)


@pytest.mark.usefixtures("onednn")
def test_a_negated_view_is_what_it_stands_for() -> None:
    right = matrices()[1]
    view = torch.complex(right, right).conj().imag
    assert view.is_neg()
    close(torch.eye(128) @ view, -right)


IMPOSSIBLE = {
    "inner sizes differ": (torch.ones(160, 128), torch.ones(127, 96)),
    "a vector on the right": (torch.ones(160, 128), torch.ones(128)),
    "a vector on the left": (torch.ones(128), torch.ones(128, 96)),
    "two types": (torch.ones(160, 128), torch.ones(128, 96).double()),
    "no products of truths": (torch.ones(160, 128).bool(), torch.ones(128, 96).bool()),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_torch_refuses_is_refused_in_its_words(case: str, request: pytest.FixtureRequest) -> None:
    left, right = IMPOSSIBLE[case]
    complaints = []
    take_out()
    for on in (False, True):
        if on:
            request.getfixturevalue("onednn")
        with pytest.raises(RuntimeError) as error:
            torch.mm(left, right)
        complaints.append(str(error.value))
        with pytest.raises(RuntimeError) as error:
            torch.addmm(torch.ones(96), left, right)
        complaints.append(str(error.value))
    assert complaints[:2] == complaints[2:]


@pytest.mark.usefixtures("onednn")
def test_autocast_multiplies_in_its_own_type(counted: list[int]) -> None:
    left, right = matrices()
    with torch.autocast("cpu", torch.bfloat16):
        product = left @ right
        layer = torch.nn.functional.linear(left, right.t(), torch.ones(96))
    assert product.dtype == layer.dtype == torch.bfloat16
    assert counted == []
    torch.testing.assert_close(
        product.float(), (left.bfloat16().double() @ right.bfloat16().double()).float(), rtol=1e-2, atol=1e-1
    )


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("precision", ["highest", "high"])
def test_the_precision_of_a_training_run_is_fp32(precision: str, counted: list[int]) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        left, right = matrices()
        close(left @ right, left.double() @ right.double())
    finally:
        torch.set_float32_matmul_precision(before)
    assert len(counted) == 1


@pytest.mark.usefixtures("onednn")
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_other_layouts_are_left_to_torch(counted: list[int]) -> None:
    left, right = matrices()
    expected = left @ right
    counted.clear()
    close(left.to_sparse() @ right, expected)
    close((right.t().contiguous().to_sparse_csr() @ left.t()).t(), expected)
    close(torch.bmm(left[None], right[None])[0], expected)
    assert counted == []


@pytest.mark.usefixtures("onednn")
def test_a_given_tensor_is_written_by_torch(counted: list[int]) -> None:
    left, right = matrices()
    out = torch.full((160, 96), torch.nan)
    assert torch.mm(left, right, out=out) is out
    close(out, left.double() @ right.double())
    torch.addmm(torch.ones(96), left, right, out=out)
    close(out, left.double() @ right.double() + 1)
    out.addmm_(left, right)
    close(out, 2 * (left.double() @ right.double()) + 1)
    assert counted == []


@pytest.mark.usefixtures("onednn")
def test_tensors_without_numbers_have_the_shape(counted: list[int]) -> None:
    left, right = matrices()
    assert (left.to("meta") @ right.to("meta")).shape == (160, 96)
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(left) @ mode.from_tensor(right)
    assert fake.shape == (160, 96)
    assert fake.device.type == "cpu"
    assert counted == []


@pytest.mark.usefixtures("onednn")
def test_operations_are_counted_once(counted: list[int]) -> None:
    """2·m·k·n for a product; for a layer's backward pass the same again, twice."""
    left, right = matrices()
    right.requires_grad_()
    with FlopCounterMode(display=False) as flops:
        (left.requires_grad_() @ right).sum().backward()
    assert flops.get_total_flops() == 3 * 2 * 160 * 128 * 96
    assert len(counted) == 3


@pytest.mark.usefixtures("onednn")
def test_a_map_over_matrices() -> None:
    left, right = matrices()
    stacked = torch.stack([left, 2 * left])
    close(torch.vmap(torch.mm, (0, None))(stacked, right), stacked.double() @ right.double())


@pytest.mark.usefixtures("onednn")
def test_a_traced_function_calls_the_same_operators() -> None:
    """As a compiler sees it: the products by torch's names, with shapes alone."""
    left, right = matrices()
    traced = make_fx(lambda one, other: torch.addmm(torch.ones(96), one, other), tracing_mode="fake")(left, right)
    assert [str(node.target) for node in traced.graph.nodes if "mm" in str(node.target)] == ["aten.addmm.default"]
    close(traced(left, right), left.double() @ right.double() + 1)


@pytest.mark.usefixtures("onednn")
def test_a_compiled_layer_and_its_backward_pass(counted: list[int]) -> None:
    left, right = matrices()
    right.requires_grad_()
    compiled = torch.compile(lambda one, other: (one @ other).square().sum(), backend="aot_eager", dynamic=False)
    compiled(left, right).backward()
    exact = left.double() @ right.detach().double()
    torch.testing.assert_close(right.grad.double(), 2 * left.double().t() @ exact, rtol=1e-5, atol=1e-2)
    assert len(counted) == 2


def in_a_process(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script in an interpreter of its own, with nothing of this one's but the folder, and warnings as errors."""
    command = [sys.executable, "-W", "error::UserWarning", "-c", script]
    kept = {name: value for name, value in os.environ.items() if name != cpu.SWITCH}
    root = Path(cpu.__file__).parent
    return subprocess.run(command, capture_output=True, text=True, env=kept | environment, cwd=root, check=False)


SUITABLE = 'import cpu; cpu._processor = lambda: "vendor_id: AuthenticAMD\\nflags: avx2 avx512f"\n'


def test_forward_and_backward_of_a_linear_layer_go_through_it() -> None:
    """In a process of its own, because kernels are replaced for good."""
    script = """
import torch
layer, x = torch.nn.Linear(256, 384), torch.randn(8, 16, 256, requires_grad=True)
def run():
    layer.zero_grad()
    x.grad = None
    y = layer(x)
    y.square().sum().backward()
    return [y.detach(), x.grad.clone(), layer.weight.grad.clone(), layer.bias.grad.clone()]
before = run()
calls = []
inner = cpu._onednn
cpu._onednn = lambda *arguments: calls.append(1) or inner(*arguments)
assert cpu.multiply_with_onednn() and cpu.multiply_with_onednn()
after, again = run(), run()
assert len(calls) == 6, calls
for one, two, three in zip(before, after, again):
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    assert torch.equal(two, three)
"""
    result = in_a_process(SUITABLE + script)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_one_line_says_that_it_is_on_and_how_to_turn_it_off(rank: str, lines: int) -> None:
    script = "print(cpu.multiply_with_onednn(), cpu.multiply_with_onednn(), cpu.matmul_library())"
    result = in_a_process(SUITABLE + script, LOCAL_RANK=rank)
    assert result.stdout == "True True oneDNN\n", result.stderr
    said = [line for line in result.stderr.splitlines() if "oneDNN" in line]
    assert said == ["oneDNN multiplies the fp32 matrices of the CPU; TRIFECTA_ONEDNN=0 leaves them to MKL"][:lines]


def test_nothing_happens_on_import() -> None:
    script = """
import torch
def kernels():
    return [torch._C._dispatch_dump(f"aten::{name}") for name in ("mm", "addmm", "mm.out", "addmm.out", "bmm", "linear")]
before = kernels()
import cpu, sparsity, objectives, datamodules, deployment, callbacks, lightning_modules, reports, sweeps, train, report, deploy
assert kernels() == before
assert cpu.matmul_library() != "oneDNN"
"""
    result = in_a_process(script, TRIFECTA_ONEDNN="1")
    assert result.returncode == 0, result.stderr


AMD, OLDER_AMD, INTEL = (
    "vendor_id: AuthenticAMD\nflags: avx2 avx512f",
    "vendor_id: AuthenticAMD\nflags: avx2",
    "vendor_id: GenuineIntel\nflags: avx512f",
)


@pytest.mark.parametrize(
    ("switch", "processor", "available", "wanted"),
    [
        (None, AMD, True, True),
        (None, AMD, False, False),
        (None, OLDER_AMD, True, False),
        (None, INTEL, True, False),
        (None, "", True, False),
        ("auto", AMD, True, True),
        ("auto", INTEL, True, False),
        ("0", AMD, True, False),
        ("0", AMD, False, False),
        ("1", INTEL, True, True),
        ("1", "", True, True),
    ],
)
def test_where_it_is_wanted(
    switch: str | None, processor: str, available: bool, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(cpu.SWITCH, raising=False)
    if switch is not None:
        monkeypatch.setenv(cpu.SWITCH, switch)
    monkeypatch.setattr(cpu, "_processor", lambda: processor)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: available)
    assert cpu.onednn_is_wanted() == wanted


@pytest.mark.parametrize(
    ("vendor", "chosen", "taken"),
    [
        ("AuthenticAMD", "sdpa", "eager"),
        ("AuthenticAMD", "flex_attention", "flex_attention"),
        ("GenuineIntel", "sdpa", "sdpa"),
    ],
)
def test_attention_in_bf16_replaces_the_fused_one_only(
    vendor: str, chosen: str, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "_processor", lambda: f"vendor_id : {vendor}")
    assert cpu.bf16_attention(chosen) == taken


@pytest.mark.parametrize("switch", ["", "2", "yes", "on", " 1"])
def test_a_switch_in_another_position_is_an_error(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cpu.SWITCH, switch)
    with pytest.raises(ValueError, match=f"^TRIFECTA_ONEDNN is {switch!r} in the environment; expected 0, 1 or auto$"):
        cpu.multiply_with_onednn()


def test_to_insist_on_what_torch_does_not_have_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cpu.SWITCH, "1")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(ValueError, match="is 1 in the environment, but this torch has no oneDNN; expected 0 or auto"):
        cpu.multiply_with_onednn()


def test_other_processors_keep_what_torch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    take_out()
    monkeypatch.delenv(cpu.SWITCH, raising=False)
    monkeypatch.setattr(cpu, "_processor", lambda: INTEL)
    before = torch._C._dispatch_dump("aten::mm")
    assert not cpu.multiply_with_onednn()
    assert torch._C._dispatch_dump("aten::mm") == before


@pytest.mark.parametrize(
    ("mkl", "settings", "name"),
    [
        (True, "BLAS_INFO=mkl, X=1", "MKL"),
        (False, "X=1, BLAS_INFO=open, LAPACK_INFO=open", "OpenBLAS"),
        (False, "BLAS_INFO=accelerate", "Accelerate"),
        (False, "BLAS_INFO=generic", "generic"),
        (False, "LAPACK_INFO=mkl", "torch"),
    ],
)
def test_the_library_that_torch_uses_by_itself(mkl: bool, settings: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_kernels", None)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    monkeypatch.setattr(torch.__config__, "show", lambda: f"PyTorch built with:\n  - Build settings: {settings}, ")
    assert cpu.matmul_library() == name


@pytest.mark.usefixtures("onednn")
def test_the_library_that_is_in_force() -> None:
    assert cpu.matmul_library() == "oneDNN"


def test_the_gain_of_bf16_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock: where bf16 takes a third of the time, it is three. The first time, which warms up, does not count."""
    dtypes = []
    left, right = torch.ones(64, 32), torch.ones(32, 128)
    assert 0 < cpu.bf16_gain(lambda: dtypes.append((left @ right).dtype)) < 1000
    assert dtypes == [torch.float32] * 3 + [torch.bfloat16] * 3
    times = iter([[9.0, 3.0, 6.0], [0.5, 2.0, 1.0]])
    monkeypatch.setattr(cpu.timeit, "repeat", lambda once, **options: next(times))
    assert cpu.bf16_gain(lambda: None) == 3.0
