"""Pruning methods: schedules with the papers' values, and steps worked by hand."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from sparsity import GMP, SET, STE, Movement, OneShot, SparseMethod, SparseStepping, SparseTensor, Static
from sparsity.schedules import cubic


def on(row: str) -> Tensor:
    return torch.tensor([[character == "1" for character in row]])


def row(*values: float) -> Tensor:
    return torch.tensor([values])


def test_cubic_schedule_has_the_values_of_the_paper() -> None:
    assert [cubic(step, 100, 300) for step in (0, 100, 150, 200, 250, 300, 999)] == [0, 0, 37 / 64, 7 / 8, 63 / 64, 1, 1]
    assert cubic(5, 5, 5) == 1


def test_gmp_prunes_inside_its_window_and_at_its_end() -> None:
    method = GMP(start=0.25, end=0.75, every=100)
    assert [step for step in range(1000) if method.update_due(step, 1000)] == [250, 350, 450, 550, 650, 750]
    assert [step for step in range(130) if method.update_due(step, 130)] == [32, 98]  # 32 = round(32.5) to even
    whole = GMP(start=0.0, end=1.0, every=40)
    assert [step for step in range(100) if whole.update_due(step, 100)] == [0, 40, 80, 99]  # 99 is the last step taken
    assert [step for step in range(1) if method.update_due(step, 1)] == [0]


def test_gmp_counts_are_the_cubic_share_of_what_goes() -> None:
    method = GMP(start=0.0, end=0.5, every=1)
    tensor = SparseTensor(name="w", weight=torch.ones(10, 10), mask=torch.ones(10, 10, dtype=torch.bool), nnz=21)
    counts = [int(method.update_mask(tensor, step, 80).sum()) for step in (0, 10, 20, 30, 40, 79)]
    # 100 - round(share · 79), share = 0, 37/64, 7/8, 63/64, 1, 1
    assert counts == [100, 54, 31, 22, 21, 21]


def test_gmp_drops_the_smallest_and_what_is_off_stays_off() -> None:
    tensor = SparseTensor(name="w", weight=row(0.5, 0.0, -3.0, 0.0, 2.0), mask=on("11101"), nnz=2)
    assert torch.equal(GMP().update_mask(tensor, 99, 100), on("00101"))
    tensor = SparseTensor(name="w", weight=row(0.0, 0.0, 0.0, 0.0, 2.0), mask=on("00111"), nnz=3)
    assert torch.equal(GMP().update_mask(tensor, 99, 100), on("00111"))  # active zeros, not those of lower index


def test_gmp_steps_the_weights_at_an_update() -> None:
    weight = nn.Parameter(row(1.0, -4.0, 3.0, 0.5))
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.5)
    sparse = SparseStepping(GMP(sparsity=0.5, start=0.0, end=0.5, every=100), {"w": weight}, max_steps=4)
    assert sparse.masks["w"].all()
    for step in range(4):
        weight.grad = torch.ones(1, 4)
        assert not sparse.before_step(optimizer.state, step)
        optimizer.step()
    # Steps of 1 and 1.5 take all weights to (-1.5, -6.5, 0.5, -2); at step 2 the smallest two, -1.5 and 0.5, go with their
    # momentum, and the others step on by 1.75 and 1.875.
    assert torch.equal(weight, row(0.0, -10.125, 0.0, -5.625))
    assert torch.equal(optimizer.state[weight]["momentum_buffer"], row(0.0, 1.875, 0.0, 1.875))
    assert sparse.last_update == {"pruned": 1.0, "churn": 0.0, "explored": 1.0}


@pytest.mark.parametrize(("at", "due"), [(0.0, []), (0.3, [3]), (0.01, [0]), (1.0, [9])])
def test_one_shot_prunes_once(at: float, due: list[int]) -> None:
    method = OneShot(at=at, sparsity=0.5)
    assert [step for step in range(10) if method.update_due(step, 10)] == due
    weights = {"w": row(1.0, -4.0, 3.0, 0.5)}
    assert torch.equal(method.initial_masks(weights, 4)["w"], on("1111" if at else "0110"))
    tensor = method.view("w", weights["w"])
    assert torch.equal(method.update_mask(tensor, 5, 10), on("0110"))


def test_ste_step_worked_by_hand() -> None:
    weight = nn.Parameter(row(1.0, -4.0, 3.0, 0.5))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    sparse = SparseStepping(STE(sparsity=0.5), {"w": weight}, max_steps=10)
    assert torch.equal(weight, row(0.0, -4.0, 3.0, 0.0))
    assert torch.equal(sparse.method.memory["pruned_values"]["w"], row(1.0, 0.0, 0.0, 0.5))

    weight.grad = row(-4.0, 0.0, 1.0, 0.25)  # of the sparse weights; steps the dense ones
    sparse.before_step(optimizer.state, 0)
    assert torch.equal(weight, row(1.0, -4.0, 3.0, 0.5))
    optimizer.step()
    sparse.after_step(0)
    assert torch.equal(weight, row(5.0, -4.0, 0.0, 0.0))
    assert torch.equal(sparse.method.memory["pruned_values"]["w"], row(0.0, 0.0, 2.0, 0.25))
    assert torch.equal(sparse.masks["w"], on("1100"))
    assert sparse.last_update == {"churn": 0.5, "explored": 0.75}


def test_ste_with_fewer_choices_keeps_masks_between_them() -> None:
    weight = nn.Parameter(row(1.0, -4.0, 3.0, 0.5))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    sparse = SparseStepping(STE(sparsity=0.5, every=2), {"w": weight}, max_steps=10)
    seen = []
    for step in range(4):
        weight.grad = row(-4.0, 0.0, 0.0, 0.0)
        sparse.before_step(optimizer.state, step)
        optimizer.step()
        sparse.after_step(step)
        seen.append(weight.tolist()[0])
    assert seen == [[0.0, -4.0, 3.0, 0.0], [9.0, -4.0, 0.0, 0.0], [13.0, -4.0, 0.0, 0.0], [17.0, -4.0, 0.0, 0.0]]


def test_movement_steps_worked_by_hand() -> None:
    weight = nn.Parameter(row(1.0, -2.0, 3.0, 4.0))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    sparse = SparseStepping(Movement(sparsity=0.5, start=0.0, end=0.0, every=1), {"w": weight}, max_steps=10)

    def step(number: int, *gradient: float) -> None:
        weight.grad = row(*gradient)
        sparse.before_step(optimizer.state, number)
        optimizer.step()
        sparse.after_step(number)

    # S = -g·w = (1, 2, -3, -4): what moves to zero goes, large or not. The others are stepped.
    step(0, -1.0, 1.0, 1.0, 1.0)
    assert torch.equal(sparse.method.memory["scores"]["w"], row(1.0, 2.0, -3.0, -4.0))
    assert torch.equal(weight, row(2.0, -3.0, 0.0, 0.0))
    assert torch.equal(sparse.method.memory["pruned_values"]["w"], row(0.0, 0.0, 3.0, 4.0))
    # S + (0, 0, 3·3, 4·0.5) = (1, 2, 6, -2): the third returns with its value and is stepped; the first goes.
    step(1, 0.0, 0.0, -3.0, -0.5)
    assert torch.equal(sparse.method.memory["scores"]["w"], row(1.0, 2.0, 6.0, -2.0))
    assert torch.equal(sparse.masks["w"], on("0110"))
    assert torch.equal(weight, row(0.0, -3.0, 6.0, 0.0))
    assert torch.equal(sparse.method.memory["pruned_values"]["w"], row(2.0, 0.0, 0.0, 4.0))
    step(2, torch.inf, 0.0, 0.0, 0.0)  # not finite: no score is touched
    assert torch.equal(sparse.method.memory["scores"]["w"], row(1.0, 2.0, 6.0, -2.0))


def test_movement_goes_on_choosing_after_its_ramp() -> None:
    method = Movement(start=0.2, end=0.55, every=10)
    assert [step for step in range(100) if method.update_due(step, 100)] == [20, 30, 40, 50, 55, 60, 70, 80, 90]


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (GMP, {"start": 0.8, "end": 0.7}, "0 <= start <= end <= 1 .* got 0.8, 0.7"),
        (GMP, {"end": 1.1}, "got 0.25, 1.1"),
        (Movement, {"every": 0}, "every >= 1 expected, got .* 0"),
        (STE, {"every": 0}, "every >= 1 expected, got 0"),
        (OneShot, {"at": -0.1}, r"at must be in \[0, 1\], got -0.1"),
    ],
)
def test_settings_out_of_range_are_refused(method: type, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method(**settings)


def test_masks_of_another_model_are_refused() -> None:
    state = SparseStepping(GMP(), {"w": torch.ones(1, 4)}, 10).state_dict()
    with pytest.raises(ValueError, match="does not fit the model: parameter is absent"):
        SparseStepping(GMP(), {"v": torch.ones(1, 4)}, 10, state=state)


def test_a_weight_without_a_mask_in_the_state_is_refused() -> None:
    state = SparseStepping(GMP(), {"w": torch.ones(1, 4)}, 10).state_dict()
    with pytest.raises(ValueError, match="the checkpoint has no mask of v, which is to be sparse"):
        SparseStepping(GMP(), {"v": torch.ones(1, 4), "w": torch.ones(1, 4)}, 10, state=state)


@pytest.mark.parametrize("method", [OneShot(), STE(), GMP(start=0.0, end=0.0), Static(initialization="magnitude")], ids=str)
def test_of_zeros_any_come_on_and_not_the_first(method: SparseMethod) -> None:
    method = dataclasses.replace(method, sparsity=0.5)
    weight = torch.nn.Parameter(torch.where(torch.arange(2000) % 10 == 0, 1.0, 0.0).view(100, 20))
    sparse = SparseStepping(method, {"w": weight}, max_steps=4)
    weight.grad = torch.zeros_like(weight)
    sparse.step(torch.optim.SGD([weight], lr=0.1), 0)
    on = sparse.masks["w"].view(10, -1).sum(1)
    assert on.sum() == 1000
    assert int(on.min()) > 70
    assert int(on.max()) < 130
    assert sparse.masks["w"].flatten()[::10].all()  # the largest are among them


def test_masks_of_another_method_are_refused() -> None:
    state = SparseStepping(GMP(), {"w": torch.ones(1, 4)}, 10).state_dict()
    with pytest.raises(ValueError, match="the checkpoint's masks are those of GMP, not of SET: keep the method"):
        SparseStepping(SET(), {"w": torch.ones(1, 4)}, 10, state=state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_movement_scores_are_sums_in_single_precision(dtype: torch.dtype) -> None:
    """In bf16 1 + 0.001 is 1, however often it is added."""
    weight = nn.Parameter(torch.tensor([[1.0, 1.0]], dtype=dtype))
    sparse = SparseStepping(Movement(sparsity=0.5, start=0.9, end=1.0), {"w": weight}, max_steps=1000)
    for step in range(100):
        weight.grad = torch.tensor([[-1.0 if step == 0 else -(2.0**-10), 1.0]], dtype=dtype)
        sparse.before_step({}, step)
    assert sparse.method.memory["scores"]["w"].dtype == torch.float32
    assert sparse.method.memory["scores"]["w"].tolist() == [[1 + 99 * 2.0**-10, -100.0]]
