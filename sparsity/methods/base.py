"""What a sparse-training method is: which masks it starts from, when they change, and what they become.

A new method is a dataclass that overrides :meth:`SparseMethod.update_due` and :meth:`SparseMethod.update_mask`, and
:meth:`SparseMethod.initial_mask` where it does not start dense. It knows no model and no loop:
:class:`~sparsity.SparseStepping` holds one and runs it.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from sparsity import criteria
from sparsity.distributions import DISTRIBUTIONS, Distribution, Scope, fixed_nnz, globally, nonzero_budget
from sparsity.masks import MaskSet, zero_where_off_
from sparsity.methods.tensor import SparseTensor
from sparsity.parameterizations import PARAMETERIZATIONS, Parameterization
from sparsity.patterns import check_patterns, first_match, matching
from sparsity.structures import UNSTRUCTURED, Structure, parse_structure

if TYPE_CHECKING:
    from sparsity.stepping import SparseStepping


@dataclass(eq=False, kw_only=True)
class SparseMethod:
    """What all methods share. This one starts dense and stays so.

    Args:
        sparsity: share of zeros wanted in ``scope``, in [0, 1); the count of zeros is exact to one weight (to one block). 0.8
            where ``nonzeros`` is not given either.
        nonzeros: instead of ``sparsity``, how many weights of the whole model are not zero.
        distribution: how the remaining weights are spread over tensors: the same density everywhere, Erdős–Rényi, or the
            largest of all tensors at the start.
        scope: what ``sparsity`` is a share of: the sparse tensors, all matrices of the encoder, or the whole model with its
            dense parameters.
        targets: shell patterns of the parameters that become sparse; by default the linear weights of the encoder.
        sparsities: shell pattern → sparsity of each tensor it matches, first match wins; the others take what is left.
        structure: ``unstructured``, ``rows``, ``2:4``, ``16x16`` (see :mod:`sparsity.structures`), or shell pattern → one of
            these, first match wins; tensors without a match are unstructured.
        parameterization: what sparsity does to the size of weights and steps: nothing, or, with ``sparse_mup``, random weights
            start 1/√density as large and steps are 1/density as long, tensor by tensor, as that is at the time (Dey et al. 2024).
        seed: of random masks; null takes the run's, which is 0 where there is none.

    Attributes:
        nnz: weights each tensor keeps in the end, by name.
        memory: tensors a method keeps beside the masks, by kind and by name; they travel in the checkpoint.
    """

    sparsity: float | None = None
    nonzeros: int | None = None
    distribution: Distribution = "uniform"
    scope: Scope = "tensors"
    targets: tuple[str, ...] = ()
    sparsities: dict[str, float] = field(default_factory=dict)
    structure: str | int | dict[str, str | int] = "unstructured"
    parameterization: Parameterization = "standard"
    seed: int | None = None

    tag: ClassVar[str] = "pruning"
    """Where its curves are in TensorBoard."""

    def __post_init__(self) -> None:
        if self.nonzeros is None and self.sparsity is None:
            self.sparsity = 0.8
        if self.nonzeros is not None and (self.sparsity is not None or self.scope == "encoder"):
            raise ValueError(
                f"nonzeros counts the whole model and stands in the place of sparsity: give one, "
                f"got {self.nonzeros}, sparsity {self.sparsity} and scope {self.scope!r}"
            )
        for share in (self.sparsity or 0.0, *self.sparsities.values()):
            if not 0 <= share < 1:
                raise ValueError(f"sparsity must be in [0, 1), got {share}")
        if self.parameterization not in PARAMETERIZATIONS:
            raise ValueError(f"parameterization: {' or '.join(PARAMETERIZATIONS)} expected, got {self.parameterization!r}")
        patterns = self.structure if isinstance(self.structure, dict) else {"*": self.structure}
        self.structures = {pattern: parse_structure(value) for pattern, value in patterns.items()}
        self.nnz: dict[str, int] = {}
        self.memory: dict[str, dict[str, Tensor]] = {}

    def __str__(self) -> str:
        """The class and the options that are not its defaults, but for how many zeros: ``RigL(growth=balanced_gradient)``."""
        given = []
        for option in dataclasses.fields(self):
            default = option.default if option.default_factory is dataclasses.MISSING else option.default_factory()
            shown = option.init and option.repr and option.name not in ("sparsity", "nonzeros", "seed")
            if shown and (value := getattr(self, option.name)) != default:
                given.append(f"{option.name}={value}")
        return type(self).__name__ + (f"({', '.join(given)})" if given else "")

    def select(self, sparsifiable: Iterable[str]) -> list[str]:
        """Names that match ``targets``; a pattern that matches nothing is an error."""
        names = list(sparsifiable)
        check_patterns("targets", self.targets, names)
        return matching(self.targets, names)

    def structure_of(self, name: str) -> Structure:
        """The structure of a tensor's mask."""
        return first_match(self.structures, name) or UNSTRUCTURED

    def allocate(self, weights: Mapping[str, Tensor], scope_size: int) -> dict[str, int]:
        """Weights each tensor keeps in the end.

        Args:
            weights: the tensors that become sparse, by name; of a distribution by shape alone, the shapes are all that counts.
            scope_size: parameters in ``scope`` (with ``nonzeros``: in the model), the sparse ones included.

        Raises:
            ValueError: a pattern matches nothing, a structure does not divide a tensor, or the budget cannot be met.
        """
        check_patterns("sparsities", self.sparsities, weights)
        check_patterns("structure", self.structures, weights)
        sizes = {name: weight.numel() for name, weight in weights.items()}
        counts: dict[str, int] = {}
        for name, weight in weights.items():
            structure = self.structure_of(name)
            structure.check(name, weight.shape)
            nnz = fixed_nnz(name, sizes[name], structure, first_match(self.sparsities, name))
            if nnz is not None:
                counts[name] = nnz
        free = [name for name in weights if name not in counts]
        given = sum(counts.values())
        feasible = given, given + sum(sizes[name] for name in free)
        total = nonzero_budget(self.sparsity, sum(sizes.values()), scope_size, self.nonzeros, feasible)
        counts |= zip(free, self._spread([self.view(name, weights[name]) for name in free], total - given), strict=True)
        return {name: counts[name] for name in weights}

    def _spread(self, tensors: Sequence[SparseTensor], nnz: int) -> list[int]:
        """Weights each tensor keeps by the distribution, of ``nnz`` together."""
        unit_sizes = [tensor.structure.unit_size for tensor in tensors]
        if self.distribution == "global":
            return globally([tensor.spread(tensor.score(criteria.magnitude)) for tensor in tensors], nnz, unit_sizes)
        return DISTRIBUTIONS[self.distribution]([tensor.weight.shape for tensor in tensors], nnz, unit_sizes)

    def initial_scores(self, tensor: SparseTensor) -> Tensor:
        """Unit scores by which masks are drawn at the start."""
        return tensor.score(criteria.magnitude_or_chance)

    def view(
        self, name: str, weight: Tensor, mask: Tensor | None = None, gradient: Tensor | None = None, step: int | None = None
    ) -> SparseTensor:
        """One tensor as :meth:`update_mask` sees it at optimizer step ``step``; without one, at the start."""
        return SparseTensor(
            name=name,
            weight=weight.detach(),
            mask=torch.ones_like(weight, dtype=torch.bool) if mask is None else mask,
            gradient=gradient,
            nnz=self.nnz.get(name, 0),
            structure=self.structure_of(name),
            seed=self.seed or 0,
            step=step,
        )

    def initial_masks(self, weights: Mapping[str, Tensor], scope_size: int) -> MaskSet:
        """The masks training starts from, after :meth:`allocate` has said how many weights stay; arguments as there."""
        self.nnz = self.allocate(weights, scope_size)
        return MaskSet({name: self.initial_mask(self.view(name, weight)) for name, weight in weights.items()})

    def initial_mask(self, tensor: SparseTensor) -> Tensor:
        """The mask one tensor starts with."""
        return tensor.mask

    def update_due(self, step: int, max_steps: int) -> bool:
        """Whether masks change at optimizer step ``step`` of ``max_steps``."""
        return False

    def progress(self, step: int, max_steps: int) -> dict[str, float]:
        """Where the method's schedule is, for the record: name → value."""
        return {}

    def check_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Raise ValueError, naming one, where these weights cannot be made sparse by this method."""

    def check_resume(self, begun: int, max_steps: int) -> None:
        """Raise ValueError where a run that began with ``begun`` steps cannot go on as one of ``max_steps``."""

    def on_step(self, tensors: Sequence[SparseTensor], step: int, max_steps: int) -> None:
        """Look at weights and dense gradients at every optimizer step, before anything changes.

        A method that remembers gradients looks at those of :func:`finite_gradients` only.
        """

    def before_optimizer_step(self, sparse: "SparseStepping", step: int) -> bool:
        """Update masks where it is time to and mask the gradients; whether the optimizer's step is to be skipped."""
        if self.update_due(step, sparse.max_steps):
            sparse.update(step)
        sparse.mask_gradients()
        return False

    def after_optimizer_step(self, sparse: "SparseStepping", step: int) -> None:
        """What is left to do once the weights have been stepped; nothing for most."""

    def prune(self, name: str, weight: Tensor, mask: Tensor) -> None:
        """Set a weight to 0.0 where its ``mask`` is off. What was there is gone."""
        zero_where_off_(weight, mask)

    def restore(self, name: str, weight: Tensor) -> None:
        """Put back what :meth:`prune` has taken away, where a method keeps it."""

    def on_update(self, tensors: Sequence[SparseTensor], updated: Sequence[Tensor]) -> dict[str, float]:
        """Look at an update, for the record: name → value."""
        return {}

    def update_masks(self, tensors: Sequence[SparseTensor], step: int, max_steps: int) -> list[Tensor]:
        """The masks of all tensors after an update: each for itself, unless a method lets them compete."""
        return [self.update_mask(tensor, step, max_steps) for tensor in tensors]

    def update_mask(self, tensor: SparseTensor, step: int, max_steps: int) -> Tensor:
        """The mask of one tensor after an update."""
        return tensor.mask


def finite_gradients(tensors: Sequence[SparseTensor]) -> Iterator[tuple[SparseTensor, Tensor]]:
    """Each tensor with its gradient, in fp32 at least; none where any has a value that is not finite: fp16 that overflowed."""
    pairs = [(tensor, tensor.gradient) for tensor in tensors if tensor.gradient is not None]
    if all(bool(gradient.isfinite().all()) for _, gradient in pairs):
        yield from ((tensor, criteria.at_least_float32(gradient)) for tensor, gradient in pairs)


def check_trained(method: SparseMethod, weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError where a method that chooses by gradients gets a weight that will have none."""
    if frozen := [name for name, weight in weights.items() if not weight.requires_grad]:
        raise ValueError(f"{type(method).__name__} chooses by gradients, and {frozen[0]} is frozen")


def check_same_length(method: SparseMethod, begun: int, max_steps: int) -> None:
    """Raise ValueError where a run whose number of weights follows a curve over its length is given another length."""
    if begun != max_steps:
        raise ValueError(
            f"{type(method).__name__} ramps over the length of the run: {begun} steps when it began, {max_steps} now; "
            "give the first number again"
        )
