"""The files of a task beyond GLUE: which file holds which split, and its rows as plain columns.

Official files first, else the hub's layout. What does not fit is an error of one line, with file, and line or JSON path.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import datasets

from datamodules.conll_files import read_conll, read_conll_hub
from datamodules.saved import check_plain, hub_layout
from datamodules.squad_files import read_squad, read_squad_hub
from datamodules.swag_files import read_swag, read_swag_hub
from internals import dataset_fingerprint
from objectives.beyond_glue import Kind, Split, Task

SUFFIXES: Mapping[Kind, tuple[str, ...]] = {
    "span": (".json",),
    "choice": (".csv",),
    "tag": ("", ".txt", ".conll", ".iob", ".iob2"),
}
_OWN_SUFFIXES = (".train", ".testa", ".testb")  # of CoNLL's files: eng.train
_READERS: Mapping[Kind, Callable[[Path, Task, Split], datasets.Dataset]] = {
    "span": read_squad,
    "choice": read_swag,
    "tag": read_conll,
}
_HUB_READERS: Mapping[Kind, Callable[[datasets.Dataset, str, Task, Split], datasets.Dataset]] = {
    "span": read_squad_hub,
    "choice": read_swag_hub,
    "tag": read_conll_hub,
}
CONFIGURATIONS: Mapping[str, str] = {"squad": "plain_text", "swag": "regular"}
"""Data set on the hub → its configuration, which is also a folder there, where it is not called as the data set is."""
HUB_SPLITS: Mapping[Split, str] = {"train": "train", "dev": "validation", "test": "test"}


class TaskFiles:
    """The files of one task below ``path``.

    Args:
        task: which task.
        path: directory of the official files, or one that has it under the task's name (``squad/``, ``SWAG/``,
            ``CoNLL-2003/``); a directory in the hub's layout, with or without the folder of its configuration (``plain_text/``,
            ``regular/``), or saved by ``save_to_disk``; or a hub id.

    Raises:
        FileNotFoundError: nothing of this task there.
        ValueError: several files for the same split.
    """

    def __init__(self, task: Task, path: str) -> None:
        self.task, self.path = task, path
        self.official = official_files(task, Path(path).expanduser())
        self.hub: datasets.DatasetDict | None = None
        if not self.official:
            endings = "/".join(filter(None, SUFFIXES[task.kind]))
            expected = f"a directory with a train and a dev file ({endings}), Parquet files in the hub's layout, or a hub id"
            missing = FileNotFoundError(f"{path}: no {task.name} there; {expected} expected")
            inner = CONFIGURATIONS.get(task.hub, task.hub)
            folders = (task.hub, f"{task.hub}/{inner}", ".", inner)
            self.hub = hub_layout(path, folders, inner if task.kind == "choice" else None, missing)

    def __contains__(self, split: Split) -> bool:
        return split in self.official if self.hub is None else HUB_SPLITS[split] in self.hub

    def require(self, split: Split) -> None:
        """Raise FileNotFoundError unless there is such a split."""
        if split not in self:
            have = ", ".join(file.name for file in self.official.values()) if self.hub is None else ", ".join(self.hub)
            raise FileNotFoundError(f"{self.path}: no {split} file of {self.task.name} there, only {have}")

    def fingerprint(self, split: Split, digest: Callable[[Path], bytes]) -> str:
        """Changes when the split does."""
        return digest(self.official[split]).hex() if self.hub is None else dataset_fingerprint(self.hub[HUB_SPLITS[split]])

    def read(self, split: Split) -> datasets.Dataset:
        """All rows of a split, as the reader of the task's kind makes them.

        Raises:
            ValueError: a row that does not fit.
        """
        if self.hub is None:
            return _READERS[self.task.kind](self.official[split], self.task, split)
        rows, where = self.hub[HUB_SPLITS[split]], f"{self.path} ({self.task.hub}, {HUB_SPLITS[split]})"
        check_plain(rows, where, rows.column_names)
        if not rows.num_rows:
            raise ValueError(f"{where}: no row")
        return _HUB_READERS[self.task.kind](rows, where, self.task, split)


def official_files(task: Task, path: Path) -> dict[Split, Path]:
    """Split → its file, in the folder of the task below ``path``, or in ``path``; empty where there is none.

    A file is of a split if a word of its name begins like the split's; one that is called exactly so comes first
    (``train.csv`` before ``train_full.csv``). SQuAD's versions are told apart by the number in the name.

    Raises:
        ValueError: several files for a split.
    """
    if not path.is_dir():
        return {}
    names = {_letters(task.name), _letters(task.hub)}
    folders = [child for child in sorted(path.iterdir()) if child.is_dir() and _letters(child.name) in names]
    for folder in (*folders, path):
        files = [file for file in sorted(folder.iterdir()) if file.is_file() and _is_official(file, task)]
        found: dict[Split, Path] = {}
        for split, beginnings in task.files.items():
            for beginning in beginnings:
                left = [file for file in files if file not in found.values() and _has_word(file, beginning)]
                chosen = [file for file in left if file.stem.lower() == beginning] or left
                if len(chosen) > 1:
                    raise ValueError(
                        f"{folder}: {' and '.join(file.name for file in chosen[:2])} are both the {split} file; keep one"
                    )
                if chosen:
                    found[split] = chosen[0]
                    break
        if found:
            return found
    return {}


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _is_official(file: Path, task: Task) -> bool:
    if file.name.startswith("."):
        return False
    if task.kind == "span":
        second = re.search(r"v?2\.\d|v2", file.stem) is not None
        if second != task.unanswerable and re.search(r"v?[12]\.\d|v[12]", file.stem):
            return False
    return file.suffix.lower() in SUFFIXES[task.kind] or (task.kind == "tag" and file.suffix.lower() in _OWN_SUFFIXES)


def _has_word(file: Path, beginning: str) -> bool:
    return any(word.startswith(beginning) for word in re.split(r"[^a-z0-9]+", file.name.lower()))
