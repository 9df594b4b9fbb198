"""Text becomes tokens once: two memory-mapped integer files (training, validation) in a cache keyed by content.

Documents are joined into one stream, each ended by the separator token, so that a sample of any length is a slice.
"""

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from transformers import PreTrainedTokenizerFast

from datamodules.cache import build_once
from datamodules.documents import Piece
from datamodules.sources import OpenSource
from datamodules.tokenizers import tokenizer_fingerprint

FORMAT = 2
DTYPES = ("<u2", "<u4")
BATCH_CHARACTERS = 8 << 20


@dataclass(frozen=True)
class TokenStream:
    """Tokens of all documents of a split, one after the other, memory-mapped when first read.

    Args:
        file: raw little-endian integers.
        dtype: uint16 or uint32.
    """

    file: Path
    dtype: str

    @cached_property
    def tokens(self) -> NDArray[np.unsignedinteger]:
        """All tokens, (n,)."""
        return np.memmap(self.file, dtype=self.dtype, mode="r")

    def __getstate__(self) -> dict[str, object]:
        return {"file": self.file, "dtype": self.dtype}  # a pickled memory map would carry the corpus

    def counts(self, size: int) -> NDArray[np.int64]:
        """How often each of ``size`` token ids occurs."""
        chunk = 1 << 24
        starts = range(0, len(self.tokens), chunk)
        return sum(
            (np.bincount(self.tokens[start : start + chunk], minlength=size) for start in starts), np.zeros(size, np.int64)
        )


@dataclass(frozen=True)
class TokenCorpus:
    """A corpus in the cache: its two streams, the token counts of the training stream, and how many documents both have."""

    train: TokenStream
    validation: TokenStream
    train_counts: NDArray[np.int64]
    documents: int


def token_corpus(
    sources: list[OpenSource], tokenizer: PreTrainedTokenizerFast, validation_share: float, cache_dir: Path
) -> TokenCorpus:
    """The cached tokens of ``sources``, built if they are not there.

    Args:
        validation_share: share of the documents held out; the same documents whatever their order, and documents of the
            same tokens together.

    Raises:
        ValueError: no text, or fewer different documents than a held-out split needs.
    """
    identity = [FORMAT, [source.fingerprint for source in sources], tokenizer_fingerprint(tokenizer), validation_share]
    key = hashlib.blake2b(json.dumps(identity).encode(), digest_size=12).hexdigest()
    return build_once(
        cache_dir / f"tokens-{key}",
        build=lambda to: _build(sources, tokenizer, validation_share, to),
        load=lambda directory: _load(directory, len(tokenizer)),
    )


def _load(directory: Path, vocabulary_size: int) -> TokenCorpus:
    """A corpus in the cache; KeyError, OSError or ValueError if its files are not those that were written."""
    meta = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
    if (
        not isinstance(meta, dict)
        or meta["dtype"] not in DTYPES
        or not all(isinstance(meta[key], int) for key in ("tokens", "documents"))
    ):
        raise ValueError("meta.json is not what was written")
    counts = np.load(directory / "train_counts.npy", allow_pickle=False)
    if counts.shape != (vocabulary_size,):
        raise ValueError(f"train_counts.npy counts {counts.shape} tokens, ({vocabulary_size},) expected")
    train, validation = (TokenStream(directory / f"{split}.bin", meta["dtype"]) for split in ("train", "validation"))
    expected = {train: int(counts.sum()), validation: meta["tokens"] - int(counts.sum())}
    for stream, tokens in expected.items():
        size = stream.file.stat().st_size
        if size != tokens * np.dtype(stream.dtype).itemsize:
            raise ValueError(f"{stream.file.name} has {size} bytes, {tokens} tokens expected")
    return TokenCorpus(train, validation, counts, meta["documents"])


def _build(sources: list[OpenSource], tokenizer: PreTrainedTokenizerFast, validation_share: float, directory: Path) -> None:
    dtype = DTYPES[len(tokenizer) > 1 << 16]
    everything = TokenStream(directory / "all.bin", dtype)
    pieces = (piece for source in sources for piece in source.pieces())
    ends, digests = _write_tokens(pieces, tokenizer, everything)
    if not len(ends):
        raise ValueError("the corpus is empty: no source has a line of text")
    held_out = _held_out(digests, validation_share)

    train, validation = (TokenStream(directory / f"{split}.bin", dtype) for split in ("train", "validation"))
    starts = np.concatenate([[0], ends[:-1]])
    with train.file.open("wb") as train_file, validation.file.open("wb") as validation_file:
        for start, end, out in zip(starts.tolist(), ends.tolist(), held_out.tolist(), strict=True):
            everything.tokens[start:end].tofile(validation_file if out else train_file)
    np.save(directory / "train_counts.npy", train.counts(len(tokenizer)))
    everything.file.unlink()
    meta = {"dtype": dtype, "documents": len(ends), "held_out": int(held_out.sum()), "tokens": int(ends[-1])}
    (directory / "meta.json").write_text(json.dumps(meta) + "\n", encoding="utf-8")


def _write_tokens(
    pieces: Iterable[Piece], tokenizer: PreTrainedTokenizerFast, stream: TokenStream
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Write all tokens; return where each document ends and a digest of its tokens. Threads of the tokenizer encode."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    ends, digests = array("q"), array("Q")
    written, digest = 0, hashlib.blake2b(digest_size=8)
    columns = (SpinnerColumn(), TextColumn("Tokenizing: {task.completed:,} tokens"), TimeElapsedColumn())
    console = Console(stderr=True)
    shown = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with stream.file.open("wb") as file, shown as progress:
        task = progress.add_task("", total=None)
        for batch in _batches(pieces):
            encodings = backend.encode_batch_fast([text for text, _ in batch], add_special_tokens=False)
            for encoding, (_, ends_document) in zip(encodings, batch, strict=True):
                ids = encoding.ids + [tokenizer.sep_token_id] * ends_document
                data = np.asarray(ids, dtype=stream.dtype).tobytes()
                file.write(data)
                digest.update(data)
                written += len(ids)
                if ends_document:
                    ends.append(written)
                    digests.append(int.from_bytes(digest.digest(), "little"))
                    digest = hashlib.blake2b(digest_size=8)
            progress.update(task, completed=written)
    return np.frombuffer(ends, np.int64), np.frombuffer(digests, np.uint64)


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


def _held_out(digests: NDArray[np.uint64], share: float) -> NDArray[np.bool_]:
    """Documents held out: those with the lowest digests, and all of a digest together.

    Where several documents are the same, they are held out if they still fit into the share, or else left for training; if
    none fit, the fewest possible are held out.
    """
    texts, text_of, copies = np.unique(digests, return_inverse=True, return_counts=True)
    if len(texts) < 2:
        raise ValueError(
            f"the corpus has {len(texts)} document{f', {len(digests)} times' * (len(digests) > 1)}; validation is held out by "
            "document, so it needs two that differ: separate documents by an empty line, or add files"
        )
    room = min(max(1, round(share * len(digests))), len(digests) - 1)
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
