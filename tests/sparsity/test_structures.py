"""Structures: what they select, worked by hand, and what every selection keeps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsity import parse_structure
from sparsity.methods import drop_and_grow
from sparsity.structures import NM, UNSTRUCTURED, Blocks, Rows, Structure, top_k_per_group

STRUCTURES = ["unstructured", "rows", "2:4", "1:4", "4x1", "2x2", "1x4", "6x8"]


def on(*rows: str) -> Tensor:
    """A mask drawn as rows of ``1`` and ``0``."""
    return torch.tensor([[character == "1" for character in row] for row in rows])


def select(structure: Structure, scores: Tensor, nnz: int) -> Tensor:
    return structure.expand(structure.select(structure.units(scores), nnz), scores.shape)


SCORES = torch.tensor([[9.0, 1.0, 8.0, 7.0], [0.5, 6.0, 0.0, 3.0]])


@pytest.mark.parametrize(
    ("text", "nnz", "expected"),
    [
        ("unstructured", 4, ("1011", "0100")),
        ("rows", 4, ("1010", "0101")),
        ("rows", 5, ("1011", "0101")),  # what is over goes to the first rows
        ("1:2", 4, ("1010", "0101")),
        ("1:4", 2, ("1000", "0100")),
        ("2x1", 4, ("1001", "1001")),  # sums 9.5, 7, 8, 10
        ("2x1", 5, ("1001", "1001")),  # what is over after whole blocks is left out
        ("1x2", 4, ("1111", "0000")),
        ("2x2", 4, ("0011", "0011")),  # sums 16.5 and 18
    ],
)
def test_selections_worked_by_hand(text: str, nnz: int, expected: tuple[str, ...]) -> None:
    assert torch.equal(select(parse_structure(text), SCORES, nnz), on(*expected))


def test_convolutions_count_as_matrices() -> None:
    scores = torch.arange(16.0).view(2, 2, 2, 2)
    assert torch.equal(select(Rows(), scores, 4).flatten(1), on("00000011", "00000011"))
    assert torch.equal(select(NM(1, 2), scores, 8).flatten(1), on("01010101", "01010101"))
    assert torch.equal(select(Blocks(1, 4), scores, 8).flatten(1), on("00000000", "11111111"))


@given(st.sampled_from(STRUCTURES), st.integers(0, 192), st.lists(st.integers(-2, 2), min_size=192, max_size=192))
@settings(deadline=None)
def test_a_selection_is_exact_and_has_the_structure(text: str, nnz: int, values: list[int]) -> None:
    structure = parse_structure(text)
    scores = torch.tensor(values, dtype=torch.float).view(12, 16)
    mask = select(structure, scores, nnz)
    assert int(mask.sum()) == nnz // structure.unit_size * structure.unit_size
    units = structure.active(mask)
    assert torch.equal(structure.expand(units, mask.shape), mask)  # units are on or off as a whole
    counts = units.sum(1)
    assert int(counts.max() - counts.min()) <= 1  # groups keep the same number
    for group, chosen in zip(structure.units(scores), units, strict=True):
        order = sorted(range(len(group)), key=lambda index: (-group[index].item(), index))
        assert set(chosen.nonzero().flatten().tolist()) == set(order[: int(chosen.sum())])


@given(st.sampled_from(STRUCTURES), st.floats(0, 1), st.integers(0, 999))
@settings(deadline=None)
def test_drop_and_grow_keeps_structure_and_counts(text: str, fraction: float, seed: int) -> None:
    structure, generator = parse_structure(text), torch.Generator().manual_seed(seed)
    keep, grow = torch.rand(2, 12, 16, generator=generator)
    nnz = int(192 * structure.density) if structure.density else 96
    mask = select(structure, torch.rand(12, 16, generator=generator), nnz)
    after = drop_and_grow(mask, structure.units(keep), structure.units(grow), fraction, structure)
    assert torch.equal(structure.active(after).sum(1), structure.active(mask).sum(1))
    assert torch.equal(structure.expand(structure.active(after), after.shape), after)
    assert int((mask & ~after).sum()) <= fraction * nnz


def test_drop_and_grow_worked_by_hand_in_groups_of_four() -> None:
    # On: 5 and 1, 2 and 6. Of four, two go: 1 and 2. Each group has one place to fill: by 9, and by the 2 that comes back.
    keep = torch.tensor([[5.0, 1.0, 0.0, 0.0, 2.0, 0.0, 6.0, 0.0]])
    grow = torch.tensor([[0.0, 3.0, 9.0, 8.0, 7.0, 4.0, 0.0, 1.0]])
    structure = NM(2, 4)
    after = drop_and_grow(on("11001010"), structure.units(keep), structure.units(grow), 0.5, structure)
    assert torch.equal(after, on("10101010"))


@pytest.mark.parametrize("text", ["", "rowz", "2:", "0:4", "5:4", "0x4", "4x", "2x4x4", "-1:4"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="structure"):
        parse_structure(text)


def test_an_unquoted_n_m_of_yaml_is_understood() -> None:
    assert [parse_structure(number) for number in (124, 64, 248)] == [NM(2, 4), NM(1, 4), NM(4, 8)]
    assert parse_structure("unstructured") == UNSTRUCTURED


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("2:4", (8, 6), "2:4 needs an input dimension divisible by 4; layer.weight has 6"),
        ("2:4", (8,), "2:4 needs an input dimension"),
        ("4x1", (6, 8), r"4x1 does not divide layer.weight of shape \(6, 8\)"),
        ("1x16", (16, 8), "1x16 does not divide layer.weight"),
    ],
)
def test_a_shape_that_does_not_divide_is_named(text: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_structure(text).check("layer.weight", shape)


@pytest.mark.parametrize("k", [-1, 7])
def test_impossible_counts_are_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"cannot select {k} of 6 scores"):
        top_k_per_group(torch.zeros(2, 3), k)


def test_infinite_scores_are_ordered_too() -> None:
    scores = torch.tensor([[-torch.inf, torch.inf, 0.0, -torch.inf]] * 2)
    assert torch.equal(top_k_per_group(scores, 6), on("1110", "1110"))
