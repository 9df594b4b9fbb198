"""Tables of masks, from what runs export."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from callbacks import ExportPretrained, RigL, StaticSparsity
from datamodules import TextDataModule
from helpers import fit
from reports.masks import masks_table
from reports.tables import Table
from sparsity import MaskSet, save_masks

Data = Callable[..., TextDataModule]


def save(directory: Path, initial_nnz: dict[str, int] | None, **rows: list[str]) -> Path:
    """Masks as drawn, ``x`` is on."""
    masks = {name: torch.tensor([[entry == "x" for entry in row] for row in drawn]) for name, drawn in rows.items()}
    directory.mkdir(parents=True)
    made_by = {} if initial_nnz is None else {"initial_nnz": initial_nnz}
    save_masks(directory, MaskSet(masks), {name: mask.float() for name, mask in masks.items()}, made_by)
    return directory


def cells(table: Table) -> dict[str, dict[str, str]]:
    columns = [column.replace("\n", " ") for column in table.columns]
    return {row[0]: dict(zip(columns, row, strict=True)) for row in table.rows}


def test_every_column_by_hand(tmp_path: Path) -> None:
    first = save(tmp_path / "run" / "export", {"a": 5, "b": 2}, a=["xx..", "....", "x..."], b=["xx", "xx"])
    other = save(tmp_path / "other", None, a=["x...", ".x..", "x..."], b=["x.", ".x"])
    table = cells(masks_table(tmp_path / "run", other))
    assert table["a"] == {
        "tensor": "a",
        "density": "0.2500",
        "nnz": "3",
        "change of nnz": "-2",
        "dead rows": "1",
        "dead columns": "2",
        "imbalance of rows": "0.82",  # counts 2, 0, 1
        "imbalance of columns": "1.11",  # counts 2, 1, 0, 0
        "overlap (Jaccard)": "0.5000",
        "overlap by chance": "0.1429",  # 9/12 expected on in both
    }
    total = table["all"]
    assert (total["density"], total["nnz"], total["change of nnz"]) == ("0.4375", "7", "+0")
    assert (total["dead rows"], total["dead columns"], total["overlap (Jaccard)"]) == ("1", "2", "0.5000")
    assert total["imbalance of rows"] == ""
    alone = cells(masks_table(first))
    assert "overlap (Jaccard)" not in alone["a"]
    assert alone["b"] == {column: table["b"][column] for column in alone["b"]}
    assert "change of nnz" not in cells(masks_table(other))["a"]


def test_an_empty_tensor_has_no_imbalance(tmp_path: Path) -> None:
    row = cells(masks_table(save(tmp_path / "export", None, a=["...", "..."])))["a"]
    assert (row["dead rows"], row["dead columns"], row["imbalance of rows"]) == ("2", "3", "")


def test_masks_of_two_runs(tmp_path: Path, text_data: Data) -> None:
    for name, callback in {"static": StaticSparsity(), "rigl": RigL(every=1, stop=1.0)}.items():
        fit(tmp_path / name, text_data(), [callback, ExportPretrained()], max_steps=6)
    same = cells(masks_table(tmp_path / "static", tmp_path / "static" / "export"))["all"]
    assert (same["overlap (Jaccard)"], same["change of nnz"]) == ("1.0000", "+0")
    moved = cells(masks_table(tmp_path / "static", tmp_path / "rigl"))["all"]
    assert float(moved["overlap by chance"]) == pytest.approx(0.2 / 1.8, abs=0.001)
    assert 0.2 / 1.8 < float(moved["overlap (Jaccard)"]) < 0.95


def test_masks_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    first, other = save(tmp_path / "a", None, a=["x."]), save(tmp_path / "b", None, b=["x."])
    with pytest.raises(ValueError, match="only one of the two has a"):
        masks_table(first, other)
    (other / "sparsity.json").unlink()
    with pytest.raises(ValueError, match=r"without sparsity\.json"):
        masks_table(other)
    with pytest.raises(ValueError, match=r"no sparsity_masks\.safetensors there"):
        masks_table(tmp_path)


@pytest.mark.parametrize("initial", [[1], {"b": 2}, {"a": "3"}, 7])
def test_what_it_started_with_is_left_out_where_it_is_not_known(tmp_path: Path, initial: object) -> None:
    table = masks_table(save(tmp_path / "export", initial, a=["xx..", "...."]))
    assert "change of nnz" not in cells(table)["a"]
