"""Budgets: patterns, structures and numbers of non-zeros together, exact, or refused with the closest that is feasible."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsity import Static, erdos_renyi, uniform
from sparsity.distributions import globally

WEIGHTS = {
    "layer.0.query": torch.randn(16, 16, generator=torch.Generator().manual_seed(0)),
    "layer.0.output": torch.randn(32, 16, generator=torch.Generator().manual_seed(1)),
    "layer.1.query": torch.randn(16, 16, generator=torch.Generator().manual_seed(2)),
    "embeddings": torch.randn(64, 16, generator=torch.Generator().manual_seed(3)),
}
SIZE = 16 * 16 * 2 + 32 * 16 + 64 * 16  # 2048


def allocate(weights: dict[str, Tensor] = WEIGHTS, scope_size: int = SIZE, **options: object) -> list[int]:
    return list(Static(**options).allocate(weights, scope_size).values())


def test_patterns_fix_a_tensor_and_the_others_take_what_is_left() -> None:
    # 1024 stay: 192 + 128 in the queries; 704 of the 1536 others, one third of them in the output.
    counts = allocate(sparsity=0.5, sparsities={"*.0.query": 0.25, "*query": 0.5})
    assert counts == [192, 235, 128, 469]
    assert sum(counts) == SIZE - round(0.5 * SIZE)


def test_a_pattern_is_exact_to_one_weight_and_nothing_else_counts_for_it() -> None:
    for sparsity in (0.0, 0.1, 1 / 3, 0.97):
        assert allocate(sparsity=0.5, sparsities={"*.1.query": sparsity})[2] == 256 - round(256 * sparsity)


def test_n_m_fixes_its_tensors_and_the_others_take_what_is_left() -> None:
    counts = allocate(sparsity=0.8, structure={"*query": "1:4", "*": "unstructured"})
    assert counts == [64, 94, 64, 188]
    assert sum(counts) == SIZE - round(0.8 * SIZE)
    assert allocate(sparsity=0.5, structure="2:4") == [128, 256, 128, 512]


def test_blocks_are_exact_to_one_block_and_single_weights_fill_the_rest() -> None:
    counts = allocate(sparsity=0.79, structure="4x4")
    assert all(count % 16 == 0 for count in counts)
    assert 0 <= (SIZE - round(0.79 * SIZE)) - sum(counts) < 16
    mixed = allocate(sparsity=0.79, structure={"*query": "4x4"})
    assert sum(mixed) == SIZE - round(0.79 * SIZE)
    assert mixed[0] % 16 == mixed[2] % 16 == 0


def test_nonzeros_of_the_whole_model() -> None:
    assert sum(allocate(nonzeros=1000)) == 1000
    assert sum(allocate(scope_size=SIZE + 500, nonzeros=1000)) == 500


@pytest.mark.parametrize(
    ("options", "nonzeros"),
    [
        ({"structure": "2:4"}, 1024),
        ({"structure": {"*query": "2:4"}, "sparsity": 0.99}, 256),  # all others empty
        ({"sparsities": {"embeddings": 0.1}, "sparsity": 0.6}, 922),
        ({"structure": {"*.*": "1:4"}, "sparsity": 0.0}, 256 + 1024),
    ],
)
def test_a_budget_that_cannot_be_met_names_the_closest_that_can(options: dict[str, object], nonzeros: int) -> None:
    """What the error offers is accepted, in the terms that were asked in."""
    with pytest.raises(ValueError, match=r"the closest feasible is sparsity [\d.e-]+,") as caught:
        allocate(scope_size=SIZE, **options)
    sparsity = float(re.search(r"closest feasible is sparsity ([\d.e-]+),", str(caught.value)).group(1))
    assert sum(allocate(**options | {"sparsity": sparsity})) == nonzeros
    asked = 0 if nonzeros > SIZE * (1 - options.get("sparsity", 0.8)) else SIZE
    with pytest.raises(ValueError, match=f"the closest feasible is nonzeros {nonzeros},"):
        allocate(**options | {"sparsity": None, "nonzeros": asked})
    assert sum(allocate(**options | {"sparsity": None, "nonzeros": nonzeros})) == nonzeros


def test_what_a_structure_fixes_is_part_of_what_is_feasible() -> None:
    """Half of 2,048 weights stay by 2:4, and 2,048 more are dense: a quarter of them all can be zero, no more and no less."""
    for sparsity in (0.9, 0.5, 0.1):
        with pytest.raises(ValueError, match=r"the closest feasible is sparsity 0\.25,"):
            allocate(scope_size=2 * SIZE, structure="2:4", sparsity=sparsity)
    assert sum(allocate(scope_size=2 * SIZE, structure="2:4", sparsity=0.25)) == SIZE // 2


def test_nonzeros_that_cannot_be_met_name_the_closest_that_can() -> None:
    with pytest.raises(ValueError, match="the closest feasible is nonzeros 500,"):
        allocate(scope_size=SIZE + 500, nonzeros=499)
    assert sum(allocate(scope_size=SIZE + 500, nonzeros=500)) == 0
    with pytest.raises(ValueError, match="the closest feasible is nonzeros 2048,"):
        allocate(nonzeros=2049)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nonzeros": 1000, "sparsity": 0.8}, "give one, got 1000, sparsity 0.8"),
        ({"nonzeros": 1000, "scope": "encoder"}, "give one, got 1000, .* scope 'encoder'"),
        ({"sparsities": {"*": 1.0}}, r"sparsity must be in \[0, 1\), got 1.0"),
        ({"sparsities": {"*key": 0.5}}, r"sparsities: '\*key' matches no parameter; there are layer.0.query"),
        ({"structure": {"*key": "rows"}}, r"structure: '\*key' matches no parameter"),
        ({"structure": "5x1"}, r"structure 5x1 does not divide layer.0.query of shape \(16, 16\)"),
        (
            {"structure": {"emb*": "2:4"}, "sparsities": {"emb*": 0.8}},
            "embeddings has the structure 2:4, which is 0.5, not 0.8",
        ),
    ],
)
def test_contradictions_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        allocate(**options)


def test_the_default_sparsity_is_that_of_the_title() -> None:
    assert Static().sparsity == 0.8
    assert Static(nonzeros=7).sparsity is None


def test_global_counts_are_those_of_one_selection_over_all_tensors() -> None:
    weights = {name: weight * (2 if name == "embeddings" else 1) for name, weight in WEIGHTS.items()}
    method = Static(sparsity=0.8, distribution="global", initialization="magnitude")
    masks = method.initial_masks(weights, SIZE)
    flat = torch.cat([weight.abs().flatten() for weight in weights.values()])
    threshold = flat.sort(descending=True).values[410 - 1]  # 2048 - round(0.8 · 2048)
    for name, weight in weights.items():
        assert torch.equal(masks[name], weight.abs() >= threshold)
    assert sum(masks.nnz().values()) == 410


def test_global_counts_are_by_magnitude_wherever_the_masks_are_drawn() -> None:
    weights = {"small": 1e-3 * torch.rand(16, 16), "large": 1 + torch.rand(16, 16)}
    for initialization in ("random", "magnitude"):
        method = Static(sparsity=0.8, distribution="global", initialization=initialization)
        assert method.initial_masks(weights, 512).nnz() == {"small": 1, "large": 101}


def test_no_tensor_dies_by_global_counts() -> None:
    assert globally([torch.full((4, 4), 1e-6), torch.ones(10)], 5) == [1, 4]
    blocks = Static(sparsity=0.75, distribution="global", initialization="magnitude", structure="4x4")
    assert blocks.initial_masks({"a": 1e-6 * torch.rand(8, 8), "b": 1 + torch.rand(24, 8)}, 256).nnz() == {"a": 16, "b": 48}


def test_a_share_that_a_structure_has_to_rounding_is_no_contradiction() -> None:
    wide = {"a": torch.rand(10, 10)}
    assert Static(sparsities={"a": 0.9}, sparsity=0.9, structure="1:10").allocate(wide, 100) == {"a": 10}


@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 2, 6])), min_size=1, max_size=6),
    st.floats(0, 1),
    st.sampled_from(["uniform", "erdos_renyi", "global"]),
)
@settings(deadline=None)
def test_units_are_whole_and_the_total_exact_to_one_of_them(
    tensors: list[tuple[int, int, int]], share: float, distribution: str
) -> None:
    shapes, units = [(6 * rows, columns) for rows, columns, _ in tensors], [unit for *_, unit in tensors]
    sizes = [rows * columns for rows, columns in shapes]
    nnz = round(share * sum(sizes))
    scores = [torch.arange(float(size)) for size in sizes]
    counts = (
        globally(scores, nnz, units)
        if distribution == "global"
        else {"uniform": uniform, "erdos_renyi": erdos_renyi}[distribution](shapes, nnz, units)
    )
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))
    assert all(count % unit == 0 for count, unit in zip(counts, units, strict=True))
    room = [unit for count, size, unit in zip(counts, sizes, units, strict=True) if count < size]
    assert nnz - min(room, default=1) < sum(counts) <= nnz
