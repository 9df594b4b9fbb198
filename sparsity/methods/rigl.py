"""RigL: SET that grows where the gradient is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from sparsity import criteria
from sparsity.methods.base import check_trained
from sparsity.methods.set import SET, drop_and_grow
from sparsity.methods.tensor import SparseTensor

Growth = Literal["gradient", "balanced_gradient"]
CRITERIA: dict[Growth, criteria.Criterion] = {
    "gradient": criteria.gradient_magnitude,
    "balanced_gradient": criteria.balanced_gradient_magnitude,
}


@dataclass(eq=False, kw_only=True)
class RigL(SET):
    """Rigging the lottery: SET that grows where the dense gradient is largest (Evci et al. 2020, arXiv 1911.11134).

    Args:
        growth: ``gradient`` is the paper's |g|; ``balanced_gradient`` divides it by the sizes of its row and of its column, a few
            of which otherwise take nearly all growth (:func:`~sparsity.criteria.balanced_gradient_magnitude`).
        random_share: share of what grows that comes at random.
    """

    growth: Growth = "gradient"
    random_share: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.growth not in CRITERIA or not 0 <= self.random_share <= 1:
            raise ValueError(
                f"growth of {', '.join(CRITERIA)} and random_share in [0, 1] expected, got {self.growth} and {self.random_share}"
            )

    def check_weights(self, weights: Mapping[str, Tensor]) -> None:
        check_trained(self, weights)

    def grow_scores(self, tensor: SparseTensor) -> Tensor:
        return tensor.score(CRITERIA[self.growth])

    def random_scores(self, tensor: SparseTensor) -> Tensor | None:
        """Scores by which the random share comes; None where there is none."""
        return tensor.score(criteria.random) if self.random_share else None

    def update_mask(self, tensor: SparseTensor, step: int, max_steps: int) -> Tensor:
        return drop_and_grow(
            tensor.mask,
            self.keep_scores(tensor),
            self.grow_scores(tensor),
            self.drop_fraction_at(step, max_steps),
            tensor.structure,
            self.random_scores(tensor),
            self.random_share,
        )
