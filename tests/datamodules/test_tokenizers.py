"""Tokenizers: loaded from anywhere, or trained alike in every process."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, RobertaTokenizer

from datamodules.tokenizers import (
    ALPHABET_SIZE,
    SPECIAL_TOKENS,
    cached_tokenizer,
    load_tokenizer,
    of_single_words,
    tokenizer_fingerprint,
    train_tokenizer,
    unknown_share,
    vocabulary,
)

# Every pair of letters occurs as often as every other: nothing but ties between merges.
TIES = " ".join(a + b + c for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuvwx")
# More characters than the alphabet may have, all equally rare, alone and inside words.
RARE = " ".join(f"{chr(0x400 + i)} x{chr(0x4E00 + i)}y{chr(0x400 + i)}" for i in range(ALPHABET_SIZE))


TRAININGS = """
from datamodules.tokenizers import tokenizer_fingerprint, train_tokenizer
print(*(tokenizer_fingerprint(train_tokenizer(lambda: iter([text] * 2), 3000)) for text in TEXTS))
"""


def test_the_same_text_gives_the_same_vocabulary_in_every_process() -> None:
    script = f"TEXTS = {[TIES, RARE]!r}" + TRAININGS
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, cwd=Path(__file__).parents[2], check=True, capture_output=True, text=True).stdout
    here = [tokenizer_fingerprint(train_tokenizer(lambda text=text: iter([text] * 2), 3000)) for text in (TIES, RARE)]
    assert output.split() == here


def test_a_trained_vocabulary_has_the_size_and_the_special_tokens_first(documents: list[str]) -> None:
    tokenizer = train_tokenizer(lambda: iter(documents), 150)
    assert len(tokenizer) == 150
    assert tokenizer.convert_ids_to_tokens(list(range(5))) == SPECIAL_TOKENS
    assert tokenizer.tokenize("The SPARSE networks") == tokenizer.tokenize("the sparse networks")
    assert tokenizer.unk_token_id not in tokenizer(documents[0]).input_ids


def test_the_alphabet_is_the_most_frequent_characters() -> None:
    frequent = [chr(0x4E00 + number) for number in range(ALPHABET_SIZE)]
    tokens = train_tokenizer(lambda: iter(["".join(frequent), "".join(frequent), "q"]), 2000).get_vocab()
    assert {token for token in tokens if len(token) == 1} == set(frequent)


def test_a_trained_tokenizer_is_trained_once_for_each_corpus_and_size(cache_dir: Path, documents: list[str]) -> None:
    def untouched() -> Iterator[str]:
        raise AssertionError("trained again")

    first = cached_tokenizer(lambda: iter(documents), "corpus", 100, cache_dir)
    again = cached_tokenizer(untouched, "corpus", 100, cache_dir)
    assert again.get_vocab() == first.get_vocab()
    for fingerprint, size in (("another", 100), ("corpus", 101)):
        with pytest.raises(AssertionError, match="trained again"):
            cached_tokenizer(untouched, fingerprint, size, cache_dir)


def test_a_trained_tokenizer_that_was_cut_short_is_trained_again(cache_dir: Path, documents: list[str]) -> None:
    first = cached_tokenizer(lambda: iter(documents), "corpus", 100, cache_dir)
    (file,) = cache_dir.glob("tokenizer-*/tokenizer.json")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="tokenizer-.*: this part of the cache is not whole"):
        again = cached_tokenizer(lambda: iter(documents), "corpus", 100, cache_dir)
    assert again.get_vocab() == first.get_vocab()


def test_the_smallest_vocabulary_holds_special_tokens_and_the_alphabet() -> None:
    texts = ["ab", "a b cb"]
    expected = {*SPECIAL_TOKENS, "a", "b", "c", "##b"}
    assert set(train_tokenizer(lambda: iter(texts), 9).get_vocab()) == expected
    with pytest.raises(ValueError, match="vocabulary_size of 9 or more expected for this corpus, got 8"):
        train_tokenizer(lambda: iter(texts), 8)


def test_unknown_tokens_are_a_share_of_those_that_are_no_separators(tokenizer_dir: Path) -> None:
    tokenizer = load_tokenizer(str(tokenizer_dir))
    counts = np.zeros(len(tokenizer), np.int64)
    assert unknown_share(counts, tokenizer) == 0
    counts[[tokenizer.unk_token_id, tokenizer.sep_token_id, 7]] = 3, 100, 9
    assert unknown_share(counts, tokenizer) == 0.25


def test_a_fingerprint_of_many_sources_is_no_file_name(cache_dir: Path, documents: list[str]) -> None:
    assert len(cached_tokenizer(lambda: iter(documents), "fingerprint-" * 100, 100, cache_dir)) == 100


def test_a_saved_tokenizer_and_its_vocabulary_file_give_the_same_ids(tmp_path: Path, tokenizer_dir: Path) -> None:
    saved = load_tokenizer(str(tokenizer_dir))
    entries = sorted(saved.get_vocab(), key=saved.get_vocab().get)
    (file := tmp_path / "vocab.txt").write_text("\n".join(entries) + "\n")
    assert load_tokenizer(str(file))("The sparse networks.").input_ids == saved("The sparse networks.").input_ids


@pytest.mark.parametrize(("words", "ids"), [(["paris", "a", "##b"], [5, 5, 7]), (["Paris", "paris", "##b"], [5, 6, 6])])
def test_a_vocabulary_with_capitals_is_not_lowercased(tmp_path: Path, words: list[str], ids: list[int]) -> None:
    (file := tmp_path / "vocab.txt").write_text("\n".join(SPECIAL_TOKENS + words))
    assert load_tokenizer(str(file))("Paris paris parisb", add_special_tokens=False).input_ids[:2] == ids[:2]


def test_a_text_file_that_is_no_vocabulary_is_refused(tmp_path: Path) -> None:
    (file := tmp_path / "notes.txt").write_text("[PAD]\n[UNK]\nhello world\n")
    with pytest.raises(ValueError, match=r"notes\.txt: not a WordPiece vocabulary.*: \[CLS\], \[SEP\], \[MASK\] missing"):
        load_tokenizer(str(file))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n".join([*SPECIAL_TOKENS, "a", "b", "a"]).encode(), "line 8: 'a' is in line 6 already"),
        ("\n".join([*SPECIAL_TOKENS, "a", "", "b"]).encode(), "line 7 is empty"),
        ("\n".join([*SPECIAL_TOKENS, "a"]).encode() + b"\n\n", "line 7 is empty"),
        ("\n".join([*SPECIAL_TOKENS, "größer"]).encode("latin-1"), "not UTF-8"),
    ],
)
def test_a_vocabulary_has_every_token_once(tmp_path: Path, content: bytes, message: str) -> None:
    (file := tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"vocab\.txt: {message}"):
        load_tokenizer(str(file))


def test_a_cached_tokenizer_without_its_vocabulary_is_made_again(cache_dir: Path, documents: list[str]) -> None:
    before = tokenizer_fingerprint(cached_tokenizer(lambda: iter(documents), "text", 100, cache_dir))
    (file,) = cache_dir.glob("tokenizer-*/tokenizer.json")
    file.unlink()
    with pytest.warns(UserWarning, match=r"not whole \(.*no tokenizer.json\); it is made again"):
        again = cached_tokenizer(lambda: iter(documents), "text", 100, cache_dir)
    assert tokenizer_fingerprint(again) == before


BYTE_LEVEL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


@pytest.fixture
def byte_level(documents: list[str]) -> ByteLevelBPETokenizer:
    """Trained on a text in which ``##`` is a word, as it is in Markdown."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([*documents, "## Heading\n" * 100], 400, special_tokens=BYTE_LEVEL, show_progress=False)
    return trained


