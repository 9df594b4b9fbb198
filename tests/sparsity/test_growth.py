"""What grows: the balanced gradient by hand and against outliers, a random share to the unit, and what an update reports."""

from statistics import fmean

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsity import (
    SET,
    GlobalRigL,
    RigL,
    SparseStepping,
    SparseTensor,
    criteria,
    drop_and_grow,
    parse_structure,
    statistics,
)

GENERATOR = torch.Generator()


def balanced(gradient: Tensor) -> Tensor:
    return criteria.balanced_gradient_magnitude(torch.zeros_like(gradient), gradient, GENERATOR)


def test_the_balanced_gradient_by_hand() -> None:
    """Mean squares of the rows (3, 4) and (0, 12) are 12.5 and 72, of the columns 4.5 and 80."""
    gradient = torch.tensor([[3.0, -4.0], [0.0, 12.0]])
    expected = torch.tensor([[3 / (12.5 * 4.5) ** 0.5, 4 / (12.5 * 80) ** 0.5], [0.0, 12 / (72 * 80) ** 0.5]])
    torch.testing.assert_close(balanced(gradient), expected * 42.25**0.5)  # the mean of all squares


def test_a_row_of_very_small_gradients_is_balanced_as_any_other() -> None:
    gradient = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    gradient[2] *= 1e-25
    squares = gradient.double().square()
    expected = gradient.double().abs() * (squares.mean() / squares.mean(1, keepdim=True) / squares.mean(0)).sqrt()
    torch.testing.assert_close(balanced(gradient).double(), expected, rtol=1e-5, atol=0.0)


