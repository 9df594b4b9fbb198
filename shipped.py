"""The configs that come with the project, by name, from wherever one is; and the user's own modules beside their YAML."""

import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

CONFIGS = Path(__file__).parent / "configs"

Places = Mapping[str, tuple[str, ...]]

OF_FITS: Places = {
    "--config": ("experiments", "glue"),
    "-c": ("experiments", "glue"),
    "--model": ("model",),
    "--data": ("data",),
    "--trainer": ("trainer",),
    "--trainer.logger": ("logger",),
}
"""Option of a fit → the folders of ``configs/`` in which its value may be named."""
OF_SWEEPS: Places = {"--config": ("protocols",)}


def shipped_config(name: str, folders: Sequence[str]) -> Path | None:
    """The shipped file that a name stands for, where the name is no file of the user's own.

    Args:
        name: ``cpu_bench``, ``cpu_bench.yaml`` or ``configs/experiments/cpu_bench.yaml``.
        folders: of ``configs/``, in which a bare name is looked for.

    Returns:
        None where there is none, or ``name`` is a file already.
    """
    given = Path(name)
    if given.is_file():
        return None
    if given.parts[:1] == (CONFIGS.name,):
        candidates = [CONFIGS.parent / given]
    elif given.name == name:
        candidates = [CONFIGS / folder / f"{name.removesuffix('.yaml')}.yaml" for folder in folders]
    else:
        return None
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def with_shipped_configs(arguments: Sequence[str], places: Places = OF_FITS) -> list[str]:
    """A command line in which shipped configs are named by their paths: ``--config cpu_bench``, ``--trainer=one_gpu``."""
    end = arguments.index("--") if "--" in arguments else len(arguments)  # behind it are options of another command
    found: list[str] = []
    for before, argument in itertools.pairwise(["", *arguments[:end]]):
        option, equals, value = argument.partition("=")
        if equals and option in places:
            file = shipped_config(value, places[option])
            found.append(f"{option}={file}" if file else argument)
        else:
            file = shipped_config(argument, places[before]) if before in places else None
            found.append(str(file or argument))
    return [*found, *arguments[end:]]


def configs_of(arguments: Sequence[str]) -> list[str]:
    """What a command line gives as ``--config``."""
    following = itertools.pairwise([*arguments, ""])
    given = [value if option in ("--config", "-c") else option.removeprefix("--config=") for option, value in following]
    return [value for value, option in zip(given, arguments, strict=True) if value != option]


def check_configs(arguments: Sequence[str]) -> None:
    """Refuse a ``--config`` that is not there, before anything is imported that takes seconds; YAML in its place passes.

    Raises:
        ValueError: it names neither a file nor a shipped config.
    """
    for config in configs_of(arguments):
        if not any(sign in config for sign in ":{\n") and not Path(config).is_file():
            raise ValueError(f"config: {config or 'nothing'}: no such file, nor a shipped config of this name")


def find_modules_beside(arguments: Sequence[str]) -> None:
    """Let ``class_path: my_module.MyClass`` find modules in this directory and beside each ``--config``, after all others."""
    configs = configs_of(arguments)
    folders = [
        Path.cwd(),
        *(Path(config).absolute().parent for config in configs if Path(config).suffix in (".yaml", ".yml")),
    ]
    sys.path += [str(folder) for folder in dict.fromkeys(folders) if str(folder) not in sys.path]
