"""The optimizer of every module: AdamW with decoupled decay on matrices only."""

from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW


def adamw(
    parameters: Iterable[nn.Parameter],
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
    fused: bool,
) -> AdamW:
    """AdamW (Loshchilov and Hutter 2019) without decay on biases and LayerNorms.

    Args:
        parameters: all parameters of a model; frozen ones are left out.
        fused: one kernel for all tensors; not with fp16 loss scaling, where it would unscale behind Lightning's back.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.dim() >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.dim() < 2], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=lr, betas=betas, eps=eps, fused=fused)
