"""Masked-language-model batches from text."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from transformers import PreTrainedTokenizerFast

from datamodules.masking import Masking, Vocabulary, mask_tokens
from datamodules.sources import OpenSource, open_source, text_source
from datamodules.token_cache import TokenCorpus, TokenStream, token_corpus
from datamodules.tokenizers import cached_tokenizer, load_tokenizer, vocabulary
from objectives.masked_lm import IGNORE_INDEX, unigram_log_probabilities

NULL_EXAMPLE = -1
VALIDATION_SEED = 0


class MaskedLMBatch(TypedDict):
    """``input_ids`` (batch, length), ``positions`` and ``labels`` (batch, masked), all int64."""

    input_ids: Tensor
    positions: Tensor
    labels: Tensor


class MaskedLMDataset(Dataset[MaskedLMBatch]):
    """Slices of a token stream between a class and a separator token, masked on the fly.

    An index counts through epochs: ``epoch · len(self) + example``. ``NULL_EXAMPLE`` has the shape of an example and no
    label that counts. The last slice ends where the stream ends, and so shares some tokens with the one before.

    Args:
        stream: tokens of the split.
        length: tokens a sequence, special ones included.
        tokenizer: gives the class and separator tokens.
        masking: how examples are masked.
        seed: of the masks.
    """

    def __init__(
        self, stream: TokenStream, length: int, tokenizer: PreTrainedTokenizerFast, masking: Masking, seed: int
    ) -> None:
        self.stream, self.masking, self.seed = stream, masking, seed
        self.window = min(length - 2, len(stream.tokens))
        self.vocabulary: Vocabulary = vocabulary(tokenizer)
        self.first, self.last = tokenizer.cls_token_id, tokenizer.sep_token_id

    def __len__(self) -> int:
        return -(-len(self.stream.tokens) // self.window)

    def __getitem__(self, index: int) -> MaskedLMBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> MaskedLMBatch:
        """The whole batch of ``indices`` at once."""
        epochs, examples = np.divmod(np.asarray(indices, dtype=np.int64), len(self))
        null = epochs < 0
        starts = np.minimum(examples * self.window, len(self.stream.tokens) - self.window)
        slices = self.stream.tokens[starts[:, None] + np.arange(self.window)]
        tokens = np.pad(slices.astype(np.int64), ((0, 0), (1, 1)), constant_values=((0, 0), (self.first, self.last)))
        epochs = np.where(null, 0, epochs)
        input_ids, positions, labels = mask_tokens(tokens, self.masking, self.vocabulary, self.seed, epochs, examples)
        labels[null] = IGNORE_INDEX
        return MaskedLMBatch(
            input_ids=torch.from_numpy(input_ids), positions=torch.from_numpy(positions), labels=torch.from_numpy(labels)
        )


class StreamSampler(DistributedSampler):
    """An endless shuffled stream of indices, of which every batch is a function of its number.

    Epoch e of the stream is a permutation drawn from (seed, e). Batch b of all ranks together is the same set of examples
    for any number of ranks and any accumulation, and can start at any b.

    Args:
        size: examples in the dataset.
        batch_size: examples a rank and batch.
        batches: length of the stream in batches.
        rank: of this process.
        ranks: number of processes.
        seed: of the permutations.
    """

    def __init__(self, size: int, batch_size: int, batches: int, rank: int, ranks: int, seed: int) -> None:
        super().__init__(range(size), num_replicas=ranks, rank=rank)
        self.size, self.batch_size, self.batches, self.stream_seed = size, batch_size, batches, seed
        self.first_batch = 0

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def __iter__(self) -> Iterator[int]:
        epoch, order = -1, np.empty(0, np.int64)
        for batch in range(self.first_batch, self.batches):
            first = (batch * self.num_replicas + self.rank) * self.batch_size
            for draw in range(first, first + self.batch_size):
                if draw // self.size != epoch:
                    epoch = draw // self.size
                    order = np.random.default_rng([self.stream_seed, epoch]).permutation(self.size)
                yield epoch * self.size + int(order[draw % self.size])


class EvaluationSampler(DistributedSampler):
    """Every example once over all ranks; ranks that would run short get null examples, so that all do as many batches."""

    def __init__(self, size: int, rank: int, ranks: int) -> None:
        super().__init__(range(size), num_replicas=ranks, rank=rank)

    def __iter__(self) -> Iterator[int]:
        size = len(self.dataset)
        for index in range(self.rank, self.num_samples * self.num_replicas, self.num_replicas):
            yield index if index < size else NULL_EXAMPLE


class ResumableLoader(DataLoader):
    """A loader over a :class:`StreamSampler` that Lightning saves and continues in the middle of the stream."""

    served = 0

    def __iter__(self) -> Iterator[Any]:
        self.sampler.first_batch = self.served
        for batch in super().__iter__():
            self.served += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many batches have been handed out."""
        return {"served": self.served}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the batches that were handed out."""
        self.served = state["served"]


class TextDataModule(LightningDataModule):
    """Text for masked-LM pretraining: sources, tokenizer, token cache, dynamic masking.

    Args:
        path: ``docstrings`` (prose that the installed packages carry), a file (.txt, .jsonl, .csv, .parquet), a directory, a
            ``save_to_disk`` directory, a hub id; or a list of these and of sources with options (fields of ``TextSource``).
        column: text column, for sources given as a plain path.
        tokenizer: directory, ``vocab.txt`` or hub id; null trains a WordPiece vocabulary on the corpus.
        vocabulary_size: of a trained vocabulary.
        length: tokens a sequence, special tokens included.
        batch_size: sequences a device and micro-batch.
        eval_batch_size: the same in validation; null for ``batch_size``.
        validation_share: share of the documents held out.
        masking: rate and shares of dynamic masking in training; validation masks are always 15 %, 80/10/10 and fixed.
        seed: of shuffling and masking; null takes the run's (``seed_everything``).
        num_workers: loader processes; 0 makes batches in the training process.
        cache_dir: where tokens are kept; null for ``$TRIFECTA_CACHE``, else ``~/.cache/trifecta``.
    """

    def __init__(
        self,
        path: str | list[str | dict[str, str]] = "docstrings",
        column: str = "text",
        tokenizer: str | None = None,
        vocabulary_size: int = 8192,
        length: int = 128,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        validation_share: float = 0.05,
        masking: Masking = Masking(),
        seed: int | None = None,
        num_workers: int = 0,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        if length < 8 or batch_size < 1 or not 0 < validation_share < 1:
            raise ValueError(
                f"length >= 8, batch_size >= 1 and validation_share in (0, 1) expected, "
                f"got {length}, {batch_size} and {validation_share}"
            )
        paths = [path] if isinstance(path, str) else path
        self.sources = [text_source(entry, column) for entry in paths]
        self.tokenizer_path, self.vocabulary_size = tokenizer, vocabulary_size
        self.length, self.batch_size, self.eval_batch_size = length, batch_size, eval_batch_size or batch_size
        self.validation_share, self.masking = validation_share, masking
        self.seed, self.num_workers = seed, num_workers
        default = os.environ.get("TRIFECTA_CACHE") or Path.home() / ".cache" / "trifecta"
        self.cache_dir = Path(cache_dir or default)
        self.tokenizer: PreTrainedTokenizerFast | None = None

    def prepare_data(self) -> None:
        """Check the sources and build the token cache, once a node."""
        if self.trainer is not None and self.trainer.state.fn == "fit" and self.trainer.max_steps < 1:
            raise ValueError("pretraining is measured in optimizer steps: set trainer.max_steps (--trainer.max_steps=…)")
        self._open()

    def setup(self, stage: str) -> None:
        """Open the tokenizer and the two token streams."""
        if self.tokenizer is None:
            self._open()

    def _open(self) -> None:
        sources = [open_source(source, self.cache_dir) for source in self.sources]
        self.tokenizer = self._tokenizer(sources)
        self.corpus: TokenCorpus = token_corpus(sources, self.tokenizer, self.validation_share, self.cache_dir)

    def _tokenizer(self, sources: list[OpenSource]) -> PreTrainedTokenizerFast:
        if self.tokenizer_path is not None:
            return load_tokenizer(self.tokenizer_path)
        fingerprint = "-".join(source.fingerprint for source in sources)
        return cached_tokenizer(
            lambda: (text for source in sources for text, _ in source.pieces()),
            fingerprint,
            self.vocabulary_size,
            self.cache_dir,
        )

    @property
    def unigram_log_probabilities(self) -> Tensor:
        """log p(token) in the training split, (V,)."""
        return unigram_log_probabilities(torch.from_numpy(self.corpus.train_counts))

    def train_dataloader(self) -> ResumableLoader:
        trainer = self.trainer
        seed = self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", 0))
        dataset = MaskedLMDataset(self.corpus.train, self.length, self.tokenizer, self.masking, seed)
        batches = trainer.max_steps * trainer.accumulate_grad_batches
        sampler = StreamSampler(len(dataset), self.batch_size, batches, trainer.global_rank, trainer.world_size, seed)
        return ResumableLoader(dataset, self.batch_size, sampler=sampler, **self._loader_options())

    def val_dataloader(self) -> DataLoader:
        dataset = MaskedLMDataset(self.corpus.validation, self.length, self.tokenizer, Masking(), VALIDATION_SEED)
        sampler = EvaluationSampler(len(dataset), self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(dataset, self.eval_batch_size, sampler=sampler, **self._loader_options())

    def test_dataloader(self) -> DataLoader:
        return self.val_dataloader()

    def _loader_options(self) -> dict[str, Any]:
        return {
            "collate_fn": _already_a_batch,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
            "generator": torch.Generator(),  # loaders otherwise draw from the global one, and a resumed run would differ
        }


def _already_a_batch(batch: MaskedLMBatch) -> MaskedLMBatch:
    return batch
