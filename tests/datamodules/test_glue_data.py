"""Batches of GLUE: every example once an epoch, neighbours of a length, the same from any number of workers and ranks."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import datamodules.glue
from datamodules import GLUEDataModule
from datamodules.glue import SequenceBatch, SequenceDataset
from datamodules.streams import LengthGroupedSampler, LengthSortedSampler, length_grouped_batches
from helpers import assert_identical, tiny_trainer
from objectives.masked_lm import IGNORE_INDEX

Data = Callable[..., GLUEDataModule]


def opened(data: GLUEDataModule, stage: str = "fit", max_steps: int = -1, **options: object) -> GLUEDataModule:
    """A datamodule as a trainer of one epoch would open it."""
    data.trainer = tiny_trainer(Path(), [], max_steps, **{"max_epochs": 1, "limit_val_batches": None} | options)
    data.setup(stage)
    return data


def sentences(data: GLUEDataModule, ids: torch.Tensor) -> list[str]:
    return [text.split(" [PAD]")[0] for text in data.tokenizer.batch_decode(ids)]


def test_batches_of_an_epoch_have_every_example_once(glue_data: Data) -> None:
    data = opened(glue_data("MRPC"))
    loader = data.train_dataloader()
    batches = [batch for batch, _ in zip(loader, range(len(loader)), strict=False)]
    assert [len(batch["labels"]) for batch in batches].count(8) == 4
    assert sum(len(batch["labels"]) for batch in batches) == 37
    seen = sorted(text for batch in batches for text in sentences(data, batch["input_ids"]))
    assert seen == sorted(sentences(data, data.train[range(37)]["input_ids"]))


def test_a_batch_is_what_the_tokenizer_makes_of_the_rows(glue_data: Data, glue_dir: Path, tokenizer_dir: Path) -> None:
    data = opened(glue_data("RTE", length=16))
    rows = [line.split("\t") for line in (glue_dir / "RTE" / "dev.tsv").read_text().split("\n")[1:5]]
    expected = AutoTokenizer.from_pretrained(tokenizer_dir)(
        *([row[column] for row in rows] for column in (1, 2)),
        truncation=True,
        max_length=16,
        padding=True,
        return_tensors="pt",
    )
    batch = data.dev[""][range(4)]
    assert_identical({name: batch.get(name, torch.ones_like(batch["input_ids"])) for name in expected}, dict(expected))
    assert batch["labels"].tolist() == [["entailment", "not_entailment"].index(row[3]) for row in rows]


def test_only_the_longest_member_is_not_padded(glue_data: Data) -> None:
    data = opened(glue_data("CoLA"))
    for batch in data.val_dataloader()[0]:
        lengths = batch["attention_mask"].sum(1) if "attention_mask" in batch else torch.tensor([batch["input_ids"].size(1)])
        assert int(lengths.max()) == batch["input_ids"].size(1)
        assert_identical(batch["input_ids"] != data.tokenizer.pad_token_id, batch.get("attention_mask", lengths).bool())
    same = np.flatnonzero(data.train.lengths == data.train.lengths[0])
    assert "attention_mask" not in data.train[same.tolist()]


def test_batches_are_grouped_by_length_and_shuffled() -> None:
    lengths = np.random.default_rng(0).integers(5, 120, size=1003)
    first, again, later, other = (length_grouped_batches(lengths, 10, *key) for key in ((0, 0), (0, 0), (0, 1), (1, 0)))
    for batches in (first, later, other):
        assert sorted(np.concatenate(batches).tolist()) == list(range(1003))
        assert sorted(map(len, batches)) == [3, *[10] * 100]
        padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
        assert padded < 1.05 * lengths.sum()  # of batches drawn at random: 1.8
        longest = [int(lengths[batch].max()) for batch in batches]
        assert longest != sorted(longest, reverse=True)
    order = np.concatenate(first).tolist()
    assert order == np.concatenate(again).tolist()
    assert np.concatenate(later).tolist() != order != np.concatenate(other).tolist()


def test_two_ranks_share_the_batches_of_one() -> None:
    lengths = np.random.default_rng(0).integers(5, 120, size=37)
    whole, *pair = (
        LengthGroupedSampler(lengths, 8, 0, 1, 3),
        *(LengthGroupedSampler(lengths, 4, rank, 2, 3) for rank in (0, 1)),
    )
    assert len(whole) == len(pair[0]) == len(pair[1]) == 5
    for batch, *shares in zip(whole, *pair, strict=True):
        assert len(shares[0]) == len(shares[1])
        assert set(shares[0] + shares[1]) == set(batch)


def test_a_sampler_goes_on_at_any_batch_of_any_epoch() -> None:
    lengths = np.random.default_rng(0).integers(5, 120, size=37)
    sampler = LengthGroupedSampler(lengths, 8, 0, 1, seed=3)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert (len(first), len(second)) == (5, 5)
    assert first != second
    for number, expected in ((0, first), (3, first[3:]), (5, second), (7, second[2:])):
        sampler = LengthGroupedSampler(lengths, 8, 0, 1, seed=3)
        sampler.first_batch = number
        sampler.set_epoch(number // 5)
        assert list(sampler) == expected


@pytest.mark.parametrize("size", [1, 3, 13, 16])
def test_every_evaluated_example_is_counted_once(size: int) -> None:
    lengths = np.arange(size)
    ranks = [list(LengthSortedSampler(lengths, 4, rank, 2)) for rank in (0, 1)]
    assert len(ranks[0]) == len(ranks[1]) == len(LengthSortedSampler(lengths, 4, 0, 2))
    assert sorted(index for rank in ranks for batch in rank for index in batch if index >= 0) == list(range(size))


def test_a_null_example_counts_nothing(glue_data: Data) -> None:
    for task in ("STS-B", "CoLA"):
        assert opened(glue_data(task)).dev[""][[-1]]["labels"].tolist() == [IGNORE_INDEX]
    assert opened(glue_data("RTE"), "predict").test["RTE"][[-1]]["index"].tolist() == [IGNORE_INDEX]


def test_loader_processes_make_the_same_batches(glue_data: Data) -> None:
    def epochs(workers: int) -> list[SequenceBatch]:
        loader = opened(glue_data("QQP", num_workers=workers)).train_dataloader()
        return [batch for _ in range(2) for batch, _ in zip(loader, range(len(loader)), strict=False)]

    assert_identical(epochs(0), epochs(2))


def test_sequences_are_tokenised_once(glue_data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    tokenise = datamodules.glue.tokenise
    monkeypatch.setattr(datamodules.glue, "tokenise", lambda *arguments: calls.append(1) or tokenise(*arguments))
    options = {"cache_dir": str(tmp_path / "cache")}
    first = opened(glue_data("MNLI", **options))
    assert len(calls) == 3
    second = opened(glue_data("MNLI", **options))
    assert len(calls) == 3
    assert_identical(first.train[range(37)], second.train[range(37)])
    opened(glue_data("MNLI", length=16, **options))
    assert len(calls) == 6


def test_a_file_that_changes_is_read_again(glue_data: Data, glue_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(glue_dir / "CoLA", tmp_path / "CoLA")
    options = {"path": str(tmp_path), "cache_dir": str(tmp_path / "cache")}
    assert len(opened(glue_data("CoLA", **options)).train) == 37
    with (tmp_path / "CoLA" / "train.tsv").open("a") as file:
        file.write("x\t1\t\tone more sentence\n")
    assert len(opened(glue_data("CoLA", **options)).train) == 38


@pytest.mark.parametrize("name", ["data-00000-of-00001.arrow", "state.json", "dataset_info.json"])
def test_a_cache_that_was_cut_short_is_built_again(glue_data: Data, tmp_path: Path, name: str) -> None:
    cache = str(tmp_path / "cache")
    whole = opened(glue_data("RTE", cache_dir=cache)).train[range(37)]
    for file in (tmp_path / "cache").glob(f"glue-*/{name}"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.warns(UserWarning, match="glue-.*: this part of the cache is not whole"):
        assert_identical(opened(glue_data("RTE", cache_dir=cache)).train[range(37)], whole)


def test_tokenizers_that_differ_in_segments_only_may_share_the_cache(
    glue_data: Data, tokenizer_dir: Path, tmp_path: Path
) -> None:
    """BERT's and DistilBERT's have one vocabulary, but only BERT's gives segments when not asked."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(tmp_path / "without")
    cache = str(tmp_path / "cache")
    opened(glue_data("RTE", tokenizer=str(tmp_path / "without"), cache_dir=cache))
    assert int(opened(glue_data("RTE", cache_dir=cache)).dev[""][[0]]["token_type_ids"].max()) == 1


