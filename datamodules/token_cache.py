"""Text becomes tokens once: a memory-mapped integer file for each split, in a cache keyed by content.

Documents are joined into one stream, each ended by the separator token, so that a sample of any length is a slice.
"""

import dataclasses
import hashlib
import json
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from tokenizers import Encoding
from transformers import PreTrainedTokenizerFast

from datamodules.cache import build_once
from datamodules.documents import Piece
from datamodules.sources import OpenSource
from datamodules.tokenizers import tokenizer_fingerprint

FORMAT = 5
NPY_HEADER = 4096  # bytes, at most
DTYPES = ("<u2", "<u4")
SPLITS = ("train", "validation", "test")
BATCH_CHARACTERS = 4 << 20  # of text; the encodings of two batches are held at a time


@dataclass(frozen=True)
class TextSize:
    """How much text a split is, whatever the tokenizer; of ``.txt`` without the space around its lines.

    Args:
        documents: how many.
        words: what stands between white space (``str.split``); one beyond a million characters counts more than once.
        characters: Unicode code points, white space among them, line feeds and carriage returns not.
    """

    documents: int
    words: int
    characters: int


@dataclass(frozen=True)
class TokenStream:
    """Tokens of all documents of a split, one after the other, memory-mapped when first read.

    Args:
        file: raw little-endian integers.
        dtype: uint16 or uint32.
        size: of the text.
    """

    file: Path
    dtype: str
    size: TextSize

    @cached_property
    def tokens(self) -> NDArray[np.unsignedinteger]:
        """All tokens, (n,)."""
        return np.memmap(self.file, dtype=self.dtype, mode="r")

    @property
    def digests(self) -> NDArray[np.uint64]:
        """Of the tokens of each document, (documents,): documents that have one are the same."""
        return np.load(self.file.with_suffix(".npy"), allow_pickle=False)

    @property
    def text_tokens(self) -> int:
        """How many tokens there are but for the separators, one a document."""
        return len(self.tokens) - self.size.documents

    def __getstate__(self) -> dict[str, object]:
        state = self.__dict__.items()  # a pickled memory map would carry the corpus
        return {name: value for name, value in state if name != "tokens"}

    def counts(self, size: int) -> NDArray[np.int64]:
        """How often each of ``size`` token ids occurs."""
        chunk = 1 << 24
        starts = range(0, len(self.tokens), chunk)
        return sum(
            (np.bincount(self.tokens[start : start + chunk], minlength=size) for start in starts), np.zeros(size, np.int64)
        )


@dataclass(frozen=True)
class TokenCorpus:
    """A corpus in the cache.

    Args:
        splits: ``train``, and ``validation`` and ``test`` where they are held out.
        train_counts: how often each token occurs in ``train``, (V,).
    """

    splits: dict[str, TokenStream]
    train_counts: NDArray[np.int64]

    @property
    def train(self) -> TokenStream:
        """All that is not held out."""
        return self.splits["train"]

    @property
    def fingerprint(self) -> str:
        """Changes with the text, the tokenizer, and what is held out."""
        return self.train.file.parent.name


def token_corpus(
    sources: list[OpenSource],
    tokenizer: PreTrainedTokenizerFast,
    cache_dir: Path,
    validation_share: float = 0.0,
    test_share: float = 0.0,
) -> TokenCorpus:
    """The cached tokens of ``sources``, built if they are not there.

    Args:
        validation_share: share of the documents held out for validation, 0 for none; the same documents whatever their
            order and the test's share, and documents of the same tokens together.
        test_share: likewise, of the documents that are not for validation.

    Raises:
        ValueError: no text, or fewer different documents than held-out splits need.
    """
    shares = (validation_share, test_share)
    identity = [FORMAT, [source.fingerprint for source in sources], tokenizer_fingerprint(tokenizer), *map(float, shares)]
    key = hashlib.blake2b(json.dumps(identity).encode(), digest_size=12).hexdigest()
    return build_once(
        cache_dir / f"tokens-{key}",
        build=lambda to: _build(sources, tokenizer, *shares, to),
        load=lambda directory: _load(directory, len(tokenizer)),
    )


