"""One tensor as a method sees it."""

import zlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sparsity.criteria import Criterion
from sparsity.structures import UNSTRUCTURED, Structure


def seeded_generator(name: str, seed: int) -> torch.Generator:
    """A CPU generator that is the same for a tensor's name and a seed in every process."""
    return torch.Generator().manual_seed(zlib.crc32(name.encode()) ^ (seed * 0x9E3779B1 & 0xFFFFFFFF))


@dataclass(frozen=True, eq=False, kw_only=True)
class SparseTensor:
    """What a method may look at when the mask of one tensor changes.

    Args:
        name: of the parameter.
        weight: the tensor, 0.0 where it is off (for a straight-through method: the dense weight).
        mask: boolean, the same shape.
        gradient: dense gradient of this optimizer step, or None.
        nnz: weights this tensor keeps in the end.
        structure: of the mask.
        seed: of :attr:`generator`, which the name and the step change too.
        step: optimizer step; None at the start.
    """

    name: str
    weight: Tensor
    mask: Tensor
    gradient: Tensor | None = None
    nnz: int = 0
    structure: Structure = UNSTRUCTURED
    seed: int = 0
    step: int | None = None

    @cached_property
    def generator(self) -> torch.Generator:
        """Random numbers on the CPU that are the same on every rank and in every run."""
        return seeded_generator(self.name if self.step is None else f"{self.name}@{self.step}", self.seed)

    def units(self, scores: Tensor) -> Tensor:
        """Scores of the units of this tensor, (groups, units a group), from scores of its weights."""
        return self.structure.units(scores)

    def score(self, criterion: Criterion) -> Tensor:
        """Scores of the units by a criterion."""
        return self.units(criterion(self.weight, self.gradient, self.generator))

    def spread(self, unit_scores: Tensor) -> Tensor:
        """Scores of the weights, each its share of the score of its unit."""
        return self.structure.expand(unit_scores / self.structure.unit_size, self.mask.shape)

    def select(self, unit_scores: Tensor, nnz: int) -> Tensor:
        """Mask of the units with the largest scores that have ``nnz`` weights together."""
        return self.structure.expand(self.structure.select(unit_scores, nnz), self.mask.shape)
