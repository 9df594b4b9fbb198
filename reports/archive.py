"""What a repository can keep of runs: their summaries and those of their sweeps, without the paths of a machine.

Reports read nothing else, so that tables can be printed again from them, and curves alone cannot.
"""

import re
from pathlib import Path
from typing import Any

from reports.runs import SWEEP, find_summaries
from run_record import read_object, write_json

ABSOLUTE = re.compile(r"(?<![\w.~])/[^\s'\"=,:;]+")


def without_paths(value: Any, root: Path) -> Any:
    """A value of a JSON file with every absolute path in its texts as it is from ``root``, or, outside, by its last part."""
    if isinstance(value, dict):
        return {key: without_paths(entry, root) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_paths(entry, root) for entry in value]
    return ABSOLUTE.sub(lambda match: shortened(Path(match[0]), root), value) if isinstance(value, str) else value


def shortened(path: Path, root: Path) -> str:
    """A path from ``root``, or its last part."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def archive(source: Path, target: Path) -> list[Path]:
    """Copy the summaries of runs and the records of sweeps at or below a directory to the same places in another.

    Args:
        source: directory of a sweep, an experiment or of many runs.
        target: is made where it is not there; what it has of the same runs is replaced.

    Returns:
        The files that were written.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: a file is broken, or ``target`` is in ``source``.
    """
    root = source.resolve()
    if target.resolve().is_relative_to(root):
        raise ValueError(f"{target} is in {source}; give a directory elsewhere")
    files = [file.resolve() for file in find_summaries([source])]
    files += sorted(root.rglob(SWEEP))
    contents = {file: without_paths(read_object(file), root) for file in files}  # all of them before the first is written
    written = []
    for file, content in contents.items():
        written.append(target / file.relative_to(root))
        write_json(written[-1], content)
    return written
