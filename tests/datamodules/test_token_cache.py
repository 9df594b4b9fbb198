"""The token cache: nothing lost, nothing built twice, nothing left half-built."""

import hashlib
import json
import os
import pickle
import random
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertTokenizer, PreTrainedTokenizerFast

from datamodules import documents as document_files
from datamodules import token_cache
from datamodules.cache import cache_directory
from datamodules.sources import TextSource, open_source
from datamodules.token_cache import TextSize, TokenCorpus, TokenStream, _held_out, _splits, token_corpus
from datamodules.tokenizers import SPECIAL_TOKENS, load_tokenizer

Document = tuple[int, ...]
Build = Callable[..., TokenCorpus]


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir: Path) -> PreTrainedTokenizerFast:
    return load_tokenizer(str(tokenizer_dir))


@pytest.fixture
def build(cache_dir: Path, corpus: Path, tokenizer: PreTrainedTokenizerFast) -> Build:
    """Builds a token corpus, of the shared text unless told otherwise."""

    def call(path: Path = corpus, share: float = 0.05, test: float = 0.0, cache_dir: Path = cache_dir) -> TokenCorpus:
        return token_corpus([open_source(TextSource(str(path)), cache_dir)], tokenizer, cache_dir, share, test)

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
    train, validation = (documents_of(stream, tokenizer.sep_token_id) for stream in corpus.splits.values())
    assert len(validation) == 10
    assert Counter(train) + Counter(validation) == encoded(documents, tokenizer)


def test_training_counts_are_those_of_the_training_stream(build: Build, tokenizer: PreTrainedTokenizerFast) -> None:
    corpus = build()
    assert corpus.train_counts.tolist() == np.bincount(corpus.train.tokens, minlength=len(tokenizer)).tolist()