def test_tokenizers_that_cut_at_different_ends_do_not_share_the_cache(
    glue_data: Data, tokenizer_dir: Path, tmp_path: Path
) -> None:
    AutoTokenizer.from_pretrained(tokenizer_dir, truncation_side="left").save_pretrained(tmp_path / "left")
    options = {"length": 8, "cache_dir": str(tmp_path / "cache")}
    right, left = (
        opened(glue_data("CoLA", **options, **own)).dev[""] for own in ({}, {"tokenizer": str(tmp_path / "left")})
    )
    cut = [row for row in range(len(right)) if right.lengths[row] == 8]
    assert any(right.rows[row]["input_ids"] != left.rows[row]["input_ids"] for row in cut)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_epochs": 3}, 3 * 5),
        ({"max_epochs": 3, "accumulate_grad_batches": 2}, 3 * 3),
        ({"max_epochs": 3, "limit_train_batches": 3, "accumulate_grad_batches": 2}, 3 * 2),
        ({"max_epochs": 3, "limit_train_batches": 0.5}, 3 * 2),
        ({"max_epochs": 3, "max_steps": 4}, 4),
        ({"max_epochs": 3, "max_steps": 40}, 15),
        ({"max_epochs": None, "max_steps": 4}, 4),
    ],
)
def test_steps_of_a_fit(glue_data: Data, options: dict[str, object], steps: int) -> None:
    assert opened(glue_data("SST-2"), **options).trainer.max_steps == steps


