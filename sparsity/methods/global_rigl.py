"""RigL whose tensors compete with each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsity import criteria
from sparsity.masks import top_k_mask
from sparsity.methods.rigl import RigL
from sparsity.methods.tensor import SparseTensor


@dataclass(eq=False, kw_only=True)
class GlobalRigL(RigL):
    """RigL that drops and grows over all tensors at once; what the published sparse BERT models were trained with.

    The total number of weights is constant (with ``initial_sparsity`` it falls to what it is to be), that of a tensor is not:
    layers trade weights. The largest weight of every tensor stays, so that none can die. Tensors whose units have equally many
    weights compete with each other; where groups have a fixed number (rows, N:M) there is nothing to trade, and each tensor is
    updated for itself.
    """

    def update_masks(self, tensors: Sequence[SparseTensor], step: int, max_steps: int) -> list[Tensor]:
        fraction, share = self.drop_fraction_at(step, max_steps), self.random_share_at(step, max_steps)
        updated: dict[str, Tensor] = {}
        for unit_size in {tensor.structure.unit_size: None for tensor in tensors}:
            traders = [t for t in tensors if t.structure.one_group and t.structure.unit_size == unit_size]
            most = sum(self.nnz_at(tensor, step, max_steps) for tensor in traders) // unit_size
            updated |= self._trade(traders, fraction, most, share) if traders else {}
        return [
            updated[tensor.name]
            if tensor.name in updated
            else self.update_mask(self.shrunk(tensor, step, max_steps), step, max_steps)
            for tensor in tensors
        ]

    def _trade(self, tensors: Sequence[SparseTensor], fraction: float, most: int, random_share: float) -> dict[str, Tensor]:
        """Drop and grow over the units of all ``tensors`` as if they were one; no more than ``most`` are on after it."""
        on = [tensor.structure.active(tensor.mask) for tensor in tensors]
        sizes = [units.numel() for units in on]
        keep = [self.keep_scores(tensor).masked_fill(~units, -torch.inf) for tensor, units in zip(tensors, on, strict=True)]
        for scores, units in zip(keep, on, strict=True):
            if units.any():
                scores.view(-1)[scores.argmax()] = torch.inf
        active = min(sum(int(units.sum()) for units in on), most)
        replaced = min(int(fraction * active), active - sum(bool(units.any()) for units in on))
        kept = top_k_mask(torch.cat(keep, 1), active - replaced)
        at_random = int(random_share * replaced)
        grow = torch.cat([self.grow_scores(tensor) for tensor in tensors], 1)
        grown = top_k_mask(grow.masked_fill_(kept, torch.inf), active - at_random)
        if at_random:
            chance = torch.cat([tensor.score(criteria.random) for tensor in tensors], 1)
            grown = top_k_mask(chance.masked_fill_(grown, torch.inf), active)
        return {
            tensor.name: tensor.structure.expand(units, tensor.mask.shape)
            for tensor, units in zip(tensors, grown.split(sizes, 1), strict=True)
        }
