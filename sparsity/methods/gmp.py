"""Gradual magnitude pruning."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsity import criteria, schedules
from sparsity.methods.base import SparseMethod, check_same_length
from sparsity.methods.tensor import SparseTensor


@dataclass(eq=False, kw_only=True)
class GMP(SparseMethod):
    """Gradual magnitude pruning: dense first, then sparser along a cubic curve (Zhu and Gupta 2017, eq. 1).

    The smallest active weights go; what is off stays off. Weights are stepped at every step.

    Args:
        start: share of the training steps at which pruning begins.
        end: share of the training steps at which the final number of weights is reached.
        every: optimizer steps between updates.
    """

    start: float = 0.25
    end: float = 0.75
    every: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.start <= self.end <= 1 or self.every < 1:
            raise ValueError(
                f"0 <= start <= end <= 1 and every >= 1 expected, got {self.start}, {self.end} and {self.every}"
            )

    def check_resume(self, begun: int, max_steps: int) -> None:
        check_same_length(self, begun, max_steps)

    def window(self, max_steps: int) -> tuple[int, int]:
        """First and last optimizer step of the ramp; the last one is a step that is taken, also where ``end`` is 1."""
        first, last = (min(round(share * max_steps), max_steps - 1) for share in (self.start, self.end))
        return first, last

    def update_due(self, step: int, max_steps: int) -> bool:
        first, last = self.window(max_steps)
        return first <= step <= last and ((step - first) % self.every == 0 or step == last)

    def nnz_at(self, tensor: SparseTensor, step: int, max_steps: int) -> int:
        """Weights of a tensor that are on after ``step``."""
        size = tensor.mask.numel()
        return size - round(schedules.cubic(step, *self.window(max_steps)) * (size - tensor.nnz))

    def progress(self, step: int, max_steps: int) -> dict[str, float]:
        return {"pruned": schedules.cubic(step, *self.window(max_steps))}

    def update_mask(self, tensor: SparseTensor, step: int, max_steps: int) -> Tensor:
        scores = tensor.score(criteria.magnitude_or_chance).masked_fill(~tensor.structure.active(tensor.mask), -torch.inf)
        return tensor.select(scores, self.nnz_at(tensor, step, max_steps))
