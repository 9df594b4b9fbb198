"""Methods: small classes over the four axes. A method says which masks it starts from and how one mask changes.

A new method overrides :meth:`SparseMethod.update_mask` and, where it must, :meth:`SparseMethod.update_due`.
"""

import fnmatch
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sparsity import criteria, schedules
from sparsity.distributions import DISTRIBUTIONS, Distribution, Scope, nonzero_budget
from sparsity.masks import MaskSet, top_k_mask

INITIAL_SCORES: dict[str, criteria.Criterion] = {"random": criteria.random, "magnitude": criteria.magnitude}


def seeded_generator(name: str, seed: int) -> torch.Generator:
    """A CPU generator that is the same for a tensor's name and a seed in every process."""
    return torch.Generator().manual_seed(zlib.crc32(name.encode()) ^ (seed * 0x9E3779B1 & 0xFFFFFFFF))


@dataclass(eq=False, kw_only=True)
class SparseMethod:
    """Static sparsity: the masks of the start stay. Other methods override what changes.

    Args:
        sparsity: share of zeros wanted in ``scope``, in [0, 1); the count of zeros is exact to one weight.
        distribution: how the remaining weights are spread over tensors.
        scope: what ``sparsity`` is a share of: the sparse tensors, all matrices of the encoder, or the whole model with its
            dense parameters.
        targets: shell patterns of the parameters that become sparse; by default the linear weights of the encoder.
        initialization: which weights are on at the start: random ones, or the largest (for pretrained models).
        seed: of the random masks.
    """

    sparsity: float = 0.8
    distribution: Distribution = "uniform"
    scope: Scope = "tensors"
    targets: tuple[str, ...] = ()
    initialization: Literal["random", "magnitude"] = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must be in [0, 1), got {self.sparsity}")

    def select(self, sparsifiable: Iterable[str]) -> list[str]:
        """Names that match ``targets``; a pattern that matches nothing is an error."""
        names = list(sparsifiable)
        for pattern in self.targets:
            if not fnmatch.filter(names, pattern):
                raise ValueError(f"targets: {pattern!r} matches no parameter; there are {', '.join(names[:8])}, …")
        return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.targets)]

    def initial_masks(self, weights: Mapping[str, Tensor], scope_size: int) -> MaskSet:
        """The masks training starts from.

        Args:
            weights: the tensors that become sparse, by name.
            scope_size: parameters in ``scope``, the sparse ones included.
        """
        nnz = nonzero_budget(self.sparsity, sum(weight.numel() for weight in weights.values()), scope_size)
        counts = DISTRIBUTIONS[self.distribution]([weight.shape for weight in weights.values()], nnz)
        score = INITIAL_SCORES[self.initialization]
        return MaskSet(
            {
                name: top_k_mask(score(weight, None, seeded_generator(name, self.seed)), count)
                for (name, weight), count in zip(weights.items(), counts, strict=True)
            }
        )

    def update_due(self, step: int, max_steps: int) -> bool:
        """Whether masks change at optimizer step ``step`` of ``max_steps``."""
        return False

    def drop_fraction_at(self, step: int, max_steps: int) -> float:
        """Share of each tensor's active weights that is replaced at ``step``."""
        return 0.0

    def update_mask(
        self, weight: Tensor, mask: Tensor, gradient: Tensor | None, fraction: float, generator: torch.Generator
    ) -> Tensor:
        """The mask after an update, with the same number of active weights.

        Args:
            weight: the tensor, 0.0 where it is off.
            mask: boolean, the same shape.
            gradient: dense gradient of this optimizer step, or None for a method that needs none.
            fraction: share of the active weights to replace.
            generator: seeded by the tensor's name and the step.
        """
        return mask


def drop_and_grow(mask: Tensor, keep_scores: Tensor, grow_scores: Tensor, fraction: float) -> Tensor:
    """One drop-and-grow update of a mask (Evci et al. 2020, Alg. 1).

    The k = int(fraction · nnz) active weights with the smallest ``keep_scores`` are dropped; the k with the largest
    ``grow_scores`` among all others, the just dropped included, come. An inactive weight never competes for being kept.
    """
    active = int(mask.sum())
    k = int(fraction * active)
    lowest = -torch.inf
    kept = top_k_mask(keep_scores.masked_fill(~mask, lowest), active - k)
    return kept | top_k_mask(grow_scores.masked_fill(kept, lowest), k)


@dataclass(eq=False, kw_only=True)
class SET(SparseMethod):
    """Sparse evolutionary training: drop by magnitude, grow at random (Mocanu et al. 2018, Alg. 2).

    Args:
        drop_fraction: α, the share of active weights replaced at the start; decays to 0 along a cosine.
        every: ΔT, optimizer steps between updates.
        stop: T_end, as a share of the training steps.
    """

    drop_fraction: float = 0.3
    every: int = 100
    stop: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.drop_fraction <= 1 or self.every < 1 or not 0 < self.stop <= 1:
            raise ValueError(
                f"drop_fraction in [0, 1], every >= 1 and stop in (0, 1] expected, "
                f"got {self.drop_fraction}, {self.every} and {self.stop}"
            )

    def update_due(self, step: int, max_steps: int) -> bool:
        return schedules.update_due(step, self.every, start=0, stop=self.stop * max_steps)

    def drop_fraction_at(self, step: int, max_steps: int) -> float:
        return schedules.cosine_drop_fraction(step, self.stop * max_steps, self.drop_fraction)

    def update_mask(
        self, weight: Tensor, mask: Tensor, gradient: Tensor | None, fraction: float, generator: torch.Generator
    ) -> Tensor:
        keep_scores = criteria.magnitude(weight, gradient, generator)
        return drop_and_grow(mask, keep_scores, self.grow_scores(weight, gradient, generator), fraction)

    def grow_scores(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """What comes: the weights with the largest of these scores."""
        return criteria.random(weight, gradient, generator)


@dataclass(eq=False, kw_only=True)
class RigL(SET):
    """Rigging the lottery: SET that grows where the dense gradient is largest (Evci et al. 2020, arXiv 1911.11134)."""

    def grow_scores(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        return criteria.gradient_magnitude(weight, gradient, generator)
