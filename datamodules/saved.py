"""Data sets that ``save_to_disk`` wrote, whoever called it: whole, from their own directory, and of plain values."""

import json
from pathlib import Path
from typing import Any

import datasets
from datasets.features.features import require_decoding


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
