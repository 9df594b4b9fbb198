"""What all finetuning has in common: rows tokenised once, batches grouped by length, epochs turned into optimizer steps."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from transformers import PreTrainedTokenizerFast

from datamodules.cache import cache_directory
from datamodules.streams import (
    NULL_EXAMPLE,
    LengthGroupedSampler,
    LengthSortedSampler,
    ResumableLoader,
    loader_options,
    run_seed,
    there,
)
from datamodules.tokenizers import load_tokenizer
from internals import count_epochs
from objectives.beyond_glue import Task
from objectives.glue import GlueTask
from objectives.masked_lm import IGNORE_INDEX

AnyTask = TypeVar("AnyTask", GlueTask, Task)
AnyBatch = TypeVar("AnyBatch", bound=Mapping[str, Any])


class SequenceDataset(TorchDataset[AnyBatch]):
    """Tokenised rows; an item is a whole batch, padded to its longest member.

    Where a row is several sequences, as choices are, so is it in the batch: (batch, choices, length).

    Args:
        rows: with ``input_ids``, ``length``, and what else a batch is made of.
        padding: columns that have an entry a token → what pads them.
    """

    def __init__(self, rows: datasets.Dataset, padding: Mapping[str, int]) -> None:
        self.rows, self.padding = rows, {name: value for name, value in padding.items() if name in rows.column_names}
        self.lengths: NDArray[np.integer] = np.asarray(rows["length"])
        self.others = [name for name in rows.column_names if name not in (*padding, "length")]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, examples: Sequence[int]) -> AnyBatch:
        columns = self.rows[list(examples)]
        several = isinstance(columns["input_ids"][0][0], list)
        batch: dict[str, Tensor] = {}
        for name, value in self.padding.items():
            sequences = [entry for row in columns[name] for entry in row] if several else columns[name]
            batch[name] = pad_sequence(list(map(torch.tensor, sequences)), batch_first=True, padding_value=value)
            if name == "input_ids":
                lengths = torch.tensor([len(tokens) for tokens in sequences])
        if int(lengths.min()) < int(lengths.max()):
            batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        if several:
            batch = {name: values.unflatten(0, (len(examples), -1)) for name, values in batch.items()}
        batch |= {name: torch.tensor(columns[name]) for name in self.others}
        if examples[0] == NULL_EXAMPLE:
            for name in batch.keys() & {"labels", "index"}:
                batch[name].fill_(IGNORE_INDEX)
        return batch  # type: ignore[return-value]


class FinetuningDataModule(LightningDataModule, ABC, Generic[AnyTask, AnyBatch]):
    """The data of one task.

    Epochs are turned into optimizer steps when the fit is set up, so that schedules, sparse training and distillation know how
    long the run is.

    Attributes:
        task: which one.
        train: the training set, in a fit.
        dev: suffix of the metrics' names → development set.
        test: name → set that ``predict`` answers.
    """

    def __init__(
        self,
        task: AnyTask,
        path: str,
        tokenizer: str | None,
        length: int,
        batch_size: int,
        eval_batch_size: int | None,
        train_examples: int | None,
        seed: int | None,
        num_workers: int,
        cache_dir: str | None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("length", length, 8),
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("train_examples", train_examples, 1),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name} of {least} or more expected, got {value}")
        self.task: AnyTask = task
        self.path, self.tokenizer_path = path, tokenizer
        self.length, self.batch_size, self.eval_batch_size = length, batch_size, eval_batch_size or batch_size
        self.train_examples, self.seed, self.num_workers = train_examples, seed, num_workers
        self.cache_dir = cache_directory(cache_dir)
        self.tokenizer: PreTrainedTokenizerFast | None = None
        self.train: SequenceDataset[AnyBatch] | None = None
        self.dev: dict[str, SequenceDataset[AnyBatch]] = {}
        self.test: dict[str, SequenceDataset[AnyBatch]] = {}

    @abstractmethod
    def open_splits(self, stage: str | None) -> None:
        """Open what a stage needs and is not open yet; :attr:`tokenizer` is there."""

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
        self.tokenizer = self.tokenizer or load_tokenizer(self.tokenizer_path, finetuning=True)
        self.open_splits(stage)

    def _set_max_steps(self) -> None:
        trainer = there(self.trainer)
        if trainer.max_epochs is None or trainer.max_epochs < 0:
            if trainer.max_steps < 1:
                raise ValueError("finetuning needs an end: set trainer.max_epochs (or trainer.max_steps)")
            return
        batches = len(self._train_sampler())
        limit = trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        if not batches and limit:
            raise ValueError(
                f"trainer.limit_train_batches {limit:g} of {len(self._train_sampler())} batches leaves none to train on"
            )
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

    def _evaluation_loader(self, dataset: SequenceDataset[AnyBatch]) -> DataLoader:
        trainer = there(self.trainer)
        ranks = (trainer.global_rank, trainer.world_size)
        sampler = LengthSortedSampler(dataset.lengths, self.eval_batch_size, *ranks)
        return DataLoader(dataset, batch_size=None, sampler=sampler, **loader_options(self.num_workers))
