"""Static sparsity: masks drawn once."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from sparsity import criteria
from sparsity.methods.base import SparseMethod
from sparsity.methods.tensor import SparseTensor


@dataclass(eq=False, kw_only=True)
class Static(SparseMethod):
    """The masks of the start stay: the baseline every dynamic method must beat.

    Args:
        initialization: which weights are on at the start: random ones, or the largest (for pretrained models), and of those that
            are 0 any.
    """

    initialization: Literal["random", "magnitude"] = "random"

    def initial_scores(self, tensor: SparseTensor) -> Tensor:
        return tensor.score(criteria.random) if self.initialization == "random" else super().initial_scores(tensor)

    def initial_mask(self, tensor: SparseTensor) -> Tensor:
        return tensor.select(self.initial_scores(tensor), tensor.nnz)
