"""Toy tasks: read as the official files are, the same every time, balanced, and each with an answer in its words."""

from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules import GlueFiles, write_toy_glue
from datamodules.glue_files import Split
from datamodules.toy_glue import NEGATIONS, ROWS, TASKS
from objectives.glue import GLUE


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of 700 sentences of seven words, some of which say no, and some of which stand there twice."""
    file = tmp_path_factory.mktemp("sentences") / "corpus.txt"
    lines = [f"Sentence {number} does {'not' if number % 5 else ''} repeat words {number + 1}." for number in range(700)]
    file.write_text("\n".join(" ".join(line.split()) for line in lines) + "\n" + "\n".join(lines[:300]) + "\n")
    return file


@pytest.fixture(scope="module")
def toy(sentences: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("toy") / "toy_glue"
    write_toy_glue(directory, str(sentences), str(tmp_path_factory.mktemp("cache")))
    return directory


@pytest.fixture
def split(toy: Path) -> Callable[[str, str], Split]:
    return lambda task, name: GlueFiles(GLUE[task], str(toy)).read(name, labelled=True)


def test_files_are_whole_and_share_no_sentence(split: Callable[[str, str], Split]) -> None:
    for task in TASKS:
        train, dev = split(task, "train"), split(task, "dev")
        assert (len(train.labels), len(dev.labels)) == (ROWS["train"], ROWS["dev"])
        if not GLUE[task].regression:
            assert sum(train.labels) == ROWS["train"] / 2
        if task in ("MRPC", "STS-B"):
            assert not set(train.texts[0]) & set(dev.texts[0])


def test_every_label_can_be_told_from_the_words(split: Callable[[str, str], Split]) -> None:
    order = [text.startswith("Sentence") and text.endswith(".") for text in split("CoLA", "dev").texts[0]]
    assert sum(map(int.__eq__, map(int, order), map(int, split("CoLA", "dev").labels))) >= 0.95 * len(order)
    negative = [bool(set(NEGATIONS) & set(text.split())) for text in split("SST-2", "dev").texts[0]]
    assert negative == [label == 0 for label in split("SST-2", "dev").labels]
    pairs = split("MRPC", "dev")
    same = [set(second.split()) < set(first.split()) for first, second in zip(*pairs.texts, strict=True)]
    assert same == [label == 1 for label in pairs.labels]
    scored = split("STS-B", "dev")
    for first, second, score in zip(*scored.texts, scored.labels, strict=True):
        words = list(zip(first.split(), second.split(), strict=True))
        assert sum(a == b for a, b in words) >= round(score / 5 * len(words))
    assert {0.0, 5.0} <= set(scored.labels)


def test_they_are_the_same_again_and_written_once(toy: Path, sentences: Path, tmp_path: Path) -> None:
    write_toy_glue(tmp_path / "again", str(sentences), str(tmp_path / "cache"))
    for file in toy.rglob("*.tsv"):
        assert (tmp_path / "again" / file.relative_to(toy)).read_bytes() == file.read_bytes()
    before = (tmp_path / "again" / "CoLA" / "train.tsv").stat().st_mtime_ns
    write_toy_glue(tmp_path / "again", str(sentences), str(tmp_path / "cache"))
    assert (tmp_path / "again" / "CoLA" / "train.tsv").stat().st_mtime_ns == before


def test_a_corpus_that_is_too_small_is_named(tmp_path: Path) -> None:
    (tmp_path / "small.txt").write_text("One sentence of more than six words. Too short.\n")
    with pytest.raises(ValueError, match=r"small\.txt: 1 sentences of 6 to 18 words, 640 expected"):
        write_toy_glue(tmp_path / "toy", str(tmp_path / "small.txt"), str(tmp_path / "cache"))
    assert not (tmp_path / "toy").exists()
