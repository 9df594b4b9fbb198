"""Distributions: how many weights each tensor keeps.

Every function takes the shapes of the sparse tensors and the number of weights that all of them keep together, and returns
one integer a tensor. The integers add up to that number exactly.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Literal

Shape = Sequence[int]
Distribution = Literal["uniform", "erdos_renyi"]
Scope = Literal["tensors", "encoder", "model"]


def nonzero_budget(sparsity: float, sparse_size: int, scope_size: int) -> int:
    """Weights the sparse tensors keep so that ``round(sparsity · scope_size)`` of a scope are zero.

    Args:
        sparsity: share of zeros wanted in the scope, in [0, 1).
        sparse_size: weights in the sparse tensors.
        scope_size: weights in the scope: the sparse tensors themselves, or more where the scope has dense parameters too.

    Raises:
        ValueError: ``sparsity`` out of range, or more zeros wanted than the sparse tensors have weights.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
    zeros = round(sparsity * scope_size)
    if zeros > sparse_size:
        raise ValueError(
            f"sparsity {sparsity} of {scope_size:,} parameters needs {zeros:,} zeros, but only {sparse_size:,} weights may "
            f"be zero: at most {math.floor(1e4 * sparse_size / scope_size) / 1e4} is feasible, or make more tensors sparse"
        )
    return sparse_size - zeros


def uniform(shapes: Sequence[Shape], nnz: int) -> list[int]:
    """The same density in every tensor, to rounding."""
    sizes = [math.prod(shape) for shape in shapes]
    return _apportion([Fraction(nnz * size, max(sum(sizes), 1)) for size in sizes], sizes, nnz)


def erdos_renyi(shapes: Sequence[Shape], nnz: int) -> list[int]:
    """Density proportional to ``sum(shape) / prod(shape)`` (Mocanu et al. 2018, eq. 3; Evci et al. 2020, section 3).

    A tensor whose density would exceed 1 becomes dense and the scale is solved again for the others.
    """
    sizes = [math.prod(shape) for shape in shapes]
    dense: set[int] = set()
    while True:
        free = [index for index in range(len(shapes)) if index not in dense]
        remaining = nnz - sum(sizes[index] for index in dense)
        scale = Fraction(remaining, max(sum(sum(shapes[index]) for index in free), 1))
        saturated = [index for index in free if scale * sum(shapes[index]) > sizes[index]]
        if not saturated:
            break
        dense.update(saturated)
    quotas = [Fraction(sizes[index]) if index in dense else scale * sum(shapes[index]) for index in range(len(shapes))]
    return _apportion(quotas, sizes, nnz)


DISTRIBUTIONS: dict[Distribution, Callable[[Sequence[Shape], int], list[int]]] = {
    "uniform": uniform,
    "erdos_renyi": erdos_renyi,
}


def _apportion(quotas: Sequence[Fraction], sizes: Sequence[int], total: int) -> list[int]:
    """Integers that add up to ``total``, each its quota rounded down or up: largest remainders first, then by position."""
    if not 0 <= total <= sum(sizes):
        raise ValueError(f"cannot keep {total:,} of {sum(sizes):,} weights")
    counts = [math.floor(quota) for quota in quotas]
    by_remainder = sorted(range(len(counts)), key=lambda index: (counts[index] - quotas[index], index))
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts
