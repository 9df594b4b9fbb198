"""One loader for text: local files and directories, saved datasets, hub ids and the embedded docstrings become documents.

A source is opened once (which checks it and gives it a fingerprint of its content) and then read as a stream, so a corpus
may be larger than memory.
"""

import dataclasses
import hashlib
import importlib.metadata
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import datasets

from datamodules.cache import build_once
from datamodules.docstrings import PACKAGES, docstring_documents
from datamodules.documents import Piece, check_column, documents, pieces_of_file, require_column
from datamodules.files import READABLE, content_digest, files_below, suffix_of
from datamodules.saved import check_plain, is_saved, load_saved
from hub import local_or_hub
from internals import dataset_fingerprint

DOCSTRINGS = "docstrings"
ROWS_AT_ONCE = 64
HUB_NAME = re.compile(r"(train|validation|test)(-\d{5}-of-\d{5}(-\w+)?)?\.\w+(\.gz)?")

T = TypeVar("T")


@dataclass(frozen=True)
class TextSource:
    """Where text comes from.

    Args:
        path: a file, a directory of files, a ``save_to_disk`` directory, a hub id, or ``docstrings`` for the embedded
            corpus. In ``.txt`` a line is a paragraph and an empty line ends a document; elsewhere a row is a document.
            ``.txt``, ``.jsonl``, ``.json`` and ``.csv`` may be compressed (``.gz``).
        column: text column of ``.jsonl``, ``.csv``, ``.parquet``, saved and hub datasets.
        name: configuration of a hub dataset, such as ``20220301.en``.
        split: split of a saved or hub dataset, or of a directory in the hub's layout (:func:`by_split`).
        revision: revision of a hub dataset.
    """

    path: str
    column: str = "text"
    name: str | None = None
    split: str = "train"
    revision: str | None = None


def text_source(entry: str | dict[str, str] | TextSource, column: str) -> TextSource:
    """A source as it is, from a path, or from fields by name; ``column`` is for sources that name none.

    The command line must not see :class:`TextSource` itself: jsonargparse would put the content of a file for its path.
    """
    if isinstance(entry, TextSource):
        return entry
    given = {"path": entry} if isinstance(entry, str) else entry
    known = [field.name for field in dataclasses.fields(TextSource)]
    if "path" not in given or not given.keys() <= set(known):
        raise ValueError(f"a source has a path and may have {', '.join(known[1:])}, got {given}")
    return TextSource(**{"column": column} | given)


@dataclass(frozen=True)
class OpenSource:
    """A source that exists and can be read.

    Args:
        fingerprint: changes when the text does.
        pieces: a fresh stream at every call of ``(text, ends_document)``; a long document comes in several pieces.
    """

    fingerprint: str
    pieces: Callable[[], Iterator[Piece]]


def open_source(source: TextSource, cache_dir: Path) -> OpenSource:
    """Find out what ``source`` is and check it.

    Raises:
        FileNotFoundError: what is neither on this machine nor on the hub.
        ValueError: no readable file in a directory, a missing split or text column, options that mean nothing, or bytes that
            are not UTF-8.
    """
    path = Path(source.path).expanduser()
    if (source.path == DOCSTRINGS or path.exists()) and (given := source.name or source.revision):
        raise ValueError(f"{source.path}: name or revision {given!r} is of a data set on the hub, this is on this machine")
    if source.path == DOCSTRINGS:
        return _open_files(source, _of_split(source, {"train": [_materialise_docstrings(cache_dir)]}), cache_dir)
    if is_saved(path):
        saved = load_saved(path)
        splits = saved if isinstance(saved, datasets.DatasetDict) else {str(saved.split or "train"): saved, "train": saved}
        return _open_dataset(source, _of_split(source, splits))
    if path.is_dir():
        return _open_files(source, _of_split(source, by_split(files_below(path))), cache_dir)
    if path.is_file():
        if suffix_of(path) is None:
            raise ValueError(f"{path}: unknown kind of file; one of {READABLE} expected")
        return _open_files(source, _of_split(source, {"train": [path]}), cache_dir)
    if suffix_of(path):
        raise FileNotFoundError(f"{source.path}: no such file or directory")
    repository = local_or_hub(source.path, "data set", "dataset", source.revision)
    try:
        dataset = datasets.load_dataset(repository, source.name, split=source.split, revision=source.revision)
    except Exception as error:  # the hub client raises a different class for every way of not being reached
        reason = " ".join(str(error).split())[:200]
        raise FileNotFoundError(f"{source.path}: the hub does not give this data set: {reason}") from error
    return _open_dataset(source, dataset)