def _load(directory: Path, vocabulary_size: int) -> TokenCorpus:
    """A corpus in the cache; KeyError, OSError or ValueError if its files are not those that were written."""
    meta = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
    if not isinstance(meta, dict) or meta["dtype"] not in DTYPES or not isinstance(meta["splits"], dict):
        raise ValueError("meta.json is not what was written")
    if meta["splits"].keys() - set(SPLITS):
        raise ValueError("meta.json names other splits than were written")
    # Mapped and small: a header may ask for any memory.
    if (found := (directory / "train_counts.npy").stat().st_size) > 8 * vocabulary_size + NPY_HEADER:
        raise ValueError(f"train_counts.npy has {found} bytes, {vocabulary_size} counts expected")
    counts = np.load(directory / "train_counts.npy", mmap_mode="r", allow_pickle=False)
    if counts.dtype != np.int64 or counts.shape != (vocabulary_size,):
        raise ValueError(f"train_counts.npy counts {counts.shape} tokens, ({vocabulary_size},) expected")
    splits = {name: _load_split(directory / f"{name}.bin", meta["dtype"], size) for name, size in meta["splits"].items()}
    if int(counts.sum()) != (tokens := meta["splits"]["train"]["tokens"]):
        raise ValueError(f"train_counts.npy counts {counts.sum()} tokens, train.bin has {tokens}")
    return TokenCorpus(splits, np.array(counts))


def _load_split(file: Path, dtype: str, meta: Any) -> TokenStream:
    keys = ("tokens", "documents", "words", "characters", "crc32")
    if not isinstance(meta, dict) or not all(isinstance(meta[key], int) for key in keys):
        raise ValueError("meta.json is not what was written")
    tokens, *size, crc = (meta[key] for key in keys)
    found = file.stat().st_size
    if found != tokens * np.dtype(dtype).itemsize:
        raise ValueError(f"{file.name} has {found} bytes, {tokens} tokens expected")
    if crc32_of(file) != crc:
        raise ValueError(f"{file.name} does not have the checksum it was written with")
    stream = TokenStream(file, dtype, TextSize(*size))
    if stream.digests.shape != (stream.size.documents,):
        raise ValueError(f"{file.stem}.npy has {stream.digests.shape} digests, ({stream.size.documents},) expected")
    return stream


def crc32_of(file: Path) -> int:
    """The checksum of a file's bytes: a second for every gigabyte or two, and what is read is in memory for the training."""
    checksum = 0
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


@dataclass(frozen=True)
class _Documents:
    """Where each document of a stream ends, a digest of its tokens, and how much text it is; all (documents,)."""

    ends: NDArray[np.int64]
    digests: NDArray[np.uint64]
    words: NDArray[np.int64]
    characters: NDArray[np.int64]


def _build(
    sources: list[OpenSource],
    tokenizer: PreTrainedTokenizerFast,
    validation_share: float,
    test_share: float,
    directory: Path,
) -> None:
    dtype, everything = DTYPES[len(tokenizer) > 1 << 16], directory / "all.bin"
    pieces = (piece for source in sources for piece in source.pieces())
    documents = _write_tokens(pieces, tokenizer, everything, dtype)
    if not len(documents.ends):
        raise ValueError("the corpus is empty: no source has a line of text")
    split_of = _splits(documents.digests, validation_share, test_share)

    tokens, starts = np.memmap(everything, dtype=dtype, mode="r"), np.concatenate([[0], documents.ends[:-1]])
    streams: dict[str, TokenStream] = {}
    for number in np.unique(split_of).tolist():
        own, name = split_of == number, SPLITS[number]
        size = TextSize(int(own.sum()), int(documents.words[own].sum()), int(documents.characters[own].sum()))
        streams[name] = TokenStream(directory / f"{name}.bin", dtype, size)
        np.save(streams[name].file.with_suffix(".npy"), documents.digests[own])
        with streams[name].file.open("wb") as file:
            for start, end in zip(starts[own].tolist(), documents.ends[own].tolist(), strict=True):
                tokens[start:end].tofile(file)
    np.save(directory / "train_counts.npy", streams["train"].counts(len(tokenizer)))
    everything.unlink()
    splits = {
        name: {"tokens": len(stream.tokens), "crc32": crc32_of(stream.file)} | dataclasses.asdict(stream.size)
        for name, stream in streams.items()
    }
    (directory / "meta.json").write_text(json.dumps({"dtype": dtype, "splits": splits}) + "\n", encoding="utf-8")


