"""Streams of batches that any number of ranks agree on and that a resumed run continues in the middle."""

import os
from collections.abc import Iterator
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, DistributedSampler

NULL_EXAMPLE = -1
GROUPED_BATCHES = 50

T = TypeVar("T")


def there(value: T | None) -> T:
    """What a trainer or ``setup`` has put there by now."""
    if value is None:
        raise RuntimeError("the datamodule has no trainer, or was not set up")
    return value


def run_seed(seed: int | None) -> int:
    """``seed``, or that of the run (``seed_everything``)."""
    return seed if seed is not None else int(os.environ.get("PL_GLOBAL_SEED", 0))


def loader_options(num_workers: int) -> dict[str, Any]:
    """What every loader of this package is made with."""
    return {
        "num_workers": num_workers,
        "persistent_workers": num_workers > 0,
        "pin_memory": torch.cuda.is_available(),
        "generator": torch.Generator(),  # loaders otherwise draw from the global one, and a resumed run would differ
    }


def _sized(size: int) -> Dataset[Any]:
    return cast(Dataset[Any], range(size))  # a sampler asks a dataset for its length only


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
        super().__init__(_sized(size), num_replicas=ranks, rank=rank)
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
    """Every example once over all ranks; ranks that would run short get null examples, so that all do as many batches.

    Args:
        size: examples in the dataset.
        rank: of this process.
        ranks: number of processes.
        examples: how many of them all ranks together take, spread evenly over the dataset; null for all.
    """

    def __init__(self, size: int, rank: int, ranks: int, examples: int | None = None) -> None:
        self.size, self.examples = size, min(size, examples or size)
        super().__init__(_sized(self.examples), num_replicas=ranks, rank=rank)

    def __iter__(self) -> Iterator[int]:
        for number in range(self.rank, self.num_samples * self.num_replicas, self.num_replicas):
            yield number * self.size // self.examples if number < self.examples else NULL_EXAMPLE


def length_grouped_batches(
    lengths: NDArray[np.integer], batch_size: int, seed: int, epoch: int, grouped: int = GROUPED_BATCHES
) -> list[NDArray[np.int64]]:
    """One epoch of batches whose members are of similar length, so that little is padded; every example once.

    A permutation drawn from (seed, epoch) is cut into pieces of ``grouped`` batches; each piece is sorted by length and cut
    into batches; these come in random order. Only the last batch of the last piece may be smaller.

    Args:
        lengths: tokens of each example.
        batch_size: examples a batch.
        seed: of the run.
        epoch: of the stream, from 0.
        grouped: batches sorted together.
    """
    draw = np.random.default_rng([seed, epoch])
    order = draw.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), grouped * batch_size):
        piece = order[start : start + grouped * batch_size]
        piece = piece[np.argsort(-lengths[piece], kind="stable")]
        batches += [piece[first : first + batch_size] for first in range(0, len(piece), batch_size)]
    return [batches[index] for index in draw.permutation(len(batches))]


class LengthGroupedSampler(DistributedSampler):
    """The :func:`length_grouped_batches` of one epoch after the other; what it yields are lists of examples.

    Batches are counted across epochs, so that a number says which of which epoch is the first to come. The batch of all ranks
    together is dealt out one by one, so that ranks have equal lengths. Where the last does not divide by the ranks, some of its
    members come twice.

    Args:
        lengths: tokens of each example.
        batch_size: examples a rank and batch.
        rank: of this process.
        ranks: number of processes.
        seed: of the run.
    """

    def __init__(self, lengths: NDArray[np.integer], batch_size: int, rank: int, ranks: int, seed: int) -> None:
        super().__init__(_sized(len(lengths)), num_replicas=ranks, rank=rank)
        self.lengths, self.batch_size, self.stream_seed = lengths, batch_size, seed
        self.first_batch = 0

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-len(self.lengths) // (self.batch_size * self.num_replicas))

    def set_epoch(self, epoch: int) -> None:
        """Go on with no earlier epoch than this; Lightning says so when one begins, also where a resumed run begins with it."""
        super().set_epoch(epoch)
        self.first_batch = max(self.first_batch, epoch * len(self))

    def __iter__(self) -> Iterator[list[int]]:
        epoch, first = divmod(self.first_batch, len(self))
        whole = self.batch_size * self.num_replicas
        for batch in length_grouped_batches(self.lengths, whole, self.stream_seed, epoch)[first:]:
            even = np.resize(batch, -(-len(batch) // self.num_replicas) * self.num_replicas)
            yield even[self.rank :: self.num_replicas].tolist()


class LengthSortedSampler(DistributedSampler):
    """Batches of every example once over all ranks, longest first; a rank that would run short gets null examples."""

    def __init__(self, lengths: NDArray[np.integer], batch_size: int, rank: int, ranks: int) -> None:
        super().__init__(_sized(len(lengths)), num_replicas=ranks, rank=rank)
        self.order, self.batch_size = np.argsort(-lengths, kind="stable"), batch_size

    def __len__(self) -> int:
        return -(-len(self.order) // (self.batch_size * self.num_replicas))

    def __iter__(self) -> Iterator[list[int]]:
        whole = self.batch_size * self.num_replicas
        for start in range(0, len(self.order), whole):
            yield self.order[start : start + whole][self.rank :: self.num_replicas].tolist() or [NULL_EXAMPLE]


class ResumableLoader(DataLoader):
    """A loader over a sampler that has a ``first_batch``; Lightning saves it and continues it in the middle.

    What is saved counts examples, so that other devices and another accumulation go on with the same ones.
    """

    served = 0

    @property
    def counted_sampler(self) -> StreamSampler | LengthGroupedSampler:
        return cast(StreamSampler | LengthGroupedSampler, self.sampler)

    @property
    def examples_a_batch(self) -> int:
        """Of all ranks."""
        return self.counted_sampler.batch_size * self.counted_sampler.num_replicas

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch names the class of its own iterators
        sampler = self.counted_sampler
        self.served = sampler.first_batch = max(self.served, sampler.first_batch)
        for batch in super().__iter__():
            self.served += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many batches have been handed out, and how many examples these are on all ranks."""
        return {"served": self.served, "examples": self.served * self.examples_a_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the examples that were handed out.

        Raises:
            ValueError: they are no whole number of batches.
        """
        examples = state.get("examples", state["served"] * self.examples_a_batch)  # older ones count batches alone
        self.served, rest = divmod(examples, self.examples_a_batch)
        if rest:
            raise ValueError(
                f"{examples:,} examples have been seen, which is no whole number of batches of {self.examples_a_batch} on all "
                "devices: give a data.batch_size by which they divide"
            )
