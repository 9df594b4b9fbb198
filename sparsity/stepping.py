"""A method at work around the optimizer step, in plain PyTorch.

::

    sparse = SparseStepping(RigL(sparsity=0.8), weights, max_steps=1000)
    for step, batch in enumerate(batches):
        loss(model, batch).backward()
        sparse.step(optimizer, step)
        optimizer.zero_grad()

Between two steps the model has the sparse weights: what is off is exactly 0.0.
"""

from collections.abc import Collection, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsity.masks import MaskSet, zero_optimizer_state_
from sparsity.methods.base import SparseMethod
from sparsity.methods.tensor import SparseTensor
from sparsity.parameterizations import PARAMETERIZATIONS


class SparseStepping:
    """The masks that a method has chosen, and what they do to weights, gradients and optimizer state.

    It says *when* the method's hooks are called and keeps the masks; the method says what happens.

    Args:
        method: which weights are on, and when that changes. It belongs to this object from now on.
        weights: the tensors that become sparse, by name; they are changed in place.
        max_steps: optimizer steps of the whole run, over which schedules stretch.
        scope_size: parameters that the method's sparsity is a share of; by default those of ``weights``.
        trained: the weights come from a training, and start as large as they are in any parameterization.
        tables: names of embedding tables, whose rows are looked up: their outputs are no sums, so that density makes them no
            smaller, and no parameterization changes them.
        state: :meth:`state_dict` of a run to go on with, in place of a beginning; the weights are that run's.

    Attributes:
        masks: by name.
        initial_nnz: weights that were on at the start, by name.
        explored: weights that have ever been on, by name.
        nnz: weights that are on now, by name.
        last_update: churn, share explored and the method's progress at the latest mask update; empty before the first.

    Raises:
        ValueError: the method cannot be met by these weights, or the state is of another method, model or length.
    """

    def __init__(
        self,
        method: SparseMethod,
        weights: Mapping[str, Tensor],
        max_steps: int,
        scope_size: int | None = None,
        trained: bool = False,
        tables: Collection[str] = (),
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.method, self.weights, self.max_steps = method, dict(weights), max_steps
        self.last_update: dict[str, float] = {}
        self._in_step = False
        self._optimizer_state: MutableMapping[Any, Any] = {}
        self._powers, self._summed = PARAMETERIZATIONS[method.parameterization], sorted(set(weights) - set(tables))
        self._before_step: dict[str, Tensor] = {}
        method.check_weights(self.weights)
        if state is not None:
            self._resume(state)
            return
        size = sum(weight.numel() for weight in self.weights.values())
        self.masks = method.initial_masks(self.weights, size if scope_size is None else scope_size)
        self.explored, self.initial_nnz = MaskSet(self.masks), self.masks.nnz()
        self.nnz = dict(self.initial_nnz)
        if not trained:
            self._scale_weights()
        self.prune_weights()

    def step(self, optimizer: Optimizer, step: int) -> None:
        """One step of the optimizer and all that belongs around it.

        A loop that clips gradients calls the two halves itself: :meth:`before_step`, clip, step, :meth:`after_step`.

        Args:
            optimizer: of the weights, whose gradients are there: accumulated, reduced over ranks, unscaled.
            step: optimizer steps taken so far.
        """
        if not self.before_step(optimizer.state, step):
            optimizer.step()
        self.after_step(step)

    @torch.no_grad()
    def before_step(self, optimizer_state: MutableMapping[Any, Any], step: int) -> bool:
        """What comes before the optimizer's step: mask updates where they are due, and masked gradients.

        Args:
            optimizer_state: of the optimizer, by parameter.
            step: optimizer steps taken so far.

        Returns:
            Whether the optimizer's step is to be skipped.
        """
        self._optimizer_state, self._in_step = optimizer_state, True
        self.method.on_step(self.tensors(step), step, self.max_steps)
        skip_optimizer_step = self.method.before_optimizer_step(self, step)
        if self._powers.step and not skip_optimizer_step:
            self._before_step = {name: self.weights[name].detach().clone() for name in self._summed}
        return skip_optimizer_step

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """What comes after the optimizer's step, or in its place where that was skipped; a second call does nothing."""
        if self._in_step:
            self._in_step = False
            self._scale_step()
            self.method.after_optimizer_step(self, step)

    def _density_of(self, name: str) -> float:
        """Share of the weights of a tensor that is on; never 0, but one of them where none is."""
        return max(self.nnz[name], 1) / self.masks[name].numel()

    @torch.no_grad()
    def _scale_weights(self) -> None:
        """Make random weights as large as the parameterization wants them at the start."""
        for name in self._summed:
            self.weights[name].mul_(self._density_of(name) ** self._powers.initial)

    def _scale_step(self) -> None:
        """Make the optimizer's step as long as the parameterization wants it, as a learning rate so much larger would have."""
        for name, before in self._before_step.items():
            weight = self.weights[name]
            weight.copy_(before.lerp(weight, self._density_of(name) ** self._powers.step))
        self._before_step = {}

    def tensors(self, step: int) -> list[SparseTensor]:
        """The weights as a method sees them at ``step``, with their gradients."""
        return [
            self.method.view(name, self.weights[name], mask, self.weights[name].grad, step)
            for name, mask in self.masks.items()
        ]

    def has_gradients(self) -> bool:
        """Whether any of the weights has a gradient."""
        return any(weight.grad is not None for weight in self.weights.values())

    @property
    def density(self) -> float:
        """Share of the weights that is on."""
        return sum(self.nnz.values()) / sum(mask.numel() for mask in self.masks.values())

    def gradients_are_finite(self) -> bool:
        """Whether no gradient holds an infinity or a NaN."""
        gradients = (self.weights[name].grad for name in self.masks)
        return all(gradient is None or bool(gradient.isfinite().all()) for gradient in gradients)

    def mask_gradients(self) -> None:
        """Set the gradient of every weight that is off to 0.0."""
        self.masks.zero_gradients_(self.weights)

    @torch.no_grad()
    def prune_weights(self) -> None:
        """Set every weight that is off to 0.0."""
        for name, mask in self.masks.items():
            self.method.prune(name, self.weights[name], mask)

    @torch.no_grad()
    def zero_weights(self) -> None:
        """Set every weight that is off to 0.0; what a method has kept of it stays kept."""
        self.masks.zero_weights_(self.weights)

    def restore_weights(self) -> None:
        """Give every weight that is off the value that the method has kept, if it keeps them."""
        for name in self.masks:
            self.method.restore(name, self.weights[name])

    def update(self, step: int, keep_optimizer_state: bool = False) -> None:
        """Put the method's new masks in place. What came and what went starts anew in the optimizer, unless that is kept."""
        moved = ever = torch.zeros((), dtype=torch.long)
        tensors = self.tensors(step)
        masks = self.method.update_masks(tensors, step, self.max_steps)
        figures = self.method.progress(step, self.max_steps) | self.method.on_update(tensors, masks)
        for tensor, updated in zip(tensors, masks, strict=True):
            name, weight, changed = tensor.name, self.weights[tensor.name], updated ^ tensor.mask
            self.method.restore(name, weight)
            self.method.prune(name, weight, updated)
            if not keep_optimizer_state:
                zero_optimizer_state_(self._optimizer_state.get(weight, {}), changed)
            self.masks.replace(name, updated)
            self.explored.replace(name, self.explored[name] | updated)
            moved, ever = moved + (changed & updated).sum(), ever + self.explored[name].sum()
        counts = torch.stack([mask.sum() for mask in masks]).tolist()  # one wait for the device, however many tensors
        self.nnz = {tensor.name: count for tensor, count in zip(tensors, counts, strict=True)}
        on, size = sum(counts), sum(tensor.mask.numel() for tensor in tensors)
        self.last_update = figures | {"churn": int(moved) / max(on, 1), "explored": int(ever) / size}

    def state_dict(self) -> dict[str, Any]:
        """Everything a continued run needs, safe to load weights-only."""
        return {
            "method": type(self.method).__name__,
            "max_steps": self.max_steps,
            "masks": self.masks.state_dict(),
            "explored": self.explored.state_dict(),
            "initial_nnz": self.initial_nnz,
            "last_update": self.last_update,
            "nnz": self.method.nnz,
            "seed": self.method.seed,
            "memory": {kind: dict(tensors) for kind, tensors in self.method.memory.items()},
        }

    def _resume(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned, on the devices of the weights."""
        method, began = self.method, state["method"]
        if began != type(method).__name__:
            raise ValueError(f"the checkpoint's masks are those of {began}, not of {type(method).__name__}: keep the method")
        method.check_resume(state["max_steps"], self.max_steps)
        self.masks = MaskSet.from_state_dict(state["masks"]).to_parameters(self.weights)
        if without := sorted(self.weights.keys() - self.masks.keys()):
            raise ValueError(f"the checkpoint has no mask of {without[0]}, which is to be sparse")
        self.explored = MaskSet.from_state_dict(state["explored"]).to_parameters(self.weights)
        self.initial_nnz, self.last_update = dict(state["initial_nnz"]), dict(state["last_update"])
        self.nnz = self.masks.nnz()
        method.nnz, method.seed = dict(state["nnz"]), state["seed"]
        method.memory = {
            kind: {name: tensor.to(self.weights[name].device) for name, tensor in tensors.items()}
            for kind, tensors in state["memory"].items()
        }
        self.zero_weights()
