"""Batches of the tasks beyond GLUE: what the tokenizer makes of the files, with labels where they belong."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import datamodules.beyond_glue
from datamodules import OUTSIDE, TaskDataModule
from helpers import assert_identical, tiny_trainer
from objectives.beyond_glue import BEYOND_GLUE, TAGS
from objectives.masked_lm import IGNORE_INDEX

Data = Callable[..., TaskDataModule]


def opened(data: TaskDataModule, stage: str = "fit", **options: object) -> TaskDataModule:
    """A datamodule as a trainer of one epoch would open it."""
    data.trainer = tiny_trainer(Path(), [], -1, **{"max_epochs": 1, "limit_val_batches": None} | options)
    data.setup(stage)
    return data


@pytest.fixture
def tokenizer(tokenizer_dir: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(tokenizer_dir)


@pytest.mark.parametrize("task", BEYOND_GLUE)
def test_an_epoch_has_every_row_once(task_data: Data, task: str) -> None:
    data = opened(task_data(task))
    loader = data.train_dataloader()
    batches = [batch for batch, _ in zip(loader, range(len(loader)), strict=False)]
    assert sorted(index for batch in batches for index in batch["index"].tolist()) == list(range(len(data.train)))
    shapes = {"span": (8, 2), "choice": (8,)}
    for batch in batches[:-1]:
        if data.task.kind == "tag":
            assert batch["labels"].shape == batch["input_ids"].shape
        elif len(batch["labels"]) == 8:
            assert batch["labels"].shape == shapes[data.task.kind]
        assert not batch.keys() & {"char_starts", "char_ends", "question", "word"}
        mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
        assert mask.shape == batch["input_ids"].shape == batch["token_type_ids"].shape
        assert int(mask.sum(-1).max()) == mask.size(-1)
        assert bool((batch["input_ids"][mask == 0] == data.tokenizer.pad_token_id).all())


@pytest.mark.parametrize("task", ["SQuAD", "SQuAD2"])
def test_a_window_holds_the_question_and_its_answer(task_data: Data, task: str, tokenizer: PreTrainedTokenizerFast) -> None:
    data = opened(task_data(task))
    dev, found = data.dev[""], {}
    batch = dev[range(len(dev))]
    for row in range(len(dev)):
        example = dev.examples[int(batch["question"][row])]
        assert tokenizer.decode(batch["input_ids"][row]).startswith(f"[CLS] {example['question']} [SEP]")
        first, last = batch["labels"][row].tolist()
        if (first, last) != (0, 0):
            text = example["context"][batch["char_starts"][row, first] : batch["char_ends"][row, last]]
            found.setdefault(example["id"], set()).add(text)
    answerable = {example["id"]: {example["answers"][0]} for example in dev.examples if example["answers"]}
    assert found == answerable
    assert len(dev) > len(dev.examples)  # contexts are longer than a window
    assert (len(answerable) < len(dev.examples)) == (task == "SQuAD2")


def test_choices_are_sentence_pairs(task_data: Data, tasks_dir: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    data = opened(task_data("SWAG"))
    with (tasks_dir / "SWAG" / "val.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    batch = data.dev[""][range(13)]
    pairs = [(row["sent1"], f"{row['sent2']} {row[f'ending{n}']}") for row in rows for n in range(4)]
    expected = tokenizer(
        *map(list, zip(*pairs, strict=True)), truncation=True, max_length=32, padding=True, return_tensors="pt"
    )
    assert_identical({name: batch[name].flatten(0, 1) for name in expected}, dict(expected))
    assert batch["labels"].tolist() == [int(row["label"]) for row in rows]


def test_a_word_has_its_tag_at_the_first_sub_token(task_data: Data) -> None:
    data = opened(task_data("CoNLL", length=256))
    dev = data.dev[""]
    batch = dev[range(len(dev))]
    words = [word for example in dev.examples for word in example["words"]]
    tags = [tag for example in dev.examples for tag in example["tags"]]
    marked = batch["word"] != OUTSIDE
    assert bool((marked == (batch["labels"] != IGNORE_INDEX)).all())
    assert batch["word"][marked].tolist() == list(range(len(words)))
    assert batch["labels"][marked].tolist() == tags
    assert {TAGS[tag][:1] for tag in tags} == {"O", "B", "I"}
    beginnings = data.tokenizer.convert_ids_to_tokens(batch["input_ids"][marked].tolist())
    assert all(word.startswith(token) for word, token in zip(words, beginnings, strict=True))
    inner = batch["input_ids"][(~marked) & (batch.get("attention_mask", torch.ones_like(batch["input_ids"])) == 1)]
    assert {token[:2] for token in data.tokenizer.convert_ids_to_tokens(inner.tolist())} == {"##", "[C", "[S"}


def test_tokenised_once(task_data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(task_data("SQuAD"))

    def again(*_: object) -> None:
        raise AssertionError("tokenised a second time")

    with monkeypatch.context() as patch:
        patch.setattr(datamodules.beyond_glue, "tokenise_task", again)
        second = opened(task_data("SQuAD"))
        assert_identical(first.train[[0, 5]], second.train[[0, 5]])
        for other in ({"stride": 9}, {"length": 31}, {"train_examples": 3}):
            with pytest.raises(AssertionError, match="a second time"):
                opened(task_data("SQuAD", **other))
    assert len(opened(task_data("SQuAD", train_examples=3)).train.examples) == 3


def test_predict_answers_the_test_set_or_else_the_development_set(task_data: Data) -> None:
    sizes = {
        task: {name: len(rows.examples) for name, rows in opened(task_data(task), "predict").test.items()}
        for task in BEYOND_GLUE
    }
    assert sizes == {"SQuAD": {"dev": 15}, "SQuAD2": {"dev": 15}, "SWAG": {"test": 5}, "CoNLL": {"test": 11}}
    assert len(opened(task_data("CoNLL"), "test").dev[""].examples) == 11
    assert len(opened(task_data("CoNLL"), "validate").dev[""].examples) == 13


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "MRPC"}, r"no task beyond GLUE 'MRPC'; there are SQuAD, SQuAD2, SWAG, CoNLL"),
        ({"stride": -1}, r"stride of 0 or more expected, got -1"),
        ({"batch_size": 0}, r"batch_size of 1 or more expected, got 0"),
        ({"seed": -1}, r"seed of 0 or more expected, got -1"),
    ],
)
def test_bad_settings(task_data: Data, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task_data(**{"task": "SQuAD"} | options)


def test_a_stride_without_room(task_data: Data) -> None:
    with pytest.raises(ValueError, match=r"data.stride is 28; less than data.length - 4, 28, expected"):
        opened(task_data("SQuAD", stride=28))


def test_a_changed_file_is_read_anew(task_data: Data, tmp_path: Path, tasks_dir: Path) -> None:
    for name in ("train", "dev"):
        (tmp_path / f"{name}-v1.1.json").write_bytes((tasks_dir / "squad" / f"{name}-v1.1.json").read_bytes())
    assert len(opened(task_data("SQuAD", path=str(tmp_path))).dev[""].examples) == 15
    content = json.loads((tmp_path / "dev-v1.1.json").read_text())
    content["data"][0]["paragraphs"].pop()
    (tmp_path / "dev-v1.1.json").write_text(json.dumps(content))
    assert len(opened(task_data("SQuAD", path=str(tmp_path))).dev[""].examples) == 12
