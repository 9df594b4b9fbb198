"""Structures: which weights live and die together, and where the survivors must lie.

A structure arranges the weights of a tensor as *units* in *groups*. A criterion scores weights; a unit scores the sum of its
weights. Every group keeps the same number of units, to rounding, so that a method only ever selects units with the largest
scores and knows nothing of shapes:

============  =====================================  =======================================
unstructured  a unit is a weight                     one group
``rows``      a unit is a weight                     a group is a row (a token of an embedding)
``2:4``       a unit is a weight                     a group is 4 weights in a row, and keeps 2
``16x16``     a unit is a block of 16 by 16 weights  one group
============  =====================================  =======================================

Tensors of more than two dimensions count as matrices of their first dimension by all others.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from sparsity.masks import NOT_RANKED, kth_smallest, top_k_mask


@dataclass(frozen=True)
class Structure:
    """Unstructured: every weight for itself. The others override how weights form units and groups."""

    one_group: ClassVar[bool] = True

    def __str__(self) -> str:
        return "unstructured"

    @property
    def unit_size(self) -> int:
        """Weights of a unit."""
        return 1

    @property
    def density(self) -> Fraction | None:
        """The share of weights that the structure fixes; None where any is possible."""
        return None

    def check(self, name: str, shape: Sequence[int]) -> None:
        """Raise ValueError, naming the tensor, where the structure cannot divide its shape."""

    def units(self, scores: Tensor) -> Tensor:
        """Scores of the units, (groups, units a group), from the scores of the weights."""
        return scores.reshape(1, -1)

    def active(self, mask: Tensor) -> Tensor:
        """The units that are on, (groups, units a group), from a mask of this structure."""
        return self.units(mask)

    def expand(self, units: Tensor, shape: Sequence[int]) -> Tensor:
        """The mask of the weights, of ``shape``, from a mask of the units."""
        return units.reshape(tuple(shape))

    def select(self, unit_scores: Tensor, nnz: int) -> Tensor:
        """Mask of the units with the largest scores, (groups, units a group), that have ``nnz`` weights together.

        Scores are finite or ±inf. What is over after whole units is left out; what is over after equal groups goes to the
        first groups; equal scores go to the lowest index.
        """
        return top_k_per_group(unit_scores, nnz // self.unit_size)


@dataclass(frozen=True)
class Rows(Structure):
    """Every row keeps the same number of weights, to one: with as many weights as rows, no neuron and no token embedding dies."""

    one_group: ClassVar[bool] = False

    def __str__(self) -> str:
        return "rows"

    def units(self, scores: Tensor) -> Tensor:
        return scores.flatten(1)


@dataclass(frozen=True)
class NM(Structure):
    """N of every M weights that lie side by side along the input dimension (Mishra et al. 2021, section 2).

    On the way there, where a method prunes gradually, every group keeps as many as every other, to one.
    """

    one_group: ClassVar[bool] = False
    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n <= self.m:
            raise ValueError(f"structure {self}: N of every M needs 0 < N <= M")

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @property
    def density(self) -> Fraction:
        return Fraction(self.n, self.m)

    def check(self, name: str, shape: Sequence[int]) -> None:
        inputs = math.prod(shape[1:])
        if len(shape) < 2 or inputs % self.m:
            raise ValueError(f"structure {self} needs an input dimension divisible by {self.m}; {name} has {inputs}")

    def units(self, scores: Tensor) -> Tensor:
        return scores.reshape(-1, self.m)


@dataclass(frozen=True)
class Blocks(Structure):
    """Blocks of ``height`` outputs by ``width`` inputs are on or off together."""

    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"structure {self}: blocks need a height and a width of at least 1")

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"

    @property
    def unit_size(self) -> int:
        return self.height * self.width

    def check(self, name: str, shape: Sequence[int]) -> None:
        if len(shape) < 2 or shape[0] % self.height or math.prod(shape[1:]) % self.width:
            raise ValueError(f"structure {self} does not divide {name} of shape {tuple(shape)}")

    def units(self, scores: Tensor) -> Tensor:
        blocks = scores.flatten(1).unflatten(1, (-1, self.width)).unflatten(0, (-1, self.height))
        return blocks.sum((1, 3)).view(1, -1)

    def active(self, mask: Tensor) -> Tensor:
        return mask.flatten(1)[:: self.height, :: self.width].reshape(1, -1)

    def expand(self, units: Tensor, shape: Sequence[int]) -> Tensor:
        blocks = units.view(shape[0] // self.height, -1)
        return blocks.repeat_interleave(self.height, 0).repeat_interleave(self.width, 1).view(tuple(shape))


UNSTRUCTURED = Structure()


def parse_structure(text: str | int) -> Structure:
    """``unstructured``, ``rows``, ``N:M`` or ``HEIGHTxWIDTH``; anything else is a ValueError."""
    if isinstance(text, int):
        text = f"{text // 60}:{text % 60}"  # YAML reads an unquoted 2:4 as minutes and seconds
    if text in ("unstructured", "rows"):
        return Rows() if text == "rows" else UNSTRUCTURED
    if match := re.fullmatch(r"(\d+)([:x])(\d+)", text):
        first, kind, second = match.groups()
        return (NM if kind == ":" else Blocks)(int(first), int(second))
    raise ValueError(f"structure {text!r}: expected unstructured, rows, N:M (as 2:4) or HEIGHTxWIDTH (as 16x16)")


def top_k_per_group(scores: Tensor, k: int) -> Tensor:
    """Mask of the largest scores of every group: ``k`` together, the first ``k % groups`` groups one more than the others.

    Args:
        scores: (groups, units), finite or ±inf.
        k: how many to select in all groups together.
    """
    groups = len(scores)
    if groups == 1:
        return top_k_mask(scores, k)
    if not 0 <= k <= scores.numel():
        raise ValueError(f"cannot select {k} of {scores.numel()} scores")
    count, more = divmod(k, groups)
    return torch.cat([_top_k_of_each(scores[:more], count + 1), _top_k_of_each(scores[more:], count)])


def top_k_of_groups(scores: Tensor, counts: Tensor) -> Tensor:
    """Mask of the largest scores of every group, of each a number of its own; equal scores go to the lowest index.

    Args:
        scores: (groups, units), finite or ±inf.
        counts: (groups,), how many to select.
    """
    if len(scores) == 1:
        return top_k_mask(scores, int(counts))
    ranks = scores.argsort(dim=1, descending=True, stable=True).argsort(1)
    return ranks < counts.unsqueeze(1)


def _top_k_of_each(scores: Tensor, k: int) -> Tensor:
    """Mask of the ``k`` largest scores of each row; equal scores go to the lowest index."""
    if k == 0 or len(scores) == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = kth_smallest(scores, scores.size(1) - k + 1)
    selected, ties = scores > threshold, scores == threshold
    places = k - selected.sum(1, keepdim=True)
    selected |= ties & (ties.cumsum(1, dtype=torch.int32) <= places)
    if int(selected.sum()) != k * len(scores):
        raise ValueError(NOT_RANKED)
    return selected
