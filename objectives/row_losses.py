"""Losses over the rows of large logits, whose gradient is computed on the way.

A vocabulary of 30,000 makes the logits the largest tensor of a small BERT's step. Autograd goes over them once an operation,
forwards and backwards, and keeps buffers as large as they are between. But the gradient of a cross-entropy is known with the
loss, softmax minus target: here a few rows at a time become both while they lie in the processor's cache.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

RowLoss = Callable[[Tensor, slice, Tensor], Tensor]
"""Of logits (rows, classes), which rows of all they are, and room of their shape: the losses (rows,); the gradients go into the
room. All of it is fp32."""

IN_CACHE = 1 << 19
"""Logits at a time on a CPU: 2 MB, with room for as many gradients in the cache of one core."""


def weighted_row_loss(logits: Tensor, weight: Tensor, row_loss: RowLoss) -> Tensor:
    """Σ weight_i · loss_i over the rows.

    Args:
        logits: (N, classes) of any precision; losses are computed in fp32, and the gradient is as precise as the logits.
        weight: (N,), of each row; its gradient is not computed.
        row_loss: of single rows.

    Raises:
        RuntimeError: when its gradient is asked for a second time.
    """
    return _WeightedRowLoss.apply(logits, weight.float(), row_loss)


def log_partition(logits: Tensor, softmax: Tensor) -> Tensor:
    """log Σ_j exp(z_j) of each row (rows, classes), from the largest logit and its probability: no further exponential."""
    return logits.amax(1) - softmax.amax(1).log()


class _WeightedRowLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, weight: Tensor, row_loss: RowLoss) -> Tensor:  # type: ignore[override]
        # fp16 cannot hold a gradient that the scaler has yet to lift
        kept = torch.float32 if logits.dtype == torch.float16 else logits.dtype
        gradient = torch.empty_like(logits, dtype=kept) if ctx.needs_input_grad[0] else None
        at_once = max(1, IN_CACHE // logits.size(1)) if logits.device.type == "cpu" else max(1, len(logits))
        room = torch.empty_like(logits[:at_once], dtype=torch.float32)
        total = weight.new_zeros(())
        with torch.autocast(logits.device.type, enabled=False):  # which would take some of it for half precision
            for start in range(0, len(logits), at_once):
                rows = slice(start, start + at_once)
                here = logits[rows].float()
                there = room[: len(here)]
                total += torch.where(weight[rows] == 0, 0.0, row_loss(here, rows, there) * weight[rows]).sum()
                if gradient is not None:
                    torch.mul(there, weight[rows, None], out=gradient[rows])
        ctx.gradient, ctx.dtype = gradient, logits.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        # handed on and scaled in place, as a buffer more would cost what it saves
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            raise RuntimeError("the gradient of a loss over rows can be asked for once, whatever retain_graph says")
        if upstream.device.type != "cpu" or upstream != 1:  # to know it, a GPU would have to be waited for
            gradient.mul_(upstream)
        return gradient.to(ctx.dtype), None, None