@given(st.integers(0, 999), st.sampled_from([1e-30, 1.0, 1e30]), st.sampled_from([torch.float32, torch.bfloat16]))
@settings(deadline=None, max_examples=50)
def test_scaling_a_row_or_a_column_changes_no_rank(seed: int, scale: float, dtype: torch.dtype) -> None:
    """Row and column factors drop out, so a gradient u vᵀ is balanced to ones; nothing is ever NaN."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.rand(size, generator=generator) + 0.1 for size in (5, 7))
    rows[1] *= 1000
    scores = balanced((rows[:, None] * columns * scale).to(dtype))
    torch.testing.assert_close(scores, torch.ones(5, 7), rtol=0.02, atol=0)
    assert not balanced(torch.zeros(5, 7, dtype=dtype)).any()


def test_outlier_rows_take_all_growth_by_gradient_and_their_share_when_balanced() -> None:
    torch.manual_seed(0)
    gradient = torch.randn(40, 60)
    gradient[:2] *= 100
    mask = torch.zeros(40, 60, dtype=torch.bool)
    mask[:, :12] = True
    shares = []
    for growth in ("gradient", "balanced_gradient"):
        method = RigL(growth=growth, drop_fraction=0.2)
        tensor = SparseTensor(name="w", weight=torch.randn(40, 60) * mask, mask=mask, gradient=gradient)
        grown = method.update_mask(tensor, 0, 100) & ~mask
        assert int(grown.sum()) > 60
        shares.append(float(grown[:2].sum() / grown.sum()))
    assert shares[0] == 1.0
    assert shares[1] < 0.15


@given(
    st.sampled_from(["unstructured", "rows", "2:4", "4x2"]),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(["gradient", "balanced_gradient"]),
    st.integers(0, 999),
)
@settings(deadline=None, max_examples=100)
def test_a_random_share_keeps_the_number_of_weights_and_what_was_kept(
    structure: str, fraction: float, share: float, growth: str, seed: int
) -> None:
    torch.manual_seed(seed)
    kind = parse_structure(structure)
    mask = kind.expand(kind.select(kind.units(torch.rand(16, 8)), 64), (16, 8))
    weight, gradient = torch.randn(16, 8) * mask, torch.randn(16, 8)
    method = RigL(drop_fraction=fraction, growth=growth, random_share=share, structure=structure, sparsity=0.5)
    tensor = SparseTensor(name="w", weight=weight, mask=mask, gradient=gradient, structure=kind, seed=seed, step=3)
    updated = method.update_mask(tensor, 0, 100)
    assert int(updated.sum()) == 64
    units = kind.active(mask)
    keep = kind.units(weight.abs()).masked_fill(~units, -torch.inf).flatten()
    kept = keep.topk(int(units.sum()) - int(fraction * int(units.sum()))).indices
    assert bool(kind.active(updated).flatten()[kept].all())


def test_the_random_share_is_a_count() -> None:
    """Of ten that come three are random: they miss the ten largest gradients, which are in the last row, but for chance."""
    mask = torch.zeros(20, 50, dtype=torch.bool)
    mask[0, :20] = True
    gradient = torch.zeros(20, 50)
    gradient[19] = torch.arange(50) + 1.0
    keep, chance = torch.rand(1, 1000), torch.rand(1, 1000)
    chance.view(20, 50)[19] = -1.0  # never by chance
    updated = drop_and_grow(mask, keep, gradient.view(1, -1), 0.5, random_scores=chance, random_share=0.39)
    assert int(updated[19].sum()) == 7
    assert int(updated.sum()) == 20


@pytest.mark.parametrize("structure", ["unstructured", "rows", "2:4", "4x2"])
def test_a_share_of_every_group_comes_at_random(structure: str) -> None:
    """With a share of 1 the gradient has no say, with one of a half it has in half of the places, wherever they are."""
    kind, generator = parse_structure(structure), torch.Generator().manual_seed(0)
    shape = (64, 32)
    mask = kind.expand(kind.select(kind.units(torch.rand(shape, generator=generator)), 1024), shape)
    keep, chance = (kind.units(torch.rand(shape, generator=generator)) for _ in range(2))
    gradients = [kind.units(torch.rand(shape, generator=generator)) for _ in range(2)]
    grown = {
        share: [drop_and_grow(mask, keep, gradient, 0.3, kind, chance, share) for gradient in gradients]
        for share in (0.0, 0.5, 1.0)
    }
    assert torch.equal(*grown[1.0])
    other = {share: int((first ^ second).sum()) for share, (first, second) in grown.items()}
    assert 0.3 * other[0.0] < other[0.5] < 0.7 * other[0.0]
    half = grown[0.5][0]
    assert torch.equal(kind.active(half).sum(1), kind.active(mask).sum(1))
    new = (half & ~mask).view(2, -1).sum(1).tolist()  # in the first rows as many as in the last
    assert abs(new[0] - new[1]) < 0.3 * sum(new)


@pytest.mark.parametrize("method", [RigL, GlobalRigL])
def test_growth_is_at_random_through_the_first_steps(method: type[RigL]) -> None:
    """From the step on that the share of the run says, the gradient's choice; before it, whatever the gradient is."""
    torch.manual_seed(0)
    weight, mask = torch.randn(20, 30), torch.rand(20, 30) < 0.3
    fields = {"name": "w", "weight": weight, "mask": mask, "seed": 5, "step": 7}
    one, other = (SparseTensor(**fields, gradient=torch.randn(20, 30)) for _ in range(2))
    late, always = method(random_until=0.3), method()
    early = [late.update_masks([tensor], 299, 1000)[0] for tensor in (one, other)]
    assert torch.equal(*early)
    assert int(early[0].sum()) == int(mask.sum())
    assert not torch.equal(early[0], always.update_masks([one], 299, 1000)[0])
    for tensor in (one, other):
        assert torch.equal(late.update_masks([tensor], 300, 1000)[0], always.update_masks([tensor], 300, 1000)[0])


def test_global_growth_has_a_random_share_too() -> None:
    torch.manual_seed(0)
    tensors = [
        SparseTensor(
            name=name, weight=torch.randn(10, 10), mask=torch.rand(10, 10) < 0.4, gradient=torch.randn(10, 10), step=1
        )
        for name in ("a", "b")
    ]
    total = sum(int(tensor.mask.sum()) for tensor in tensors)
    masks = {share: GlobalRigL(random_share=share).update_masks(tensors, 0, 100) for share in (0.0, 0.5)}
    assert all(sum(int(mask.sum()) for mask in updated) == total for updated in masks.values())
    assert not torch.equal(masks[0.0][0], masks[0.5][0])


