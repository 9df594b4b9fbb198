"""Checkpoint files that are whole or not there: written beside their place and renamed, and checked before they are used.

A checkpoint is a zip archive, and has a CRC-32 of every record in it; torch does not compare them when it loads.
"""

import contextlib
import errno
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from lightning_fabric.utilities.types import _PATH as PathLike

LAST = "last.ckpt"
NO_ROOM = 1 << 20  # bytes free of a disk that counts as full


def check_whole(file: Path) -> None:
    """Read a checkpoint once and compare the checksums of its records.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is torn, or a byte of it has changed.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is torn, or no checkpoint ({error})") from error
    if damaged is not None:
        raise ValueError(f"{file} is damaged: the checksum of its record {damaged} is not that of its content")


def steps_of(checkpoint: Path) -> int:
    """The optimizer steps that the name of a checkpoint tells, or -1."""
    found = re.search(r"step=(\d+)", checkpoint.name)
    return int(found[1]) if found else -1


def by_age(directory: Path) -> list[Path]:
    """The checkpoints of a directory, ``last.ckpt`` first, then by their steps from the newest; clocks have no say."""
    others = sorted((file for file in directory.glob("*.ckpt") if file.name != LAST), key=steps_of, reverse=True)
    return [*(file for file in [directory / LAST] if file.exists()), *others]


def newest_whole(directory: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint of a directory that can be used, and a line for each newer one that cannot."""
    complaints = []
    for file in by_age(directory):
        try:
            check_whole(file)
        except (OSError, ValueError) as error:
            complaints.append(str(error))
        else:
            return file, complaints
    return None, complaints


@contextlib.contextmanager
def written_beside(file: Path) -> Iterator[Path]:
    """A path to write to that takes the place of ``file`` when the block ends well, and is removed when it does not."""
    partial = file.with_name(f"{file.name}.partial")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())  # the name must not be there before the content is
        partial.replace(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


class CheckedCheckpointIO(TorchCheckpointIO):
    """Lightning's files for checkpoints, whole or not there; paths of other file systems (``s3://…``) are left to it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: PathLike, storage_options: Any | None = None) -> None:
        """Write ``path.partial`` and rename it: a process that is killed, or a full disk, leaves what was there before."""
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(file) as partial:
            try:
                torch.save(checkpoint, partial)
            except RuntimeError as error:  # of torch's archive, which does not say why it could not be written
                if shutil.disk_usage(file.parent).free < NO_ROOM:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file)) from error
                raise

    def load_checkpoint(self, path: PathLike, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Load what is whole.

        Raises:
            ValueError: the file is not, or cannot be read.
        """
        if "://" not in str(path):
            check_whole(Path(path))
        try:
            return super().load_checkpoint(path, *arguments, **options)
        except RuntimeError as error:  # of the archive's own records
            raise ValueError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from error
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{path} holds more than weights and numbers, and is not loaded, as it could run code"
            ) from error
