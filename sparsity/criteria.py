"""Criteria: which weights go and which come. Every weight gets a score; the largest scores are kept or grown.

Scores are computed in fp32 at least, whatever the precision of training: sums over the weights of a block, products with other
tensors and running averages would lose the small differences that decide.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Criterion = Callable[[Tensor, Tensor | None, torch.Generator], Tensor]
"""``(weight, gradient, generator) → scores`` of the weight's shape and device."""


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor itself, or in fp32 where it is of half precision."""
    return tensor.float() if tensor.element_size() < 4 else tensor


def magnitude(weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
    """|w|: the usual criterion to drop by."""
    return at_least_float32(weight.detach()).abs()


def magnitude_or_chance(weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
    """|w|, and where that is 0 too little to matter, but drawn at random: not the first of many zeros come, but any."""
    scores = magnitude(weight, gradient, generator)
    return torch.where(scores == 0, 1e-30 * random(weight, gradient, generator), scores)


def gradient_magnitude(weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
    """|∂L/∂w| of the dense gradient: how RigL grows (Evci et al. 2020, Alg. 1)."""
    if gradient is None:
        raise ValueError("growing by gradient magnitude needs the dense gradient of this step, but there is none")
    return at_least_float32(gradient.detach()).abs()


def balanced_gradient_magnitude(weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
    """|g| / √(R_i C_j / M), where R_i and C_j are the mean squares of the gradient's row and of its column, and M of all of it.

    R_i C_j / M is the rank-one estimate of g² of Adafactor (Shazeer and Stern 2018, arXiv 1804.04235, section 3). A few outlier
    rows and columns, which would take nearly all growth, weigh no more than the others, nor does a tensor whose gradients are
    larger. A gradient of 0 scores 0.
    """
    scores = gradient_magnitude(weight, gradient, generator)
    if scores.dim() < 2:
        return scores
    numbers = torch.finfo(scores.dtype)
    matrix = scores.flatten(1) / scores.max().clamp(min=numbers.tiny)
    rows, columns, whole = (root_mean_square(matrix, dim) for dim in ((1,), (0,), (0, 1)))
    return torch.where(matrix > 0, (matrix / rows / columns * whole).clamp(max=numbers.max), 0.0).view_as(scores)


def root_mean_square(matrix: Tensor, dim: tuple[int, ...]) -> Tensor:
    """√mean(x²) over ``dim``, which stays with size 1; of numbers ≥ 0, however small, as each is squared beside its largest."""
    largest = matrix.amax(dim, keepdim=True).clamp(min=torch.finfo(matrix.dtype).tiny)
    return largest * (matrix / largest).square().mean(dim, keepdim=True).sqrt()


def random(weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
    """Uniform in [0, 1): how SET grows (Mocanu et al. 2018) and how masks are first drawn. Drawn on the CPU."""
    return torch.rand(weight.shape, generator=generator).to(weight.device)