@pytest.mark.parametrize(("share", "held_out"), [(0.001, 1), (0.05, 10), (0.5, 100), (0.9999, 199)])
def test_the_share_is_of_documents_and_leaves_neither_split_empty(
    build: Build, share: float, held_out: int, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert len(documents_of(build(share=share).splits["validation"], tokenizer.sep_token_id)) == held_out


def test_the_same_documents_are_held_out_in_any_order(
    build: Build, documents: list[str], tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    (file := tmp_path / "shuffled.txt").write_text("\n\n".join(random.Random(1).sample(documents, len(documents))))
    first, second = (build(path, test=0.1).splits for path in (file, build.__defaults__[0]))
    for split in ("validation", "test"):
        shuffled, given = (documents_of(splits[split], tokenizer.sep_token_id) for splits in (first, second))
        assert shuffled != given
        assert Counter(shuffled) == Counter(given)


def test_without_a_test_the_streams_are_what_they_have_always_been(
    build: Build, documents: list[str], tokenizer: PreTrainedTokenizerFast
) -> None:
    """Bit for bit: the documents whose tokens have the lowest digests, each split in the order of the text."""
    rows = [
        np.array([*ids, tokenizer.sep_token_id], "<u2").tobytes()
        for ids in tokenizer(documents, add_special_tokens=False).input_ids
    ]
    digests = [int.from_bytes(hashlib.blake2b(row, digest_size=8).digest(), "little") for row in rows]
    assert len(set(digests)) == 200
    highest = sorted(digests)[9]
    corpus = build(share=0.05)
    assert corpus.splits.keys() == {"train", "validation"}
    for split, held_out in (("train", False), ("validation", True)):
        own = [row for row, digest in zip(rows, digests, strict=True) if (digest <= highest) == held_out]
        assert corpus.splits[split].file.read_bytes() == b"".join(own)


@pytest.mark.parametrize(
    ("share", "test", "held_out"), [(0.05, 0.1, (10, 20)), (0.05, 0.001, (10, 1)), (0.5, 0.4999, (100, 99))]
)
def test_three_splits_share_all_documents_and_validation_is_that_of_two(
    build: Build,
    documents: list[str],
    tokenizer: PreTrainedTokenizerFast,
    share: float,
    test: float,
    held_out: tuple[int, int],
) -> None:
    corpus = build(share=share, test=test)
    assert list(corpus.splits) == ["train", "validation", "test"]
    splits = [documents_of(stream, tokenizer.sep_token_id) for stream in corpus.splits.values()]
    assert (len(splits[1]), len(splits[2])) == held_out
    assert [len(split) for split in splits] == [stream.size.documents for stream in corpus.splits.values()]
    assert sum(map(Counter, splits), Counter()) == encoded(documents, tokenizer)
    assert max(encoded(documents, tokenizer).values()) == 1  # so that the splits have no document in common
    assert corpus.splits["validation"].file.read_bytes() == build(share=share).splits["validation"].file.read_bytes()


def test_a_text_that_nothing_is_held_out_of_is_whole(
    build: Build, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    """One document is enough, then."""
    (file := tmp_path / "one.txt").write_text("sparse weights\n")
    corpus = build(file, share=0.0)
    assert corpus.splits.keys() == {"train"}
    assert corpus.train.tokens.tolist() == [
        *tokenizer("sparse weights", add_special_tokens=False).input_ids,
        tokenizer.sep_token_id,
    ]


SIZES = [
    ("one.txt", "sparse  weights\n  grow\tback \n\n\nand drop\r\n", TextSize(documents=2, words=6, characters=15 + 9 + 8)),
    ("two.txt", "naïve Gewichte\n日本語 モデル\n🙂🙂\n", TextSize(documents=1, words=5, characters=14 + 7 + 2)),
    ("three.txt", "e\u0301\u00a0e\u2003x\u200by\n", TextSize(documents=1, words=3, characters=8)),
    (
        "rows.jsonl",
        '{"text": "a\\r\\nbc  d\\n"}\n{"text": " "}\n{"text": "é"}\n',
        TextSize(documents=2, words=4, characters=7),
    ),
]


@pytest.mark.parametrize(("name", "text", "size"), SIZES)
@pytest.mark.parametrize("piece", [1, 1 << 20])
def test_words_and_characters_are_counted_before_anything_is_normalised(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, size: TextSize, piece: int
) -> None:
    """Between any white space, and code points without line ends, however a document is cut."""
    monkeypatch.setattr(document_files, "PIECE_CHARACTERS", piece)
    (file := tmp_path / name).write_bytes(text.encode())
    assert build(file, share=0.0).train.size == size


def test_each_split_knows_its_own_text(build: Build, documents: list[str], tokenizer: PreTrainedTokenizerFast) -> None:
    corpus = build(share=0.2, test=0.2)
    text_of = {(*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.sep_token_id): text for text in documents}
    for stream in corpus.splits.values():
        texts = [text_of[document] for document in documents_of(stream, tokenizer.sep_token_id)]
        words, characters = sum(len(text.split()) for text in texts), sum(len(text.replace("\n", "")) for text in texts)
        assert stream.size == TextSize(len(texts), words, characters)
        assert stream.text_tokens == int((stream.tokens != tokenizer.sep_token_id).sum())


def test_a_stream_is_sent_to_workers_without_its_tokens(build: Build) -> None:
    stream = build().train
    tokens = stream.tokens
    sent = pickle.loads(pickle.dumps(stream))
    assert len(pickle.dumps(stream)) < tokens.nbytes
    assert np.array_equal(sent.tokens, tokens)
    assert sent == stream


def test_a_document_in_pieces_remains_one(
    build: Build, documents: list[str], monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast
) -> None:
    monkeypatch.setattr(document_files, "PIECE_CHARACTERS", 20)
    monkeypatch.setattr(token_cache, "BATCH_CHARACTERS", 50)
    corpus = build()
    found = (documents_of(stream, tokenizer.sep_token_id) for stream in corpus.splits.values())
    assert sum(map(Counter, found), Counter()) == encoded(documents, tokenizer)


def test_sources_are_mixed(cache_dir: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    (tmp_path / "a.txt").write_text("sparse\n\ndense\n")
    (tmp_path / "b.jsonl").write_text('{"body": "masked"}\n')
    mixed = [TextSource(str(tmp_path / "a.txt")), TextSource(str(tmp_path / "b.jsonl"), column="body")]
    corpus = token_corpus([open_source(source, cache_dir) for source in mixed], tokenizer, cache_dir, 0.3)
    found = (documents_of(stream, tokenizer.sep_token_id) for stream in corpus.splits.values())
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


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-2])


def longer(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0\0")


def change_meta(**fields: object) -> Callable[[Path], None]:
    return lambda file: file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def change_size(**fields: object) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        meta = json.loads(file.read_text())
        meta["splits"]["validation"] |= fields
        file.write_text(json.dumps(meta))

    return change


DAMAGES = [
    *((name, damage) for name in ("train.bin", "validation.bin") for damage in (cut, longer, Path.unlink)),
    *(("train_counts.npy", damage) for damage in (cut, Path.unlink, lambda file: np.save(file, np.load(file)[:-1]))),
    ("train_counts.npy", lambda file: np.save(file, np.load(file) * 2)),
    *(("validation.npy", damage) for damage in (cut, Path.unlink, lambda file: np.save(file, np.load(file)[:-1]))),
    *(("meta.json", damage) for damage in (cut, Path.unlink, lambda file: file.write_text(""), change_meta(dtype="<u8"))),
    *(("meta.json", change_size(tokens=tokens)) for tokens in (7, None)),
    ("meta.json", change_size(words=None)),
    ("meta.json", change_meta(splits=None)),
    ("meta.json", lambda file: file.write_text("[]")),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_cache_that_is_not_whole_is_named_in_one_line_and_built_again(
    build: Build, name: str, damage: Callable[[Path], None], no_build: Callable[[], None]
) -> None:
    whole = build().train.file.parent
    before = {file.name: file.read_bytes() for file in whole.iterdir()}
    damage(whole / name)
    with pytest.warns(UserWarning, match="not whole") as caught:
        corpus = build()
    (warning,) = caught
    assert str(warning.message).startswith(f"{whole}: this part of the cache is not whole (")
    assert "\n" not in str(warning.message)
    assert corpus.train.file.parent == whole
    assert {file.name: file.read_bytes() for file in whole.iterdir()} == before
    no_build()
    assert len(build().train.tokens) == int(corpus.train_counts.sum())


def test_a_cache_that_cannot_be_built_again_is_left_as_it_is(build: Build, no_build: Callable[[], None]) -> None:
    whole = build().train.file.parent
    cut(whole / "train.bin")
    no_build()
    with pytest.warns(UserWarning, match="not whole"), pytest.raises(AssertionError, match="built again"):
        build()
    assert len(list(whole.iterdir())) == 6


DIGESTS = st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=60)
SHARES = st.floats(0.01, 0.99)


@given(DIGESTS.filter(lambda digests: len(set(digests)) == len(digests)), SHARES)
def test_documents_that_all_differ_are_held_out_by_the_lowest_digests(digests: list[int], share: float) -> None:
    count = min(max(1, round(share * len(digests))), len(digests) - 1)
    expected = np.zeros(len(digests), dtype=bool)
    expected[np.argsort(np.array(digests, np.uint64), kind="stable")[:count]] = True
    assert np.array_equal(_held_out(np.array(digests, np.uint64), count, "validation"), expected)


@given(st.lists(st.integers(0, 9), min_size=2, max_size=60).filter(lambda digests: len(set(digests)) > 1), SHARES)
def test_equal_documents_are_on_one_side_and_the_share_is_close(digests: list[int], share: float) -> None:
    array = np.array(digests, np.uint64)
    held_out = _held_out(array, round(share * len(array)), "validation")
    assert not set(array[held_out]) & set(array[~held_out])
    assert 0 < held_out.sum() < len(array)
    wanted = min(max(1, round(share * len(array))), len(array) - 1)
    copies = Counter(array[~held_out].tolist())
    if held_out.sum() < wanted:  # one text more would be too many
        assert min(copies.values()) > wanted - held_out.sum()
    elif held_out.sum() > wanted:  # nothing smaller there
        assert held_out.sum() == min(Counter(digests).values())


@given(st.lists(st.integers(0, 9), min_size=2, max_size=60).filter(lambda digests: len(set(digests)) > 1), SHARES, SHARES)
def test_equal_documents_are_in_one_of_three_splits(digests: list[int], share: float, test: float) -> None:
    array = np.array(digests, np.uint64)
    two = _splits(array, share, 0.0)
    if len(set(array[two == 0].tolist())) < 2:
        with pytest.raises(ValueError, match="to hold test out of, which needs two that differ"):
            _splits(array, share, test)
        return
    three = _splits(array, share, test)
    assert np.array_equal(three == 1, two == 1)
    assert {digest: len({*three[array == digest].tolist()}) for digest in digests} == dict.fromkeys(digests, 1)
    assert {*three.tolist()} == {0, 1, 2}


@given(st.lists(st.integers(0, 2**64 - 1), min_size=10, max_size=60, unique=True), *[st.floats(0.01, 0.45)] * 2)
def test_the_test_has_the_highest_digests_whatever_the_share_of_validation(
    digests: list[int], share: float, test: float
) -> None:
    array = np.array(digests, np.uint64)
    count = max(1, round(test * len(array)))
    highest = np.sort(array)[-count:]
    assert {*array[_splits(array, share, test) == 2].tolist()} == {*highest.tolist()}
    assert {*array[_splits(array, 0.0, test) == 2].tolist()} == {*highest.tolist()}


def test_single_documents_fill_the_share_exactly_beside_duplicates() -> None:
    digests = np.array([0] * 300 + list(range(1, 701)), np.uint64)  # three in ten say the same
    held_out = _held_out(digests, 50, "validation")
    assert held_out.sum() == 50
    assert set(digests[held_out].tolist()) == set(range(1, 51))


def test_documents_that_are_there_many_times_never_cross(
    build: Build, documents: list[str], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    texts = [*documents[:20] * 10, documents[0].upper()]  # which the tokenizer does not tell from the others
    (file := tmp_path / "corpus.txt").write_text("\n\n".join(texts))
    corpus = build(file, share=0.13)  # 26 of 201
    train, validation = (documents_of(stream, tokenizer.sep_token_id) for stream in corpus.splits.values())
    assert sum(map(Counter, (train, validation)), Counter()) == encoded(texts, tokenizer)
    assert not set(train) & set(validation)
    assert len(validation) in (20, 21)


def test_one_document_many_times_cannot_be_held_out(build: Build, tmp_path: Path) -> None:
    (file := tmp_path / "corpus.txt").write_text("sparse\n\n" * 50)
    with pytest.raises(ValueError, match="has 1 document, 50 times, to hold validation out of, which needs two that differ"):
        build(file)
    file.write_text("sparse\n\n" * 50 + "dense")
    with pytest.raises(ValueError, match="has 1 document, 50 times, to hold test out of, which needs two that differ"):
        build(file, test=0.1)


def test_what_a_crash_left_is_built_anew(build: Build, tmp_path: Path, cache_dir: Path) -> None:
    whole = build(cache_dir=tmp_path / "elsewhere")
    partial = cache_dir / f"{whole.train.file.parent.name}.partial"
    partial.mkdir(parents=True)
    (partial / "train.bin").write_bytes(b"half")
    corpus = build()
    assert not partial.exists()
    assert corpus.train.file.read_bytes() == whole.train.file.read_bytes()
    assert {file.name for file in corpus.train.file.parent.iterdir()} == {
        *("train.bin", "train.npy", "validation.bin", "validation.npy", "train_counts.npy", "meta.json")
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
    corpus = token_corpus([open_source(TextSource(str(file)), cache_dir)], large, cache_dir, 0.5)
    assert corpus.train.dtype == "<u4"
    documents = [stream.tokens.tolist() for stream in corpus.splits.values()]
    assert sorted(documents) == [[6, 70_004, 3], [70_004, 6, 3]]


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "the corpus is empty"), (" \n\n", "the corpus is empty"), ("one", "has 1 document to hold validation out of")],
)
def test_too_little_text_is_an_error_that_leaves_nothing(
    build: Build, tmp_path: Path, cache_dir: Path, text: str, message: str
) -> None:
    (file := tmp_path / "little.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        build(file)
    assert [path for path in cache_dir.iterdir() if path.suffix != ".lock" and path.name != "digests"] == []


def test_the_cache_may_be_in_the_home_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TRIFECTA_CACHE", raising=False)
    assert cache_directory("~/c") == tmp_path / "c"
    assert cache_directory(None) == tmp_path / ".cache" / "trifecta"
