"""What a repository can keep of runs: their summaries, losses and those of their sweeps, without the paths of a machine.

Reports on losses and scores read nothing else, so that they can be made again from an archive.
"""

import re
from pathlib import Path
from typing import Any

from reports.curves import logged_scalars, write_csv
from reports.runs import SWEEP, find_summaries
from run_record import SUMMARY, read_object, write_json

METRICS = Path("csv", "version_0", "metrics.csv")
ABSOLUTE = re.compile(r"(?<![\w.~:/<])/[^\s'\"=,:;]+")


def without_paths(value: Any, root: Path) -> Any:
    """A value of a JSON file with every absolute path in its texts as it is from ``root``, or, outside, by its last parts."""
    if isinstance(value, dict):
        return {key: without_paths(entry, root) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_paths(entry, root) for entry in value]
    return ABSOLUTE.sub(lambda match: shortened(Path(match[0]), root), value) if isinstance(value, str) else value


def shortened(path: Path, root: Path) -> str:
    """A path from ``root``, or its last part; of an exported model EXPERIMENT/version_N/export, by which runs are told apart."""
    if path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    return "/".join(path.parts[1:][-3:]) if path.name == "export" else path.name


def archive(source: Path, target: Path) -> list[Path]:
    """Copy the summaries of runs and the records of sweeps at or below a directory to the same places in another.

    The losses of pretraining go with them, into the ``metrics.csv`` that the CSV logger would have written.

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
    pretraining = [file.parent for file in files if file.name == SUMMARY and not contents[file].get("task")]
    losses = {run: logged_scalars(run) for run in pretraining}
    written = []
    for file, content in contents.items():
        written.append(target / file.relative_to(root))
        write_json(written[-1], content)
    for run, logged in losses.items():
        file = target / run.relative_to(root) / METRICS
        if any(logged.values()):
            write_csv(file, logged)
            written.append(file)
        else:
            file.unlink(missing_ok=True)
    return written
