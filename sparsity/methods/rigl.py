"""RigL: SET that grows where the gradient is."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sparsity import criteria
from sparsity.methods.base import check_trained
from sparsity.methods.set import SET
from sparsity.methods.tensor import SparseTensor


@dataclass(eq=False, kw_only=True)
class RigL(SET):
    """Rigging the lottery: SET that grows where the dense gradient is largest (Evci et al. 2020, arXiv 1911.11134)."""

    def check_weights(self, weights: Mapping[str, Tensor]) -> None:
        check_trained(self, weights)

    def grow_scores(self, tensor: SparseTensor) -> Tensor:
        return tensor.score(criteria.gradient_magnitude)
