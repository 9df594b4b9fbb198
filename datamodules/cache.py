"""What is in the cache is whole: built once, under a lock, beside its place, and renamed."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def cache_directory(given: str | None) -> Path:
    """``given``, or ``$TRIFECTA_CACHE``, or ``~/.cache/trifecta``."""
    return Path(given or os.environ.get("TRIFECTA_CACHE") or Path.home() / ".cache" / "trifecta")


def build_once(directory: Path, build: Callable[[Path], None]) -> Path:
    """``directory``, filled by ``build`` if it is not there.

    A second builder waits for the first; what a crash left half-way is made again; a build that fails leaves nothing.

    Args:
        directory: where the result belongs; its parents are made.
        build: fills the empty directory it is given.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{directory}.lock"):
        if not directory.exists():
            partial = Path(f"{directory}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                build(partial)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            partial.rename(directory)
    return directory