@pytest.mark.parametrize(
    ("settings", "value"),
    [({"growth": "momentum"}, "momentum"), ({"random_share": 1.1}, "1.1"), ({"random_until": -0.1}, "-0.1")],
)
def test_growth_that_there_is_not_is_refused(settings: dict[str, object], value: str) -> None:
    with pytest.raises(
        ValueError, match=f"growth of gradient, balanced_gradient, random_share and random_until .* got .*{value}"
    ):
        RigL(**settings)


def test_concentration_is_the_share_of_the_fullest_rows_and_columns() -> None:
    mask = torch.zeros(20, 40, dtype=torch.bool)
    mask[3, :10] = True  # one row of 20 has all; of 40 columns the fullest two have two of ten
    assert statistics.concentration(mask) == pytest.approx((1.0 + 0.2) / 2)
    assert statistics.concentration(torch.zeros(20, 40, dtype=torch.bool)) == 0.0
    assert statistics.concentration(torch.ones(20, 40, dtype=torch.bool)) == pytest.approx(0.05)


@pytest.mark.parametrize("nnz", [1, 3, 40, 400, 4000])
def test_concentration_by_chance_is_that_of_masks_drawn_at_random(nnz: int) -> None:
    found = []
    for seed in range(50):
        mask = torch.zeros(100 * 200, dtype=torch.bool)
        mask[torch.randperm(len(mask), generator=torch.Generator().manual_seed(seed))[:nnz]] = True
        found.append(statistics.concentration(mask.view(100, 200)))
    assert statistics.concentration_by_chance(mask.view(100, 200)) == pytest.approx(fmean(found), rel=0.06)


def test_an_update_reports_the_survival_of_what_came_before_it() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(10, 20))
    sparse = SparseStepping(RigL(sparsity=0.5, every=1, stop=1.0, drop_fraction=0.4), {"w": weight}, max_steps=4)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    came, reported = None, []
    for step in range(3):
        before = sparse.masks["w"]
        weight.grad = torch.randn(10, 20)
        sparse.step(optimizer, step)
        if step:
            after = sparse.masks["w"]
            assert sparse.last_update["growth_concentration"] == pytest.approx(statistics.concentration(after & ~before))
            if came is not None:
                assert sparse.last_update["survival"] == pytest.approx(float(after[came].float().mean()))
            came = after & ~before
            reported.append("survival" in sparse.last_update)
    assert reported == [False, True]


def test_a_method_is_named_by_what_is_not_its_default() -> None:
    assert str(RigL(sparsity=0.9, seed=1)) == "RigL"
    assert str(GlobalRigL(growth="balanced_gradient", every=50)) == "GlobalRigL(every=50, growth=balanced_gradient)"


@pytest.mark.parametrize("method", [SET, RigL, GlobalRigL])
def test_vectors_can_be_sparse(method: type[SET]) -> None:
    weights = {name: torch.nn.Parameter(torch.arange(1.0, 21.0)) for name in "ab"}
    sparse = SparseStepping(method(sparsity=0.5, every=2, stop=1.0), weights, max_steps=8)
    for step in range(8):
        for weight in weights.values():
            weight.grad = torch.ones_like(weight)
        sparse.step(torch.optim.SGD(weights.values(), lr=0.1), step)
    assert sum(sparse.nnz.values()) == 20
    vector = torch.arange(20) < 10
    assert statistics.concentration(vector) == pytest.approx(
        (1 + 0.1) / 2
    )  # all in the only row, a tenth in the fullest place
    assert statistics.concentration(vector) == statistics.concentration(vector[None])
    assert statistics.concentration_by_chance(vector) == statistics.concentration_by_chance(vector[None])
