"""Help with the command line of a run: which classes there are, and what is wrong in one line that names them."""

import contextlib
import itertools
import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType

import lightning_fabric.utilities.seed
import pytorch_lightning
import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule
from pytorch_lightning import callbacks as lightning_callbacks
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from safetensors import SafetensorError

import callbacks
import datamodules
import lightning_modules
from arguments import one_line
from callbacks import StepwiseSchedule
from sparsity import SparseMethod, methods

LIGHTNING = [folder for package in (pytorch_lightning, lightning_fabric) for folder in package.__path__]
BASES = {SparseMethod, methods.KeepPrunedValues, StepwiseSchedule, datamodules.FinetuningDataModule}


def concrete(package: ModuleType, kind: type) -> dict[str, type]:
    """The classes that a package exports and that are of a kind, by name; those that others only derive from are left out."""
    exported = {name: getattr(package, name) for name in package.__all__}
    return {
        name: value
        for name, value in exported.items()
        if isinstance(value, type) and issubclass(value, kind) and value not in BASES
    }


CHOICES = {
    "model": concrete(lightning_modules, LightningModule),
    "data": concrete(datamodules, LightningDataModule),
    "masks": concrete(methods, SparseMethod),
    "schedule": concrete(callbacks, StepwiseSchedule),
    "trainer.callbacks": concrete(callbacks, Callback),
}
"""Option → the classes of this project that it takes, by name."""


def class_help(arguments: Sequence[str]) -> str | None:
    """What ``--model.help`` and the like show where no class is named; None where the command asks for something else."""
    for argument, following in itertools.pairwise([*arguments, "--"]):
        option = argument.removeprefix("--").removesuffix(".help")
        named = "." in following or following in CHOICES.get(option, {}) or hasattr(lightning_callbacks, following)
        if argument == f"--{option}.help" and option in CHOICES and not named:
            first = f"--{option} takes one of these, or a dotted path to a class; {argument} NAME lists its settings."
            lines = [f"  {name:<20} {(kind.__doc__ or '').splitlines()[0]}" for name, kind in CHOICES[option].items()]
            return "\n".join([first, *lines])
    return None


@contextlib.contextmanager
def lightning_errors() -> Iterator[None]:
    """Make an error that Lightning itself has raised (a metric to stop by that is never logged) a ValueError: a user can mend it.

    So is one that torch has raised about a checkpoint, which it reads without running what it brings along. RuntimeErrors from
    elsewhere, of a model or of a GPU, keep their traceback.
    """
    try:
        yield
    except (
        RuntimeError,
        TypeError,
        KeyError,
        EOFError,
        MisconfigurationException,
        UnpicklingError,
        SafetensorError,
    ) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        lightning = any(map(raised_in.is_relative_to, LIGHTNING))
        line = one_line(error)
        if line.startswith("DataLoader worker") or "DataLoader worker (pid" in line:
            raise ValueError(
                f"a process that makes batches was ended from outside, often for want of memory ({line[:100]}): give fewer "
                "--data.num_workers and start again with --ckpt_path last"
            ) from error
        if line.startswith("Error(s) in loading state_dict"):
            raise ValueError(f"ckpt_path: the checkpoint is of another model than this run's ({line[:200]} …)") from error
        if isinstance(error, SafetensorError):
            raise ValueError(line) from error
        torch_itself = raised_in == Path(torch.serialization.__file__)
        if isinstance(error, UnpicklingError) or torch_itself or (lightning and isinstance(error, KeyError)):
            reason = f"{type(error).__name__}: {line[:150]}"
            raise ValueError(
                f"ckpt_path: no checkpoint of this project, or a damaged one, of which nothing was run ({reason}); name another"
            ) from error
        if lightning or isinstance(error, MisconfigurationException):
            raise ValueError(line) from error
        raise
    except ValueError as error:
        if Path(traceback.extract_tb(error.__traceback__)[-1].filename) == Path(lightning_fabric.utilities.seed.__file__):
            raise ValueError(f"seed_everything: {error}") from error
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
