"""Toy tasks that stand for four of GLUE where its files are not there: they show that everything runs, and nothing else.

They are made from the sentences of a corpus, always the same ones, in the official TSV layout. Scores on them compare with no
others.
"""

import random
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from datamodules.cache import build_once, cache_directory
from datamodules.glue_files import GlueFiles
from datamodules.sources import DOCSTRINGS, open_source, text_source
from objectives.glue import GLUE

ROWS = {"train": 512, "dev": 128}
SENTENCES = 4000  # of the corpus, of which rows are made
WORDS = range(6, 19)  # of a sentence
NEGATIONS = ("no", "not", "never", "none", "nothing", "neither", "nor", "without", "cannot")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")

Row = list[str]


def sentences(path: str, cache_dir: Path) -> Iterator[list[str]]:
    """Sentences of a corpus as their words, equal ones once."""
    known = set()
    for text, _ in open_source(text_source(path, "text"), cache_dir).pieces():
        for line in text.split("\n"):
            for sentence in _SENTENCE_END.split(line):
                if len(words := sentence.split()) in WORDS and (whole := " ".join(words)) not in known:
                    known.add(whole)
                    yield words


def shuffled_or_not(words: list[str], others: list[list[str]], label: int, draw: random.Random) -> Row:
    """CoLA: whether the words of a sentence are in their order."""
    return ["toy", str(label), "" if label else "*", " ".join(words if label else draw.sample(words, len(words)))]


def negated_or_not(words: list[str], others: list[list[str]], label: int, draw: random.Random) -> Row:
    """SST-2: whether a sentence, without its own negations, has one put somewhere, which is the negative class."""
    said = [word for word in words if word not in NEGATIONS]
    if not label:
        said.insert(draw.randrange(len(said) + 1), draw.choice(NEGATIONS))
    return [" ".join(said), str(label)]


def same_or_not(words: list[str], others: list[list[str]], label: int, draw: random.Random) -> Row:
    """MRPC: whether two sentences are the same but for a word that is left out, or two sentences."""
    left_out = draw.randrange(len(words))
    second = [*words[:left_out], *words[left_out + 1 :]] if label else draw.choice(others)
    return [str(label), "0", "0", " ".join(words), " ".join(second)]


def share_of_words(words: list[str], others: list[list[str]], label: int, draw: random.Random) -> Row:
    """STS-B: the share of words that a sentence keeps when some are replaced by those of another, times 5."""
    kept = draw.randint(0, len(words))
    places = set(draw.sample(range(len(words)), kept))
    foreign = draw.choice(others)
    second = [word if place in places else draw.choice(foreign) for place, word in enumerate(words)]
    return [*["toy"] * 7, " ".join(words), " ".join(second), f"{5 * kept / len(words):.3f}"]


MRPC = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")
STSB = (*("index", "genre", "filename", "year", "old_index", "source1", "source2"), "sentence1", "sentence2", "score")
TASKS: dict[str, tuple[tuple[str, ...], Callable[[list[str], list[list[str]], int, random.Random], Row]]] = {
    "CoLA": ((), shuffled_or_not),
    "SST-2": (("sentence", "label"), negated_or_not),
    "MRPC": (MRPC, same_or_not),
    "STS-B": (STSB, share_of_words),
}
"""Task → columns of its header, which CoLA has none of, and what makes a row."""


def write_toy_glue(directory: Path, corpus: str = DOCSTRINGS, cache_dir: str | None = None) -> None:
    """Write the toy tasks, unless they are there.

    Args:
        directory: of the folders ``CoLA``, ``SST-2``, ``MRPC`` and ``STS-B``, each with ``train.tsv`` and ``dev.tsv``.
        corpus: where sentences come from, as ``TextDataModule.path``.
        cache_dir: where a corpus is kept; None for ``$TRIFECTA_CACHE``, else ``~/.cache/trifecta``.

    Raises:
        ValueError: the corpus has too few sentences.
    """

    def build(partial: Path) -> None:
        found = list(islice(sentences(corpus, cache_directory(cache_dir)), SENTENCES))
        if len(found) < (needed := sum(ROWS.values())):
            raise ValueError(f"{corpus}: {len(found)} sentences of {WORDS[0]} to {WORDS[-1]} words, {needed} expected")
        for task in TASKS:
            write_task(partial / task, task, found)

    build_once(directory, build, check)


def write_task(folder: Path, task: str, found: list[list[str]]) -> None:
    """Write the two files of a task, which share no sentence that a row begins with."""
    header, make = TASKS[task]
    draw = random.Random(task)  # of a text: the same in every process
    chosen = iter(draw.sample(found, sum(ROWS.values())))
    folder.mkdir(parents=True)
    for name, rows in ROWS.items():
        table = [make(next(chosen), found, number % 2, draw) for number in range(rows)]
        lines = [*([list(header)] if header else []), *table]
        (folder / f"{name}.tsv").write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")


def check(directory: Path) -> None:
    """Raise FileNotFoundError unless all files are there."""
    for task in TASKS:
        files = GlueFiles(GLUE[task], str(directory))
        for name in ROWS:
            files.require(name)
