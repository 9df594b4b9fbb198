"""What lets a CPU train and infer faster than torch does by itself. It holds for the whole process; only rounding differs.

Nothing happens on import: entry points call :func:`keep_freed_memory` and :func:`multiply_with_onednn`. The environment
variable ``TRIFECTA_ONEDNN`` has a say in the second:

========  ==============================================================================================
``auto``  oneDNN multiplies fp32 matrices where it is known to be faster; the default
``0``     never: all matrix products are those of the library that torch was built with
``1``     on any processor, where this torch has oneDNN
========  ==============================================================================================
"""

import ctypes
import os
import re
import sys
import timeit
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

SWITCH = "TRIFECTA_ONEDNN"
ONEDNN_PRODUCTS = 1 << 20
"""Multiplications below which a matrix product is left where it is: the detour costs some 20 microseconds."""
BLAS = {"mkl": "MKL", "open": "OpenBLAS", "accelerate": "Accelerate", "veclib": "Accelerate", "nvpl": "NVPL", "blis": "BLIS"}
_kernels: torch.library.Library | None = None  # in force as long as this lives


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


def onednn_is_wanted() -> bool:
    """What ``TRIFECTA_ONEDNN`` says; by default, whether this is an AMD processor with AVX-512, which MKL leaves alone there.

    Raises:
        ValueError: it says something else than 0, 1 or auto, or 1 where torch has no oneDNN.
    """
    switch, available = os.environ.get(SWITCH, "auto"), torch.backends.mkldnn.is_available()
    if switch not in ("0", "1", "auto"):
        raise ValueError(f"{SWITCH} is {switch!r} in the environment; expected 0, 1 or auto")
    if switch == "1" and not available:
        raise ValueError(f"{SWITCH} is 1 in the environment, but this torch has no oneDNN; expected 0 or auto")
    if switch == "auto":
        processor = _processor()
        return available and "AuthenticAMD" in processor and "avx512f" in processor
    return switch == "1"


def multiply_with_onednn() -> bool:
    """Let oneDNN multiply fp32 matrices in this process from now on, where it is wanted: twice as fast, or more.

    Torch itself takes oneDNN for lower precisions only. Products in the backward pass, of linear layers and others, are
    included; other devices, dtypes, layouts and compiled code are as before.

    Returns:
        Whether oneDNN is in force.

    Raises:
        ValueError: the environment asks for what is not to be had (:func:`onednn_is_wanted`).
    """
    global _kernels
    if onednn_is_wanted() and _kernels is None:
        from pytorch_lightning.utilities import rank_zero_info  # seconds, which other commands need not wait

        rank_zero_info(f"oneDNN multiplies the fp32 matrices of the CPU; {SWITCH}=0 leaves them to {matmul_library()}")
        _kernels = torch.library.Library("aten", "IMPL")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(?s).*Overriding a previously registered kernel")  # that is the purpose
            for name, kernel in (("mm", _mm), ("addmm", _addmm)):
                _kernels.impl(name, kernel, "CPU", allow_override=True)
    return _kernels is not None


def matmul_library() -> str:
    """Name of what multiplies large fp32 matrices on the CPU in this process, as of now: oneDNN, MKL, OpenBLAS, …"""
    if _kernels is not None:
        return "oneDNN"
    built = re.search(r"\bBLAS_INFO=(\w+)", torch.__config__.show())
    name = "mkl" if torch.backends.mkl.is_available() else built[1].lower() if built else "torch"
    return BLAS.get(name, name)


def bf16_attention(chosen: str) -> str:
    """The ``attn_implementation`` of transformers to take in place of ``chosen`` in bf16 on this CPU.

    Torch's fused attention (``sdpa``) goes back through bf16 slowly on AMD: a layer of BERT-base takes 17 ms on a Zen 5, by two
    products and a softmax (``eager``) 3.5. The vendor decides and no measurement, as a run that goes on must choose the same.
    """
    return "eager" if chosen == "sdpa" and "AuthenticAMD" in _processor() else chosen


def bf16_gain(work: Callable[[], object]) -> float:
    """How many times as fast this process does some work on the CPU in bf16, by autocast, as in fp32: now, and measured.

    Processors without instructions for bf16 are slower with it, and so are small models with them, whose step is more than its
    products. The work is done three times each way.
    """

    def seconds(enabled: bool) -> float:
        def once() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                work()

        return min(timeit.repeat(once, number=1, repeat=3)[1:])  # the first one warms up

    return seconds(False) / seconds(True)


def _for_onednn(left: Tensor, right: Tensor) -> bool:
    """Whether a product is of the size and the type, and possible at all: torch has the words for one that is not."""
    fits = left.ndim == right.ndim == 2 and left.shape[1] == right.shape[0] and left.dtype == right.dtype == torch.float32
    return fits and left.numel() * right.shape[1] >= ONEDNN_PRODUCTS


def _rows_or_columns(matrix: Tensor) -> Tensor:
    """The matrix, copied unless its rows or its columns are contiguous: oneDNN is slow in any other layout."""
    (rows, columns), (down, across) = matrix.shape, matrix.stride()
    return matrix if (across == 1 and down >= columns) or (down == 1 and across >= rows) else matrix.contiguous()


def _copied(first: Tensor) -> int:
    """How many numbers of a first factor torch copies, on one thread, as oneDNN takes that by rows only."""
    return 0 if first.is_contiguous() else first.numel()


def _onednn(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    left, right = _rows_or_columns(left), _rows_or_columns(right)
    turned = _copied(right.t()) + left.shape[0] * right.shape[1]
    if bias is None and turned < _copied(left):
        # (AB)ᵀ = BᵀAᵀ: the gradient of a weight that projects to more than it has
        return torch.ops.mkldnn._linear_pointwise(right.t(), left, None, "none", [], "").t().contiguous()
    return torch.ops.mkldnn._linear_pointwise(left, right.t(), bias, "none", [], "")


def _mm(left: Tensor, right: Tensor) -> Tensor:
    if _for_onednn(left, right):
        return _onednn(left, right, None)
    return torch.ops.aten.mm.out(left, right, out=left.new_empty(0))  # torch's own kernel, whose functional form this is


def _addmm(bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    if _for_onednn(left, right) and bias.shape == right.shape[1:] and beta == alpha == 1 and bias.dtype == torch.float32:
        return _onednn(left, right, bias.contiguous())
    return torch.ops.aten.addmm.out(bias, left, right, beta=beta, alpha=alpha, out=left.new_empty(0))
