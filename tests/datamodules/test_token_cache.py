"""The token cache: nothing lost, nothing built twice, nothing left half-built."""

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from transformers import BertTokenizer, PreTrainedTokenizerFast

from datamodules import documents as document_files
from datamodules import token_cache
from datamodules.sources import TextSource, open_source
from datamodules.token_cache import TokenCorpus, TokenStream, token_corpus
from datamodules.tokenizers import SPECIAL_TOKENS, load_tokenizer

Document = tuple[int, ...]
Build = Callable[..., TokenCorpus]


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir: Path) -> PreTrainedTokenizerFast:
    return load_tokenizer(str(tokenizer_dir))


@pytest.fixture
def build(cache_dir: Path, corpus: Path, tokenizer: PreTrainedTokenizerFast) -> Build:
    """Builds a token corpus, of the shared text unless told otherwise."""

    def call(path: Path = corpus, share: float = 0.05, cache_dir: Path = cache_dir) -> TokenCorpus:
        return token_corpus([open_source(TextSource(str(path)), cache_dir)], tokenizer, share, cache_dir)

    return call


@pytest.fixture
def no_build(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forbids building from now on."""

    def forbidden(*_: object) -> None:
        raise AssertionError("built again")

    return lambda: monkeypatch.setattr(token_cache, "_build", forbidden)


def documents_of(stream: TokenStream, separator: int) -> list[Document]:
    """Documents of a stream, each with the separator that ends it."""
    ends = np.flatnonzero(stream.tokens == separator) + 1
    assert ends[-1] == len(stream.tokens)
    return [tuple(part.tolist()) for part in np.split(stream.tokens, ends[:-1])]


def encoded(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> Counter[Document]:
    ids = tokenizer(texts, add_special_tokens=False).input_ids
    return Counter((*document, tokenizer.sep_token_id) for document in ids)


def test_every_document_is_in_one_split_exactly_once(
    build: Build, documents: list[str], tokenizer: PreTrainedTokenizerFast
) -> None:
    corpus = build(share=0.05)
    train, validation = (documents_of(stream, tokenizer.sep_token_id) for stream in (corpus.train, corpus.validation))
    assert len(validation) == 10
    assert Counter(train) + Counter(validation) == encoded(documents, tokenizer)


def test_training_counts_are_those_of_the_training_stream(build: Build, tokenizer: PreTrainedTokenizerFast) -> None:
    corpus = build()
    assert corpus.train_counts.tolist() == np.bincount(corpus.train.tokens, minlength=len(tokenizer)).tolist()


@pytest.mark.parametrize(("share", "held_out"), [(0.001, 1), (0.05, 10), (0.5, 100), (0.9999, 199)])
def test_the_share_is_of_documents_and_leaves_neither_split_empty(
    build: Build, share: float, held_out: int, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert len(documents_of(build(share=share).validation, tokenizer.sep_token_id)) == held_out


def test_the_same_documents_are_held_out_in_any_order(
    build: Build, documents: list[str], tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    (file := tmp_path / "shuffled.txt").write_text("\n\n".join(random.Random(1).sample(documents, len(documents))))
    first, second = (documents_of(build(path).validation, tokenizer.sep_token_id) for path in (file, build.__defaults__[0]))
    assert first != second
    assert Counter(first) == Counter(second)


def test_a_document_in_pieces_remains_one(
    build: Build, documents: list[str], monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast
) -> None:
    monkeypatch.setattr(document_files, "PIECE_CHARACTERS", 20)
    monkeypatch.setattr(token_cache, "BATCH_CHARACTERS", 50)
    corpus = build()
    found = (documents_of(stream, tokenizer.sep_token_id) for stream in (corpus.train, corpus.validation))
    assert sum(map(Counter, found), Counter()) == encoded(documents, tokenizer)


def test_sources_are_mixed(cache_dir: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    (tmp_path / "a.txt").write_text("sparse\n\ndense\n")
    (tmp_path / "b.jsonl").write_text('{"body": "masked"}\n')
    mixed = [TextSource(str(tmp_path / "a.txt")), TextSource(str(tmp_path / "b.jsonl"), column="body")]
    corpus = token_corpus([open_source(source, cache_dir) for source in mixed], tokenizer, 0.3, cache_dir)
    found = (documents_of(stream, tokenizer.sep_token_id) for stream in (corpus.train, corpus.validation))
    assert sum(map(Counter, found), Counter()) == encoded(["sparse", "dense", "masked"], tokenizer)


def test_a_cache_is_reused(build: Build, no_build: Callable[[], None]) -> None:
    first = build()
    no_build()
    assert np.array_equal(build().train.tokens, first.train.tokens)


def test_other_text_or_another_share_is_another_cache(
    build: Build, documents: list[str], no_build: Callable[[], None], tmp_path: Path
) -> None:
    (file := tmp_path / "corpus.txt").write_text("\n\n".join(documents))
    build(file)
    no_build()
    with pytest.raises(AssertionError, match="built again"):
        build(file, share=0.1)
    file.write_text("\n\n".join(documents).replace("sparse", "Sparse", 1))
    with pytest.raises(AssertionError, match="built again"):
        build(file)


def test_what_a_crash_left_is_built_anew(build: Build, tmp_path: Path, cache_dir: Path) -> None:
    whole = build(cache_dir=tmp_path / "elsewhere")
    partial = cache_dir / f"{whole.train.file.parent.name}.partial"
    partial.mkdir(parents=True)
    (partial / "train.bin").write_bytes(b"half")
    corpus = build()
    assert not partial.exists()
    assert corpus.train.file.read_bytes() == whole.train.file.read_bytes()
    assert {file.name for file in corpus.train.file.parent.iterdir()} == {
        *("train.bin", "validation.bin", "train_counts.npy", "meta.json")
    }


def test_an_interrupted_build_leaves_nothing(build: Build, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TokenStream, "counts", interrupt)  # the last thing a build does before it writes its meta data
    with pytest.raises(KeyboardInterrupt):
        build()
    assert [path for path in cache_dir.iterdir() if path.suffix != ".lock" and path.name != "digests"] == []


def test_two_builders_at_once_make_one_cache(
    build: Build, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = build(cache_dir=tmp_path / "single")
    build_once, fork = token_cache._build, get_context("fork")
    meeting = fork.Barrier(2)

    def slow_build(*arguments: object) -> None:
        (tmp_path / f"built-by-{os.getpid()}").touch()
        time.sleep(0.3)
        build_once(*arguments)

    def builder() -> None:
        meeting.wait(timeout=60)
        assert np.array_equal(build().train.tokens, single.train.tokens)

    monkeypatch.setattr(token_cache, "_build", slow_build)
    builders = [fork.Process(target=builder) for _ in range(2)]
    for process in builders:
        process.start()
    for process in builders:
        process.join(timeout=60)
    assert [process.exitcode for process in builders] == [0, 0]
    assert len(list(tmp_path.glob("built-by-*"))) == 1
    assert [path.name for path in cache_dir.glob("tokens-*") if path.is_dir()] == [single.train.file.parent.name]


def test_a_vocabulary_beyond_16_bits_keeps_its_ids(build: Build, tmp_path: Path, cache_dir: Path) -> None:
    entries = [*SPECIAL_TOKENS, *(f"word{number}" for number in range(70_000))]
    large = BertTokenizer(vocab={token: number for number, token in enumerate(entries)})
    (file := tmp_path / "corpus.txt").write_text("word69999 word1\n\nword1 word69999\n")
    corpus = token_corpus([open_source(TextSource(str(file)), cache_dir)], large, 0.5, cache_dir)
    assert corpus.train.dtype == "<u4"
    documents = [corpus.train.tokens.tolist(), corpus.validation.tokens.tolist()]
    assert sorted(documents) == [[6, 70_004, 3], [70_004, 6, 3]]


@pytest.mark.parametrize(
    ("text", "message"), [("", "the corpus is empty"), (" \n\n", "the corpus is empty"), ("one", "has 1 document;")]
)
def test_too_little_text_is_an_error_that_leaves_nothing(
    build: Build, tmp_path: Path, cache_dir: Path, text: str, message: str
) -> None:
    (file := tmp_path / "little.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        build(file)
    assert [path for path in cache_dir.iterdir() if path.suffix != ".lock" and path.name != "digests"] == []
