"""Distributions: how many weights each tensor keeps.

Every function takes the sparse tensors and the number of weights that all of them keep together, and returns one integer a
tensor. The integers add up to that number exactly; where weights come in units (blocks), to less than one unit.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from sparsity.masks import top_k_mask
from sparsity.structures import Structure

Shape = Sequence[int]
Distribution = Literal["uniform", "erdos_renyi", "global"]
Scope = Literal["tensors", "encoder", "model"]


def nonzero_budget(
    sparsity: float | None,
    sparse_size: int,
    scope_size: int,
    nonzeros: int | None = None,
    feasible: tuple[int, int] | None = None,
) -> int:
    """Weights the sparse tensors keep so that ``round(sparsity · scope_size)`` of a scope are zero, or all but ``nonzeros``.

    Args:
        sparsity: share of zeros wanted in the scope, in [0, 1); None where ``nonzeros`` is given.
        sparse_size: weights in the sparse tensors.
        scope_size: weights in the scope: the sparse tensors themselves, or more where the scope has dense parameters too.
        nonzeros: weights of the scope that are not zero, instead of ``sparsity``.
        feasible: least and most that the sparse tensors can keep, where some have a number of their own.

    Raises:
        ValueError: both or none given, out of range, or not feasible; says what the closest is that can be met.
    """
    if (sparsity is None) == (nonzeros is None):
        raise ValueError(f"give either sparsity or nonzeros, got {sparsity} and {nonzeros}")
    if nonzeros is not None:
        zeros = scope_size - nonzeros
    elif sparsity is not None and 0 <= sparsity < 1:
        zeros = round(sparsity * scope_size)
    else:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
    least, most = feasible or (0, sparse_size)
    kept = sparse_size - zeros
    if least <= kept <= most:
        return kept
    closest = sparse_size - min(max(kept, least), most)  # zeros
    asked, offered = (
        (f"nonzeros {nonzeros:,}", f"nonzeros {scope_size - closest}")
        if nonzeros is not None
        else (f"sparsity {sparsity}", f"sparsity {_shortest_share(closest, scope_size)}")
    )
    raise ValueError(
        f"{asked} of {scope_size:,} parameters needs {zeros:,} zeros, but of the {sparse_size:,} weights that may be zero "
        f"{sparse_size - most:,} to {sparse_size - least:,} can be: the closest feasible is {offered}, or choose other tensors"
    )


def _shortest_share(count: int, size: int) -> float:
    """The decimal of fewest digits of which ``round(share · size)`` is ``count``."""
    shares = (round(count / size, digits) for digits in range(1, 17))
    return next((share for share in shares if round(share * size) == count), count / size)


def fixed_nnz(name: str, size: int, structure: Structure, sparsity: float | None) -> int | None:
    """Weights that tensor ``name`` of ``size`` keeps by its own ``sparsity`` or by its structure; None where neither says.

    Raises:
        ValueError: the two contradict each other.
    """
    if structure.density is not None:
        if sparsity is not None and not math.isclose(sparsity, 1 - structure.density):
            raise ValueError(
                f"sparsities: {name} has the structure {structure}, which is {float(1 - structure.density)}, not {sparsity}"
            )
        return int(size * structure.density)
    if sparsity is None:
        return None
    units = size // structure.unit_size
    return (units - round(sparsity * units)) * structure.unit_size


def uniform(shapes: Sequence[Shape], nnz: int, unit_sizes: Sequence[int] | None = None) -> list[int]:
    """The same density in every tensor, to rounding.

    Args:
        shapes: of the tensors.
        nnz: weights that all of them keep together.
        unit_sizes: weights of each tensor that come and go together; 1 by default.
    """
    sizes = [math.prod(shape) for shape in shapes]
    return _apportion([Fraction(nnz * size, max(sum(sizes), 1)) for size in sizes], sizes, nnz, unit_sizes)


def erdos_renyi(shapes: Sequence[Shape], nnz: int, unit_sizes: Sequence[int] | None = None) -> list[int]:
    """Density proportional to ``sum(shape) / prod(shape)`` (Mocanu et al. 2018, eq. 3; Evci et al. 2020, section 3).

    A tensor whose density would exceed 1 becomes dense and the scale is solved again for the others. Arguments as in
    :func:`uniform`.
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
    return _apportion(quotas, sizes, nnz, unit_sizes)


def globally(scores: Sequence[Tensor], nnz: int, unit_sizes: Sequence[int] | None = None) -> list[int]:
    """As many as each tensor has among the ``nnz`` largest scores of all tensors; its largest unit counts in any case.

    Args:
        scores: of the weights of each tensor, any shape; the weights of a unit have the same score.
        nnz: as in :func:`uniform`; likewise ``unit_sizes``.
    """
    if not scores:
        return []
    sizes = [score.numel() for score in scores]
    flat = [score.flatten().clone() for score in scores]
    for score, unit in zip(flat, unit_sizes or [1] * len(flat), strict=True):
        score[score.topk(unit).indices] = torch.inf  # no tensor dies while there are weights for all
    selected = top_k_mask(torch.cat(flat), nnz).split(sizes)
    return _apportion([Fraction(int(chosen.sum())) for chosen in selected], sizes, nnz, unit_sizes)


DISTRIBUTIONS: dict[Distribution, Callable[[Sequence[Shape], int, Sequence[int] | None], list[int]]] = {
    "uniform": uniform,
    "erdos_renyi": erdos_renyi,
}
"""Those that need no more than shapes."""


def _apportion(
    quotas: Sequence[Fraction], sizes: Sequence[int], total: int, unit_sizes: Sequence[int] | None = None
) -> list[int]:
    """Whole units that add up to ``total``: each quota rounded down, then a unit more to the largest remainders, by position.

    Where units have more than one weight, less than the smallest of them can be left over.
    """
    if not 0 <= total <= sum(sizes):
        raise ValueError(f"cannot keep {total:,} of {sum(sizes):,} weights")
    units = [1] * len(quotas) if unit_sizes is None else list(unit_sizes)
    counts = [math.floor(quota / unit) * unit for quota, unit in zip(quotas, units, strict=True)]
    order = sorted(range(len(counts)), key=lambda index: ((counts[index] - quotas[index]) / units[index], index))
    left = total - sum(counts)
    given = True
    while left and given:
        given = False
        for index in order:
            if units[index] <= left and counts[index] + units[index] <= sizes[index]:
                counts[index] += units[index]
                left -= units[index]
                given = True
    return counts
