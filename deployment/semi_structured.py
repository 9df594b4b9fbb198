"""2:4 models in the form that the sparse tensor cores of NVIDIA GPUs take, through torchao; and what can be known without one."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

SHAPES = {
    torch.float16: (32, 64),
    torch.bfloat16: (32, 64),
}  # rows and columns must be multiples of these in CUTLASS's kernel


@dataclass(frozen=True)
class SemiStructured:
    """Which linear layers can take the form.

    Args:
        fit: names of the layers with at most two weights of every four that are not zero, and sizes that the kernels take.
        reasons: name → why another layer cannot.
    """

    fit: list[str]
    reasons: dict[str, str]


def is_two_of_four(weight: Tensor) -> bool:
    """Whether no four weights side by side along the input dimension have more than two that are not zero."""
    return weight.shape[1] % 4 == 0 and bool((weight.detach().unflatten(1, (-1, 4)) != 0).sum(-1).le(2).all())


def why_not(linear: nn.Linear, dtype: torch.dtype = torch.float16) -> str | None:
    """What keeps a layer from the form; None where nothing does."""
    rows, columns = SHAPES[dtype]
    if linear.out_features % rows or linear.in_features % columns:
        return f"{linear.out_features} × {linear.in_features} is no multiple of {rows} × {columns}"
    return None if is_two_of_four(linear.weight) else "more than two of four weights are not zero"


def semi_structured_layers(model: nn.Module) -> SemiStructured:
    """Which linear layers of a model can take the form, and why the others cannot."""
    found = {name: why_not(module) for name, module in model.named_modules() if type(module) is nn.Linear}
    return SemiStructured(
        [name for name, reason in found.items() if reason is None],
        {name: reason for name, reason in found.items() if reason is not None},
    )


def to_semi_structured_(model: nn.Module) -> SemiStructured:
    """Give the layers that fit the form by ``torchao.sparsity.semi_sparse_weight``; for inference on a GPU.

    Args:
        model: float16 or bfloat16 on a CUDA device of compute capability 8.0 or more.

    Raises:
        ValueError: it is elsewhere or of another type, no layer fits, or torchao is not installed.
    """
    weight = next(model.parameters())
    if weight.device.type != "cuda" or weight.dtype not in SHAPES:
        raise ValueError(
            f"a model of {weight.dtype} on {weight.device.type}; 2:4 takes float16 or bfloat16 on a CUDA device"
        )
    layers = semi_structured_layers(model)
    if not layers.fit:
        raise ValueError("no linear layer has at most two of every four weights: train with structure 2:4")
    try:
        from torchao.sparsity import semi_sparse_weight, sparsify_
    except ImportError as error:
        raise ValueError("torchao is not installed: pip install 'trifecta[torchao]'") from error
    chosen = set(layers.fit)
    sparsify_(model, semi_sparse_weight(), filter_fn=lambda module, name: name in chosen)
    return layers