def test_a_byte_level_tokenizer_reads_words_as_it_reads_text(tmp_path: Path, byte_level: ByteLevelBPETokenizer) -> None:
    byte_level.save_model(str(tmp_path))
    files = {"vocab": str(tmp_path / "vocab.json"), "merges": str(tmp_path / "merges.txt")}
    tokenizer = RobertaTokenizer(**files)
    words = ["the", "sparse", "networks"]
    apart = of_single_words(tokenizer)(words, is_split_into_words=True).input_ids
    assert apart == tokenizer(" " + " ".join(words)).input_ids
    assert tokenizer(words, is_split_into_words=True).input_ids != apart  # the one given is as it was
    spaced = RobertaTokenizer(**files, add_prefix_space=True)
    assert of_single_words(spaced) is spaced


def test_continuations_are_those_of_the_tokenizers_model(byte_level: ByteLevelBPETokenizer) -> None:
    special = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token", "mask_token"), BYTE_LEVEL, strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level._tokenizer, **special)
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    assert any(token.startswith("##") for token in tokens)
    continues = [token not in BYTE_LEVEL and not token.startswith("Ġ") for token in tokens]
    assert vocabulary(tokenizer).continues_word.tolist() == continues


def test_finetuning_needs_padding_and_special_tokens_and_no_mask(
    tmp_path: Path, byte_level: ByteLevelBPETokenizer, tokenizer_dir: Path
) -> None:
    special = {"cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=byte_level._tokenizer, **special).save_pretrained(tmp_path / "no_pad")
    with pytest.raises(ValueError, match="no_pad: finetuning needs padding, class and separator tokens"):
        load_tokenizer(str(tmp_path / "no_pad"), finetuning=True)
    bare = PreTrainedTokenizerFast(tokenizer_object=byte_level._tokenizer, pad_token="<pad>", **special)
    bare.save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="bare: the tokenizer puts no special tokens around a pair of texts"):
        load_tokenizer(str(tmp_path / "bare"), finetuning=True)
    with pytest.raises(ValueError, match="a masked language model needs mask, class and separator tokens"):
        load_tokenizer(str(tmp_path / "bare"))
    assert load_tokenizer(str(tokenizer_dir), finetuning=True).mask_token_id is not None


