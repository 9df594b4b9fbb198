"""GLUE from the hub onto this disk, for machines without internet: ``python -m datamodules.glue_download GLUE_DIRECTORY``.

Each task becomes ``GLUE_DIRECTORY/TASK/SPLIT.parquet`` in the hub's layout, which ``--data.path GLUE_DIRECTORY`` reads. What is
there already is kept, so that a download that was broken off goes on.
"""

from pathlib import Path

import datasets
from pyarrow.parquet import read_metadata

from arguments import OneLineParser, one_line_errors
from datamodules.glue_files import GlueFiles
from objectives.glue import GLUE, glue_task

SOURCE = "nyu-mll/glue"


def download(directory: Path, task: str, source: str = SOURCE) -> dict[str, int]:
    """Put one task's splits into ``directory``, whole or not at all; split → rows that are there.

    Args:
        directory: of all tasks.
        task: the official name.
        source: hub id, or a directory in the hub's layout.

    Raises:
        FileNotFoundError: the hub cannot be reached, or has no such task.
        ValueError: a row that does not fit the task, or official TSV files, which need no copying.
    """
    entry = glue_task(task)
    files = GlueFiles(entry, source)
    if files.hub is None:
        raise ValueError(f"{source} has the official files of {entry.name} already; give it as --data.path")
    for name in (*(() if entry.trained_on else ("train",)), *entry.dev.values()):
        if name in files:
            files.read(name, labelled=True)  # complains of a row that does not fit
    folder = directory / entry.hub
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in files.hub.items():
        kept = folder / f"{split}.parquet"
        if not kept.exists():
            partial = kept.with_suffix(".partial")
            rows.to_parquet(partial)
            partial.replace(kept)
    return {str(split): read_metadata(folder / f"{split}.parquet").num_rows for split in files.hub}


def main(arguments: list[str] | None = None) -> None:
    """Download tasks and say what came."""
    parser = OneLineParser(prog="python -m datamodules.glue_download", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("directory", type=Path, help="where the tasks' folders go")
    parser.add_argument("--tasks", nargs="+", default=list(GLUE), metavar="TASK", help="default: all")
    parser.add_argument("--source", default=SOURCE, help=f"hub id, or a directory in its layout (default {SOURCE})")
    options = parser.parse_args(arguments)
    datasets.disable_progress_bars()
    for task in options.tasks:
        counts = download(options.directory, task, options.source)
        print(f"{task:<6} {', '.join(f'{rows:,} {split}' for split, rows in counts.items())}")
    print(f"--data.path {options.directory}")


if __name__ == "__main__":
    with one_line_errors():
        main()
