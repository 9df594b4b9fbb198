"""Masks: selection, packing, and what they do to weights, gradients and optimizer state."""

import io
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsity import MaskSet, top_k_mask, zero_optimizer_state_
from sparsity.masks import kth_largest, pack_bits, unpack_bits, zero_where_off_
from sparsity.structures import top_k_per_group

SHAPES = [(1,), (7,), (8,), (9,), (3, 5), (2, 3, 7), (1, 1), (64, 33)]


def random_mask(*shape: int, density: float = 0.5, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.data())
@settings(deadline=None)
def test_top_k_is_a_stable_descending_sort(values: list[int], data: st.DataObject) -> None:
    k = data.draw(st.integers(0, len(values)))
    expected = sorted(range(len(values)), key=lambda index: (-values[index], index))[:k]
    assert set(top_k_mask(torch.tensor(values, dtype=torch.float), k).nonzero().flatten().tolist()) == set(expected)


@pytest.mark.parametrize("k", [0, 1, 3, 6])
def test_ties_go_to_the_lowest_flat_index(k: int) -> None:
    assert top_k_mask(torch.ones(2, 3), k).flatten().tolist() == [True] * k + [False] * (6 - k)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_top_k_counts_exactly_where_low_precision_makes_ties(dtype: torch.dtype) -> None:
    scores = torch.rand(101, 37, generator=torch.Generator().manual_seed(0)).to(dtype)
    for k in (1, 1000, 3736, 3737):
        mask = top_k_mask(scores, k)
        assert mask.shape == scores.shape
        assert int(mask.sum()) == k
        assert k == 3737 or scores[mask].min() >= scores[~mask].max()


@pytest.mark.parametrize("kind", ["normal", "ties", "signed zeros", "infinite", "tiny", "equal"])
def test_kth_largest_of_many_is_that_of_a_sort(kind: str) -> None:
    """Counting by leading bits is exact, whatever the scores: 70,000 take this way."""
    scores = torch.randn(70_000, generator=torch.Generator().manual_seed(0))
    scores = {
        "normal": scores,
        "ties": scores.round(decimals=1),
        "signed zeros": scores * (scores.abs() > 1.5) * torch.tensor([1.0, -1.0]).repeat(35_000),
        "infinite": scores.masked_fill(scores > 0.5, torch.inf).masked_fill(scores < -0.5, -torch.inf),
        "tiny": scores * 1e-42,
        "equal": torch.full_like(scores, -3.0),
    }[kind]
    ordered = scores.sort(descending=True).values
    for k in (1, 2, 1000, 21_000, 35_000, 49_000, 69_999, 70_000):
        assert kth_largest(scores, k) == ordered[k - 1]
        mask = top_k_mask(scores, k)
        assert int(mask.sum()) == k
        assert k == len(scores) or scores[mask].min() >= scores[~mask].max()


@pytest.mark.parametrize("k", [-1, 7])
def test_top_k_refuses_impossible_counts(k: int) -> None:
    with pytest.raises(ValueError, match=f"cannot select {k} of 6 scores"):
        top_k_mask(torch.zeros(2, 3), k)


