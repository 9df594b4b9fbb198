"""Masked-language-model batches from text."""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerFast

from datamodules.cache import cache_directory
from datamodules.masking import Masking, Vocabulary, mask_tokens
from datamodules.sources import OpenSource, TextSource, open_source, text_source
from datamodules.streams import EvaluationSampler, ResumableLoader, StreamSampler, loader_options, run_seed, there
from datamodules.token_cache import TokenCorpus, TokenStream, token_corpus
from datamodules.tokenizers import SMALLEST_VOCABULARY, cached_tokenizer, load_tokenizer, unknown_share, vocabulary
from objectives.masked_lm import IGNORE_INDEX, unigram_log_probabilities

TextPath = str | list[str | dict[str, str]]

EVALUATION_SEED = 0
MANY_UNKNOWN = 0.2  # share of the tokens; of text that a vocabulary was made for, less than 0.01


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


class TextDataModule(LightningDataModule):
    """Text for masked-LM pretraining: sources, tokenizer, token cache, dynamic masking.

    Validation, by which one chooses, and the test, by which one reports, are shares of the documents or texts of their own. A
    text of its own is taken whole, nothing of ``path`` is held out for it, and its share, whatever it is, has no meaning; a
    warning counts its documents that are trained on. Which documents a share is depends on the vocabulary: models of different
    ones are compared on a text of its own.
    Outside a fit such a text is scored without reading ``path``, unless the tokenizer is trained on it.

    Args:
        path: ``docstrings`` (prose that the installed packages carry), a file (.txt, .jsonl, .json, .csv, also with .gz, and
            .parquet), a directory, a ``save_to_disk`` directory, a hub id; or a list of these and of sources with options
            (fields of ``TextSource``).
        column: text column, for sources given as a plain path.
        tokenizer: directory, ``vocab.txt`` or hub id; null trains a WordPiece vocabulary on ``path``, what is held
            out of it included.
        vocabulary_size: of a trained vocabulary; it must hold special tokens and the alphabet of the corpus.
        length: tokens a sequence, special tokens included.
        batch_size: sequences a device and micro-batch.
        eval_batch_size: the same in validation and test; null for ``batch_size``.
        eval_sequences: score so many sequences, on all devices together, spread evenly over the split; null for all. Losses
            depend on neither the number of devices nor the batch size.
        validation_share: share of the documents held out for validation; equal documents stay together.
        test_share: share of the documents held out for the test, none of them for validation; 0 for no test.
        validation_path: text to validate on, in any form of ``path``.
        test_path: text to test on, in any form of ``path``.
        masking: rate and shares of dynamic masking in training; those of validation and test are always 15 %, 80/10/10 and
            fixed.
        seed: of shuffling and masking; null takes the run's (``seed_everything``).
        num_workers: loader processes; 0 makes batches in the training process.
        cache_dir: where tokens are kept; null for ``$TRIFECTA_CACHE``, else ``~/.cache/trifecta``.
    """

    def __init__(
        self,
        path: TextPath = "docstrings",
        column: str = "text",
        tokenizer: str | None = None,
        vocabulary_size: int = 8192,
        length: int = 128,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        eval_sequences: int | None = None,
        validation_share: float = 0.05,
        test_share: float = 0.0,
        validation_path: TextPath | None = None,
        test_path: TextPath | None = None,
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
        for name, value in (("eval_batch_size", eval_batch_size), ("eval_sequences", eval_sequences)):
            if value is not None and value < 1:
                raise ValueError(f"{name} of 1 or more, or null, expected, got {value}")
        for name, number in (("num_workers", num_workers), ("seed", seed)):
            if number is not None and number < 0:
                raise ValueError(f"{name} of 0 or more expected, got {number}")
        self.sources = text_sources(path, column)
        own = {"validation": validation_path, "test": test_path}
        self.texts = {split: text_sources(text, column) for split, text in own.items() if text is not None}
        self.validation_share = 0.0 if "validation" in self.texts else validation_share
        self.test_share = 0.0 if "test" in self.texts else test_share
        if not 0 <= test_share < 1 or self.validation_share + self.test_share >= 1:
            raise ValueError(
                f"test_share in [0, 1), and with validation_share below 1, expected, got {test_share} and {validation_share}"
            )
        self.tokenizer_path, self.vocabulary_size = tokenizer, vocabulary_size
        self.length, self.batch_size, self.eval_batch_size = length, batch_size, eval_batch_size or batch_size
        self.eval_sequences = eval_sequences
        self.masking, self.seed, self.num_workers = masking, seed, num_workers
        self.cache_dir = cache_directory(cache_dir)
        self.tokenizer: PreTrainedTokenizerFast | None = None
        self._corpus: TokenCorpus | None = None
        self._own: dict[str, TokenStream] = {}
        self._compared: set[str] = set()

    @property
    def corpus(self) -> TokenCorpus:
        """The tokens of ``path``."""
        return there(self._corpus)

    @property
    def splits(self) -> dict[str, TokenStream]:
        """The splits that are open by name: ``train``, ``validation`` and, where there is one, ``test``."""
        return ({} if self._corpus is None else self._corpus.splits) | self._own

    def prepare_data(self) -> None:
        """Check the sources and build the token cache, once a node."""
        stage = None if self.trainer is None else self.trainer.state.fn
        if stage == "fit" and there(self.trainer).max_steps < 1:
            raise ValueError("pretraining is measured in optimizer steps: set trainer.max_steps (--trainer.max_steps=…)")
        self._open(stage)

    def setup(self, stage: str) -> None:
        """Open the tokenizer and the token streams of a stage.

        Raises:
            ValueError: a test without a test split.
        """
        self._open(stage)

    def _open(self, stage: str | None) -> None:
        """Open what a stage needs and is not open yet."""
        if stage == "test" and "test" not in self.texts and not self.test_share:
            raise ValueError(
                "there is no test split: give --data.test_share (of the documents) or --data.test_path (a text)"
            )
        scored = {"validate": "validation", "test": "test"}.get(stage or "")
        reads = self._corpus is None and scored not in self.texts
        learns = self.tokenizer is None and self.tokenizer_path is None
        sources = [open_source(source, self.cache_dir) for source in self.sources] if reads or learns else []
        if self.tokenizer is None:
            self.tokenizer = self._tokenizer(sources)
        if reads:
            self._corpus = self._tokens(sources, "training", self.validation_share, self.test_share)
        for split, own in self.texts.items():
            if scored in (split, None) and split not in self._own:
                try:
                    opened = [open_source(source, self.cache_dir) for source in own]
                    self._own[split] = self._tokens(opened, split).train  # all of it
                except ValueError as error:
                    raise ValueError(f"{split}_path: {error}") from error
        self._warn_of_trained_on()

    def _tokens(self, sources: list[OpenSource], name: str, *shares: float) -> TokenCorpus:
        tokenizer = there(self.tokenizer)
        corpus = token_corpus(sources, tokenizer, self.cache_dir, *shares)
        if (share := unknown_share(corpus.train_counts, tokenizer)) > MANY_UNKNOWN:
            rank_zero_warn(
                f"{share:.0%} of the {name} tokens are {tokenizer.unk_token}: "
                f"the vocabulary of {self.tokenizer_path or 'the trained tokenizer'} does not fit the text"
            )
        return corpus

    def _warn_of_trained_on(self) -> None:
        """Say it once of each text of its own whose documents are in the training split too: known by heart is no test."""
        if self._corpus is None:
            return
        for split in sorted(self._own.keys() - self._compared):
            documents = self._own[split].digests
            if shared := int(np.isin(documents, self._corpus.train.digests).sum()):
                rank_zero_warn(f"{shared:,} of the {len(documents):,} documents of {split}_path are also trained on")
            self._compared.add(split)

    def _tokenizer(self, sources: list[OpenSource]) -> PreTrainedTokenizerFast:
        if self.tokenizer_path is not None:
            tokenizer = load_tokenizer(self.tokenizer_path)
            if len(tokenizer) < SMALLEST_VOCABULARY:
                raise ValueError(
                    f"{self.tokenizer_path}: a vocabulary of {len(tokenizer)} entries; {SMALLEST_VOCABULARY} or more expected, "
                    "for special tokens and an alphabet"
                )
            return tokenizer
        fingerprint = "-".join(source.fingerprint for source in sources)
        return cached_tokenizer(
            lambda: (text for source in sources for text, _ in source.pieces()),
            fingerprint,
            self.vocabulary_size,
            self.cache_dir,
        )

    @property
    def unigram_log_probabilities(self) -> Tensor | None:
        """log p(token) in the training split, (V,); None where a text of its own is scored without it."""
        return None if self._corpus is None else unigram_log_probabilities(torch.from_numpy(self._corpus.train_counts))

    def train_dataloader(self) -> ResumableLoader:
        trainer, seed = there(self.trainer), run_seed(self.seed)
        dataset = MaskedLMDataset(self.corpus.train, self.length, there(self.tokenizer), self.masking, seed)
        batches = trainer.max_steps * trainer.accumulate_grad_batches
        sampler = StreamSampler(len(dataset), self.batch_size, batches, trainer.global_rank, trainer.world_size, seed)
        return ResumableLoader(
            dataset, self.batch_size, sampler=sampler, collate_fn=_already_a_batch, **loader_options(self.num_workers)
        )

    def val_dataloader(self) -> DataLoader:
        return self._evaluation_loader(self.splits["validation"])

    def test_dataloader(self) -> DataLoader:
        return self._evaluation_loader(self.splits["test"])

    def _evaluation_loader(self, stream: TokenStream) -> DataLoader:
        trainer, tokenizer = there(self.trainer), there(self.tokenizer)
        dataset = MaskedLMDataset(stream, self.length, tokenizer, Masking(), EVALUATION_SEED)
        sampler = EvaluationSampler(len(dataset), trainer.global_rank, trainer.world_size, self.eval_sequences)
        return DataLoader(
            dataset, self.eval_batch_size, sampler=sampler, collate_fn=_already_a_batch, **loader_options(self.num_workers)
        )


def text_sources(path: TextPath, column: str) -> list[TextSource]:
    """The sources of a path or of a list; ``column`` is for those that name none."""
    return [text_source(entry, column) for entry in ([path] if isinstance(path, str) else path)]


def _already_a_batch(batch: Any) -> MaskedLMBatch:
    return batch
