"""What other people's files may not do: name code to run, or lead out of the directory that they are in.

A user's own configuration may name any class, which is how methods are added. The ``config.yaml`` that lies in the directory of a
run may come from somebody else, as checkpoints and exports do; it may name what this project and Lightning have.
"""

import itertools
import os
import pydoc
import re
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

OURS = ("callbacks", "datamodules", "lightning_modules", "sparsity")
KNOWN = frozenset({*OURS, "pytorch_lightning", "lightning", "lightning_fabric"})
DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
MARKS = ("summary.json", "checkpoints", "export", "config.json")  # one of them is in the directory of every run and export
PLACES = ("model", "data", "masks", "schedule", "distillation", "optimizer", "lr_scheduler", "trainer")
HOLDERS = {"callbacks", "callbacks+", "logger", "logger+", "strategy", "plugins", "profiler", "accelerator"}


def refuse_foreign_classes(arguments: Iterable[str]) -> None:
    """Check the files on a command line that lie in the directory of a run or of an exported model.

    Raises:
        ValueError: one names a class, or anything else that can be imported, that is neither this project's nor Lightning's; or
            a configuration is not UTF-8.
    """
    arguments = list(arguments)
    for option, following in itertools.pairwise([*arguments, ""]):
        file = Path(following if option == "--config" else option.removeprefix("--config="))
        if option.startswith("--config") and file.is_file():
            try:
                file.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{file}: not a configuration in UTF-8 ({error.reason}); name a YAML file") from error
    for argument in arguments:
        for value in {argument, argument.partition("=")[2]}:
            if value and len(value) < 4096 and "\n" not in value and of_a_run(file := Path(value).expanduser()):
                check_names(file)


def of_a_run(file: Path) -> bool:
    """Whether something is a configuration in the directory of a run or of an exported model."""
    if file.suffix not in (".yaml", ".yml", ".json") or not file.is_file():
        return False
    folders = {file.absolute().parent, file.resolve().parent}
    return any(
        re.fullmatch(r"version_\d+", folder.name) or any((folder / mark).exists() for mark in MARKS) for folder in folders
    )


def check_names(file: Path) -> None:
    """Raise ValueError unless all that a configuration names is known; what does not parse is left to the command line."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not a configuration in YAML: {' '.join(str(error).split())[:200]}") from error
    for name, is_class in names_in(content):
        if not is_known(name, is_class):
            raise ValueError(
                f"{file} lies in the directory of a run and names {name!r}, which neither this project nor Lightning has: it may "
                "come from somebody else; if you trust it, copy it out of there and give the copy"
            )


def names_in(content: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, bool]]:
    """Every text of a configuration, and whether it stands where a class is named."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from names_in(value, (*keys, str(key)))
    elif isinstance(content, list):
        for value in content:
            yield from names_in(value, keys)
    elif isinstance(content, str):
        named = keys[-1:] == ("class_path",) or (len(keys) == 1 and keys[0] in (*PLACES, "config"))
        yield content, named or (len(keys) == 2 and keys[0] == "trainer" and keys[1] in HOLDERS)


def is_known(name: str, is_class: bool) -> bool:
    """Whether a text names nothing that could be run but classes of the known packages.

    Nothing outside them is imported to find out. A function that a known module has imported from elsewhere is not known.
    """
    if not DOTTED.fullmatch(name):
        return not is_class or name.replace("-", "_").isidentifier()  # a short name, which only known classes have
    package = name.partition(".")[0]
    if package not in KNOWN:
        return not is_class and (package in OURS or find_spec(package) is None)
    found = pydoc.locate(name)
    return found is None or (isinstance(found, type) and found.__module__.partition(".")[0] in KNOWN)


def refuse_links_out(directory: Path) -> None:
    """Check that what is written into a directory stays there.

    Raises:
        ValueError: something in it is a link to somewhere else.
    """
    inside = os.path.realpath(directory)
    for folder, folders, files in os.walk(directory):
        for path in (os.path.join(folder, name) for name in (*folders, *files)):
            if os.path.islink(path) and os.path.commonpath([inside, os.path.realpath(path)]) != inside:
                raise ValueError(
                    f"{path} is a link out of {directory}, to {os.path.realpath(path)}: what is written there would not stay "
                    "in that directory; remove the link, or put what it leads to in its place"
                )
