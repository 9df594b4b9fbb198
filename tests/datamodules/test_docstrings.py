"""The embedded corpus: prose only, each paragraph once, and nothing imported."""

import sys
from pathlib import Path

import pytest

from datamodules.docstrings import docstring_documents, docstring_paragraphs, is_prose

PROSE = "A sparse network keeps only some of its weights, and the others are exactly zero."
OTHER = "The student learns from its teacher what no label says, wrong answers included."
SHARED = "Every paragraph of this corpus stands in it once, wherever else it may be repeated."

SOURCES = {
    "__init__.py": f'"""{PROSE}"""\nraise RuntimeError("imported")\n',
    "b/module.py": f'class A:\n    """{SHARED}\n\n    {OTHER}\n\n    {SHARED}\n    """\n',
    "a.py": f'def f():\n    """{SHARED}"""\n\n\nasync def g():\n    """{PROSE}"""\n',
    "template.py": "def {{ name }}:\n",
    "tests/test_a.py": '"""This paragraph is of a test, and tests of a package are not read at all."""\n',
    "data.txt": PROSE,
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, source in SOURCES.items():
        file = tmp_path / "prose_package" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    (tmp_path / "prose_package" / "latin.py").write_bytes('"""Café"""'.encode("latin-1"))
    monkeypatch.syspath_prepend(tmp_path)
    return "prose_package"


def test_documents_are_files_in_order_and_paragraphs_come_once(package: str) -> None:
    expected = [[PROSE], [SHARED], [OTHER]]  # __init__.py, a.py, b/module.py
    assert list(docstring_documents([package], workers=1)) == expected
    assert list(docstring_documents([package], workers=2)) == expected


def test_nothing_is_imported(package: str) -> None:
    assert list(docstring_documents([package], workers=1))
    assert package not in sys.modules


def test_packages_that_are_not_installed_are_left_out(package: str) -> None:
    assert list(docstring_documents(["no_such_package", package], workers=1)) == [[PROSE], [SHARED], [OTHER]]


def test_an_installed_package_gives_long_lines_of_prose_without_duplicates() -> None:
    paragraphs = [paragraph for document in docstring_documents(["packaging"], workers=1) for paragraph in document]
    assert len(paragraphs) == len(set(paragraphs)) > 10
    assert all(is_prose(paragraph) and "\n" not in paragraph for paragraph in paragraphs)


def test_paragraphs_are_joined_to_one_line_and_dedented() -> None:
    source = '"""Title.\n\n    A paragraph that was wrapped\n    over two lines stands on one line.\n\n    >>> f()\n"""'
    assert list(docstring_paragraphs(source)) == ["A paragraph that was wrapped over two lines stands on one line."]


@pytest.mark.parametrize(
    "paragraph",
    [
        "Too short to be a sentence.",
        ">>> print('this is an example and not a sentence in any way at all')",
        ".. note:: directives of markup are not the prose that we are looking for.",
        ":param x: fields of a signature are not the prose that we look for either.",
        "a line of many words that does not end as English sentences usually do",
        "x = [1, 2, 3]; y = {4: 5}; z = (6, 7); f(x, y, z) == g(8, 9) != h(10).",
    ],
)
def test_markup_code_and_fragments_are_no_prose(paragraph: str) -> None:
    assert is_prose(PROSE)
    assert not is_prose(paragraph)
