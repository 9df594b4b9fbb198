"""GLUE as its authors publish it (TSV files in a folder a task), or as the hub has it, becomes :class:`Split`\\ s.

The TSV files are read as they are meant: UTF-8, a BOM allowed, one row a line, columns between tabs, no quoting. A row that
does not fit is an error with file, line and column.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from pytorch_lightning.utilities import rank_zero_warn

from datamodules.saved import check_plain, hub_layout
from internals import dataset_fingerprint
from objectives.glue import GLUE, SCORE_RANGE, GlueTask, plain

HUB_SPLITS = {"dev": "validation", "diagnostic": "test"}
EMPTY_SENTENCES = 1e-4  # share of rows that may have one: what thousands of people wrote has slips
INDEX_DIGITS = 18  # of a 64-bit number
NAMELESS = re.compile(r"(label_)?\d+|no|yes")  # names of classes that say nothing of the task


@dataclass
class Split:
    """One file's rows.

    Attributes:
        texts: one or two lists of sentences.
        labels: class numbers or scores; none in a test file.
        index: what the submission calls each row.
    """

    texts: tuple[list[str], ...]
    labels: list[float] = field(default_factory=list)
    index: list[int] = field(default_factory=list)


class GlueFiles:
    """The files of one task below ``path``.

    Args:
        task: which task.
        path: a directory of official folders (``CoLA/``, ``MRPC/``, …) or one of these folders; a directory in the hub's layout
            (``cola/train-….parquet``) or saved by ``save_to_disk``; or a hub id.

    Raises:
        FileNotFoundError: nothing of this task there.
    """

    def __init__(self, task: GlueTask, path: str) -> None:
        self.task, self.path = task, path
        self.tsv = _tsv_files(task, Path(path).expanduser())
        self.hub: datasets.DatasetDict | None = None
        if not self.tsv:
            self.hub = _hub_dataset(task, path)

    def __contains__(self, name: str) -> bool:
        """Whether there is a split of this name, as the official file calls it (``dev_matched``)."""
        return name in self.tsv if self.hub is None else _hub_split(name) in self.hub

    def require(self, name: str) -> None:
        """Raise FileNotFoundError unless there is a split of this name."""
        if name not in self:
            have = ", ".join(f"{known}.tsv" for known in self.tsv) if self.hub is None else ", ".join(self.hub)
            raise FileNotFoundError(f"{self.path}: no {name}.tsv of {self.task.name} there, only {have}")

    def fingerprint(self, name: str, digest: Callable[[Path], bytes]) -> str:
        """Changes when the split does."""
        return digest(self.tsv[name]).hex() if self.hub is None else dataset_fingerprint(self.hub[_hub_split(name)])

    def read(self, name: str, labelled: bool) -> Split:
        """All rows of a split.

        Raises:
            ValueError: a row that does not fit, with file, line and column.
        """
        if self.hub is not None:
            return _read_hub(self.hub[_hub_split(name)], self.task, f"{self.path} ({self.task.hub}, {name})", labelled)
        return read_tsv(self.tsv[name], self.task, labelled)


def _folder_names(task: GlueTask) -> set[str]:
    """Names of the task's folder, lower-case: ``SST-2``, also ``SST2``; AX comes in ``AX`` or in ``diagnostic``."""
    return {task.name.lower(), task.hub, *(task.test.values() if task.trained_on else ())}


def _tsv_files(task: GlueTask, path: Path) -> dict[str, Path]:
    """Split name → file, in the folder of the task below ``path``, or in ``path`` unless that is another task's folder."""
    wanted = {"train", *task.dev.values(), *task.test.values()}
    folders = [child for child in sorted(path.iterdir()) if child.is_dir()] if path.is_dir() else []
    own = [folder for folder in folders if folder.name.lower() in _folder_names(task)]
    if not _is_of_another(task, path):
        own.append(path)
    for folder in own:
        files = {file.stem: file for file in sorted(folder.glob("*.tsv"))}
        if task.name in files:  # AX/AX.tsv
            files[task.test[task.name]] = files.pop(task.name)
        if found := {name: file for name, file in files.items() if name in wanted}:
            return found
    return {}


