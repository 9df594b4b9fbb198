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
from typing import BinaryIO, TextIO, cast

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
    """Files of a directory that are read, in order of their paths.

    What is hidden, or in a hidden folder, is left out; everything else that is left out is named in one warning.

    Raises:
        ValueError: none of them can be read.
    """
    within = ((path.relative_to(directory), path) for path in directory.rglob("*"))
    visible = sorted(
        path for below, path in within if not any(part.startswith(".") for part in below.parts) and path.is_file()
    )
    files = [file for file in visible if suffix_of(file)]
    if not files:
        raise ValueError(f"{directory}: no {', '.join(SUFFIXES)} file in this directory")
    if others := [str(file.relative_to(directory)) for file in visible if not suffix_of(file)]:
        names = ", ".join(others[:NAMED]) + (", …" if len(others) > NAMED else "")
        rank_zero_warn(f"{directory}: {len(others)} of {len(visible)} files left out ({names}); read are {READABLE}")
    return files


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
