"""Batches: every slice of the stream, in an order that depends on neither ranks nor resumes."""

from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from datamodules.masking import Masking
from datamodules.streams import NULL_EXAMPLE, EvaluationSampler, ResumableLoader, StreamSampler
from datamodules.text import MaskedLMBatch, MaskedLMDataset, _already_a_batch
from datamodules.token_cache import TextSize, TokenStream
from datamodules.tokenizers import load_tokenizer
from objectives.masked_lm import IGNORE_INDEX

LENGTH = 16
WINDOW = LENGTH - 2
MakeDataset = Callable[..., MaskedLMDataset]


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir: Path) -> PreTrainedTokenizerFast:
    return load_tokenizer(str(tokenizer_dir))


@pytest.fixture
def make_dataset(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> MakeDataset:
    """A dataset over ``tokens`` random ordinary tokens."""

    def make(tokens: int, seed: int = 0) -> MaskedLMDataset:
        stream = TokenStream(tmp_path / f"{tokens}.bin", "<u2", TextSize(documents=1, words=tokens, characters=tokens))
        ordinary = np.random.default_rng(0).integers(5, len(tokenizer), tokens)
        ordinary.astype(stream.dtype).tofile(stream.file)
        return MaskedLMDataset(stream, LENGTH, tokenizer, Masking(), seed)

    return make


def unmasked(batch: MaskedLMBatch) -> Tensor:
    """The tokens of a batch before masking."""
    return batch["input_ids"].scatter(1, batch["positions"], batch["labels"])


def assert_same(first: MaskedLMBatch, second: MaskedLMBatch) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(("tokens", "examples"), [(14 * 10, 10), (14 * 10 + 1, 11), (14 * 11 - 1, 11), (15, 2)])
def test_the_last_slice_ends_where_the_stream_ends(make_dataset: MakeDataset, tokens: int, examples: int) -> None:
    dataset = make_dataset(tokens)
    inner = unmasked(dataset.__getitems__(range(examples)))[:, 1:-1]
    stream = torch.from_numpy(dataset.stream.tokens.astype(np.int64))
    assert len(dataset) == examples
    assert torch.equal(inner[:-1].flatten(), stream[: WINDOW * (examples - 1)])
    assert torch.equal(inner[-1], stream[-WINDOW:])


def test_sequences_stand_between_the_class_and_the_separator_token(
    make_dataset: MakeDataset, tokenizer: PreTrainedTokenizerFast
) -> None:
    input_ids = make_dataset(100).__getitems__([0, 3, 7])["input_ids"]
    assert input_ids.shape == (3, LENGTH)
    assert set(input_ids[:, 0].tolist()) == {tokenizer.cls_token_id}
    assert set(input_ids[:, -1].tolist()) == {tokenizer.sep_token_id}


def test_a_stream_shorter_than_a_sequence_is_one_short_example(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(5)
    assert len(dataset) == 1
    assert dataset[0]["input_ids"].shape == (1, 7)


def test_a_batch_is_its_examples_one_by_one(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(100)
    indices = [3, len(dataset) + 1, 0, NULL_EXAMPLE]
    singles = [dataset[index] for index in indices]
    assert_same(
        dataset.__getitems__(indices),
        {key: torch.cat([single[key] for single in singles]) for key in ("input_ids", "positions", "labels")},
    )


def test_a_null_example_has_the_shape_of_an_example_and_no_label_that_counts(make_dataset: MakeDataset) -> None:
    null, example = make_dataset(100)[NULL_EXAMPLE], make_dataset(100)[0]
    assert {key: value.shape for key, value in null.items()} == {key: value.shape for key, value in example.items()}
    assert (null["labels"] == IGNORE_INDEX).all()
    assert (example["labels"] != IGNORE_INDEX).all()


def test_epoch_and_seed_change_the_masks_and_never_the_text(make_dataset: MakeDataset) -> None:
    dataset, examples = make_dataset(300), range(20)
    first, again = dataset.__getitems__(examples), dataset.__getitems__(examples)
    later = dataset.__getitems__([len(dataset) + example for example in examples])
    other = make_dataset(300, seed=1).__getitems__(examples)
    assert_same(first, again)
    for changed in (later, other):
        assert torch.equal(unmasked(first), unmasked(changed))
        assert not torch.equal(first["positions"], changed["positions"])


def batches_of(size: int, batch_size: int, batches: int, ranks: int = 1, first_batch: int = 0) -> list[list[int]]:
    """The batches of all ranks together, one after the other."""

    def of_rank(rank: int) -> Iterator[list[int]]:
        sampler = StreamSampler(size, batch_size, batches, rank, ranks, seed=3)
        sampler.first_batch = first_batch
        indices = iter(sampler)
        while batch := list(islice(indices, batch_size)):
            yield batch

    return [list(chain(*parts)) for parts in zip(*(of_rank(rank) for rank in range(ranks)), strict=True)]


@given(st.integers(1, 40), st.integers(1, 20), st.integers(0, 20))
@settings(deadline=None)
def test_a_batch_is_the_same_for_any_number_of_ranks_and_any_start(size: int, batches: int, first_batch: int) -> None:
    whole = batches_of(size, 4, batches)
    assert [len(batch) for batch in whole] == [4] * batches
    assert whole == batches_of(size, 2, batches, ranks=2) == batches_of(size, 1, batches, ranks=4)
    assert whole[first_batch:] == batches_of(size, 2, batches, ranks=2, first_batch=first_batch)


def test_accumulation_of_small_batches_is_one_large_batch() -> None:
    small = batches_of(23, 2, 40)
    assert [list(chain(*small[first : first + 4])) for first in range(0, 40, 4)] == batches_of(23, 8, 10)


def test_every_example_comes_exactly_once_an_epoch_each_time_in_another_order() -> None:
    size = 23
    epochs = np.array(list(chain(*batches_of(size, 4, 23)))).reshape(4, size)
    for number, epoch in enumerate(epochs):
        assert sorted(epoch) == list(range(number * size, (number + 1) * size))
    assert len({tuple(epoch % size) for epoch in epochs}) == 4


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [1, 5, 6, 24])
def test_evaluation_covers_every_example_once_in_equally_many_steps(size: int, ranks: int) -> None:
    shares = [list(EvaluationSampler(size, rank, ranks)) for rank in range(ranks)]
    assert {len(share) for share in shares} == {len(EvaluationSampler(size, 0, ranks))} == {-(-size // ranks)}
    indices = sorted(chain(*shares))
    assert indices == [NULL_EXAMPLE] * (-size % ranks) + list(range(size))


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize(("size", "examples"), [(1000, 7), (10, 10), (10, 30), (11, 10), (5, 1)])
def test_a_part_of_the_evaluation_is_the_same_for_any_number_of_ranks(size: int, examples: int, ranks: int) -> None:
    shares = [list(EvaluationSampler(size, rank, ranks, examples)) for rank in range(ranks)]
    count = min(size, examples)
    assert {len(share) for share in shares} == {len(EvaluationSampler(size, 0, ranks, examples))} == {-(-count // ranks)}
    indices = sorted(chain(*shares))
    assert indices.count(NULL_EXAMPLE) == -count % ranks
    taken = [index for index in indices if index != NULL_EXAMPLE]
    assert taken == [number * size // count for number in range(count)]
    assert set(np.diff(taken)) <= {size // count, -(-size // count)}  # spread evenly
    assert taken[0] == 0


@pytest.fixture(params=[0, 2], ids=["in process", "two workers"])
def make_loader(make_dataset: MakeDataset, request: pytest.FixtureRequest) -> Callable[[], ResumableLoader]:
    """Loaders of 9 batches of 4 over 10 examples."""

    def make() -> ResumableLoader:
        dataset = make_dataset(WINDOW * 10)
        sampler = StreamSampler(len(dataset), 4, 9, rank=0, ranks=1, seed=0)
        return ResumableLoader(dataset, 4, sampler=sampler, collate_fn=_already_a_batch, num_workers=request.param)

    return make


def test_a_resumed_loader_continues_the_uninterrupted_one(make_loader: Callable[[], ResumableLoader]) -> None:
    whole = list(make_loader())
    assert len(whole) == len(make_loader()) == 9
    stopped, resumed = make_loader(), make_loader()
    assert [batch["input_ids"].shape for batch in islice(stopped, 4)] == [(4, LENGTH)] * 4
    assert stopped.state_dict() == {"served": 4, "examples": 16}  # what was handed out, not what workers have prepared ahead
    resumed.load_state_dict(stopped.state_dict())
    rest = list(resumed)
    assert len(rest) == 5
    for batch, expected in zip(rest, whole[4:], strict=True):
        assert_same(batch, expected)


def test_evaluation_batches_hold_every_token_once(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(WINDOW * 11)
    seen = []
    for rank in range(2):
        loader = DataLoader(dataset, 4, sampler=EvaluationSampler(11, rank, 2), collate_fn=_already_a_batch)
        for batch in loader:
            counted = (batch["labels"] != IGNORE_INDEX).all(dim=1)
            seen.append(unmasked(batch)[counted, 1:-1])
    expected = torch.from_numpy(dataset.stream.tokens.astype(np.int64)).view(11, WINDOW)
    assert sorted(torch.cat(seen).tolist()) == sorted(expected.tolist())
