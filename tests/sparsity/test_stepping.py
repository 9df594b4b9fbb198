"""Every method with every structure and distribution under two optimizers: what must hold after every step."""

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsity import (
    GMP,
    SET,
    STE,
    GlobalRigL,
    Movement,
    OneShot,
    RigL,
    SparseMethod,
    SparseStepping,
    SparseTensor,
    Static,
    finite_gradients,
)
from sparsity.parameterizations import PARAMETERIZATIONS
from sparsity.structures import NM

METHODS: dict[type[SparseMethod], dict[str, float]] = {
    Static: {},
    SET: {"every": 2, "stop": 1.0},
    RigL: {"every": 2, "stop": 1.0},
    GlobalRigL: {"every": 2, "stop": 1.0},
    GMP: {"every": 2},
    OneShot: {"at": 0.5},
    STE: {},
    Movement: {"every": 2},
}
STRUCTURES = ["unstructured", "rows", "2:4", "4x2", {"a": "1:4", "*": "rows"}, {"b": "8x1", "c": "unstructured"}]
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=0.05, weight_decay=0.5),
    "sgd": lambda weights: torch.optim.SGD(weights, lr=0.05, momentum=0.9, weight_decay=0.1),
}
SHAPES = {"a": (8, 12), "b": (16, 8), "c": (4, 4)}
SIZE, STEPS = 240, 10


