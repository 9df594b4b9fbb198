"""What masks look like, on masks small enough to count by eye."""

import math

import pytest
import torch
from torch import Tensor

from sparsity import MaskSet
from sparsity.statistics import (
    Overlap,
    block_density,
    dead_columns,
    dead_neurons,
    dead_rows,
    imbalance,
    line_density,
    overlap,
    replaced,
)


def mask(*rows: str) -> Tensor:
    """``x`` is on."""
    return torch.tensor([[entry == "x" for entry in row] for row in rows])


MASK = mask("x..x", "....", "x..x", "...x", "....")


def test_dead_rows_are_outputs_and_dead_columns_inputs() -> None:
    assert (dead_rows(MASK), dead_columns(MASK)) == (2, 2)
    assert (dead_rows(MASK[:3]), dead_columns(MASK[:3])) == (1, 2)
    assert dead_neurons({"a": MASK, "b": MASK[:3], "c": torch.ones(3, 2, dtype=torch.bool)}) == 4 + 3
    assert (dead_rows(torch.zeros(5, 3, dtype=torch.bool)), dead_columns(torch.zeros(5, 3, dtype=torch.bool))) == (5, 3)


def test_imbalance_of_rows_and_columns() -> None:
    """Rows have 2, 0, 2, 1, 0 weights (mean 1, variance 4/5), columns 2, 0, 0, 3 (mean 5/4, variance 27/16)."""
    assert imbalance(MASK, 0) == pytest.approx(math.sqrt(4 / 5))
    assert imbalance(MASK, 1) == pytest.approx(math.sqrt(27 / 16) / (5 / 4))
    assert imbalance(torch.ones(3, 2, dtype=torch.bool), 0) == 0
    assert math.isnan(imbalance(torch.zeros(3, 2, dtype=torch.bool), 0))


def test_imbalance_of_a_random_mask_is_that_of_the_binomial() -> None:
    drawn = torch.rand(2000, 512, generator=torch.Generator().manual_seed(0)) < 0.2
    assert imbalance(drawn, 0) == pytest.approx(math.sqrt(0.8 / (0.2 * 512)), rel=0.05)


def test_density_of_rows_columns_and_blocks() -> None:
    assert line_density(MASK, 0).tolist() == [0.5, 0, 0.5, 0.25, 0]
    assert line_density(MASK, 1).tolist() == pytest.approx([0.4, 0, 0, 0.6])
    assert block_density(MASK[:4], 2).tolist() == [[0.25, 0.25], [0.25, 0.5]]
    assert block_density(MASK, 100).equal(MASK.float())
    assert block_density(torch.ones(7, 5, 3, dtype=torch.bool), 4).equal(torch.ones(4, 4))


def test_replaced_weights_are_the_active_ones_that_were_off() -> None:
    before = {"a": mask("xx..", "...."), "b": mask("xx"), "c": mask("x.")}
    after = {"a": mask(".xx.", "..xx"), "b": mask("x."), "c": mask("..")}
    assert replaced(before, after) == {"a": 3 / 4, "b": 0, "c": 0}
    assert replaced(after, after) == {"a": 0, "b": 0, "c": 0}


def test_overlap_by_hand() -> None:
    first = MaskSet({"a": mask("xx..", "...."), "b": mask("x.")})
    second = MaskSet({"b": mask("x."), "a": mask(".xx.", "...x")})
    found = overlap(first, second)
    assert found == {"a": Overlap(both=1, either=4, both_by_chance=6 / 8), "b": Overlap(1, 1, 1 / 2)}
    assert (found["a"].jaccard, found["b"].jaccard) == (0.25, 1.0)
    assert found["a"].jaccard_by_chance == pytest.approx(0.75 / (2 + 3 - 0.75))
    total = sum(found.values(), Overlap())
    assert total == Overlap(2, 5, 1.25)
    assert total.jaccard == 0.4


def test_overlap_of_independent_masks_is_the_one_by_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = [MaskSet({"a": torch.rand(400, 500, generator=generator) < density}) for density in (0.2, 0.5)]
    found = overlap(*masks)["a"]
    assert found.jaccard == pytest.approx(found.jaccard_by_chance, rel=0.02)
    assert found.jaccard_by_chance == pytest.approx(0.1 / 0.6, rel=0.02)
    assert overlap(masks[0], masks[0])["a"].jaccard == 1


def test_empty_masks_are_equal() -> None:
    nothing = MaskSet({"a": torch.zeros(2, 2, dtype=torch.bool)})
    assert (overlap(nothing, nothing)["a"].jaccard, overlap(nothing, nothing)["a"].jaccard_by_chance) == (1, 1)


def test_masks_of_other_models_are_refused() -> None:
    masks = MaskSet({"a": MASK, "b": MASK})
    with pytest.raises(ValueError, match="only one of the two has b"):
        overlap(masks, MaskSet({"a": MASK}))
    with pytest.raises(ValueError, match=r"masks of b cannot be compared: shapes \(5, 4\) and \(3, 4\)"):
        overlap(masks, MaskSet({"a": MASK, "b": MASK[:3]}))
