"""The optimizer of every module: AdamW with decoupled decay on matrices only."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from torch import nn
from torch.optim import AdamW

from internals import leave_unscaling_to_trainer


def adamw(
    parameters: Iterable[nn.Parameter],
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
    scales: Mapping[int, float] = MappingProxyType({}),
) -> AdamW:
    """AdamW (Loshchilov and Hutter 2019), bias-corrected, without decay on biases and LayerNorms.

    Args:
        parameters: all parameters of a model; frozen ones are left out.
        lr: learning rate.
        weight_decay: decoupled, of matrices.
        betas: of the two moments.
        eps: of the denominator.
        scales: factor of the learning rate by ``id`` of the parameter; what is not here has 1.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for decay, of_this_kind in ((weight_decay, lambda dim: dim >= 2), (0.0, lambda dim: dim < 2)):
        for parameter in trained:
            if of_this_kind(parameter.dim()):
                groups.setdefault((decay, scales.get(id(parameter), 1.0)), []).append(parameter)
    optimizer = AdamW(
        [{"params": group, "weight_decay": decay, "lr": lr * factor} for (decay, factor), group in groups.items()],
        lr=lr,
        betas=betas,
        eps=eps,
        fused=True,  # one kernel for all tensors
    )
    leave_unscaling_to_trainer(optimizer)
    return optimizer