def test_finetuning_needs_the_class_token_first(tmp_path: Path, byte_level: ByteLevelBPETokenizer) -> None:
    special = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level._tokenizer, **special)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A </s> <s>", pair="$A </s> $B </s> <s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save_pretrained(tmp_path / "last")
    with pytest.raises(ValueError, match="last: finetuning needs the class token before a text"):
        load_tokenizer(str(tmp_path / "last"), finetuning=True)


def test_a_tokenizer_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt: no such vocabulary file"):
        load_tokenizer("nowhere.txt")
    with pytest.raises(ValueError, match=f"{tmp_path}: no tokenizer there"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="nobody/nothing: neither a tokenizer on this machine .* nor on the hub"):
        load_tokenizer("nobody/nothing")
    with pytest.raises(FileNotFoundError, match="/no/such/place: no such file or directory, where a tokenizer is expected"):
        load_tokenizer("/no/such/place")


def test_the_fingerprint_is_of_the_ids_and_not_of_the_last_call(tokenizer_dir: Path) -> None:
    tokenizer = load_tokenizer(str(tokenizer_dir))
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["the sparse networks", "a"], truncation=True, max_length=4, padding="max_length")
    assert tokenizer_fingerprint(tokenizer) == before
    tokenizer.add_tokens(["trifecta"])
    assert tokenizer_fingerprint(tokenizer) != before


def test_masking_knows_special_tokens_and_continuations(tokenizer_dir: Path) -> None:
    tokenizer = load_tokenizer(str(tokenizer_dir))
    found = vocabulary(tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    assert (found.size, found.mask_id) == (len(tokens), tokens.index("[MASK]"))
    assert found.special.tolist() == [token in SPECIAL_TOKENS for token in tokens]
    assert found.continues_word.tolist() == [token.startswith("##") for token in tokens]