def by_split(files: list[Path]) -> dict[str, list[Path]]:
    """Split → its files, of the files of a directory.

    One that is called as on the hub (``train-00000-of-00002.parquet``, ``train.jsonl``) is of that split where one of another
    split is beside it; all others are of ``train``.
    """
    named = {file: found[1] for file in files if (found := HUB_NAME.fullmatch(file.name.lower()))}
    splits_beside = Counter(folder for folder, _ in {(file.parent, split) for file, split in named.items()})
    splits: dict[str, list[Path]] = {}
    for file in files:
        split = named[file] if file in named and splits_beside[file.parent] > 1 else "train"
        splits.setdefault(split, []).append(file)
    return splits


def _of_split(source: TextSource, splits: Mapping[str, T]) -> T:
    if source.split not in splits:
        raise ValueError(f"{source.path}: no split {source.split!r}; there are {', '.join(splits)}")
    return splits[source.split]


def _open_dataset(source: TextSource, dataset: datasets.Dataset) -> OpenSource:
    require_column(source.path, source.column, dataset.column_names)
    check_plain(dataset, source.path, [source.column])
    rows = dataset.select_columns([source.column])

    def texts() -> Iterator[tuple[str, object]]:
        columns = (batch[source.column] for batch in rows.iter(ROWS_AT_ONCE))
        for number, text in enumerate(text for column in columns for text in column):
            yield f"{source.path}: row {number}", text

    return OpenSource(f"{dataset_fingerprint(dataset)}/{source.column}", lambda: documents(texts(), source.column))


def _open_files(source: TextSource, files: list[Path], cache_dir: Path) -> OpenSource:
    digest = hashlib.blake2b(source.column.encode(), digest_size=16)
    for file in files:
        digest.update(str(suffix_of(file)).encode() + content_digest(file, cache_dir))
    for file in files:
        check_column(file, source.column)
    return OpenSource(digest.hexdigest(), lambda: (piece for file in files for piece in pieces_of_file(file, source.column)))


def _materialise_docstrings(cache_dir: Path) -> Path:
    """The docstring corpus as a ``.txt`` file in the cache, one for each set of package versions."""
    providers = importlib.metadata.packages_distributions()
    versions = [(package, *map(importlib.metadata.version, sorted(set(providers.get(package, []))))) for package in PACKAGES]
    key = hashlib.blake2b(repr((versions, sys.version)).encode(), digest_size=8).hexdigest()
    return build_once(cache_dir / f"docstrings-{key}", _write_docstrings, _written_docstrings)


def _write_docstrings(directory: Path) -> None:
    file = directory / "docstrings.txt"
    with file.open("w", encoding="utf-8") as stream:
        for paragraphs in docstring_documents():
            stream.write("\n".join(paragraphs) + "\n\n")
    (directory / "bytes").write_text(f"{file.stat().st_size}\n", encoding="utf-8")


def _written_docstrings(directory: Path) -> Path:
    file = directory / "docstrings.txt"
    size, expected = file.stat().st_size, int((directory / "bytes").read_text(encoding="utf-8"))
    if size != expected:
        raise ValueError(f"{file.name} has {size} bytes, {expected} expected")
    return file
