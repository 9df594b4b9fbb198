"""Matrix products by oneDNN: the same numbers as torch's own, in every layout that training uses."""

import subprocess
import sys
import warnings

import pytest
import torch
from torch import Tensor

import cpu

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


def test_forward_and_backward_of_a_linear_layer_go_through_it() -> None:
    """In a process of its own, because kernels are replaced for good."""
    script = """
import torch
import cpu
layer, x = torch.nn.Linear(256, 384), torch.randn(8, 16, 256, requires_grad=True)
def run():
    layer.zero_grad()
    x.grad = None
    y = layer(x)
    y.square().sum().backward()
    return [y.detach(), x.grad.clone(), layer.weight.grad.clone(), layer.bias.grad.clone()]
before = run()
cpu._processor = lambda: "vendor_id: AuthenticAMD\\nflags: avx2 avx512f"
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
    result = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "processor", ["vendor_id: GenuineIntel\nflags: avx512f", "vendor_id: AuthenticAMD\nflags: avx2", ""]
)
def test_other_processors_keep_what_torch_has(processor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_processor", lambda: processor)
    cpu.multiply_with_onednn.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not cpu.multiply_with_onednn()
    cpu.multiply_with_onednn.cache_clear()
