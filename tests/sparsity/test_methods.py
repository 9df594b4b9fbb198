"""Methods and schedules: a RigL update worked by hand, and what every update keeps."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sparsity import SET, GlobalRigL, MaskSet, RigL, SparseTensor, Static, criteria, drop_and_grow, parse_structure
from sparsity.methods import seeded_generator
from sparsity.schedules import cosine_drop_fraction, linear, update_due


def on(*rows: str) -> Tensor:
    """A mask drawn as rows of ``1`` and ``0``."""
    return torch.tensor([[character == "1" for character in row] for row in rows])


def updated(method: SET, weight: Tensor, mask: Tensor, gradient: Tensor | None, fraction: float, seed: int = 0) -> Tensor:
    """The mask after the first update of ``method`` with this drop fraction: f(0) = α."""
    method.drop_fraction = fraction
    return method.update_mask(SparseTensor(name="w", weight=weight, mask=mask, gradient=gradient, seed=seed), 0, 100)


def test_rigl_step_worked_by_hand() -> None:
    weight = torch.tensor([[0.5, -0.1, 0.0, 0.0], [0.0, -2.0, 0.3, 0.0]])
    gradient = torch.tensor([[9.0, -0.7, 0.1, 0.6], [-0.2, 9.0, 0.5, 0.0]])
    # nnz = 4, k = int(0.5 · 4) = 2. Dropped: -0.1 and 0.3. Of all but the kept 0.5 and -2.0 the largest gradients are
    # 0.7, which brings the just dropped -0.1 back, and 0.6; the gradients of 9 belong to kept weights.
    assert torch.equal(updated(RigL(), weight, on("1100", "0110"), gradient, 0.5), on("1101", "0100"))


def test_all_just_dropped_weights_may_come_back() -> None:
    mask = on("1100", "0110")
    gradient = mask.float()
    assert torch.equal(updated(RigL(), torch.zeros(2, 4), mask, gradient, 1.0), mask)


def test_an_inactive_zero_never_competes_as_a_small_active_weight() -> None:
    weight = torch.tensor([[0.0, 0.0, 0.0, 5.0]])  # the third is active, though zero: grown and not yet trained
    after = drop_and_grow(on("0011"), weight.abs(), torch.tensor([[1.0, 2.0, 0.0, 9.0]]), 0.5)
    assert torch.equal(after, on("0101"))


@pytest.mark.parametrize(("fraction", "replaced"), [(0.0, 0), (0.249, 0), (0.25, 1), (0.74, 2), (1.0, 4)])
def test_the_number_replaced_is_rounded_down(fraction: float, replaced: int) -> None:
    mask = on("1111", "0000")
    after = drop_and_grow(mask, torch.ones(1, 8), (~mask).float().view(1, 8), fraction)
    assert int((mask & ~after).sum()) == int((after & ~mask).sum()) == replaced


@pytest.mark.parametrize("method", [RigL(), SET()])
def test_nnz_is_constant_to_the_unit_over_a_thousand_updates(method: SET) -> None:
    torch.manual_seed(0)
    mask = torch.rand(13, 17) < 0.2
    nnz = int(mask.sum())
    for step in range(1000):
        fraction = float(torch.rand(()))
        weight, gradient = torch.randn(13, 17).round(decimals=1) * mask, torch.randn(13, 17).round(decimals=1)
        after = updated(method, weight, mask, gradient, fraction, seed=step)
        assert int(after.sum()) == nnz
        assert int((mask & ~after).sum()) <= int(fraction * nnz)
        mask = after


def test_rigl_without_a_gradient_says_so() -> None:
    with pytest.raises(ValueError, match="needs the dense gradient"):
        updated(RigL(), torch.ones(1, 4), on("1100"), None, 0.5)


def test_set_grows_anywhere_and_only_by_its_generator() -> None:
    mask = on("1" * 10 + "0" * 90)
    weight = mask.float()
    first, again, other = (updated(SET(), weight, mask, None, 1.0, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_generators_are_the_same_in_every_process() -> None:
    script = "from sparsity.methods import seeded_generator as g; print([g(*key).initial_seed() for key in {}])"
    keys = [("a.weight", 0), ("a.weight", 7), ("b.weight", 0)]
    output = subprocess.run(
        [sys.executable, "-c", script.format(keys)],
        env=os.environ | {"PYTHONHASHSEED": "1"},
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    seeds = [seeded_generator(*key).initial_seed() for key in keys]
    assert len(set(seeds)) == 3
    assert output == f"{seeds}\n"


def test_cosine_drop_fraction_has_the_values_of_the_paper() -> None:
    values = [cosine_drop_fraction(step, 1000, 0.3) for step in (0, 250, 500, 750, 1000)]
    assert values == pytest.approx([0.3, 0.15 * (1 + math.sqrt(0.5)), 0.15, 0.15 * (1 - math.sqrt(0.5)), 0.0], abs=1e-12)


def test_updates_are_due_strictly_between_the_first_step_and_the_last() -> None:
    assert [step for step in range(12) if update_due(step, every=3, start=0, stop=9)] == [3, 6]
    assert [step for step in range(12) if update_due(step, every=3, start=3, stop=10)] == [6, 9]


def test_rigl_stops_after_its_share_of_the_steps() -> None:
    method = RigL(drop_fraction=0.3, every=100, stop=0.75)
    assert [step for step in range(1001) if method.update_due(step, 1000)] == [100, 200, 300, 400, 500, 600, 700]
    assert method.drop_fraction_at(375, 1000) == pytest.approx(0.15)
    assert not any(Static().update_due(step, 1000) for step in range(1001))


def test_linear_schedule_is_a_straight_line_and_then_constant() -> None:
    assert [linear(step, 4, 1.0, 3.0) for step in (0, 1, 4, 9)] == [1.0, 1.5, 3.0, 3.0]


WEIGHTS = {"a.weight": torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), "b.weight": torch.ones(5, 5)}


@pytest.mark.parametrize("distribution", ["uniform", "erdos_renyi"])
@pytest.mark.parametrize(("sparsity", "scope_size"), [(0.8, 73), (0.5, 100), (0.0, 73)])
def test_initial_masks_make_the_share_of_the_scope_zero_to_the_unit(
    distribution: str, sparsity: float, scope_size: int
) -> None:
    masks = Static(sparsity=sparsity, distribution=distribution).initial_masks(WEIGHTS, scope_size)
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(sparsity * scope_size)


def test_initial_masks_depend_on_the_seed_and_the_name_alone() -> None:
    def draw(seed: int) -> MaskSet:
        weights = {name: torch.randn(8, 8) for name in ("a", "b")}
        return Static(sparsity=0.5, seed=seed).initial_masks(weights, 128)

    first, again, other = draw(0), draw(0), draw(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["a"], other["a"])
    assert not torch.equal(first["a"], first["b"])


def test_initialization_by_magnitude_takes_any_of_the_weights_that_are_zero() -> None:
    """A model that is sparser than it is to be: not the first rows of its tensors."""
    weight = torch.zeros(64, 32)
    weight[:, 0] = torch.arange(64) + 1.0
    method = Static(sparsity=0.5, initialization="magnitude")
    mask = method.initial_masks({"w": weight}, 64 * 32)["w"]
    assert bool(mask[:, 0].all())
    rows = mask.sum(1)
    assert int(rows.sum()) == 64 * 16
    assert 4 < int(rows.min()) <= int(rows.max()) < 28


def test_initialization_by_magnitude_keeps_the_largest() -> None:
    mask = Static(sparsity=0.75, initialization="magnitude").initial_masks(WEIGHTS, 73)["a.weight"]
    weight = WEIGHTS["a.weight"].abs()
    assert weight[mask].min() > weight[~mask].max()


def test_targets_are_shell_patterns_and_must_match() -> None:
    names = ["layer.0.query.weight", "layer.0.key.weight", "embeddings.weight"]
    assert Static(targets=("*.key.*", "emb*")).select(names) == ["layer.0.key.weight", "embeddings.weight"]
    with pytest.raises(ValueError, match=r"targets: '\*\.value\.\*' matches no parameter; there are layer\.0\.query"):
        Static(targets=("*.key.*", "*.value.*")).select(names)


BAD_SETTINGS = [
    ("sparsity", 1.0),
    ("sparsity", -0.1),
    ("sparsity", math.nan),
    ("drop_fraction", 1.1),
    ("every", 0),
    ("stop", 1.1),
]


@pytest.mark.parametrize(("name", "value"), BAD_SETTINGS)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} .*got .*{value}"):
        RigL(**{name: value})


def test_global_step_worked_by_hand() -> None:
    """Five weights of two tensors are on, k = int(0.6 · 5) = 3 go: 0.1 and 0.3 of the first and, as the 0.2 of the second is
    its last and stays, the 0.4. The largest gradients of all but the kept 0.5 and 0.2 are 7, 6 and 5 (which comes back)."""
    tensors = [
        SparseTensor(
            name="a",
            weight=torch.tensor([[0.1, -0.3, 0.4, 0.5, 0.0]]),
            mask=on("11110"),
            gradient=torch.tensor([[1.0, -5.0, 2.0, 9.0, 3.0]]),
        ),
        SparseTensor(
            name="b",
            weight=torch.tensor([[0.0], [0.2], [0.0]]),
            mask=on("0", "1", "0"),
            gradient=torch.tensor([[7.0], [9.0], [-6.0]]),
        ),
    ]
    first, second = GlobalRigL(drop_fraction=0.6).update_masks(tensors, 0, 100)
    assert torch.equal(first, on("01010"))
    assert torch.equal(second, on("1", "1", "1"))


@pytest.mark.parametrize("fraction", [0.3, 1.0])
def test_global_updates_keep_the_total_and_the_last_weight_of_every_tensor(fraction: float) -> None:
    torch.manual_seed(0)
    method = GlobalRigL(drop_fraction=fraction)
    masks = {name: torch.rand(shape) < 0.1 for name, shape in {"a": (9, 11), "b": (40, 30), "c": (5, 3)}.items()}
    masks["c"][:] = on("000", "000", "010", "000", "000")
    total, before = sum(int(mask.sum()) for mask in masks.values()), dict(masks)
    for step in range(1, 75):
        tensors = [
            SparseTensor(
                name=name,
                weight=torch.randn(mask.shape) * mask * 1e-3 ** (name == "c"),
                mask=mask,
                gradient=torch.randn(mask.shape) * 1e-3 ** (name == "c"),
            )
            for name, mask in masks.items()
        ]
        masks = dict(zip(masks, method.update_masks(tensors, step, 100), strict=True))
        assert sum(int(mask.sum()) for mask in masks.values()) == total
        assert all(mask.any() for mask in masks.values())
    assert masks["a"].sum() != before["a"].sum()  # layers trade weights


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_blocks_are_ranked_by_sums_in_single_precision(dtype: torch.dtype) -> None:
    """1 + 2^-10 is 1 in bf16, and 2,000 + 0.5 is 2,000 in fp16: the block that is larger by so little must win."""
    large, little = {torch.bfloat16: (1.0, 2.0**-10), torch.float16: (2000.0, 0.5)}[dtype]
    weight = torch.tensor([[large, 0.0, large, little]], dtype=dtype)
    tensor = SparseTensor(name="w", weight=weight, mask=on("1111"), gradient=weight, structure=parse_structure("1x2"))
    for criterion in (criteria.magnitude, criteria.gradient_magnitude):
        scores = tensor.score(criterion)
        assert scores.dtype == torch.float32
        assert torch.equal(tensor.select(scores, 2), on("0011"))
