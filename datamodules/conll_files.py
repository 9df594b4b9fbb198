"""CoNLL-2003 as it is distributed (a word a line, columns between spaces), or as the hub has it, becomes columns of sentences."""

import io
from pathlib import Path
from typing import Any

import datasets

from datamodules.text_lines import decoded
from objectives.beyond_glue import TAGS, Split, Task
from objectives.tagging import to_iob2

DOCUMENT = "-DOCSTART-"
FEATURES = datasets.Features(
    {
        "words": datasets.List(datasets.Value("string")),
        "others": datasets.List(datasets.Value("string")),
        "tags": datasets.List(datasets.Value("int64")),
        "document": datasets.Value("string"),
    }
)
"""Of every sentence: its words; their columns between word and tag, which are kept as they are; tags as numbers of :data:`TAGS`;
and the ``-DOCSTART-`` line before it, or an empty text."""


class Sentences:
    """Collects sentences of words with tags in IOB1 or IOB2, which one rule reads."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {name: [] for name in FEATURES}
        self.words: list[str] = []
        self.others: list[str] = []
        self.tags: list[str] = []
        self.document = ""

    def add(self, word: str, others: str, tag: str) -> None:
        """A word of the sentence at hand."""
        self.words.append(word)
        self.others.append(others)
        self.tags.append(tag)

    def end(self) -> None:
        """The sentence at hand is whole, if there is one."""
        if self.words:
            tags = [TAGS.index(tag) for tag in to_iob2(self.tags)]
            for column, value in zip(self.columns.values(), (self.words, self.others, tags, self.document), strict=True):
                column.append(value)
            self.words, self.others, self.tags, self.document = [], [], [], ""


def read_conll(file: Path, task: Task, split: Split) -> datasets.Dataset:
    """All sentences of a file, with the columns of :data:`FEATURES`.

    Raises:
        ValueError: not UTF-8, no sentence, a line of another number of columns than the first or of fewer than two, or a tag
            that is none.
    """
    sentences, width = Sentences(), 0
    for number, line in enumerate(io.StringIO(decoded(file), newline=None), 1):
        where = f"{file}:{number}"
        columns = line.split()
        if not columns:
            sentences.end()
        elif columns[0] == DOCUMENT:
            sentences.end()
            sentences.document = line.strip()
        else:
            width = width or len(columns)
            if len(columns) < 2:
                raise ValueError(f"{where}: {len(columns)} column, a word and its tag expected")
            if len(columns) != width:
                raise ValueError(f"{where}: {len(columns)} columns, {width} expected, as in the first line")
            if not _is_tag(columns[-1]):
                raise ValueError(
                    f"{where}: {columns[-1]!r:.40} is no tag; O, or B- or I- with PER, ORG, LOC or MISC expected"
                )
            sentences.add(columns[0], " ".join(columns[1:-1]), columns[-1])
    sentences.end()
    if not sentences.columns["words"]:
        raise ValueError(f"{file}:1: no sentence")
    return datasets.Dataset.from_dict(sentences.columns, features=FEATURES)


def _is_tag(tag: str) -> bool:
    return tag in TAGS


def read_conll_hub(rows: datasets.Dataset, where: str, task: Task, split: Split) -> datasets.Dataset:
    """The same of the hub's columns ``tokens`` and ``ner_tags``; its tags are numbers of :data:`TAGS`, or their names.

    Raises:
        ValueError: a column is missing, or a sentence does not fit.
    """
    for column in ("tokens", "ner_tags"):
        if column not in rows.column_names:
            raise ValueError(f"{where}: no column {column!r}; there are {', '.join(rows.column_names)}")
    feature = getattr(rows.features["ner_tags"], "feature", None)
    names = getattr(feature, "names", None) or list(TAGS)
    sentences = Sentences()
    for number, row in enumerate(rows):
        place = f"{where}: row {number}"
        if len(row["tokens"]) != len(row["ner_tags"]):
            raise ValueError(f"{place}: {len(row['tokens'])} tokens and {len(row['ner_tags'])} tags")
        for word, tag in zip(row["tokens"], row["ner_tags"], strict=True):
            name = names[tag] if isinstance(tag, int) and 0 <= tag < len(names) else tag
            if not _is_tag(name):
                raise ValueError(f"{place}: column 'ner_tags': {tag!r:.40} is no tag of {task.name}")
            if not isinstance(word, str) or not word.strip():
                raise ValueError(f"{place}: column 'tokens': {word!r:.40} is no word")
            if word != DOCUMENT:
                sentences.add(word, "", name)
        sentences.end()
    return datasets.Dataset.from_dict(sentences.columns, features=FEATURES)
