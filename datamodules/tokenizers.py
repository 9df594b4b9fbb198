"""Tokenizers: loaded from a directory, a ``vocab.txt`` or the hub, or a WordPiece vocabulary trained on the corpus."""

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import BertWordPieceTokenizer, Tokenizer
from transformers import BertTokenizer, PreTrainedTokenizerFast

from datamodules.cache import build_once
from datamodules.masking import Vocabulary
from hub import local_or_hub
from pretrained import read_tokenizer

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ALPHABET_SIZE = 1000
SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + 26


def load_tokenizer(path: str, finetuning: bool = False) -> PreTrainedTokenizerFast:
    """A fast tokenizer from a ``save_pretrained`` directory, a WordPiece ``vocab.txt`` or a hub id.

    Args:
        path: of one of these.
        finetuning: it is to put class and separator tokens around texts and to pad them; else, to mask them.

    Raises:
        FileNotFoundError: no such directory or file, and no such id.
        ValueError: no tokenizer there, or one without the tokens it takes or without a fast version.
    """
    file = Path(path).expanduser()
    if file.suffix == ".txt":
        if not file.is_file():
            raise FileNotFoundError(f"{path}: no such vocabulary file")
        return _load_vocabulary(file)
    found = local_or_hub(path, "tokenizer")
    tokenizer = read_tokenizer(found)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(f"{path}: {type(tokenizer).__name__} has no fast version, which the token cache needs")
    if not finetuning and None in (tokenizer.mask_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id):
        raise ValueError(f"{path}: a masked language model needs mask, class and separator tokens")
    if finetuning and None in (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id):
        raise ValueError(f"{path}: finetuning needs padding, class and separator tokens")
    if finetuning and not tokenizer.num_special_tokens_to_add(pair=True):
        raise ValueError(f"{path}: the tokenizer puts no special tokens around a pair of texts: it has no post-processor")
    if finetuning and tokenizer("", "").input_ids[0] != tokenizer.cls_token_id:
        raise ValueError(f"{path}: finetuning needs the class token before a text, where the tokenizer does not put it")
    return tokenizer


def _load_vocabulary(file: Path) -> BertTokenizer:
    try:
        entries = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8: {error}") from error
    seen: dict[str, int] = {}
    for line, entry in enumerate(entries, 1):
        if not entry:
            raise ValueError(f"{file}: line {line} is empty; one token a line expected")
        if (first := seen.setdefault(entry, line)) != line:
            raise ValueError(f"{file}: line {line}: {entry!r} is in line {first} already")
    if missing := [token for token in SPECIAL_TOKENS if token not in entries]:
        raise ValueError(f"{file}: not a WordPiece vocabulary, one token a line: {', '.join(missing)} missing")
    cased = any(entry != entry.lower() for entry in entries if not entry.startswith("["))
    return BertTokenizer(vocab=str(file), do_lower_case=not cased)


def train_tokenizer(texts: Callable[[], Iterator[str]], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer of ``vocabulary_size`` entries; the same texts give the same vocabulary.

    The trainer cuts a large alphabet among equally rare characters in hash order, numbers word-internal characters in hash
    order and breaks ties between merges by number, which would give another vocabulary at every run. So the alphabet is
    counted here, a first training finds the word-internal characters, and a second gets them sorted.

    Raises:
        ValueError: no text, or a vocabulary that cannot hold the special tokens and the alphabet.
    """
    alphabet = _frequent_characters(texts())
    if not alphabet:
        raise ValueError("the corpus is empty: no source has a line of text")

    def train(size: int, first: list[str]) -> BertWordPieceTokenizer:
        trainer = BertWordPieceTokenizer(lowercase=True)
        trainer.train_from_iterator(
            texts(),
            vocab_size=size,
            special_tokens=first,
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            show_progress=False,
        )
        return trainer

    internal = sorted(token for token in train(1, SPECIAL_TOKENS).get_vocab() if token.startswith("##"))
    smallest = len(SPECIAL_TOKENS) + len(alphabet) + len(internal)
    if vocabulary_size < smallest:
        raise ValueError(
            f"vocabulary_size of {smallest} or more expected for this corpus, got {vocabulary_size}: {len(SPECIAL_TOKENS)} "
            f"special tokens, {len(alphabet)} characters, and {len(internal)} of them within words"
        )
    return BertTokenizer(vocab=train(vocabulary_size, SPECIAL_TOKENS + internal).get_vocab())


def _frequent_characters(texts: Iterator[str]) -> list[str]:
    """The ``ALPHABET_SIZE`` most frequent characters after normalisation; equally frequent ones by code point."""
    normalize = BertWordPieceTokenizer(lowercase=True).normalize
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalize(text))
    return sorted(counts.keys() - {" "}, key=lambda character: (-counts[character], character))[:ALPHABET_SIZE]


def cached_tokenizer(
    texts: Callable[[], Iterator[str]], fingerprint: str, vocabulary_size: int, cache_dir: Path
) -> PreTrainedTokenizerFast:
    """:func:`train_tokenizer`, once for each corpus and size."""
    key = hashlib.blake2b(f"{fingerprint} {vocabulary_size}".encode(), digest_size=12).hexdigest()
    directory = cache_dir / f"tokenizer-{key}"
    return build_once(
        directory,
        build=lambda to: train_tokenizer(texts, vocabulary_size).save_pretrained(to),
        load=_load_saved,
    )


def _load_saved(directory: Path) -> PreTrainedTokenizerFast:
    if not (directory / "tokenizer.json").is_file():  # without it transformers makes one of special tokens alone
        raise FileNotFoundError(f"{directory}: no tokenizer.json")
    return load_tokenizer(str(directory))


def of_single_words(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer for texts that come as lists of words: a byte-level one puts the space before each that text has there.

    Without ``add_prefix_space`` it would read the words as one.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    before = state["pre_tokenizer"] or {}
    byte_level = [part for part in before.get("pretokenizers", [before]) if part.get("type") == "ByteLevel"]
    if all(part["add_prefix_space"] for part in byte_level):
        return tokenizer
    for part in byte_level:
        part["add_prefix_space"] = True
    spaced = copy.deepcopy(tokenizer)
    spaced.backend_tokenizer.pre_tokenizer = Tokenizer.from_str(json.dumps(state)).pre_tokenizer
    return spaced


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """Changes when the tokenizer would give other ids; truncation and padding, left by its last call, do not count."""
    state = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    return hashlib.blake2b(json.dumps(state).encode(), digest_size=16).hexdigest()


def unknown_share(counts: NDArray[np.int64], tokenizer: PreTrainedTokenizerFast) -> float:
    """Share of unknown tokens in a text, (V,) ``counts`` of which are given; separators do not count."""
    if tokenizer.unk_token_id is None or tokenizer.unk_token_id == tokenizer.sep_token_id:
        return 0.0
    return float(counts[tokenizer.unk_token_id] / max(1, counts.sum() - counts[tokenizer.sep_token_id]))


def vocabulary(tokenizer: PreTrainedTokenizerFast) -> Vocabulary:
    """What masking needs of a tokenizer; WordPiece marks continuations, by ``##``, byte-level BPE word starts, by ``Ġ``."""
    size = len(tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(list(range(size)))
    special = np.isin(np.arange(size), tokenizer.all_special_ids)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if model["type"] == "WordPiece":
        continues = np.array([token.startswith(model["continuing_subword_prefix"]) for token in tokens])
    else:
        continues = np.array([not token.startswith(("Ġ", "▁")) for token in tokens])
    return Vocabulary(size, tokenizer.mask_token_id, special, continues & ~special)
