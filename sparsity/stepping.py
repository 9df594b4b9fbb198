"""A method at work around the optimizer step, in plain PyTorch.

::

    method.begin(weights, method.initial_masks(weights, scope_size))
    for step in range(max_steps):
        loss(model(batch)).backward()
        if method.before_step(weights, optimizer.state, step, max_steps):
            optimizer.zero_grad()  # the weights rest at this step
        optimizer.step()
        method.after_step(weights, step, max_steps)

Between two steps the model has the sparse weights: what is off is exactly 0.0.
"""

import warnings
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsity.masks import MaskSet, zero_optimizer_state_, zero_where_off_
from sparsity.methods.base import SparseMethod
from sparsity.methods.tensor import SparseTensor


class SparseStepping(SparseMethod):
    """The masks of a method, and what they do to weights, gradients and optimizer state.

    A concrete class derives from this one and from the method: ``class Plain(SparseStepping, RigL)``.

    Attributes:
        masks: by parameter name; None before :meth:`begin`.
        initial_nnz: weights that were on at the start, by name.
        explored: weights that have ever been on, by name.
        dense_in: the dense weights of a straight-through method are in, for the optimizer's step.
        density: share of the sparse tensors' weights that are on.
        last_update: churn, share explored and the method's progress at the latest mask update; empty before the first.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.masks: MaskSet | None = None
        self.explored: MaskSet | None = None
        self.initial_nnz: dict[str, int] = {}
        self.density = 1.0
        self.last_update: dict[str, float] = {}
        self.dense_in = False

    @torch.no_grad()
    def begin(self, weights: Mapping[str, Tensor], masks: MaskSet) -> None:
        """Begin with ``masks`` of (some of) the ``weights``, and set what is off to zero."""
        self.masks, self.explored, self.initial_nnz = masks, MaskSet(masks), masks.nnz()
        self.density = masks.density()
        if self.remembers:
            self.memory["hidden"] = {}
            for name, mask in masks.items():
                self._hide(name, weights[name], mask)
        masks.zero_weights_(weights)

    def resume(self, weights: Mapping[str, Tensor]) -> None:
        """Continue with the masks that were loaded, on the devices of the weights.

        Raises:
            ValueError: masks of another model.
        """
        masks, explored = self._begun()
        self.masks, self.explored = masks.to_parameters(weights), explored.to_parameters(weights)
        self.density = masks.density()
        for tensors in self.memory.values():
            tensors.update({name: tensor.to(weights[name].device) for name, tensor in tensors.items()})
        self.masks.zero_weights_(weights)

    @torch.no_grad()
    def before_step(self, weights: Mapping[str, Tensor], state: MutableMapping[Any, Any], step: int, max_steps: int) -> bool:
        """Update masks where it is time to, and mask the gradients; for a straight-through method, put the dense weights in.

        Args:
            weights: by name, with the gradients of this optimizer step: accumulated, reduced over ranks, unscaled.
            state: of the optimizer, by parameter.
            step: optimizer steps taken so far, of ``max_steps``.

        Returns:
            Whether the weights rest at this step.
        """
        rests, tensors = False, self._views(weights, step)
        due = self.update_due(step, max_steps) and not self.straight_through
        observes = type(self).observe is not SparseMethod.observe
        finite = not (observes or (due and self.skips_weight_step)) or all(_finite(tensor.gradient) for tensor in tensors)
        for tensor in tensors if finite else ():
            self.observe(tensor, step, max_steps)
        if self.straight_through:
            for name, hidden in self.memory["hidden"].items():
                weights[name].add_(hidden)  # one of the two is 0.0 everywhere
            self.dense_in = True
            return False
        if due:
            if self.skips_weight_step and not finite:
                warnings.warn(f"step {step}: a gradient is not finite; the mask update is skipped", stacklevel=2)
            else:
                self._update(weights, state, tensors, step, max_steps)
                rests = self.skips_weight_step
        self._begun()[0].zero_gradients_(weights)
        return rests

    @torch.no_grad()
    def after_step(self, weights: Mapping[str, Tensor], step: int, max_steps: int) -> None:
        """Of a straight-through method: choose masks where it is time to, and take out what is off. Else nothing."""
        if not self.dense_in:
            return
        self.dense_in = False
        if self.update_due(step, max_steps):
            self._update(weights, {}, self._views(weights, step), step, max_steps)
        else:
            for name, mask in self._begun()[0].items():
                self._hide(name, weights[name], mask)

    def _begun(self) -> tuple[MaskSet, MaskSet]:
        """Masks and explored weights, which are there once training has started."""
        if self.masks is None or self.explored is None:
            raise ValueError(f"{type(self).__name__} has no masks yet: begin first")
        return self.masks, self.explored

    def _views(self, weights: Mapping[str, Tensor], step: int) -> list[SparseTensor]:
        return [self.view(name, weights[name], mask, weights[name].grad, step) for name, mask in self._begun()[0].items()]

    def _hide(self, name: str, dense: Tensor, mask: Tensor) -> None:
        """Split a dense weight into what is on, which stays, and what is off, which is remembered."""
        self.memory["hidden"][name] = dense.detach().masked_fill(mask, 0.0)
        zero_where_off_(dense, mask)

    def _update(
        self,
        weights: Mapping[str, Tensor],
        state: MutableMapping[Any, Any],
        tensors: Sequence[SparseTensor],
        step: int,
        max_steps: int,
    ) -> None:
        """Put new masks in place. What came and went starts anew: at zero, or at the value it is remembered by."""
        masks, explored = self._begun()
        moved = on = ever = torch.zeros((), dtype=torch.long)
        for tensor, updated in zip(tensors, self.update_masks(tensors, step, max_steps), strict=True):
            name, weight, changed = tensor.name, weights[tensor.name], updated ^ tensor.mask
            if not self.remembers:
                zero_where_off_(weight, ~changed)
            elif self.straight_through:
                self._hide(name, weight, updated)
            else:
                self._hide(name, weight.add_(self.memory["hidden"][name]), updated)
            zero_optimizer_state_(state.get(weight, {}), changed)
            masks.replace(name, updated)
            explored.replace(name, explored[name] | updated)
            moved, on = moved + (changed & updated).sum(), on + updated.sum()
            ever = ever + explored[name].sum()
        size = sum(tensor.mask.numel() for tensor in tensors)
        self.density = int(on) / size
        churn = {"churn": int(moved) / max(int(on), 1), "explored": int(ever) / size}
        self.last_update = self.progress(step, max_steps) | churn

    def state_dict(self) -> dict[str, Any]:
        """Everything a continued run needs, safe to load weights-only; empty before :meth:`begin`."""
        if self.masks is None or self.explored is None:
            return {}
        return {
            "masks": self.masks.state_dict(),
            "explored": self.explored.state_dict(),
            "initial_nnz": self.initial_nnz,
            "last_update": self.last_update,
            "nnz": self.nnz,
            "seed": self.seed,
            "memory": {kind: dict(tensors) for kind, tensors in self.memory.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What :meth:`state_dict` returned; :meth:`resume` takes it up."""
        if state_dict:
            self.masks = MaskSet.from_state_dict(state_dict["masks"])
            self.explored = MaskSet.from_state_dict(state_dict["explored"])
            self.initial_nnz, self.last_update = state_dict["initial_nnz"], state_dict["last_update"]
            self.nnz = state_dict.get("nnz", self.initial_nnz)
            self.memory = state_dict.get("memory", {})
            self.seed = state_dict.get("seed", self.seed)


def _finite(gradient: Tensor | None) -> bool:
    return gradient is None or bool(gradient.isfinite().all())
