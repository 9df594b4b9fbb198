"""GLUE batches: tokenised once, grouped by length, padded to the longest of a batch."""

import contextlib
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from transformers import PreTrainedTokenizerFast

from datamodules.cache import build_once, cache_directory
from datamodules.files import content_digest
from datamodules.glue_files import GlueFiles, Split
from datamodules.saved import load_saved
from datamodules.streams import (
    NULL_EXAMPLE,
    LengthGroupedSampler,
    LengthSortedSampler,
    ResumableLoader,
    loader_options,
    run_seed,
    there,
)
from datamodules.tokenizers import load_tokenizer, tokenizer_fingerprint
from internals import count_epochs
from objectives.glue import GLUE, GlueTask, glue_task
from objectives.masked_lm import IGNORE_INDEX

FORMAT = 2


class SequenceBatch(TypedDict):
    """``input_ids`` and ``token_type_ids``, (batch, length) int64; models without segments are not shown the latter.

    ``attention_mask`` is absent where nothing is padded. ``labels`` (batch,) are classes or scores, ``IGNORE_INDEX`` in a null
    example; ``index`` (batch,) is there instead in a test set: the number of each row in the submission.
    """

    input_ids: Tensor
    token_type_ids: Tensor
    attention_mask: NotRequired[Tensor]
    labels: NotRequired[Tensor]
    index: NotRequired[Tensor]


class SequenceDataset(TorchDataset[SequenceBatch]):
    """Tokenised rows; an item is a whole batch, padded to its longest member."""

    def __init__(self, rows: datasets.Dataset, padding: dict[str, int]) -> None:
        self.rows, self.padding = rows, padding
        self.lengths: NDArray[np.integer] = np.asarray(rows["length"])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, examples: Sequence[int]) -> SequenceBatch:
        columns = self.rows[list(examples)]
        batch = {
            name: pad_sequence([torch.tensor(row) for row in columns[name]], batch_first=True, padding_value=value)
            for name, value in self.padding.items()
        }
        lengths = torch.tensor(columns["length"])
        if int(lengths.min()) < int(lengths.max()):
            batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        for name in ("labels", "index"):
            if name in columns:
                batch[name] = torch.tensor(columns[name])
        if examples[0] == NULL_EXAMPLE:
            batch["labels" if "labels" in batch else "index"].fill_(IGNORE_INDEX)
        return batch  # type: ignore[return-value]


