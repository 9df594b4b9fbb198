"""What the site writes into its pages when it is built: equations as MathML, and tables of options from the dataclasses.

A page says ``$$ … $$`` for an equation, as on GitHub, and ``{{ options RigL }}`` for the options that a method has of its own.
"""

import dataclasses
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

sys.path.insert(0, str(Path(__file__).parent.parent))

from sparsity import methods

EQUATION = re.compile(r"^\$\$\n(.+?)\n\$\$$", re.DOTALL | re.MULTILINE)
OPTIONS = re.compile(r"^\{\{ options (\w+) \}\}$", re.MULTILINE)
FLAG = re.compile(r"(?<=[\s>])--\w[\w.:-]*")


def described(kind: type) -> dict[str, str]:
    """Name → text of the ``Args`` in the docstring of a class."""
    section = re.search(r"\nArgs:\n(.*?)(?:\n\n|\Z)", inspect.cleandoc(kind.__doc__ or ""), re.DOTALL)
    entries = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", section[1] if section else "", re.MULTILINE)
    return {name: re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`", r"`\1`", " ".join(text.split())) for name, text in entries}


def default(field: dataclasses.Field[Any]) -> str:
    """The default of an option as one writes it in YAML."""
    value = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    return "null" if value is None else "[]" if value == () else str(value)


def cell(text: str) -> str:
    """Text of a docstring in a cell of a Markdown table."""
    return text.replace("``", "`").replace("|", r"\|")


def options_table(name: str) -> str:
    """Markdown table of the options that a method declares, or gives a default of its own; those it inherits stand elsewhere.

    Raises:
        KeyError: an option is not described.
    """
    kind = getattr(methods, name)
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        texts |= described(base)
    own = [field for field in dataclasses.fields(kind) if field.name in vars(kind).get("__annotations__", {})]
    rows = [f"| `{field.name}` | `{default(field)}` | {cell(texts[field.name])} |" for field in own]
    return (
        "\n".join(["| option | default | what it is |", "|---|---|---|", *rows]) if rows else "It has no options of its own."
    )


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs with the text of each page."""
    markdown = OPTIONS.sub(lambda found: options_table(found[1]), markdown)
    return EQUATION.sub(lambda found: convert(found[1], display="block"), markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Called by MkDocs with the HTML of each page: a line that is broken is not broken after the hyphens of an option."""
    return FLAG.sub(r'<span class="option">\g<0></span>', html)
