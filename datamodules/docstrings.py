"""The embedded corpus: English prose from the docstrings of installed packages.

It needs no download: sources are parsed with :mod:`ast`, never imported. The same packages give the same text, byte for
byte, on any machine.
"""

import ast
import inspect
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

# What the project's own requirements install, and the standard library.
PACKAGES = (
    *("stdlib", "torch", "transformers", "numpy", "pandas", "pyarrow", "datasets", "sympy", "networkx", "matplotlib"),
    *("huggingface_hub", "fsspec", "aiohttp", "jinja2", "rich", "pytorch_lightning", "torchmetrics", "jsonargparse"),
    *("tensorboard", "safetensors", "filelock", "httpx", "pygments", "PIL", "mpmath", "yaml", "packaging"),
)
MIN_WORDS = 8
# Doctest prompts, reStructuredText directives and fields, section underlines, tables: markup, not prose.
_MARKUP = re.compile(r"^\s*(>>>|\.\.\.? |:\w|[-=~^*#+|`]{3,}|\||@|\$|In \[)", re.MULTILINE)
_SENTENCE_END = re.compile(r"[.!?:)\"']$")


def is_prose(paragraph: str) -> bool:
    """Whether a docstring paragraph reads as English sentences rather than as code, a table or a field list."""
    words = paragraph.split()
    if len(words) < MIN_WORDS or _MARKUP.search(paragraph) or not _SENTENCE_END.search(paragraph):
        return False
    letters = sum(character.isalpha() or character == " " for character in paragraph)
    return letters > 0.85 * len(paragraph)


def docstring_paragraphs(source: str) -> Iterator[str]:
    """Prose paragraphs of every docstring in Python ``source``, in order, each on one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's code
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        docstring = ast.get_docstring(node, clean=False)
        for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring or "")):
            line = " ".join(paragraph.split())
            if is_prose(paragraph.rstrip()) and line.isprintable():
                yield line


def _paragraphs_of_file(path: Path) -> list[str]:
    try:
        return list(docstring_paragraphs(path.read_text(encoding="utf-8")))
    except (SyntaxError, ValueError, RecursionError):  # templates, other encodings, generated files
        return []


def _package_files(package: str) -> list[Path]:
    if package == "stdlib":
        root = Path(sysconfig.get_paths()["stdlib"])
        skipped = {"site-packages", "test", "tests", "idlelib", "lib2to3"}
    else:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            return []
        root, skipped = Path(spec.submodule_search_locations[0]), {"tests"}
    return sorted(path for path in root.rglob("*.py") if not skipped & set(path.relative_to(root).parts))


def docstring_documents(packages: Iterable[str] = PACKAGES, workers: int | None = None) -> Iterator[list[str]]:
    """Documents of the corpus: for every source file its prose paragraphs, each paragraph once in the whole corpus.

    Packages that are not installed are left out.
    """
    files = [path for package in packages for path in _package_files(package)]
    seen: set[str] = set()
    with ProcessPoolExecutor(workers, mp_context=get_context("fork" if sys.platform == "linux" else None)) as pool:
        for paragraphs in pool.map(_paragraphs_of_file, files, chunksize=64):
            fresh = [paragraph for paragraph in dict.fromkeys(paragraphs) if paragraph not in seen]
            seen.update(fresh)
            if fresh:
                yield fresh


def prose(count: int) -> list[str]:
    """The first ``count`` paragraphs of the standard library's docstrings: real sentences that are on every machine."""
    paragraphs = (line for file in _package_files("stdlib") for line in _paragraphs_of_file(file))
    return list(islice(dict.fromkeys(islice(paragraphs, 2 * count)), count))
