"""One-shot magnitude pruning."""

from dataclasses import dataclass

from torch import Tensor

from sparsity.methods.base import SparseMethod, check_same_length
from sparsity.methods.tensor import SparseTensor


@dataclass(eq=False, kw_only=True)
class OneShot(SparseMethod):
    """Dense until one step, which keeps the largest weights; their masks stay (Han et al. 2015, without the retraining loop).

    Args:
        at: share of the training steps at which the others go; 0 is before the first, for pretrained weights.
    """

    at: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.at <= 1:
            raise ValueError(f"at must be in [0, 1], got {self.at}")

    def check_resume(self, begun: int, max_steps: int) -> None:
        if self.at > 0:
            check_same_length(self, begun, max_steps)

    def initial_mask(self, tensor: SparseTensor) -> Tensor:
        return tensor.mask if self.at else self.update_mask(tensor, 0, 0)

    def update_due(self, step: int, max_steps: int) -> bool:
        return self.at > 0 and step == min(round(self.at * max_steps), max_steps - 1)

    def update_mask(self, tensor: SparseTensor, step: int, max_steps: int) -> Tensor:
        return tensor.select(self.initial_scores(tensor), tensor.nnz)
