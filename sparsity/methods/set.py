"""Drop and grow: SET."""

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from sparsity import criteria, schedules
from sparsity.masks import top_k_mask
from sparsity.methods.base import check_same_length
from sparsity.methods.static import Static
from sparsity.methods.tensor import SparseTensor
from sparsity.statistics import concentration, concentration_by_chance
from sparsity.structures import UNSTRUCTURED, Structure, top_k_of_groups

if TYPE_CHECKING:
    from sparsity.stepping import SparseStepping


def drop_and_grow(
    mask: Tensor,
    keep_scores: Tensor,
    grow_scores: Tensor,
    fraction: float,
    structure: Structure = UNSTRUCTURED,
    random_scores: Tensor | None = None,
    random_share: float = 0.0,
) -> Tensor:
    """One drop-and-grow update of a mask (Evci et al. 2020, Alg. 1).

    The k = int(fraction · active units) active units with the smallest ``keep_scores`` are dropped; as many come where
    ``grow_scores`` are largest among all others of the same group, the just dropped included. An inactive unit never
    competes for being kept.

    Args:
        mask: of the weights.
        keep_scores: of the units, as :meth:`~sparsity.structures.Structure.units` makes them; likewise ``grow_scores``.
        fraction: share of the active units to replace.
        random_scores: of the units, by which the last int(random_share · k) come instead, of each group as many as it has
            places, in proportion; None where there are none.
        random_share: share of those that come.
    """
    on = structure.active(mask)
    active = int(on.sum())
    replaced = int(fraction * active)
    kept = top_k_mask(keep_scores.masked_fill(~on, -torch.inf), active - replaced)
    if random_scores is not None:
        places = (on.sum(1) - kept.sum(1)).cumsum(0)  # of a group and of those before it
        at_random = (random_share * places.double()).long().diff(prepend=places.new_zeros(1))
        kept = top_k_of_groups(grow_scores.masked_fill(kept, torch.inf), on.sum(1) - at_random)
        grow_scores = random_scores
    grown = structure.select(grow_scores.masked_fill(kept, torch.inf), active * structure.unit_size)
    return structure.expand(grown, mask.shape)