class Run:
    """Ten steps of three matrices towards random targets; everything random follows from ``seed``."""

    def __init__(self, method: SparseMethod, optimizer: str, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.weights = {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}
        self.gradients = [
            {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()} for _ in range(STEPS)
        ]
        self.optimizer = OPTIMIZERS[optimizer](list(self.weights.values()))
        self.method = method

    def begin(self, state: dict[str, Any] | None = None) -> None:
        self.sparse = SparseStepping(self.method, self.weights, STEPS, state=state)

    def steps(self, first: int = 0, last: int = STEPS) -> Iterator[int]:
        for step in range(first, last):
            for name, weight in self.weights.items():
                weight.grad = weight.detach() + self.gradients[step][name]
            self.sparse.step(self.optimizer, step)
            yield step

    def moments(self, name: str) -> list[Tensor]:
        state = self.optimizer.state[self.weights[name]]
        return [value for value in state.values() if isinstance(value, Tensor) and value.shape == SHAPES[name]]

    def outcome(self) -> list[Tensor]:
        memory = [tensor for tensors in self.method.memory.values() for tensor in tensors.values()]
        moments = [moment for name in SHAPES for moment in self.moments(name)]
        return [weight.detach() for weight in self.weights.values()] + list(self.sparse.masks.values()) + memory + moments


def assert_equal(first: list[Tensor], second: list[Tensor]) -> None:
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


configurations = {
    "method": st.sampled_from(list(METHODS)),
    "structure": st.sampled_from(STRUCTURES),
    "distribution": st.sampled_from(["uniform", "erdos_renyi", "global"]),
    "parameterization": st.sampled_from(list(PARAMETERIZATIONS)),
    "optimizer": st.sampled_from(list(OPTIMIZERS)),
    "seed": st.integers(0, 999),
}


def configured(
    method: type[SparseMethod],
    structure: str | dict[str, str],
    distribution: str,
    seed: int,
    parameterization: str = "standard",
) -> SparseMethod:
    nonzeros = {"sparsity": 0.5} if structure == "2:4" else {"nonzeros": 96}
    axes = {"structure": structure, "distribution": distribution, "parameterization": parameterization}
    return method(seed=seed, **axes, **nonzeros, **METHODS[method])


def final_nnz(structure: str | dict[str, str]) -> int:
    return 120 if structure == "2:4" else 96


@given(**configurations)
@settings(deadline=None, max_examples=150)
def test_after_every_step_zeros_are_zeros_and_masks_have_their_structure(
    method: type[SparseMethod],
    structure: str | dict[str, str],
    distribution: str,
    parameterization: str,
    optimizer: str,
    seed: int,
) -> None:
    chosen = configured(method, structure, distribution, seed, parameterization)
    run = Run(chosen, optimizer, seed)
    run.begin()
    sparse = run.sparse
    assert sum(chosen.nnz.values()) == final_nnz(structure)  # exact: 96 is divisible by every unit
    pruned_gradually = isinstance(chosen, GMP | OneShot)
    for step in run.steps():
        total = 0
        for name, mask in sparse.masks.items():
            weight = run.weights[name].detach()
            assert not weight[~mask].any()
            assert not torch.signbit(weight[~mask]).any()
            units = chosen.structure_of(name).active(mask)
            assert torch.equal(chosen.structure_of(name).expand(units, mask.shape), mask)
            assert int(units.sum(1).max() - units.sum(1).min()) <= 1 or len(units) == 1
            if not isinstance(chosen, STE):
                assert not any(moment[~mask].any() for moment in run.moments(name))
            if not pruned_gradually and not isinstance(chosen, GlobalRigL):
                assert int(mask.sum()) == chosen.nnz[name]
            total += int(mask.sum())
        if not pruned_gradually:
            assert total == final_nnz(structure)
        elif step >= 8:
            assert sparse.masks.nnz() == chosen.nnz
    for name, mask in sparse.masks.items():
        if isinstance(groups := chosen.structure_of(name), NM):
            assert set(groups.active(mask).sum(1).tolist()) == {groups.n}


@given(**configurations)
@settings(deadline=None, max_examples=60)
def test_a_resumed_run_is_the_uninterrupted_run(
    method: type[SparseMethod],
    structure: str | dict[str, str],
    distribution: str,
    parameterization: str,
    optimizer: str,
    seed: int,
) -> None:
    chosen = method, structure, distribution, seed, parameterization
    whole, again, resumed = (Run(configured(*chosen), optimizer, seed) for _ in range(3))
    for run in (whole, again):
        run.begin()
    list(whole.steps())
    list(again.steps(last=5))
    file = io.BytesIO()
    torch.save([dict(again.weights), again.optimizer.state_dict(), again.sparse.state_dict()], file)
    file.seek(0)
    weights, optimizer_state, sparse_state = torch.load(file, weights_only=True)

    with torch.no_grad():
        for name, weight in resumed.weights.items():
            weight.copy_(weights[name])
    resumed.optimizer.load_state_dict(optimizer_state)
    resumed.begin(sparse_state)
    list(resumed.steps(first=5))
    list(again.steps(first=5))
    assert_equal(again.outcome(), whole.outcome())  # deterministic
    assert_equal(resumed.outcome(), whole.outcome())
    assert resumed.sparse.last_update == whole.sparse.last_update
    assert resumed.method.nnz == whole.method.nnz


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_masks_change_when_the_method_says_so_and_explored_remembers(method: type[SparseMethod]) -> None:
    run = Run(configured(method, "unstructured", "uniform", 0), "adamw", 0)
    run.begin()
    sparse = run.sparse
    before, ever, changed = dict(sparse.masks), dict(sparse.masks), []
    for step in run.steps():
        if any(not torch.equal(before[name], mask) for name, mask in sparse.masks.items()):
            changed.append(step)
        before = dict(sparse.masks)
        ever = {name: ever[name] | mask for name, mask in before.items()}
    due = [step for step in range(STEPS) if run.method.update_due(step, STEPS)]
    assert set(changed) <= set(due)
    assert len(changed) >= len(due) - 2  # the first of a ramp prunes nothing, the last drop fraction moves less than one
    assert all(torch.equal(sparse.explored[name], mask) for name, mask in ever.items())


def test_a_gradient_that_is_not_finite_skips_a_drop_and_grow_update() -> None:
    run = Run(configured(RigL, "unstructured", "uniform", 0), "adamw", 0)
    run.begin()
    masks = dict(run.sparse.masks)
    run.gradients[2]["a"][0, 0] = torch.nan
    with pytest.warns(UserWarning, match="step 2: a gradient is not finite; the mask update is skipped"):
        list(run.steps(last=3))
    assert all(torch.equal(masks[name], mask) for name, mask in run.sparse.masks.items())


class Smoothed(RigL):
    """Grows where the gradient has been large: one step that is not finite would stay in the average for ever."""

    def on_step(self, tensors: Sequence[SparseTensor], step: int, max_steps: int) -> None:
        averages = self.memory.setdefault("average", {})
        for tensor, gradient in finite_gradients(tensors):
            averages.setdefault(tensor.name, torch.zeros_like(gradient)).lerp_(gradient, 0.5)

    def grow_scores(self, tensor: SparseTensor) -> Tensor:
        return tensor.units(self.memory["average"][tensor.name].abs())


@pytest.mark.parametrize("structure", ["unstructured", "rows", "2:4", "4x4"])
def test_a_method_with_a_memory_is_not_shown_a_gradient_that_is_not_finite(structure: str) -> None:
    run = Run(Smoothed(structure=structure, sparsity=0.5, every=2, stop=1.0, drop_fraction=0.7), "sgd", 0)
    run.begin()
    sparse = run.sparse
    start, before = sparse.masks.nnz(), dict(sparse.masks)
    for step in range(STEPS):
        for name, weight in run.weights.items():
            weight.grad = weight.detach() + run.gradients[step][name]
        overflow = step == 1
        if overflow:
            run.weights["a"].grad[::2] = torch.nan
        if not sparse.before_step(run.optimizer.state, step) and not overflow:  # loss scaling skips it
            run.optimizer.step()
    assert any(not torch.equal(before[name], mask) for name, mask in sparse.masks.items())
    assert sparse.masks.nnz() == start
    assert all(bool(average.isfinite().all()) for average in run.method.memory["average"].values())
