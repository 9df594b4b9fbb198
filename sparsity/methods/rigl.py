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
        random_until: share of the training steps through which all that grows comes at random, as in SET: masks move, but not
            by the gradient of a model that still learns how often words occur (``start`` keeps the masks instead).
    """

    growth: Growth = "gradient"
    random_share: float = 0.0
    random_until: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = self.random_share, self.random_until
        if self.growth not in CRITERIA or not 0 <= min(shares) <= max(shares) <= 1:
            raise ValueError(
                f"growth of {', '.join(CRITERIA)}, random_share and random_until in [0, 1] expected, got {self.growth}, "
                f"{self.random_share} and {self.random_until}"
            )

    def check_weights(self, weights: Mapping[str, Tensor]) -> None:
        check_trained(self, weights)

    def grow_scores(self, tensor: SparseTensor) -> Tensor:
        return tensor.score(CRITERIA[self.growth])

    def random_share_at(self, step: int, max_steps: int) -> float:
        """Share of what grows that comes at random after ``step`` optimizer steps."""
        return 1.0 if step < self.random_until * max_steps else self.random_share

    def update_mask(self, tensor: SparseTensor, step: int, max_steps: int) -> Tensor:
        share = self.random_share_at(step, max_steps)
        return drop_and_grow(
            tensor.mask,
            self.keep_scores(tensor),
            self.grow_scores(tensor),
            self.drop_fraction_at(step, max_steps),
            tensor.structure,
            tensor.score(criteria.random) if share else None,
            share,
        )