@pytest.mark.parametrize("shape", SHAPES)
def test_bits_survive_packing(shape: tuple[int, ...]) -> None:
    for density in (0.0, 0.2, 1.0):
        mask = random_mask(*shape, density=density)
        packed = pack_bits(mask)
        assert packed.numel() == -(-mask.numel() // 8)
        assert torch.equal(unpack_bits(packed, shape), mask)


def test_the_first_weight_is_the_lowest_bit() -> None:
    assert pack_bits(torch.tensor([True, False, True, False, False, False, False, False, True])).tolist() == [5, 1]


def test_bytes_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1 bytes .* not a packed mask of shape \(3, 3\)"):
        unpack_bits(torch.zeros(1, dtype=torch.uint8), (3, 3))


def test_state_travels_through_a_safe_checkpoint_bit_for_bit() -> None:
    masks = MaskSet({f"layer.{shape}": random_mask(*shape, seed=len(shape)) for shape in SHAPES})
    file = io.BytesIO()
    torch.save(masks.state_dict(), file)
    file.seek(0)
    restored = MaskSet.from_state_dict(torch.load(file, weights_only=True))
    assert list(restored) == list(masks)
    assert all(torch.equal(restored[name], masks[name]) for name in masks)


def test_a_mask_is_replaced_only_by_one_of_its_shape() -> None:
    masks = MaskSet({"w": torch.ones(2, 3, dtype=torch.bool)})
    masks.replace("w", torch.zeros(2, 3, dtype=torch.bool))
    assert masks.nnz() == {"w": 0}
    with pytest.raises(ValueError, match=r"mask of w: shape \(3, 2\), expected \(2, 3\)"):
        masks.replace("w", torch.zeros(3, 2, dtype=torch.bool))


@pytest.mark.parametrize(("parameters", "found"), [({}, "absent"), ({"w": torch.zeros(3, 2)}, r"\(3, 2\)")])
def test_masks_of_another_model_are_refused(parameters: dict[str, Tensor], found: str) -> None:
    with pytest.raises(ValueError, match=rf"mask w of shape \(2, 3\) does not fit the model: parameter is {found}"):
        MaskSet({"w": torch.ones(2, 3, dtype=torch.bool)}).to_parameters(parameters)


def test_masks_inferred_from_zeros_are_the_masks_that_made_them() -> None:
    masks = MaskSet({"w": random_mask(16, 8)})
    weights = {"w": torch.randn(16, 8, generator=torch.Generator().manual_seed(1))}
    masks.zero_weights_(weights)
    assert torch.equal(MaskSet.from_zeros(weights)["w"], masks["w"])


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.5),
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.5),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_that_are_off_stay_exactly_zero(name: str) -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(8, 8))
    optimizer = OPTIMIZERS[name]([weight])
    masks = MaskSet({"w": random_mask(8, 8)})
    masks.zero_weights_({"w": weight})
    for _ in range(20):
        optimizer.zero_grad()
        (weight * torch.randn(8, 8)).sum().backward()
        masks.zero_gradients_({"w": weight})
        optimizer.step()
    assert torch.equal(weight != 0, masks["w"])


def test_optimizer_state_is_zeroed_only_there_and_only_where_it_has_the_weights_shape() -> None:
    weight = nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.AdamW([weight], amsgrad=True)
    weight.sum().backward()
    optimizer.step()
    where = torch.tensor([[True, False, False], [False, False, True]])
    before = {key: value.clone() for key, value in optimizer.state[weight].items()}
    zero_optimizer_state_(optimizer.state[weight], where)
    assert optimizer.state[weight]["step"] == 1
    for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
        assert torch.equal(optimizer.state[weight][key], before[key] * ~where), key
        assert before[key].all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_what_is_off_becomes_zero_whatever_it_was(dtype: torch.dtype) -> None:
    mask = torch.tensor([[True, False, True, False], [False, True, False, True]])
    tensor = torch.tensor([[-1.5, torch.inf, 2.0, -3.0], [torch.nan, 0.5, -torch.inf, -0.0]], dtype=dtype)
    for view, seen in ((tensor.clone(), mask), (tensor.clone().T, mask.T)):
        expected = view.masked_fill(~seen, 0.0)
        zero_where_off_(view, seen)
        assert torch.equal(view, expected)
        assert not torch.signbit(view[~seen]).any()


@pytest.mark.parametrize("size", [10, 70_000])
def test_scores_that_cannot_be_ranked_are_refused(size: int) -> None:
    """Fewer than ``k`` would be selected, and the weights of a whole model be gone."""
    for some in (torch.full((size,), torch.nan), torch.cat([torch.full((7,), torch.nan), torch.zeros(size)])):
        with pytest.raises(ValueError, match="NaN cannot be ranked"):
            top_k_mask(some, 5)
    rows = torch.rand(4, 8)
    rows[2, 3] = torch.nan
    with pytest.raises(ValueError, match="NaN cannot be ranked"):
        top_k_per_group(rows, 8)
