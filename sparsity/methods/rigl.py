"""RigL: SET that grows where the gradient is."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsity import criteria
from sparsity.methods.set import SET
from sparsity.methods.tensor import SparseTensor


@dataclass(eq=False, kw_only=True)
class RigL(SET):
    """Rigging the lottery: SET that grows where the dense gradient is largest (Evci et al. 2020, arXiv 1911.11134)."""

    needs_gradients: ClassVar[bool] = True

    def grow_scores(self, tensor: SparseTensor) -> Tensor:
        return tensor.score(criteria.gradient_magnitude)
