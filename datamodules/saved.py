"""Data sets as the hub has them, or as ``save_to_disk`` wrote them: whole, from their own directory, and of plain values."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
from datasets.features.features import require_decoding
from pyarrow.parquet import ParquetFile

from hub import local_or_hub


def is_saved(directory: Path) -> bool:
    """Whether ``save_to_disk`` wrote a directory."""
    return (directory / "dataset_info.json").exists() or (directory / "dataset_dict.json").exists()


def load_saved(directory: Path) -> datasets.Dataset | datasets.DatasetDict:
    """The data set in a directory.

    Raises:
        ValueError: it is not whole, or names files outside the directory.
    """
    try:
        parts = [directory]
        if (directory / "dataset_dict.json").exists():
            parts = [directory / plain(name) for name in read(directory / "dataset_dict.json")["splits"]]
        for part in parts:
            for file in read(part / "state.json")["_data_files"]:
                plain(file["filename"])
        return datasets.load_from_disk(str(directory))
    except Exception as error:  # of another class for every way in which a file can be broken
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{directory}: not a whole save_to_disk directory ({type(error).__name__}: {reason})") from error


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def plain(name: str) -> str:
    """A name that stays in its directory; ValueError for any other."""
    if Path(name).name != name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} is no name of a file in this directory")
    return name


def check_plain(dataset: datasets.Dataset, where: str, columns: list[str]) -> None:
    """Raise ValueError where columns hold pictures or sounds: to read one would open whatever path or address it names."""
    for column in columns:
        if require_decoding(kind := dataset.features[column]):
            raise ValueError(f"{where}: column {column!r} is of {type(kind).__name__}, text or numbers expected")


def hub_layout(path: str, folders: Iterable[str], config: str | None, missing: FileNotFoundError) -> datasets.DatasetDict:
    """The splits of a data set: of a directory in the hub's layout or saved by ``save_to_disk``, or of a hub id.

    Args:
        path: a directory, or the hub id.
        folders: where below ``path`` the files may lie, the first that has some counts; ``.`` for ``path`` itself.
        config: configuration on the hub; None for the only one.
        missing: raised where there is nothing.

    Raises:
        ValueError: what is there is not whole.
    """
    local = Path(path).expanduser()
    for place in (local / folder for folder in folders):
        if (place / "dataset_dict.json").exists():
            return load_saved(place)
        if files := sorted(place.glob("*.parquet")):
            by_split: dict[str, list[Path]] = {}
            for file in files:
                by_split.setdefault(file.name.split("-")[0].removesuffix(".parquet"), []).append(file)
            return datasets.DatasetDict({split: _parquet(place, shards) for split, shards in by_split.items()})
    if local.exists():
        raise missing
    try:
        return datasets.load_dataset(local_or_hub(path, "data set", "dataset"), config)
    except Exception as error:  # the hub client raises a different class for every way of not being reached
        raise FileNotFoundError(f"{missing} ({' '.join(str(error).split())[:200]})") from error


def _parquet(place: Path, shards: list[Path]) -> datasets.Dataset:
    """The rows of some files, in memory: ``load_dataset`` would give what it once read from a file of this path and time."""
    try:
        table = pyarrow.concat_tables([ParquetFile(shard).read() for shard in shards])
        return datasets.Dataset(datasets.table.InMemoryTable(table))
    except Exception as error:  # of another class for every way in which a file can be broken
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{place}: not all Parquet, or splits of different columns: {reason}") from error
