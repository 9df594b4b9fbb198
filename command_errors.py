"""What is wrong with the command line of a run, in one line that names what there is instead."""

import contextlib
import re
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytorch_lightning
from pytorch_lightning.utilities.exceptions import MisconfigurationException

import callbacks
import datamodules
import lightning_modules
from arguments import one_line
from callbacks import StepwiseSchedule
from sparsity import methods

SCHEDULES = tuple(kind.__name__ for kind in StepwiseSchedule.__subclasses__())
CHOICES = {
    "model": lightning_modules.__all__,
    "data": [name for name in datamodules.__all__ if name.endswith("DataModule")],
    "masks": [name for name in methods.__all__ if name[0].isupper() and name not in ("SparseMethod", "SparseTensor")],
    "schedule": SCHEDULES,
    "trainer.callbacks": [name for name in callbacks.__all__ if name[0].isupper()],
}
"""Option → the class names of this project that it takes."""


@contextlib.contextmanager
def lightning_errors() -> Iterator[None]:
    """Make an error that Lightning itself has raised (a metric to stop by that is never logged) a ValueError: a user can mend it.

    RuntimeErrors from elsewhere, of a model or of a GPU, keep their traceback.
    """
    try:
        yield
    except (RuntimeError, MisconfigurationException) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if isinstance(error, MisconfigurationException) or raised_in.is_relative_to(Path(pytorch_lightning.__file__).parent):
            raise ValueError(one_line(error)) from error
        raise


def first_alternatives(lines: list[str]) -> list[str]:
    """jsonargparse's message without what it says of each further type that a value could have been."""

    def indent(line: str) -> int:
        return len(line) - len(line.lstrip())

    for number, line in enumerate(lines):
        if line.strip(" -") != "Does not validate against any of the Union subtypes":
            continue
        start = next((index for index in range(number, len(lines)) if lines[index].strip() == "Errors:"), len(lines)) + 1
        if start >= len(lines):
            break
        level = indent(lines[start])
        end = next((index for index in range(start + 1, len(lines)) if indent(lines[index]) <= level), len(lines))
        leaf = end == start + 1 and "Expected a" in lines[start]
        given = [line for line in lines[end:] if indent(line) < level] if leaf else []
        return lines[:number] + first_alternatives([lines[start].replace("- ", "", 1), *lines[start + 1 : end]]) + given
    return lines


def describe(error: Exception) -> str:
    """One line; where a class is not known, with those there are."""
    message = re.sub(r"\n *- Expected a path but .*", "", str(error))
    line = " ".join(" ".join(first_alternatives(message.split("\n"))).split())
    unknown = re.search(r"Expected a dot import path string: ([\w.]+)", line)
    if unknown:
        keys = [key for key in CHOICES if f'"{key}' in line or f"'{key}" in line or f'"fit.{key}' in line]
        choices = CHOICES[keys[-1]] if keys else ()
        there_are = f"; there are {', '.join(choices)}" if choices else ""
        return (
            f"{keys[-1] if keys else 'an option'}: there is no class {unknown[1]!r}{there_are}, or a dotted path to a class"
        )
    return line