def test_a_fit_without_an_end_is_an_error(glue_data: Data) -> None:
    with pytest.raises(ValueError, match=r"set trainer.max_epochs"):
        opened(glue_data("SST-2"), max_epochs=-1)


def test_the_first_examples_only(glue_data: Data) -> None:
    whole, part = opened(glue_data("WNLI")), opened(glue_data("WNLI", train_examples=10))
    assert (len(whole.train), len(part.train), len(part.dev[""])) == (37, 10, 13)
    assert_identical(part.train[range(10)], whole.train[range(10)])


def sizes(sets: dict[str, SequenceDataset]) -> dict[str, int]:
    return {name: len(rows) for name, rows in sets.items()}


def test_the_sets_of_mnli_and_ax(glue_data: Data, glue_dir: Path, tmp_path: Path) -> None:
    """AX trains on MNLI, whose model answers AX too; either folder finds the other beside it."""
    dev, tests = {"": 13, "_mismatched": 11}, {"MNLI-m": 10, "MNLI-mm": 11, "AX": 15}
    for folder in ("", "MNLI"):
        data = glue_data("MNLI", path=str(glue_dir / folder))
        assert sizes(opened(data).dev) == dev
        assert sizes(opened(data, "predict").test) == tests
    for folder in ("", "AX", "diagnostic", "MNLI"):
        data = glue_data("AX", path=str(glue_dir / folder))
        assert sizes(opened(data).dev) == dev
        assert len(data.train) == 37
        assert sizes(opened(data, "predict").test) == {"AX": 15}
    shutil.copytree(glue_dir / "MNLI", tmp_path / "MNLI", ignore=shutil.ignore_patterns("dev_mismatched.tsv"))
    with pytest.warns(UserWarning, match=r"no dev_mismatched.tsv of MNLI there"):
        data = opened(glue_data("MNLI", path=str(tmp_path)))
    assert sizes(data.dev) == {"": 13}
    assert sizes(opened(data, "predict").test) == {"MNLI-m": 10, "MNLI-mm": 11}


@pytest.mark.parametrize("name", ["length", "batch_size", "eval_batch_size", "train_examples"])
def test_bad_settings_are_errors(glue_data: Data, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} of \d or more expected, got 0"):
        glue_data("CoLA", **{name: 0})
