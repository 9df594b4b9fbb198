"""Movement pruning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsity.criteria import at_least_float32
from sparsity.methods.base import check_trained, finite_gradients
from sparsity.methods.gmp import GMP
from sparsity.methods.pruned_values import KeepPrunedValues
from sparsity.methods.tensor import SparseTensor


@dataclass(eq=False, kw_only=True)
class Movement(KeepPrunedValues, GMP):
    """Movement pruning, for finetuning: weights that move towards zero go (Sanh et al. 2020, arXiv 2005.07683, section 4).

    Every weight has a score, S ← S − ∂L/∂W′ · W, with the gradient of the sparse weight W′ and the value of W; the tensor keeps
    its largest scores, along the cubic curve of :class:`GMP`, and goes on choosing after its end. A weight that is off keeps
    its value, is not trained, is still scored, and may return. The paper's learning rate of scores is constant, so that it
    does not change which are largest; here it is 1.

    Args:
        start: share of the training steps at which pruning begins; scores are counted from the first step.
        every: optimizer steps between two choices of masks.
    """

    start: float = 0.1
    every: int = 10

    def check_weights(self, weights: Mapping[str, Tensor]) -> None:
        check_trained(self, weights)

    def initial_mask(self, tensor: SparseTensor) -> Tensor:
        self.memory.setdefault("scores", {})[tensor.name] = torch.zeros_like(at_least_float32(tensor.weight))
        return tensor.mask

    def on_step(self, tensors: Sequence[SparseTensor], step: int, max_steps: int) -> None:
        for tensor, gradient in finite_gradients(tensors):
            dense = tensor.weight + self.memory["pruned_values"][tensor.name]
            self.memory["scores"][tensor.name].addcmul_(gradient, dense.to(gradient.dtype), value=-1)

    def update_due(self, step: int, max_steps: int) -> bool:
        first, last = self.window(max_steps)
        return step >= first and ((step - first) % self.every == 0 or step == last)

    def update_mask(self, tensor: SparseTensor, step: int, max_steps: int) -> Tensor:
        scores = tensor.units(self.memory["scores"][tensor.name])
        return tensor.select(scores, self.nnz_at(tensor, step, max_steps))
