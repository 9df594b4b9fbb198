"""The masks of exported models: neurons without a weight, balance, change, and how much two models agree."""

import math
from pathlib import Path

from reports.tables import Table
from run_record import read_object
from sparsity import MASKS_FILE, REPORT_FILE, MaskSet, load_masks
from sparsity.statistics import Overlap, dead_columns, dead_rows, imbalance, overlap

NOTE = (
    "Rows are outputs of a linear layer (tokens of an embedding table), columns are inputs; a dead one has no active weight. "
    "Imbalance is the coefficient of variation of the active weights that a row or a column has."
)


def find_masks(run: Path) -> tuple[MaskSet, dict[str, int]]:
    """The masks of a run or of an exported directory, and the non-zeros it started with, by tensor, where they are known.

    Raises:
        ValueError: no masks there, or broken ones.
    """
    directory = run / "export" if (run / "export" / MASKS_FILE).exists() else run
    masks = load_masks(directory)
    if masks is None:
        raise ValueError(f"{run}: no {MASKS_FILE} there or in export/; a directory runs/EXPERIMENT/version_N expected")
    made_by = read_object(directory / REPORT_FILE).get("made_by")
    start = made_by.get("initial_nnz") if isinstance(made_by, dict) else None
    if not isinstance(start, dict) or start.keys() != masks.keys() or not all(type(nnz) is int for nnz in start.values()):
        return masks, {}
    return masks, start


def masks_table(run: Path, other: Path | None = None) -> Table:
    """One row a tensor, and the totals; with a second run, what both have in common.

    Raises:
        ValueError: a run has no masks, or the two have masks of different tensors.
    """
    masks, start = find_masks(run)
    nnz = masks.nnz()
    overlaps = overlap(masks, find_masks(other)[0]) if other is not None else None
    columns = ["tensor", "density", "nnz", *(["change\nof nnz"] if start else [])]
    columns += ["dead\nrows", "dead\ncolumns", "imbalance\nof rows", "imbalance\nof columns"]
    columns += ["overlap\n(Jaccard)", "overlap\nby chance"] if overlaps else []

    def row(title: str, names: list[str], balance: list[str]) -> list[str]:
        on = sum(nnz[name] for name in names)
        cells = [title, f"{on / sum(masks[name].numel() for name in names):.4f}", f"{on:,}"]
        if start:
            cells.append(f"{on - sum(start[name] for name in names):+,}")
        cells += [f"{sum(count(masks[name]) for name in names):,}" for count in (dead_rows, dead_columns)] + balance
        if overlaps:
            both = sum((overlaps[name] for name in names), Overlap())
            cells += [f"{both.jaccard:.4f}", f"{both.jaccard_by_chance:.4f}"]
        return cells

    rows = []
    for name, mask in masks.items():
        spread = [imbalance(mask, dim) for dim in (0, 1)]
        rows.append(row(name, [name], ["" if math.isnan(value) else f"{value:.2f}" for value in spread]))
    title = str(run) if other is None else f"{run} and its overlap with {other}"
    return Table(title, columns, [*rows, row("all", list(masks), ["", ""])], [NOTE])
