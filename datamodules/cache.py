"""What is in the cache is whole: built once, under a lock, beside its place, and renamed; checked when it is opened."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from filelock import FileLock
from pytorch_lightning.utilities import rank_zero_warn

T = TypeVar("T")


def cache_directory(given: str | None) -> Path:
    """``given``, or ``$TRIFECTA_CACHE``, or ``~/.cache/trifecta``."""
    return Path(given or os.environ.get("TRIFECTA_CACHE") or "~/.cache/trifecta").expanduser()


@contextlib.contextmanager
def naming(place: Path) -> Iterator[None]:
    """An error of a full disk names what was being written; the system's own does not."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename:
            raise
        raise OSError(error.errno, error.strerror, str(place)) from error


def build_once(directory: Path, build: Callable[[Path], object], load: Callable[[Path], T]) -> T:
    """What ``load`` makes of ``directory``, filled by ``build`` if it is not there, or not whole.

    A second builder waits for the first; what a crash left half-way is made again; a build that fails leaves what was there.

    Args:
        directory: where the result belongs; its parents are made.
        build: fills the empty directory it is given.
        load: opens a directory; ValueError, OSError, EOFError and KeyError say that it is not whole.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{directory}.lock"):
        if directory.exists():
            try:
                return load(directory)
            except (ValueError, OSError, EOFError, KeyError) as error:
                reason = " ".join(str(error).split())[:200]
                rank_zero_warn(f"{directory}: this part of the cache is not whole ({reason}); it is made again")
        partial = Path(f"{directory}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            with naming(directory):
                build(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)
        return load(directory)
