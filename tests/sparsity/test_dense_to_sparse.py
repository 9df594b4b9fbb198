"""Drop and grow that starts with more weights than it ends with."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparsity import SET, GlobalRigL, RigL, SparseStepping, schedules

METHODS = (SET, RigL, GlobalRigL)


def train(method: SET, steps: int, shape: tuple[int, int] = (24, 16), not_finite: tuple[int, ...] = ()) -> list[int]:
    """Weights that are on after each step; the gradients of steps in ``not_finite`` hold an infinity."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(shape))
    sparse = SparseStepping(method, {"w": weight}, max_steps=steps)
    optimizer, counts = torch.optim.AdamW([weight], 1e-2), []
    for step in range(steps):
        weight.grad = torch.randn(shape)
        if step in not_finite:
            weight.grad[0, 0] = math.inf
            sparse.before_step(optimizer.state, step)  # a scaler would skip the optimizer's step
            sparse.after_step(step)
        else:
            sparse.step(optimizer, step)
        counts.append(int(sparse.masks["w"].sum()))
        assert not weight[~sparse.masks["w"]].any()
    return counts


@pytest.mark.parametrize("method", METHODS)
def test_the_number_of_weights_follows_the_cubic_curve_and_ends_at_the_target(method: type[SET]) -> None:
    """384 weights, 192 at the start, 77 at the end; updates every 10 steps, and at T_end = 75, which 10 does not divide."""
    counts = train(method(sparsity=0.8, initial_sparsity=0.5, every=10), 100)
    at = {step: 192 - round(schedules.cubic(step, 0, 75) * (192 - 77)) for step in (0, 10, 20, 30, 40, 50, 60, 70, 75)}
    assert counts == [at[max(update for update in at if update <= step)] for step in range(100)]
    assert (counts[0], counts[74], counts[75]) == (192, 77, 77)


@pytest.mark.parametrize("method", METHODS)
def test_masks_and_their_number_wait_for_the_start(method: type[SET]) -> None:
    """Of 100 steps none changes a mask up to the 30th; the curve then has the 45 steps up to T_end."""
    assert [step for step in range(100) if method(every=10, start=0.3).update_due(step, 100)] == [40, 50, 60, 70]
    counts = train(method(sparsity=0.8, initial_sparsity=0.5, every=10, start=0.3), 100)
    at = {step: 192 - round(schedules.cubic(step, 30, 75) * (192 - 77)) for step in (0, 40, 50, 60, 70, 75)}
    assert counts == [at[max(update for update in at if update <= step)] for step in range(100)]


def test_a_start_after_the_end_is_refused() -> None:
    with pytest.raises(ValueError, match="0 <= start < stop <= 1 expected, got 0.3, 100, 0.8 and 0.75"):
        RigL(start=0.8)


@given(
    st.sampled_from(METHODS),
    st.sampled_from([("unstructured", 0.8), ("rows", 0.8), ("2:4", 0.5), ("4x2", 0.75)]),
    st.floats(0, 0.99),
    st.integers(1, 60),
    st.integers(1, 40),
)
@settings(deadline=None, max_examples=60)
def test_the_target_is_met_by_every_structure_whatever_the_length(
    method: type[SET], structure: tuple[str, float], initial: float, steps: int, every: int
) -> None:
    kind, sparsity = structure
    chosen = method(sparsity=sparsity, initial_sparsity=initial, structure=kind, every=every)
    counts = train(chosen, steps)
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == chosen.nnz["w"] or steps == 1  # of a single step there is none at which it could be met


@pytest.mark.parametrize("method", METHODS)
def test_an_update_that_overflow_prevents_is_made_up_for(method: type[SET]) -> None:
    with pytest.warns(UserWarning, match="step 75: a gradient is not finite"):
        counts = train(method(sparsity=0.8, initial_sparsity=0.5, every=50), 100, not_finite=(75, 76))
    assert counts[76] > 77
    assert set(counts[77:]) == {77}


def test_without_initial_sparsity_nothing_is_different() -> None:
    """A start at the sparsity of the end is drop and grow as it is without."""
    runs = []
    for initial in (None, 0.8):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(20, 30))
        method = RigL(sparsity=0.8, initial_sparsity=initial, every=7)
        sparse = SparseStepping(method, {"w": weight}, max_steps=40)
        optimizer = torch.optim.AdamW([weight], 1e-2)
        for step in range(30):  # T_end, at which the one that decays has an update more, of nothing
            weight.grad = torch.randn(20, 30)
            sparse.step(optimizer, step)
        runs.append((sparse.masks["w"], weight.detach()))
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])


def test_a_decay_goes_on_over_the_same_number_of_steps() -> None:
    method = RigL(initial_sparsity=0.5)
    with pytest.raises(ValueError, match="100 steps when it began, 200 now"):
        method.check_resume(100, 200)
    RigL().check_resume(100, 200)


@pytest.mark.parametrize("initial", [-0.1, 1.0])
def test_an_initial_sparsity_that_there_is_not_is_refused(initial: float) -> None:
    with pytest.raises(ValueError, match=f"initial_sparsity in .0, 1. or null expected, got {initial}"):
        SET(initial_sparsity=initial)
