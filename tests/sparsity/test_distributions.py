"""Distributions: exact totals, and the densities of the papers."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsity import erdos_renyi, nonzero_budget, uniform
from sparsity.distributions import DISTRIBUTIONS

BERT_LAYER = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]
Shapes = list[tuple[int, ...]]


def sizes(shapes: Shapes) -> list[int]:
    return [math.prod(shape) for shape in shapes]


dimensions = st.integers(1, 40) | st.integers(1, 10**9)
shape_lists = st.lists(st.tuples(dimensions, dimensions), min_size=1, max_size=8)


@given(shape_lists, st.data())
@settings(deadline=None)
def test_uniform_is_exact_and_within_one_weight_of_its_share(shapes: Shapes, data: st.DataObject) -> None:
    total = sum(sizes(shapes))
    nnz = data.draw(st.integers(0, total))
    counts = uniform(shapes, nnz)
    assert sum(counts) == nnz
    # |count - nnz · size / total| < 1, in integers
    assert all(abs(count * total - nnz * size) < total for count, size in zip(counts, sizes(shapes), strict=True))


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=8), st.data())
@settings(deadline=None)
def test_erdos_renyi_is_exact_and_within_one_weight_of_the_water_level(shapes: Shapes, data: st.DataObject) -> None:
    nnz = data.draw(st.integers(0, sum(sizes(shapes))))
    counts = erdos_renyi(shapes, nnz)
    assert sum(counts) == nnz

    def quotas(scale: float) -> list[float]:
        return [min(size, scale * sum(shape)) for size, shape in zip(sizes(shapes), shapes, strict=True)]

    low, high = 0.0, 60.0
    for _ in range(100):
        low, high = (middle, high) if sum(quotas(middle := (low + high) / 2)) < nnz else (low, middle)
    assert all(abs(count - quota) < 1 + 1e-6 for count, quota in zip(counts, quotas(high), strict=True))


@given(shape_lists, st.data())
@settings(deadline=None)
def test_erdos_renyi_is_exact_beyond_double_precision(shapes: Shapes, data: st.DataObject) -> None:
    nnz = data.draw(st.integers(0, sum(sizes(shapes))))
    counts = erdos_renyi(shapes, nnz)
    assert sum(counts) == nnz
    assert all(0 <= count <= size for count, size in zip(counts, sizes(shapes), strict=True))


def test_erdos_renyi_density_is_proportional_to_the_sum_over_the_product_of_the_shape() -> None:
    counts = erdos_renyi(BERT_LAYER, nonzero_budget(0.8, sum(sizes(BERT_LAYER)), sum(sizes(BERT_LAYER))))
    densities = [count / size for count, size in zip(counts, sizes(BERT_LAYER), strict=True)]
    # (1/768 + 1/768) / (1/768 + 1/3072) = 8/5
    assert densities[0] / densities[4] == pytest.approx(1.6, rel=1e-5)
    assert densities[4] == pytest.approx(densities[5], rel=1e-6)


def test_a_saturated_tensor_becomes_dense_and_the_scale_is_solved_again() -> None:
    # First scale 1000/230: (2, 2) saturates. Then 996/226 · 15 = 66.1 > 50: (5, 10) follows. The rest: 946.
    assert erdos_renyi([(2, 2), (5, 10), (100, 111)], 1000) == [4, 50, 946]


def test_uniform_gives_equal_densities_and_spare_weights_to_the_largest_remainders() -> None:
    assert uniform([(10, 10), (20, 10)], 60) == [20, 40]
    assert uniform([(1, 3), (1, 3), (1, 4)], 5) == [2, 1, 2]  # quotas 1.5, 1.5, 2.0; the tie goes to the first


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("nnz", [-1, 7])
def test_an_impossible_total_is_refused(name: str, nnz: int) -> None:
    with pytest.raises(ValueError, match=f"cannot keep {nnz} of 6 weights"):
        DISTRIBUTIONS[name]([(2, 2), (1, 2)], nnz)


@given(st.integers(1, 10**9), st.integers(0, 10**9), st.floats(0, 1, exclude_max=True))
@settings(deadline=None)
def test_budget_makes_the_share_of_the_scope_zero_to_the_unit(sparse: int, dense: int, sparsity: float) -> None:
    scope, zeros = sparse + dense, round(sparsity * (sparse + dense))
    if zeros <= sparse:
        assert sparse - nonzero_budget(sparsity, sparse, scope) == zeros
        return
    with pytest.raises(ValueError, match="closest feasible") as caught:
        nonzero_budget(sparsity, sparse, scope)
    feasible = float(re.search(r"closest feasible is sparsity (\S+),", str(caught.value)).group(1))
    assert nonzero_budget(feasible, sparse, scope) == 0  # what the error offers is accepted, and nothing more would be


def test_published_sparsity_counts_only_some_tensors() -> None:
    sparse, whole = 85_000_000, 110_000_000
    assert nonzero_budget(0.8, sparse, sparse) == 17_000_000
    assert nonzero_budget(0.7, sparse, whole) == 85_000_000 - 77_000_000
    with pytest.raises(ValueError, match=r"needs 88,000,000 zeros, .* closest feasible is sparsity 0\.77272727,"):
        nonzero_budget(0.8, sparse, whole)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, math.nan])
def test_sparsity_out_of_range_is_refused(sparsity: float) -> None:
    with pytest.raises(ValueError, match=rf"sparsity must be in \[0, 1\), got {sparsity}"):
        nonzero_budget(sparsity, 10, 10)
