"""The published vocabulary and real Wikipedia text."""

from itertools import islice
from pathlib import Path

import pytest

from datamodules.sources import TextSource, open_source
from datamodules.tokenizers import load_tokenizer, vocabulary

pytestmark = pytest.mark.realdata


def test_the_published_vocabulary_gives_the_published_ids(realdata: Path) -> None:
    tokenizer = load_tokenizer(str(realdata / "vocab" / "bert-base-uncased-vocab.txt"))
    assert len(tokenizer) == 30522
    assert tokenizer("Hello, world!").input_ids == [101, 7592, 1010, 2088, 999, 102]
    assert tokenizer.tokenize("unaffable") == ["una", "##ffa", "##ble"]
    found = vocabulary(tokenizer)
    assert (found.mask_id, int(found.special.sum()), int(found.continues_word.sum())) == (103, 5, 5828)


def test_wikipedia_articles_are_documents_whose_first_line_is_their_first_paragraph(realdata: Path, tmp_path: Path) -> None:
    file = realdata / "text" / "wikipedia" / "wiki_00.txt"
    pieces = list(open_source(TextSource(str(file)), tmp_path).pieces())
    assert pieces[0][0].startswith("Anarchism is a political philosophy that advocates stateless societies")
    assert all(ends for _, ends in pieces)
    articles = file.read_text(encoding="utf-8").strip().split("\n\n")
    assert len(pieces) == len(articles)
    for (text, _), article in islice(zip(pieces, articles, strict=True), 50):
        assert text.split("\n") == [line.strip() for line in article.split("\n") if line.strip()]


def test_a_book_remains_one_document(realdata: Path, tmp_path: Path) -> None:
    book = next(iter(sorted((realdata / "text" / "books").glob("*.txt"))))
    pieces = list(open_source(TextSource(str(book)), tmp_path).pieces())
    assert [ends for _, ends in pieces] == [False] * (len(pieces) - 1) + [True]
