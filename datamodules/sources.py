"""One loader for text: local files and directories, saved datasets, hub ids and the embedded docstrings become documents.

A source is opened once (which checks it and gives it a fingerprint of its content) and then read as a stream, so a corpus
may be larger than memory.
"""

import codecs
import dataclasses
import glob
import hashlib
import importlib.metadata
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets

from datamodules.cache import build_once
from datamodules.docstrings import PACKAGES, docstring_documents
from internals import dataset_fingerprint

DOCSTRINGS = "docstrings"
PIECE_CHARACTERS = 1 << 20
SUFFIXES = {".txt": "text", ".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}

Piece = tuple[str, bool]


@dataclass(frozen=True)
class TextSource:
    """Where text comes from.

    Args:
        path: a file, a directory of files, a ``save_to_disk`` directory, a hub id, or ``docstrings`` for the embedded
            corpus. In ``.txt`` a line is a paragraph and an empty line ends a document; elsewhere a row is a document.
        column: text column of ``.jsonl``, ``.csv``, ``.parquet``, saved and hub datasets.
        name: configuration of a hub dataset, such as ``20220301.en``.
        split: split of a saved or hub dataset.
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
        FileNotFoundError: a path that looks local and is not there.
        ValueError: no readable file in a directory, a missing text column, or bytes that are not UTF-8.
    """
    if source.path == DOCSTRINGS:
        return _open_files(source, [_materialise_docstrings(cache_dir)], cache_dir)
    path = Path(source.path).expanduser()
    if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
        return _open_dataset(source, datasets.load_from_disk(str(path)))
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
        if not files:
            raise ValueError(f"{path}: no {', '.join(SUFFIXES)} file in this directory")
        return _open_files(source, files, cache_dir)
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise ValueError(f"{path}: unknown kind of file; one of {', '.join(SUFFIXES)} expected")
        return _open_files(source, [path], cache_dir)
    if path.suffix in SUFFIXES or path.is_absolute() or source.path.startswith((".", "~")) or source.path.count("/") > 1:
        raise FileNotFoundError(f"{source.path}: no such file or directory")
    try:
        dataset = datasets.load_dataset(source.path, source.name, split=source.split, revision=source.revision)
    except Exception as error:  # the hub client raises a different class for every way of not being reached
        reason = " ".join(str(error).split())[:200]
        raise FileNotFoundError(f"{source.path}: neither a local path nor a dataset that the hub gives: {reason}") from error
    return _open_dataset(source, dataset)


def _open_dataset(source: TextSource, dataset: datasets.Dataset | datasets.DatasetDict) -> OpenSource:
    if isinstance(dataset, datasets.DatasetDict):
        if source.split not in dataset:
            raise ValueError(f"{source.path}: no split {source.split!r}; there are {', '.join(dataset)}")
        dataset = dataset[source.split]
    _check_column(source.path, source.column, dataset.column_names)
    texts = dataset.select_columns([source.column])
    return OpenSource(
        f"{dataset_fingerprint(dataset)}/{source.column}",
        lambda: _documents(
            source.path, source.column, (text for batch in texts.iter(1000) for text in batch[source.column])
        ),
    )


def _documents(path: str | Path, column: str, rows: Iterable[object]) -> Iterator[Piece]:
    """Rows of a text column as documents; rows without text are left out."""
    for row in rows:
        if row is not None and not isinstance(row, str):
            raise ValueError(f"{path}: column {column!r} holds {type(row).__name__}, not text")
        if row and row.strip():
            yield row, True


def _check_column(path: str | Path, column: str, columns: list[str]) -> None:
    if column not in columns:
        raise ValueError(f"{path}: no column {column!r}; there are {', '.join(columns)}")


def _open_files(source: TextSource, files: list[Path], cache_dir: Path) -> OpenSource:
    digest = hashlib.blake2b(source.column.encode(), digest_size=16)
    for file in files:
        digest.update(file.suffix.encode() + content_digest(file, cache_dir))
    for file in files:
        if file.suffix != ".txt" and (columns := _columns(file)):
            _check_column(file, source.column, columns)
    return OpenSource(digest.hexdigest(), lambda: (piece for file in files for piece in _pieces(file, source.column)))


def content_digest(file: Path, cache_dir: Path) -> bytes:
    """Digest of a checked file's bytes; read once, and again only where its size or time of change is another."""
    stat = file.stat()
    identity = repr((str(file.resolve()), stat.st_size, stat.st_mtime_ns)).encode()
    known = cache_dir / "digests" / hashlib.blake2b(identity, digest_size=16).hexdigest()
    if not known.exists():
        digest = hashlib.blake2b(digest_size=16)
        for chunk in _checked_chunks(file):
            digest.update(chunk)
        known.parent.mkdir(parents=True, exist_ok=True)
        partial = known.with_suffix(f".{os.getpid()}")
        partial.write_bytes(digest.digest())
        partial.replace(known)
    return known.read_bytes()


def _checked_chunks(file: Path) -> Iterator[bytes]:
    """The bytes of a file; text must be UTF-8, or the error names the line."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    lines = 1
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            if file.suffix != ".parquet":
                try:
                    decoder.decode(chunk)
                except UnicodeDecodeError as error:
                    line = lines + error.object[: error.start].count(b"\n")
                    raise ValueError(f"{file}:{line}: not UTF-8 ({error.reason}); convert the file first") from None
                lines += chunk.count(b"\n")
            yield chunk
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}:{lines}: not UTF-8 ({error.reason}); convert the file first") from None


def _rows(file: Path) -> Iterator[dict[str, object]]:
    if file.stat().st_size == 0:
        return iter(())
    rows = datasets.load_dataset(SUFFIXES[file.suffix], data_files=glob.escape(str(file)), split="train", streaming=True)
    return iter(rows)


def _columns(file: Path) -> list[str]:
    """Columns of the first row; none where there is no row."""
    try:
        return list(next(_rows(file), {}))
    except Exception as error:  # pyarrow, pandas and json each have their own
        raise ValueError(f"{file}: not readable as {SUFFIXES[file.suffix]}: {' '.join(str(error).split())}") from error


def _pieces(file: Path, column: str) -> Iterator[Piece]:
    if file.suffix != ".txt":
        yield from _documents(file, column, (row[column] for row in _rows(file)))
        return
    paragraphs: list[str] = []
    size = 0
    with file.open(encoding="utf-8-sig") as lines:
        for line in lines:
            paragraph = line.strip()
            if paragraphs and (not paragraph or size > PIECE_CHARACTERS):
                yield "\n".join(paragraphs), not paragraph
                paragraphs, size = [], 0
            if paragraph:
                paragraphs.append(paragraph)
                size += len(paragraph)
    if paragraphs:
        yield "\n".join(paragraphs), True


def _materialise_docstrings(cache_dir: Path) -> Path:
    """The docstring corpus as a ``.txt`` file in the cache, one for each set of package versions."""
    providers = importlib.metadata.packages_distributions()
    versions = [(package, *map(importlib.metadata.version, sorted(set(providers.get(package, []))))) for package in PACKAGES]
    key = hashlib.blake2b(repr((versions, sys.version)).encode(), digest_size=8).hexdigest()
    return build_once(cache_dir / f"docstrings-{key}", _write_docstrings) / "docstrings.txt"


def _write_docstrings(directory: Path) -> None:
    with (directory / "docstrings.txt").open("w", encoding="utf-8") as stream:
        for paragraphs in docstring_documents():
            stream.write("\n".join(paragraphs) + "\n\n")