class GLUEDataModule(LightningDataModule):
    """One task of GLUE.

    Epochs are turned into optimizer steps when the fit is set up, so that schedules, sparse training and distillation know how
    long the run is.

    Args:
        task: CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE, WNLI, or AX (trained on MNLI, of which it is a second test set).
        path: directory with the official TSV folders or one of them, a directory in the hub's layout, or a hub id.
        tokenizer: directory or hub id; null for that of the model.
        length: tokens a sequence at most, special ones included; longer pairs lose the end of the longer sentence.
        batch_size: sequences a device and micro-batch.
        eval_batch_size: the same outside training; null for ``batch_size``.
        train_examples: use the first so many of the training set only; null for all.
        seed: of the order; null takes the run's (``seed_everything``).
        num_workers: loader processes; 0 makes batches in the training process.
        cache_dir: where tokens are kept; null for ``$TRIFECTA_CACHE``, else ``~/.cache/trifecta``.
    """

    def __init__(
        self,
        task: str,
        path: str = "nyu-mll/glue",
        tokenizer: str | None = None,
        length: int = 128,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        train_examples: int | None = None,
        seed: int | None = None,
        num_workers: int = 0,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        sizes = {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "train_examples": train_examples}
        for name, value, least in (
            ("length", length, 8),
            ("num_workers", num_workers, 0),
            *((n, v, 1) for n, v in sizes.items()),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name} of {least} or more expected, got {value}")
        self.task, self.path, self.tokenizer_path = glue_task(task), path, tokenizer
        self.length, self.batch_size, self.eval_batch_size = length, batch_size, eval_batch_size or batch_size
        self.train_examples, self.seed, self.num_workers = train_examples, seed, num_workers
        self.cache_dir = cache_directory(cache_dir)
        self.tokenizer: PreTrainedTokenizerFast | None = None
        self.train: SequenceDataset | None = None
        self.dev: dict[str, SequenceDataset] = {}
        self.test: dict[str, SequenceDataset] = {}

    def prepare_data(self) -> None:
        """Tokenise what is not in the cache, once a node."""
        self._open("fit" if self.trainer is None else self.trainer.state.fn)

    def setup(self, stage: str) -> None:
        """Open the splits of a stage."""
        self._open(stage)
        if stage == "fit" and self.trainer is not None:
            self._set_max_steps()

    def _open(self, stage: str | None) -> None:
        if self.tokenizer_path is None:
            raise ValueError("data.tokenizer is missing: a directory or hub id, usually that of model.pretrained")
        self.tokenizer = self.tokenizer or load_tokenizer(self.tokenizer_path)
        if stage == "predict":
            self.test = self._test_sets()
            return
        trained_on = GLUE[self.task.trained_on or self.task.name]
        files = self._files(trained_on)
        if stage == "fit" and self.train is None:
            files.require("train")
            self.train = self._tokenised(files, trained_on, "train", labelled=True)
        if not self.dev:
            first, *others = trained_on.dev.items()
            files.require(first[1])
            for _, name in others:
                if name not in files:
                    rank_zero_warn(f"{self.path}: no {name}.tsv of {trained_on.name} there; its metrics will be missing")
            self.dev = {
                suffix: self._tokenised(files, trained_on, name, labelled=True)
                for suffix, name in (first, *others)
                if name in files
            }

    def _files(self, task: GlueTask) -> GlueFiles:
        """The files of a task at the path; of AX and the MNLI it is trained on one may also lie beside the other."""
        try:
            return GlueFiles(task, self.path)
        except FileNotFoundError:
            path = Path(self.path).expanduser().absolute()
            if path.is_dir() and (task.trained_on or self.task.trained_on):
                with contextlib.suppress(FileNotFoundError):
                    return GlueFiles(task, str(path.parent))
            raise

    def _test_sets(self) -> dict[str, SequenceDataset]:
        """Submission file → test set. The model of MNLI also answers AX, where that is there."""
        files = self._files(self.task)
        for name in self.task.test.values():
            files.require(name)
        sets = {file: self._tokenised(files, self.task, name, False) for file, name in self.task.test.items()}
        for other in GLUE.values():
            if other.trained_on == self.task.name:
                with contextlib.suppress(FileNotFoundError):
                    files = self._files(other)
                    sets |= {file: self._tokenised(files, other, name, False) for file, name in other.test.items()}
        return sets

    def _tokenised(self, files: GlueFiles, task: GlueTask, name: str, labelled: bool) -> SequenceDataset:
        tokenizer = there(self.tokenizer)
        content = files.fingerprint(name, lambda file: content_digest(file, self.cache_dir))
        identity = [FORMAT, task.name, content, labelled, tokenizer_fingerprint(tokenizer), self.length]
        key = hashlib.blake2b(json.dumps(identity).encode(), digest_size=12).hexdigest()

        def build(directory: Path) -> None:
            tokenise(files.read(name, labelled), tokenizer, self.length).save_to_disk(directory)

        rows = build_once(self.cache_dir / f"glue-{key}", build, load_saved)
        if name == "train" and self.train_examples is not None:
            rows = rows.select(range(min(self.train_examples, len(rows))))
        padding = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        return SequenceDataset(rows, padding)

    def _set_max_steps(self) -> None:
        trainer = there(self.trainer)
        if trainer.max_epochs is None or trainer.max_epochs < 0:
            if trainer.max_steps < 1:
                raise ValueError("finetuning needs an end: set trainer.max_epochs (or trainer.max_steps)")
            return
        batches = len(self._train_sampler())
        limit = trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        steps = trainer.max_epochs * math.ceil(batches / trainer.accumulate_grad_batches)
        if trainer.max_steps < 1 or steps < trainer.max_steps:
            trainer.fit_loop.epoch_loop.max_steps = steps
        # or Lightning, seeing a number of steps, would take a checkpoint from the end of an epoch for one from its middle
        count_epochs(trainer)

    def _train_sampler(self) -> LengthGroupedSampler:
        trainer = there(self.trainer)
        ranks = (trainer.global_rank, trainer.world_size)
        return LengthGroupedSampler(there(self.train).lengths, self.batch_size, *ranks, run_seed(self.seed))

    def train_dataloader(self) -> ResumableLoader:
        options = loader_options(self.num_workers)
        return ResumableLoader(there(self.train), batch_size=None, sampler=self._train_sampler(), **options)

    def val_dataloader(self) -> list[DataLoader]:
        return [self._evaluation_loader(dataset) for dataset in self.dev.values()]

    def test_dataloader(self) -> list[DataLoader]:
        return self.val_dataloader()

    def predict_dataloader(self) -> list[DataLoader]:
        return [self._evaluation_loader(dataset) for dataset in self.test.values()]

    def _evaluation_loader(self, dataset: SequenceDataset) -> DataLoader:
        trainer = there(self.trainer)
        ranks = (trainer.global_rank, trainer.world_size)
        sampler = LengthSortedSampler(dataset.lengths, self.eval_batch_size, *ranks)
        return DataLoader(dataset, batch_size=None, sampler=sampler, **loader_options(self.num_workers))


def tokenise(split: Split, tokenizer: PreTrainedTokenizerFast, length: int) -> datasets.Dataset:
    """Columns ``input_ids``, ``token_type_ids``, ``length`` and ``labels`` or ``index``.

    Segments are kept whatever the model: tokenizers that differ in nothing else share the cache, and so do a student without
    and a teacher with segments the batches.
    """
    labels = {"labels": split.labels} if split.labels else {"index": split.index}
    texts = {f"text{number}": sentences for number, sentences in enumerate(split.texts)}

    def encode(rows: dict[str, list]) -> dict[str, list]:
        encoded = tokenizer(
            *(rows[name] for name in texts),
            truncation=True,
            max_length=length,
            return_attention_mask=False,
            return_token_type_ids=True,
        )
        return dict(encoded) | {"length": [len(tokens) for tokens in encoded["input_ids"]]}

    rows = datasets.Dataset.from_dict(texts | labels)
    return rows.map(encode, batched=True, remove_columns=list(texts), new_fingerprint="tokens")