def _is_of_another(task: GlueTask, folder: Path) -> bool:
    others = set().union(*map(_folder_names, GLUE.values())) - _folder_names(task)
    return folder.absolute().name.lower() in others


def _hub_split(name: str) -> str:
    stem, _, suffix = name.partition("_")
    return "_".join(part for part in (HUB_SPLITS.get(stem, stem), suffix) if part)


def _hub_dataset(task: GlueTask, path: str) -> datasets.DatasetDict:
    expected = f"a directory with {task.name}/train.tsv, the hub's {task.hub}/*.parquet, or a hub id"
    missing = FileNotFoundError(f"{path}: no {task.name} there; {expected} expected")
    folders = [task.hub] if _is_of_another(task, Path(path)) else [task.hub, "."]
    return hub_layout(path, folders, task.hub, missing)


def _lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Number (from 1) and columns of every line; empty lines at the end do not count."""
    empty = 0
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"{file}:{number}: not UTF-8 ({error.reason}); convert the file first") from None
            if "\0" in text:
                raise ValueError(f"{file}:{number}: a NUL byte; this is no text in UTF-8")
            if not text:
                empty += 1
                continue
            if empty:
                raise ValueError(f"{file}:{number - empty}: an empty line")
            yield number, text.split("\t")


def _check_header(file: Path, header: list[str], wanted: Iterable[str]) -> None:
    for column in wanted:
        if column not in header:
            raise ValueError(f"{file}:1: no column {column!r}; there are {', '.join(map(repr, header))}")


def read_tsv(file: Path, task: GlueTask, labelled: bool) -> Split:
    """All rows of one official file.

    Args:
        file: the file.
        task: whose columns and labels to expect.
        labelled: whether it is a training or development file, which has labels, or a test file, which has an index.

    Raises:
        ValueError: not UTF-8, empty, a column missing, too few or too many columns in a row, an empty sentence (in more than one
            row of 10,000), an unknown label, a score out of range, or an index that is no number or comes twice.
    """
    lines = _lines(file)
    if labelled and task.headerless:
        header = list(task.headerless)
    else:
        _, header = next(lines, (1, []))
        if not header:
            raise ValueError(f"{file}:1: the file is empty")
    index = task.index if task.index in header else "index"
    _check_header(file, header, (*task.texts, task.label if labelled else index))
    split, truncated, empty = Split(tuple([] for _ in task.texts)), [], []
    for number, row in lines:
        if len(row) < len(header) and labelled and task.truncated_rows:
            truncated.append(number)
        elif len(row) != len(header):
            raise ValueError(f"{file}:{number}: {len(row)} columns, {len(header)} expected ({', '.join(header)})")
        else:
            cells, where = dict(zip(header, row, strict=True)), f"{file}:{number}: column"
            empty += [f"{where} {column!r} is empty" for column in task.texts if not cells[column].strip()]
            _add(split, cells, task, None if labelled else index, where)
    rows = len(split.texts[0])
    if len(empty) > EMPTY_SENTENCES * rows and not task.truncated_rows:  # the official QQP has empty questions
        raise ValueError(empty[0])
    seen: set[int] = set()
    for number, name in enumerate(split.index, 2):  # from the line after the header
        if name in seen:
            raise ValueError(f"{file}:{number}: column {index!r}: {name} comes twice")
        seen.add(name)
    if len(truncated) > task.truncated_rows * rows:
        raise ValueError(f"{file}:{truncated[0]}: fewer columns than {len(header)} ({', '.join(header)})")
    if truncated:
        rank_zero_warn(
            f"{file}: left out {len(truncated)} of {rows} rows, which lack columns; the first is line {truncated[0]}"
        )
    if not rows:
        raise ValueError(f"{file}:1: {'the file is empty' if task.headerless and labelled else 'a header and no row'}")
    return split


def _add(split: Split, row: dict[str, str], task: GlueTask, index: str | None, where: str) -> None:
    """Append a row, with its label unless it has an ``index`` column instead; ``where`` is the beginning of an error."""
    for column, sentences in zip(task.texts, split.texts, strict=True):
        sentences.append(row[column])
    if index is None:
        split.labels.append(_label(row[task.label], task, f"{where} {task.label!r}"))
    elif not (row[index].isascii() and row[index].isdecimal() and len(row[index]) <= INDEX_DIGITS):
        raise ValueError(f"{where} {index!r}: {row[index]!r} is not a number")
    else:
        split.index.append(int(row[index]))


def _label(value: str, task: GlueTask, where: str) -> float:
    if not task.regression:
        if value not in task.classes:
            raise ValueError(f"{where}: {value!r} is not one of {', '.join(task.classes)}")
        return task.classes.index(value)
    try:
        score = float(value)
    except ValueError:
        raise ValueError(f"{where}: {value!r} is not a number") from None
    low, high = SCORE_RANGE
    if not (math.isfinite(score) and low <= score <= high):
        raise ValueError(f"{where}: {value} is not in [{low:g}, {high:g}]")
    return score


def _read_hub(dataset: datasets.Dataset, task: GlueTask, where: str, labelled: bool) -> Split:
    names = task.hub_texts or task.texts
    for column in (*names, *(["label"] if labelled else [])):
        if column not in dataset.column_names:
            raise ValueError(f"{where}: no column {column!r}; there are {', '.join(dataset.column_names)}")
    dataset = dataset.select_columns([name for name in (*names, "label", "idx") if name in dataset.column_names])
    check_plain(dataset, where, dataset.column_names)
    columns: dict[str, list[Any]] = dataset.to_dict()
    texts = tuple(columns[name] for name in names)
    for column, sentences in zip(names, texts, strict=True):
        if (bad := next((row for row, text in enumerate(sentences) if not isinstance(text, str)), None)) is not None:
            raise ValueError(f"{where}: row {bad}: column {column!r} holds {sentences[bad]!r}, not text")
    if not dataset.num_rows:
        raise ValueError(f"{where}: no row")
    if not labelled:
        index = columns.get("idx", list(range(dataset.num_rows)))
        if len(set(map(str, index))) < len(index):
            raise ValueError(f"{where}: column 'idx' holds a number twice")
        if (bad := next((row for row, number in enumerate(index) if type(number) is not int), None)) is not None:
            raise ValueError(f"{where}: row {bad}: column 'idx' holds {index[bad]!r}, not a number")
        return Split(texts, index=index)
    low, high = SCORE_RANGE if task.regression else (0, len(task.classes) - 1)
    kinds = int | float if task.regression else int
    for row, label in enumerate(columns["label"]):
        if isinstance(label, bool) or not isinstance(label, kinds) or not low <= label <= high:
            raise ValueError(f"{where}: row {row}: column 'label': {label!r} is not a label of {task.name}")
    return Split(texts, labels=_by_name(columns["label"], dataset.features["label"], task, where))


def _by_name(labels: list[Any], feature: object, task: GlueTask, where: str) -> list[Any]:
    """Labels as the task numbers them, where the data name its classes in another order; ValueError where they name others."""
    names = [plain(name) for name in feature.names] if isinstance(feature, datasets.ClassLabel) else []
    own = [plain(name) for name in task.class_names]
    if not names or (own and all(map(NAMELESS.fullmatch, names))):
        return labels
    if sorted(names) != sorted(own):
        expected = f"the classes {', '.join(task.class_names)}" if own else "numbers"
        raise ValueError(f"{where}: column 'label' has the classes {', '.join(names)}; {expected} expected")
    return [own.index(names[label]) for label in labels]
