"""What masks look like: neurons without a weight, how evenly weights spread, and how much two models' masks agree."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsity.masks import MaskSet


def dead_rows(mask: Tensor) -> int:
    """Rows of a mask (outputs, inputs) that are all off: outputs of a linear layer that no active weight enters, which are
    constant; of an embedding table, tokens without an embedding."""
    return int((~mask.flatten(1).any(dim=1)).sum())


def dead_columns(mask: Tensor) -> int:
    """Columns of a mask (outputs, inputs) that are all off: inputs of a linear layer that it does not read."""
    return int((~mask.flatten(1).any(dim=0)).sum())


def dead_neurons(masks: Mapping[str, Tensor]) -> int:
    """Dead rows and dead columns of all these masks; a hidden neuron dead on both sides counts in both of its matrices."""
    return sum(dead_rows(mask) + dead_columns(mask) for mask in masks.values())


def imbalance(mask: Tensor, dim: int) -> float:
    """Coefficient of variation of the active weights a row (``dim`` 0) or a column (1) has; NaN where the mask is empty.

    A mask drawn at random stays near √((1 − density) / (density · weights a row)).
    """
    counts = mask.flatten(1).sum(1 - dim, dtype=torch.float64)
    return float(counts.std(correction=0) / counts.mean())


def line_density(mask: Tensor, dim: int) -> Tensor:
    """Share of the weights of each row (``dim`` 0) or column (1) of a mask that is on; on the CPU."""
    return mask.flatten(1).mean(1 - dim, dtype=torch.float32).cpu()


def block_density(mask: Tensor, most: int) -> Tensor:
    """Share of weights that are on in blocks of a mask, at most ``most`` in each direction; on the CPU.

    Where the blocks do not divide the mask, they overlap by a row or a column.
    """
    rows, columns = mask.flatten(1).shape
    weights = mask.flatten(1).float()[None]
    return nn.functional.adaptive_avg_pool2d(weights, (min(rows, most), min(columns, most)))[0].cpu()


def replaced(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, float]:
    """Share of the active weights of each tensor that were off before; of a tensor without active weights 0."""
    return {
        name: int((mask & ~before[name]).count_nonzero()) / max(int(mask.count_nonzero()), 1) for name, mask in after.items()
    }


def _matrix(mask: Tensor) -> Tensor:
    """A mask as (outputs, inputs); one of a vector has a single output."""
    return mask.flatten(1) if mask.dim() > 1 else mask[None]


def concentration(mask: Tensor, share: float = 0.05) -> float:
    """Share of the active weights that lies in the fullest rows, and in the fullest columns, on average of the two.

    Args:
        mask: (outputs, inputs); 0.0 where it is empty.
        share: of the rows, and of the columns, that count as the fullest; at least one.
    """
    matrix = _matrix(mask)
    shares = []
    for dim in (0, 1):
        counts = matrix.sum(1 - dim)
        shares.append(float(counts.topk(max(1, round(share * len(counts)))).values.sum()) / max(int(counts.sum()), 1))
    return sum(shares) / 2


def concentration_by_chance(mask: Tensor, share: float = 0.05) -> float:
    """The :func:`concentration` to expect of a mask with as many weights drawn at random: near ``share`` of many, 1 of a few.

    What a row or a column has of them is nearly Poisson, and the fullest have its upper quantiles.
    """
    nnz, shares = int(mask.sum()), []
    for lines in _matrix(mask).shape:
        most, expected = max(1, round(share * lines)), torch.tensor(nnz / lines, dtype=torch.float64)
        upper = 1 - (torch.arange(most, dtype=torch.float64) + 0.5) / lines
        counts = torch.arange(int(expected + 10 * expected.sqrt() + 20), dtype=torch.float64)  # no line has more
        at_most = torch.special.gammaincc(counts + 1, expected)
        shares.append(min(1.0, float(torch.searchsorted(at_most, upper).sum()) / max(nnz, 1)))
    return sum(shares) / 2


@dataclass(frozen=True)
class Overlap:
    """How much two masks agree. Overlaps of several tensors add up.

    Attributes:
        both: weights that are on in both.
        either: weights that are on in one at least.
        both_by_chance: weights expected on in both if one mask were drawn at random with its number of weights.
    """

    both: int = 0
    either: int = 0
    both_by_chance: float = 0.0

    def __add__(self, other: "Overlap") -> "Overlap":
        return Overlap(self.both + other.both, self.either + other.either, self.both_by_chance + other.both_by_chance)

    @property
    def jaccard(self) -> float:
        """Share of what is on in one that is on in both: 1 for equal masks alone (two empty masks are equal)."""
        return self.both / self.either if self.either else 1.0

    @property
    def jaccard_by_chance(self) -> float:
        """The same for the expected intersection."""
        either = self.both + self.either - self.both_by_chance
        return self.both_by_chance / either if either else 1.0


def overlap(first: MaskSet, second: MaskSet) -> dict[str, Overlap]:
    """Overlap of every tensor of two models.

    Raises:
        ValueError: the models have other sparse tensors, or tensors of other shapes.
    """
    if odd := sorted(first.keys() ^ second.keys()):
        raise ValueError(f"masks of different tensors cannot be compared: only one of the two has {odd[0]}")
    overlaps = {}
    for name, mask in first.items():
        other = second[name]
        if mask.shape != other.shape:
            raise ValueError(f"masks of {name} cannot be compared: shapes {tuple(mask.shape)} and {tuple(other.shape)}")
        chance = int(mask.sum()) * int(other.sum()) / mask.numel()
        overlaps[name] = Overlap(int((mask & other).sum()), int((mask | other).sum()), chance)
    return overlaps