@dataclass(eq=False, kw_only=True)
class SET(Static):
    """Sparse evolutionary training: drop by magnitude, grow at random (Mocanu et al. 2018, Alg. 2).

    Args:
        drop_fraction: α, the share of active weights replaced at the start; decays to 0 along a cosine.
        every: ΔT, optimizer steps between updates.
        start: share of the training steps before which the masks stay as they are. A masked LM first learns how often words
            occur; what the gradient asks for in that time is not what it asks for later.
        stop: T_end, as a share of the training steps.
        initial_sparsity: of each sparse tensor at the start, where it is to have more weights than in the end: an update then
            first drops the smallest weights that are too many, down to the cubic curve of gradual pruning (Zhu and Gupta 2017,
            eq. 1), which reaches the end at T_end. Null starts with the weights of the end.
    """

    drop_fraction: float = 0.3
    every: int = 100
    start: float = 0.0
    stop: float = 0.75
    initial_sparsity: float | None = None

    tag: ClassVar[str] = "rigl"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.drop_fraction <= 1 or self.every < 1 or not 0 <= self.start < self.stop <= 1:
            raise ValueError(
                f"drop_fraction in [0, 1], every >= 1 and 0 <= start < stop <= 1 expected, "
                f"got {self.drop_fraction}, {self.every}, {self.start} and {self.stop}"
            )
        if self.initial_sparsity is not None and not 0 <= self.initial_sparsity < 1:
            raise ValueError(f"initial_sparsity in [0, 1) or null expected, got {self.initial_sparsity}")

    def check_resume(self, begun: int, max_steps: int) -> None:
        if self.initial_sparsity is not None:
            check_same_length(self, begun, max_steps)

    def initial_mask(self, tensor: SparseTensor) -> Tensor:
        return tensor.select(self.initial_scores(tensor), self.initial_nnz(tensor))

    def initial_nnz(self, tensor: SparseTensor) -> int:
        """Weights of a tensor that are on at the start."""
        size = tensor.mask.numel()
        return tensor.nnz if self.initial_sparsity is None else max(size - round(self.initial_sparsity * size), tensor.nnz)

    def end_of_decay(self, max_steps: int) -> int:
        """The optimizer step at which all weights that are too many at the start have gone; one that is taken."""
        return min(round(self.stop * max_steps), max_steps - 1)

    def nnz_at(self, tensor: SparseTensor, step: int, max_steps: int) -> int:
        """The most weights of a tensor that may be on after an update at ``step``."""
        if self.initial_sparsity is None:
            return tensor.mask.numel()
        most = self.initial_nnz(tensor)
        last = self.end_of_decay(max_steps)
        first = min(round(self.start * max_steps), last)
        return most - round(schedules.cubic(step, first, last) * (most - tensor.nnz))

    def update_due(self, step: int, max_steps: int) -> bool:
        due = schedules.update_due(step, self.every, start=self.start * max_steps, stop=self.stop * max_steps)
        return due or (self.initial_sparsity is not None and step == self.end_of_decay(max_steps))

    def overdue(self, sparse: "SparseStepping", step: int) -> bool:
        """Whether weights are left that should have gone: the update that was to drop them met a gradient that is not finite."""
        if self.initial_sparsity is None or step <= self.end_of_decay(sparse.max_steps):
            return False
        return sparse.density > sum(self.nnz.values()) / sum(mask.numel() for mask in sparse.masks.values())

    def drop_fraction_at(self, step: int, max_steps: int) -> float:
        """Share of each tensor's active weights that is replaced at ``step``."""
        stop = self.stop * max_steps
        return schedules.cosine_drop_fraction(min(step, stop), stop, self.drop_fraction)

    def progress(self, step: int, max_steps: int) -> dict[str, float]:
        return {"drop_fraction": self.drop_fraction_at(step, max_steps)}

    def before_optimizer_step(self, sparse: "SparseStepping", step: int) -> bool:
        """An update takes the place of the optimizer's step, as in the reference implementation of RigL.

        Where a gradient is not finite there is no update, and the masks stay until the next; nor is there one where the loop
        has taken the gradients away, which skips its step.
        """
        skip_optimizer_step = self.update_due(step, sparse.max_steps) or self.overdue(sparse, step)
        skip_optimizer_step = skip_optimizer_step and sparse.has_gradients()
        if skip_optimizer_step and not sparse.gradients_are_finite():
            warnings.warn(f"step {step}: a gradient is not finite; the mask update is skipped", stacklevel=2)
            skip_optimizer_step = False
        if skip_optimizer_step:
            sparse.update(step)
        sparse.mask_gradients()
        return skip_optimizer_step

    def shrunk(self, tensor: SparseTensor, step: int, max_steps: int) -> SparseTensor:
        """The tensor without the active units that are too many at ``step``, those with the smallest :meth:`keep_scores`."""
        if self.initial_sparsity is None:
            return tensor
        scores = self.keep_scores(tensor).masked_fill(~tensor.structure.active(tensor.mask), -torch.inf)
        return dataclasses.replace(tensor, mask=tensor.select(scores, self.nnz_at(tensor, step, max_steps)))

    def update_masks(self, tensors: Sequence[SparseTensor], step: int, max_steps: int) -> list[Tensor]:
        return super().update_masks([self.shrunk(tensor, step, max_steps) for tensor in tensors], step, max_steps)

    def update_mask(self, tensor: SparseTensor, step: int, max_steps: int) -> Tensor:
        fraction = self.drop_fraction_at(step, max_steps)
        return drop_and_grow(tensor.mask, self.keep_scores(tensor), self.grow_scores(tensor), fraction, tensor.structure)

    def on_update(self, tensors: Sequence[SparseTensor], updated: Sequence[Tensor]) -> dict[str, float]:
        """Where what came is, and whether what came at the update before is still on.

        Returns:
            ``growth_concentration`` (:func:`~sparsity.statistics.concentration` of what came, over all tensors), what it would
            be ``_by_chance``, and, from the second update on, ``survival``, the share of what came at the one before.
        """
        grown = self.memory.setdefault("grown", {})  # indices of what came last
        came = stayed = on_top = by_chance = 0.0
        total = 0
        for tensor, mask in zip(tensors, updated, strict=True):
            new = mask & ~tensor.mask
            if (before := grown.get(tensor.name)) is not None:
                came, stayed = came + len(before), stayed + float(mask.flatten()[before].sum())
            count = int(new.sum())
            total, on_top = total + count, on_top + count * concentration(new)
            by_chance += count * concentration_by_chance(new)
            grown[tensor.name] = new.flatten().nonzero().squeeze(1)
        concentrations = {"growth_concentration": on_top, "growth_concentration_by_chance": by_chance}
        figures = {name: share / total for name, share in concentrations.items()} if total else {}
        return figures | ({"survival": stayed / came} if came else {})

    def keep_scores(self, tensor: SparseTensor) -> Tensor:
        """What goes: the active units with the smallest of these scores."""
        return tensor.score(criteria.magnitude)

    def grow_scores(self, tensor: SparseTensor) -> Tensor:
        """What comes: the units with the largest of these scores."""
        return tensor.score(criteria.random)
