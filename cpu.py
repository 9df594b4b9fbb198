"""What lets a CPU train faster than torch does by itself. It holds for the whole process, and only rounding differs."""

import ctypes
import functools
import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor

ONEDNN_PRODUCTS = 1 << 20
"""Multiplications below which a matrix product is left where it is: the detour costs some 20 microseconds."""


def keep_freed_memory() -> None:
    """Let glibc reuse large buffers instead of returning them to the kernel: a third faster on a small BERT."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            m_trim_threshold, m_mmap_max = -1, -4
            libc.mallopt(m_mmap_max, 0)
            libc.mallopt(m_trim_threshold, 2**31 - 1)


def _processor() -> str:
    """Vendor and flags of the first processor; empty where they are not to be had."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return ""


@functools.cache
def multiply_with_onednn() -> bool:
    """Let oneDNN, not MKL, multiply fp32 matrices on AMD processors with AVX-512, which MKL does not use there: twice as fast.

    Torch itself takes oneDNN for lower precisions only. Products in the backward pass, of linear layers and others, are
    included; other devices, dtypes, layouts and compiled code are as before.

    Returns:
        Whether this is such a processor.
    """
    processor = _processor()
    suitable = "AuthenticAMD" in processor and "avx512f" in processor and torch.backends.mkldnn.is_available()
    if suitable:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(?s).*Overriding a previously registered kernel")  # that is the purpose
            for name, kernel in (("mm", _mm), ("addmm", _addmm)):
                _LIBRARY.impl(name, kernel, "CPU", allow_override=True)
    return suitable


_LIBRARY = torch.library.Library("aten", "IMPL")


def _for_onednn(left: Tensor, right: Tensor) -> bool:
    return left.dtype == right.dtype == torch.float32 and left.numel() * right.shape[1] >= ONEDNN_PRODUCTS


def _rows_or_columns(matrix: Tensor) -> Tensor:
    """The matrix, copied unless its rows or its columns are contiguous: oneDNN is slow in any other layout."""
    (rows, columns), (down, across) = matrix.shape, matrix.stride()
    return matrix if (across == 1 and down >= columns) or (down == 1 and across >= rows) else matrix.contiguous()


def _onednn(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    left, right = _rows_or_columns(left), _rows_or_columns(right)
    return torch.ops.mkldnn._linear_pointwise(left, right.t(), bias, "none", [], "")


def _mm(left: Tensor, right: Tensor) -> Tensor:
    if _for_onednn(left, right):
        return _onednn(left, right, None)
    return torch.ops.aten.mm.out(left, right, out=left.new_empty(left.shape[0], right.shape[1]))


def _addmm(bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    if bias.shape == right.shape[1:] and beta == alpha == 1 and bias.dtype == torch.float32 and _for_onednn(left, right):
        return _onednn(left, right, bias.contiguous())
    out = left.new_empty(left.shape[0], right.shape[1])
    return torch.ops.aten.addmm.out(bias, left, right, beta=beta, alpha=alpha, out=out)
