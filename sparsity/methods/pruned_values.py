"""Methods whose pruned weights keep their values."""

from torch import Tensor

from sparsity.masks import zero_where_off_
from sparsity.methods.base import SparseMethod


class KeepPrunedValues(SparseMethod):
    """A weight that goes off keeps its value in ``memory["pruned_values"]``, and returns with it."""

    def prune(self, name: str, weight: Tensor, mask: Tensor) -> None:
        self.memory.setdefault("pruned_values", {})[name] = weight.detach().masked_fill(mask, 0.0)
        zero_where_off_(weight, mask)

    def restore(self, name: str, weight: Tensor) -> None:
        """Make the weight dense; a second call changes nothing."""
        if (values := self.memory["pruned_values"].pop(name, None)) is not None:
            weight.add_(values)  # one of the two is 0.0 everywhere
