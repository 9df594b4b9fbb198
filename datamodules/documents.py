"""Files become documents, in pieces of bounded size; a row that does not fit is an error with file and line.

In ``.txt`` a line is a paragraph and an empty line ends a document; elsewhere a row is a document. Lines of ``.txt`` are never
held whole; a row of the other formats is, and so is a ``.json`` that is one array.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import pyarrow
from pyarrow.parquet import ParquetFile
from pytorch_lightning.utilities import rank_zero_warn

from datamodules.files import open_text, suffix_of

PIECE_CHARACTERS = 1 << 20  # after which the next paragraph begins another piece
PART_CHARACTERS = 1 << 20  # at which a line or a row is cut, before a space
ROW_CHARACTERS = (
    1 << 28
)  # of a row, or a cell of one: a quotation mark that nothing closes would swallow the rest of the file
ARRAY_CHARACTERS = 1 << 30  # of a .json that is one array, and so is held whole: a .gz of a megabyte can hold more
PARQUET_ROWS = 64
ROWS_LOOKED_AT = 100  # for the text column, when a file is opened
_BETWEEN_ROWS = re.compile(r"[\s,]*")

Piece = tuple[str, bool]
Row = tuple[str, dict[str, Any]]


def pieces_of_file(file: Path, column: str) -> Iterator[Piece]:
    """``(text, ends_document)`` of all documents of a file.

    Raises:
        ValueError: a row that cannot be read or whose text column holds something else, with file and line (or row, from 0).
    """
    if suffix_of(file) == ".txt":
        with open_text(file) as lines:
            yield from _paragraphs(lines)
    else:
        yield from documents(((where, row.get(column)) for where, row in _rows(file, column)), column)


def documents(texts: Iterable[tuple[str, object]], column: str) -> Iterator[Piece]:
    """Texts as documents; a warning counts rows that have none.

    Args:
        texts: where each stands, and what stands there.
        column: name of the text column, for errors.
    """
    absent, first = 0, ""
    for where, text in texts:
        if text is None:
            absent, first = absent + 1, first or where
            continue
        if not isinstance(text, str):
            raise ValueError(f"{where}: column {column!r} holds {type(text).__name__}, not text")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"{where}: column {column!r} is no text: {error.reason}") from None
        if text.strip():
            yield from parts(text)
    if absent:
        rank_zero_warn(f"{first}: no text in column {column!r}; {absent} such rows are left out")


def check_column(file: Path, column: str) -> None:
    """Raise ValueError unless the first rows of a file have the column; in ``.csv``, where all is text, not only numbers."""
    if suffix_of(file) == ".txt":
        return
    columns: dict[str, None] = {}
    numbers = ""
    for where, row in islice(_rows(file, column), ROWS_LOOKED_AT):
        columns |= dict.fromkeys(row)
        if text := row.get(column):
            if suffix_of(file) != ".csv" or not _is_number(text):
                return
            numbers = numbers or where
    if columns:
        require_column(file, column, list(columns))
    if numbers:
        raise ValueError(f"{numbers}: column {column!r} holds numbers, not text")


def require_column(path: str | Path, column: str, columns: list[str]) -> None:
    """Raise ValueError unless ``column`` is one of ``columns``."""
    if column not in columns:
        raise ValueError(f"{path}: no column {column!r}; there are {', '.join(columns)}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def parts(text: str) -> Iterator[Piece]:
    """A document in parts of at most ``PART_CHARACTERS``."""
    start = 0
    while len(text) - start > PART_CHARACTERS:
        end = _last_space(text, start, start + PART_CHARACTERS)
        yield text[start:end], False
        start = end
    yield text[start:], True


def _last_space(text: str, start: int, end: int) -> int:
    """Where to cut ``text[start:end]``: before its last whitespace; behind it, if there is none after its first character.

    The whitespace stays with what follows: for WordPiece it does not matter, and byte-level vocabularies have it there.
    """
    return next((position for position in range(end - 1, start, -1) if text[position].isspace()), end)


def _paragraphs(stream: TextIO) -> Iterator[Piece]:
    paragraphs: list[str] = []
    size = 0
    for paragraph, whole in _lines(stream):
        if paragraphs and (not paragraph or not whole or size > PIECE_CHARACTERS):
            yield "\n".join(paragraphs), not paragraph
            paragraphs, size = [], 0
        if paragraph:
            paragraphs.append(paragraph)
            size += len(paragraph)
    if paragraphs:
        yield "\n".join(paragraphs), True


def _lines(stream: TextIO) -> Iterator[tuple[str, bool]]:
    """Lines without space around them, and whether they are whole; one that is too long comes in parts, none of them empty."""
    rest, whole = "", True
    while read := stream.readline(PART_CHARACTERS):
        text = rest + read
        if read.endswith("\n") or len(read) < PART_CHARACTERS:
            rest = ""
            if whole:
                yield text.strip(), True
            elif text := text.rstrip():
                yield text, False
            whole = True
        else:
            end = _last_space(text, 0, len(text))
            part, rest = text[:end], text[end:]
            if part.strip():
                whole = False
                yield part, False
    if rest := rest.rstrip():
        yield rest, False


def _rows(file: Path, column: str) -> Iterator[Row]:
    """Where each row stands and what it holds; of ``.parquet`` the text column only."""
    if file.stat().st_size == 0:
        return iter(())
    if suffix_of(file) == ".parquet":
        return _parquet_rows(file, column)
    return _csv_rows(file, column) if suffix_of(file) == ".csv" else _json_rows(file)


def _json_rows(file: Path) -> Iterator[Row]:
    with open_text(file) as lines:
        rows = _array_rows if suffix_of(file) == ".json" and _first_character(lines) == "[" else _line_rows
        lines.seek(0)
        for line, row in rows(file, lines):
            if not isinstance(row, dict):
                raise ValueError(f"{file}:{line}: {type(row).__name__} where a JSON object with the text is expected")
            yield f"{file}:{line}", row


def _first_character(lines: TextIO) -> str:
    return next((line.lstrip()[0] for line in iter(lambda: lines.readline(PART_CHARACTERS), "") if line.strip()), "")


def _line_rows(file: Path, lines: TextIO) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(iter(lambda: lines.readline(ROW_CHARACTERS), ""), 1):
        if len(line) == ROW_CHARACTERS:
            raise ValueError(f"{file}:{number}: a row of {ROW_CHARACTERS:,} characters or more; split it into documents")
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _not_json(file, number, error) from error
            yield number, row


def _array_rows(file: Path, lines: TextIO) -> Iterator[tuple[int, object]]:
    text, decoder = lines.read(ARRAY_CHARACTERS), json.JSONDecoder()
    if len(text) == ARRAY_CHARACTERS:
        raise ValueError(f"{file}: an array of {ARRAY_CHARACTERS:,} characters or more; write it as .jsonl, a row a line")
    line, counted, position = 1, 0, text.index("[") + 1
    while True:
        position = _BETWEEN_ROWS.match(text, position).end()  # type: ignore[union-attr]  # it matches anything
        line, counted = line + text.count("\n", counted, position), position
        if text.startswith("]", position):
            if text[position + 1 :].strip():
                raise _not_json(file, line, ValueError("more behind the end of the array"))
            return
        try:
            row, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise _not_json(file, getattr(error, "lineno", line), error) from error
        yield line, row


def _not_json(file: Path, line: int, error: Exception) -> ValueError:
    reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
    return ValueError(f"{file}:{line}: not readable as json: {reason}")


def _csv_rows(file: Path, column: str) -> Iterator[Row]:
    csv.field_size_limit(ROW_CHARACTERS)
    with open_text(file, newline="") as lines:
        reader = csv.reader(lines, strict=True)
        header: list[str] = []
        line = 1
        try:
            for row in reader:
                if header and row:
                    if len(row) != len(header):
                        raise ValueError(f"{file}:{line}: {len(row)} columns, {len(header)} expected ({', '.join(header)})")
                    yield f"{file}:{line}", dict(zip(header, row, strict=True))
                elif row.count(column) > 1:
                    raise ValueError(f"{file}:{line}: column {column!r} comes twice")
                header = header or row
                line = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(f"{file}:{line}: not readable as csv: {error}") from error


def _parquet_rows(file: Path, column: str) -> Iterator[Row]:
    number = 0
    try:
        with ParquetFile(file) as table:
            require_column(file, column, table.schema_arrow.names)
            for batch in table.iter_batches(PARQUET_ROWS, columns=[column]):
                for text in batch.column(0).to_pylist():
                    yield f"{file}: row {number}", {column: text}
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{file}: not readable as parquet: {' '.join(str(error).split())}") from error
