"""SWAG as it is distributed (CSV), or as the hub has it, becomes columns of contexts and endings."""

import csv
import io
from pathlib import Path
from typing import Any

import datasets

from datamodules.text_lines import decoded
from objectives.beyond_glue import CHOICES, Split, Task

ENDINGS = tuple(f"ending{number}" for number in range(CHOICES))
TEXTS = ("sent1", "sent2", *ENDINGS)


def read_swag(file: Path, task: Task, split: Split) -> datasets.Dataset:
    """All rows of an official file, with all of its columns as text, and ``choice``, the right ending, unless it is a test file.

    Raises:
        ValueError: not UTF-8 or CSV, a column missing, a row of another number of cells that is no empty line, an empty first
            sentence or ending, or a label that is none.
    """
    reader = csv.reader(io.StringIO(decoded(file), newline=""), strict=True)
    rows: list[list[str]] = []
    header: list[str] | None = None
    try:
        for row in reader:
            where = f"{file}:{reader.line_num}"
            if not row:
                continue
            if header is None:
                header = _header(row, where, split)
            elif len(row) != len(header):
                raise ValueError(f"{where}: {len(row)} cells, {len(header)} expected ({', '.join(header)})")
            else:
                _check(dict(zip(header, row, strict=True)), f"{where}: column", split)
                rows.append(row)
    except csv.Error as error:
        raise ValueError(f"{file}:{reader.line_num}: not CSV ({error})") from None
    if header is None or not rows:
        raise ValueError(f"{file}:1: {'the file is empty' if header is None else 'a header and no row'}")
    columns: dict[str, list[Any]] = {name: [row[place] for row in rows] for place, name in enumerate(header)}
    return _with_choices(columns, split)


def _header(row: list[str], where: str, split: Split) -> list[str]:
    header = [name or "index" for name in row]  # the first has none
    for column in (*TEXTS, *(() if split == "test" else ("label",))):
        if column not in header:
            raise ValueError(f"{where}: no column {column!r}; there are {', '.join(map(repr, header))}")
    if len(set(header)) < len(header):
        raise ValueError(f"{where}: a column comes twice; there are {', '.join(map(repr, header))}")
    return header


def _check(row: dict[str, Any], where: str, split: Split) -> None:
    for column in TEXTS:
        if not isinstance(row[column], str) or not (row[column].strip() or column == "sent2"):  # which may be empty
            raise ValueError(f"{where} {column!r} is {row[column]!r:.40}, a text expected")
    if split != "test" and str(row["label"]) not in map(str, range(CHOICES)):
        raise ValueError(f"{where} 'label': {row['label']!r:.40} is not one of 0 to {CHOICES - 1}")


def _with_choices(columns: dict[str, list[Any]], split: Split) -> datasets.Dataset:
    if split != "test":
        columns["choice"] = [int(label) for label in columns["label"]]
    return datasets.Dataset.from_dict(columns)


def read_swag_hub(rows: datasets.Dataset, where: str, task: Task, split: Split) -> datasets.Dataset:
    """The same of the hub's columns, which are those of the files.

    Raises:
        ValueError: a column is missing, or a row does not fit.
    """
    _header(rows.column_names, where, split)
    for number, row in enumerate(rows):
        _check(row, f"{where}: row {number}: column", split)
    return _with_choices(rows.to_dict(), split)
