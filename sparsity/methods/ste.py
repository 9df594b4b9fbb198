"""Straight-through magnitude pruning."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from sparsity.methods.pruned_values import KeepPrunedValues
from sparsity.methods.tensor import SparseTensor

if TYPE_CHECKING:
    from sparsity.stepping import SparseStepping


@dataclass(eq=False, kw_only=True)
class STE(KeepPrunedValues):
    """Magnitude pruning with a straight-through estimator (Bengio et al. 2013).

    Dense weights are trained with the gradients of the sparse ones: forward and backward see the largest weights of each
    tensor, the optimizer steps all of them, and then the largest are chosen anew. Outside the optimizer step the model has
    the sparse weights; the values of the others are in ``memory["pruned_values"]``.

    Args:
        every: optimizer steps between two choices of masks.
    """

    every: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every < 1:
            raise ValueError(f"every >= 1 expected, got {self.every}")

    def initial_mask(self, tensor: SparseTensor) -> Tensor:
        return tensor.select(self.initial_scores(tensor), tensor.nnz)

    def before_optimizer_step(self, sparse: "SparseStepping", step: int) -> bool:
        """The optimizer sees the dense weights, with all of their gradients."""
        sparse.restore_weights()
        return False

    def after_optimizer_step(self, sparse: "SparseStepping", step: int) -> None:
        """Choose anew where it is time to, and take out what is off."""
        if self.update_due(step, sparse.max_steps):
            sparse.update(step, keep_optimizer_state=True)
        else:
            sparse.prune_weights()

    def update_due(self, step: int, max_steps: int) -> bool:
        return (step + 1) % self.every == 0

    def update_mask(self, tensor: SparseTensor, step: int, max_steps: int) -> Tensor:
        return self.initial_mask(tensor)
