"""The floors of the house: imports go down only, and into a package by what it exports."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {
    0: ["sparsity"],
    1: [
        "objectives",
        "run_exit",
        "run_record",
        "internals",
        "cpu",
        "hub",
        "arguments",
        "pretrained",
        "shipped",
        "strangers",
    ],
    2: ["datamodules", "deployment"],
    3: ["callbacks"],
    4: ["lightning_modules"],
    5: ["reports", "sweeps", "run_config", "run_directory", "cli", "command_help"],
    6: ["train", "sweep", "report", "deploy"],
    7: ["trifecta"],
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
ONE_ROOM = {"cli", "command_help", "run_config", "run_directory"}  # the command line, in four files
FACELESS = {"objectives", "reports", "sweeps"}  # their modules are what they export; some take seconds to import
FILES = [file for room in FLOOR_OF for file in [ROOT / f"{room}.py", *sorted((ROOT / room).rglob("*.py"))] if file.exists()]


def imports(file: Path) -> Iterator[tuple[str, str]]:
    """Every import of a file, also those inside functions and for types alone: module and name."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def room_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def test_every_product_file_is_on_a_floor() -> None:
    others = {"tests", "benchmarks", "docs", "examples", "notebooks", ".venv"}
    found = {room_of(file) for file in ROOT.rglob("*.py") if file.relative_to(ROOT).parts[0] not in others}
    assert {room for room in found if not room.startswith(".")} == FLOOR_OF.keys()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_down_and_into_a_package_by_what_it_exports(file: Path) -> None:
    own = room_of(file)
    for module, name in imports(file):
        room, _, inside = module.partition(".")
        if room not in FLOOR_OF or room == own:
            continue
        assert FLOOR_OF[room] < FLOOR_OF[own] or {own, room} <= ONE_ROOM, f"{module} is not below"
        if (inside or name) and (ROOT / room).is_dir() and room not in FACELESS:
            exported = importlib.import_module(room).__all__
            assert (inside.split(".")[0] if inside else name) in exported, f"{room} does not export {inside or name}"


def test_sparsity_is_torch_and_nothing_else() -> None:
    allowed = {"torch", "sparsity", *("collections", "dataclasses", "typing", "math", "fractions", "functools", "re")}
    allowed |= {"fnmatch", "warnings", "zlib"}
    of_files = {"ctypes", "json", "safetensors", "pathlib", "hashlib", "os"}
    for file in sorted((ROOT / "sparsity").rglob("*.py")):
        found = {module.split(".")[0] for module, _ in imports(file)}
        assert found <= allowed | (of_files if file.name == "files.py" else set()), file


def test_no_private_name_of_a_library_outside_the_one_module() -> None:
    """Names of Lightning, transformers and datasets; a leading underscore of our own is always ``self._``, ``cls._`` or local."""
    private = re.compile(r"\b(?!self\b|cls\b)\w+(?:\(.*?\)|\[.*?\])?\._(?!_)(\w+)")
    overridden = re.compile(r"def _(parse_ckpt_path|set_seed|run_subcommand|get_train_description)\b")
    own = {"_replace", "_exit"}  # of named tuples, and of os
    for file in FILES:
        if file.name == "internals.py":
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if "torch.ops" in line or "torch.library" in line:
                continue  # operators, whose names are torch's
            found = [match[0] for match in private.finditer(line.split("#")[0]) if f"_{match[1]}" not in own]
            assert not found, f"{file.name}:{number}: {found}"
            assert not overridden.search(line), f"{file.name}:{number}"
