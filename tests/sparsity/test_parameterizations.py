"""SµPar: outputs at the start, and what a step does to them, whatever the density; a step that a larger rate would have made."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsity import GMP, SET, RigL, SparseMethod, SparseStepping, Static

DENSITIES = (1.0, 0.5, 0.25, 0.125)
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": lambda weights, lr: torch.optim.AdamW(weights, lr=lr, weight_decay=0.1),
    "sgd": lambda weights, lr: torch.optim.SGD(weights, lr=lr, momentum=0.9, weight_decay=0.1),
}


def layer(out: int = 512, inputs: int = 512) -> nn.Parameter:
    return nn.Parameter(torch.randn(out, inputs, generator=torch.Generator().manual_seed(0)) * 0.02)


def rms(tensor: Tensor) -> float:
    return float(tensor.detach().square().mean().sqrt())


def outputs_and_their_change(density: float, **options: Any) -> tuple[float, float, float]:
    """Sizes of the outputs at the start, of the gradient of the inputs, and of what a step of Adam changes of the outputs."""
    weight = layer()
    sparse = SparseStepping(Static(sparsity=1 - density, **options), {"w": weight}, max_steps=10)
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(512, generator=generator).expand(64, -1).clone().requires_grad_()
    backward = torch.randn(512, generator=generator).expand(64, -1)
    before = inputs @ weight.T
    before.backward(backward)
    sparse.step(torch.optim.Adam([weight], lr=1e-3), 0)
    return rms(before), rms(inputs.grad), rms(inputs @ weight.T - before)


def test_outputs_gradients_and_the_effect_of_a_step_are_as_large_at_any_density() -> None:
    dense = outputs_and_their_change(1.0)
    for density in DENSITIES[1:]:
        for size, of_dense in zip(outputs_and_their_change(density, parameterization="sparse_mup"), dense, strict=True):
            assert size == pytest.approx(of_dense, rel=0.12)
        shrunk = outputs_and_their_change(density)
        for size, of_dense, power in zip(shrunk, dense, (0.5, 0.5, 1.0), strict=True):
            assert size == pytest.approx(of_dense * density**power, rel=0.12)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_longer_step_is_that_of_a_learning_rate_so_much_larger(optimizer: str) -> None:
    ends = []
    for parameterization, rate in ("sparse_mup", 1e-3), ("standard", 4e-3):
        weight = layer(16, 32)
        sparse = SparseStepping(Static(sparsity=0.75, parameterization=parameterization), {"w": weight}, 10, trained=True)
        stepped = OPTIMIZERS[optimizer]([weight], rate)
        for step in range(10):
            weight.grad = torch.randn(16, 32, generator=torch.Generator().manual_seed(step)) + weight.detach()
            sparse.step(stepped, step)
        ends.append(weight.detach())
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-6)


def test_random_weights_start_larger_and_trained_ones_as_they_are() -> None:
    for trained, factor in (False, 2.0), (True, 1.0):
        weight, as_drawn = layer(), layer()
        method = Static(sparsity=0.75, parameterization="sparse_mup")
        mask = SparseStepping(method, {"w": weight}, 10, trained=trained).masks["w"]
        torch.testing.assert_close(weight[mask], as_drawn[mask] * factor)
        assert not weight[~mask].any()


def step_of_sgd(sparse: SparseStepping, weight: nn.Parameter, step: int) -> Tensor:
    """What a step at rate 1 along a gradient of -1 everywhere adds."""
    before = weight.detach().clone()
    weight.grad = -torch.ones_like(weight)
    sparse.step(torch.optim.SGD([weight], lr=1.0), step)
    return weight.detach() - before


@pytest.mark.parametrize(
    "method", [GMP(start=0.0, end=0.8, every=2), RigL(initial_sparsity=0.0, every=2, stop=0.8, drop_fraction=0.0)]
)
def test_the_step_follows_the_density_as_that_falls(method: SparseMethod) -> None:
    weight, drawn = layer(32, 32), layer(32, 32)
    sparse = SparseStepping(dataclasses.replace(method, parameterization="sparse_mup"), {"w": weight}, 10)
    assert torch.equal(weight, drawn)  # dense at the start
    lengths = []
    for step in range(10):
        added = step_of_sgd(sparse, weight, step)
        mask, density = sparse.masks["w"], sparse.density
        if added[mask].any():  # an update of RigL takes the place of the step
            lengths.append(1 / density)
            torch.testing.assert_close(added[mask], torch.full_like(added[mask], 1 / density))
        assert not weight[~mask].any()
    assert lengths == sorted(lengths)
    assert lengths[0] < 2
    assert lengths[-1] == pytest.approx(5, rel=1e-2)


def test_each_tensor_has_a_step_of_its_own_and_dense_ones_that_of_the_optimizer() -> None:
    weights = {"a": layer(16, 16), "b": layer(16, 16), "dense": layer(16, 16)}
    method = SET(sparsity=0.5, sparsities={"a": 0.75}, parameterization="sparse_mup")
    sparse = SparseStepping(method, {name: weights[name] for name in "ab"}, 10, trained=True)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    for weight in weights.values():
        weight.grad = -torch.ones_like(weight)
    sparse.step(torch.optim.SGD(weights.values(), lr=1.0), 1)
    for name, factor in ("a", 4.0), ("b", 4 / 3), ("dense", 1.0):
        added = (weights[name] - before[name]).detach()
        on = sparse.masks[name] if name in sparse.masks else torch.ones_like(added, dtype=torch.bool)
        torch.testing.assert_close(added[on], torch.full_like(added[on], factor))


def test_an_embedding_table_keeps_the_size_of_its_rows_and_its_steps() -> None:
    weights = {"a": layer(16, 16), "table": layer(16, 16)}
    method = Static(sparsity=0.75, parameterization="sparse_mup")
    sparse = SparseStepping(method, weights, 10, tables=["table"])
    mask, drawn = sparse.masks["table"], layer(16, 16)
    assert torch.equal(weights["table"][mask], drawn[mask])
    torch.testing.assert_close(weights["a"][sparse.masks["a"]], 2 * drawn[sparse.masks["a"]])
    for weight in weights.values():
        weight.grad = -torch.ones_like(weight)
    sparse.step(torch.optim.SGD(weights.values(), lr=1.0), 1)
    torch.testing.assert_close(weights["table"][mask], drawn[mask] + 1)


def test_a_tensor_without_any_weight_is_no_division_by_zero() -> None:
    weights = {"a": layer(4, 4), "b": layer(64, 64)}
    method = Static(sparsity=0.8, sparsities={"a": 0.99}, parameterization="sparse_mup")
    sparse = SparseStepping(method, weights, 10)
    assert sparse.nnz["a"] == 0
    for weight in weights.values():
        weight.grad = torch.ones_like(weight)
    sparse.step(torch.optim.SGD(weights.values(), lr=1.0), 1)
    assert not weights["a"].any()
    assert weights["b"].isfinite().all()


def test_an_optimizer_step_that_was_skipped_changes_nothing() -> None:
    weight = layer(16, 16)
    sparse = SparseStepping(Static(sparsity=0.5, parameterization="sparse_mup"), {"w": weight}, 10)
    before = weight.detach().clone()
    weight.grad = torch.ones_like(weight)
    assert not sparse.before_step({}, 0)
    sparse.after_step(0)  # loss scaling, or gradients that are not finite
    assert torch.equal(weight, before)


def test_an_unknown_one_is_named() -> None:
    with pytest.raises(ValueError, match="parameterization: standard or sparse_mup expected, got 'mup'"):
        Static(parameterization="mup")  # type: ignore[arg-type]