def _write_tokens(pieces: Iterable[Piece], tokenizer: PreTrainedTokenizerFast, to: Path, dtype: str) -> _Documents:
    """Write all tokens. Threads of the tokenizer encode a batch while the one before it is written."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()

    def encode(batch: list[Piece]) -> list[Encoding]:
        return backend.encode_batch_fast([text for text, _ in batch], add_special_tokens=False)

    ends, digests, words, characters = array("q"), array("Q"), array("q"), array("q")
    written, word_count, character_count, digest = 0, 0, 0, hashlib.blake2b(digest_size=8)
    columns = (SpinnerColumn(), TextColumn("Tokenizing: {task.completed:,} tokens"), TimeElapsedColumn())
    console = Console(stderr=True)
    shown = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with to.open("wb") as file, shown as progress:
        task = progress.add_task("", total=None)
        for batch, encodings in _ahead(_batches(pieces), encode):
            for encoding, (text, ends_document) in zip(encodings, batch, strict=True):
                ids = encoding.ids + [tokenizer.sep_token_id] * ends_document
                data = np.asarray(ids, dtype=dtype).tobytes()
                file.write(data)
                digest.update(data)
                written += len(ids)
                word_count += len(text.split())
                character_count += len(text) - text.count("\n") - text.count("\r")
                if ends_document:
                    ends.append(written)
                    digests.append(int.from_bytes(digest.digest(), "little"))
                    words.append(word_count)
                    characters.append(character_count)
                    digest, word_count, character_count = hashlib.blake2b(digest_size=8), 0, 0
            progress.update(task, completed=written)
    arrays = (np.frombuffer(ends, np.int64), np.frombuffer(digests, np.uint64))
    return _Documents(*arrays, np.frombuffer(words, np.int64), np.frombuffer(characters, np.int64))


def _ahead(
    batches: Iterable[list[Piece]], encode: Callable[[list[Piece]], list[Encoding]]
) -> Iterator[tuple[list[Piece], list[Encoding]]]:
    """Each batch with its encodings, while those of the next are being made."""
    before: tuple[list[Piece], Future[list[Encoding]]] | None = None
    with ThreadPoolExecutor(1) as pool:
        for batch in batches:
            coming = batch, pool.submit(encode, batch)
            if before is not None:
                yield before[0], before[1].result()
            before = coming
        if before is not None:
            yield before[0], before[1].result()


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece[0])
        if size > BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _splits(digests: NDArray[np.uint64], validation_share: float, test_share: float) -> NDArray[np.int8]:
    """The split of each document, a position in ``SPLITS``.

    Validation has the documents with the lowest digests, the test those with the highest: neither changes with the share of
    the other, as long as they do not meet.
    """
    split_of = np.zeros(len(digests), np.int8)
    for number, share, keys in ((1, validation_share, digests), (2, test_share, ~digests)):
        if share:
            rest = np.flatnonzero(split_of == 0)
            split_of[rest[_held_out(keys[rest], round(share * len(digests)), SPLITS[number])]] = number
    return split_of


def _held_out(digests: NDArray[np.uint64], count: int, split: str) -> NDArray[np.bool_]:
    """``count`` documents that are held out, at least one and not all: those with the lowest digests, all of one together.

    Where several documents are the same, they are held out if they still fit into the count, or else left for training; if
    none fit, the fewest possible are held out.
    """
    texts, text_of, copies = np.unique(digests, return_inverse=True, return_counts=True)
    if len(texts) < 2:
        raise ValueError(
            f"the corpus has 1 document{f', {len(digests)} times,' * (len(digests) > 1)} to hold {split} out of, which needs two "
            "that differ: separate documents by an empty line, or add files"
        )
    room = min(max(1, count), len(digests) - 1)
    held_out = np.zeros(len(texts), dtype=bool)
    waiting = np.arange(len(texts))
    while len(waiting := waiting[copies[waiting] <= room]):
        taken = waiting[: np.searchsorted(np.cumsum(copies[waiting]), room, side="right")]
        held_out[taken] = True
        room -= int(copies[taken].sum())
        waiting = waiting[len(taken) :]
    if not held_out.any():
        held_out[np.argmin(copies)] = True
    return held_out[text_of]
