"""Files of a corpus: which ones are read, and how they are known by the digest of their content."""

import codecs
import gzip
import hashlib
import io
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn, TextIO, cast

from pytorch_lightning.utilities import rank_zero_warn

from datamodules.cache import naming

SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".parquet")
READABLE = f"{', '.join(SUFFIXES)}, all but the last also with .gz"
DIGEST_BYTES = 16
CLOCK_TICK = 20_000_000  # nanoseconds; kernels stamp files by a clock of 10 ms or finer
NAMED = 3  # files in a warning


def suffix_of(file: Path) -> str | None:
    """Which of ``SUFFIXES`` a file has, in any case, with or without ``.gz`` behind it; None where it is not read."""
    name = file.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    return suffix if suffix in SUFFIXES and not name.endswith(".parquet.gz") else None


def files_below(directory: Path) -> list[Path]:
    """Files of a directory that are read, in order of their paths, behind links too.

    What is hidden, or in a hidden folder, is left out; everything else that is left out is named in one warning.

    Raises:
        OSError: a folder cannot be read.
        ValueError: none of the files can be read, or one is there with and without ``.gz``.
    """
    visible = sorted(_visible_below(directory))
    files = [file for file in visible if suffix_of(file) and file.is_file()]
    if not files:
        raise ValueError(f"{directory}: no {', '.join(SUFFIXES)} file in this directory")
    read = set(files)
    if twice := next((file for file in files if file.with_name(f"{file.name}.gz") in read), None):
        raise ValueError(f"{directory}: {twice.relative_to(directory)} is there with and without .gz; keep one")
    if others := [_described(file, directory) for file in visible if file not in read]:
        names = ", ".join(others[:NAMED]) + (", …" if len(others) > NAMED else "")
        rank_zero_warn(f"{directory}: {len(others)} of {len(visible)} files left out ({names}); read are {READABLE}")
    return files


def _described(file: Path, directory: Path) -> str:
    return f"{file.relative_to(directory)}{'' if file.exists() else ', a link to nothing'}"


def _visible_below(directory: Path) -> Iterator[Path]:
    """All that is no folder and not hidden. A folder counts once, however many links lead to it."""
    seen: set[str] = set()
    for folder, folders, names in os.walk(directory, onerror=_raise, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def _raise(error: OSError) -> NoReturn:
    raise error


def open_bytes(file: Path) -> BinaryIO:
    """The bytes of a file, of a ``.gz`` those within."""
    return cast(BinaryIO, gzip.open(file) if file.name.lower().endswith(".gz") else file.open("rb"))


def open_text(file: Path, newline: str | None = None) -> TextIO:
    """The text of a file, without a byte-order mark."""
    return io.TextIOWrapper(open_bytes(file), encoding="utf-8-sig", newline=newline)


def content_digest(file: Path, cache_dir: Path) -> bytes:
    """Digest of a checked file's content; read once, and again only where the file was touched.

    Any program can set the size of a file and the time of its last change, and copying tools do; nobody can set when its
    inode changed, so a file is known by that, too.

    Raises:
        ValueError: text that is not UTF-8, with file and line; a broken ``.gz``.
    """
    stat = file.stat()
    identity = (str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns)
    known = cache_dir / "digests" / hashlib.blake2b(repr(identity).encode(), digest_size=16).hexdigest()
    if known.exists() and len(digest := known.read_bytes()) == DIGEST_BYTES:
        return digest
    if time.time_ns() - stat.st_ctime_ns < CLOCK_TICK:
        time.sleep(CLOCK_TICK / 1e9)  # or a second change could bear the stamp of the first
    digest = _digest(file)
    known.parent.mkdir(parents=True, exist_ok=True)
    partial = known.with_suffix(f".{os.getpid()}")
    with naming(known):
        partial.write_bytes(digest)
        partial.replace(known)
    return digest


def _digest(file: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    try:
        for chunk in _checked_chunks(file):
            digest.update(chunk)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{file}: not readable as gzip: {error}") from error
    return digest.digest()


def _checked_chunks(file: Path) -> Iterator[bytes]:
    """The bytes of a file; text must be UTF-8, or the error names the line."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    lines = 1
    with open_bytes(file) as stream:
        while chunk := stream.read(1 << 22):
            if suffix_of(file) != ".parquet":
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
