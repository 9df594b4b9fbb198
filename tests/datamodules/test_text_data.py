"""The datamodule: settings checked at once, tokenizer and tokens of exactly the sources it was given."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from datamodules import Masking, TextDataModule
from datamodules.token_cache import TextSize
from datamodules.tokenizers import SPECIAL_TOKENS
from objectives.masked_lm import IGNORE_INDEX

Data = Callable[..., TextDataModule]


def attach(data: TextDataModule, rank: int = 0, ranks: int = 1, max_steps: int = 5, stage: str = "fit") -> TextDataModule:
    """Give a datamodule what it asks of a trainer, of one that fits by default, and set it up."""
    state = SimpleNamespace(fn=stage)
    data.trainer = SimpleNamespace(
        state=state, max_steps=max_steps, accumulate_grad_batches=2, global_rank=rank, world_size=ranks
    )
    data.prepare_data()
    data.setup(stage)
    return data


def test_the_stream_has_a_batch_for_every_micro_batch_of_every_step(text_data: Data) -> None:
    batches = list(attach(text_data(length=16, batch_size=8)).train_dataloader())
    assert len(batches) == 5 * 2
    assert {batch["input_ids"].shape for batch in batches} == {(8, 16)}
    assert {batch["labels"].shape for batch in batches} == {(8, 2)}


def test_training_batches_of_two_ranks_are_the_batches_of_one(text_data: Data) -> None:
    whole = attach(text_data(batch_size=8)).train_dataloader()
    halves = [attach(text_data(batch_size=4), rank, ranks=2).train_dataloader() for rank in (0, 1)]
    for batch, *parts in zip(whole, *halves, strict=True):
        for key, value in batch.items():
            assert torch.equal(value, torch.cat([part[key] for part in parts]))


def test_validation_is_the_same_whatever_the_training_settings(text_data: Data) -> None:
    plain = list(attach(text_data()).val_dataloader())
    other = list(attach(text_data(seed=9, masking=Masking(rate=0.4, whole_words=True))).val_dataloader())
    for first, second in zip(plain, other, strict=True):
        assert all(torch.equal(first[key], second[key]) for key in first)


def counted_labels(data: Data, ranks: int, split: str = "val", **options: object) -> list[list[int]]:
    """Labels of all examples of validation, or of the test, that count, of all ranks together, in no order."""
    rows = []
    for rank in range(ranks):
        for batch in getattr(attach(data(**options), rank, ranks), f"{split}_dataloader")():
            rows += [row for row in batch["labels"].tolist() if row[0] != IGNORE_INDEX]
    return sorted(rows)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("eval_batch_size", [None, 1, 5])
def test_so_many_sequences_are_validated_on_for_any_number_of_devices_and_any_batch(
    text_data: Data, ranks: int, eval_batch_size: int | None
) -> None:
    options = {"validation_share": 0.5, "eval_batch_size": eval_batch_size}
    every = counted_labels(text_data, 1, validation_share=0.5)
    some = counted_labels(text_data, ranks, eval_sequences=13, **options)
    assert len(some) == 13 < len(every)
    assert some == counted_labels(text_data, 1, eval_sequences=13, validation_share=0.5)
    assert all(row in every for row in some)
    assert counted_labels(text_data, ranks, **options) == every
    assert counted_labels(text_data, ranks, eval_sequences=len(every) + 1, **options) == every


@pytest.fixture(scope="module")
def dev_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text beside the corpus, of one document."""
    file = tmp_path_factory.mktemp("dev") / "dev.jsonl"
    file.write_text(json.dumps({"body": "the students learn and the teachers forget. " * 40}) + "\n")
    return file


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_test_split_is_scored_like_validation_and_is_another(text_data: Data, ranks: int) -> None:
    options = {"validation_share": 0.3, "test_share": 0.3, "eval_batch_size": 3}
    every = counted_labels(text_data, 1, "test", **options)
    some = counted_labels(text_data, ranks, "test", eval_sequences=7, **options)
    assert len(some) == 7 < len(every)
    assert all(row in every for row in some)
    assert counted_labels(text_data, ranks, "test", **options) == every
    validation = counted_labels(text_data, 1, **options)
    assert validation == counted_labels(text_data, 1, validation_share=0.3)
    assert validation != every


def test_a_text_of_its_own_is_a_whole_split_and_nothing_is_held_out_for_it(text_data: Data, dev_text: Path) -> None:
    own = [{"path": str(dev_text), "column": "body"}]
    shares = {"validation_share": 0.4, "test_share": 0.4}
    plain = attach(text_data(**shares)).splits
    both = attach(text_data(validation_path=own, test_path=own, **shares)).splits
    assert both["train"].size.documents == 200
    for split, other in (("validation", "test"), ("test", "validation")):
        assert both[split].size == TextSize(documents=1, words=7 * 40, characters=44 * 40)
        mixed = attach(text_data(**{f"{split}_path": own}, **shares)).splits
        assert mixed[split].file.read_bytes() == both[split].file.read_bytes()
        assert mixed[other].file.read_bytes() == plain[other].file.read_bytes()
        assert mixed["train"].size.documents == 120
    with pytest.warns(UserWarning, match="^1 of the 1 documents of validation_path are also trained on"):
        column = attach(text_data(validation_path=str(dev_text), column="body", tokenizer=None, path=str(dev_text))).splits
    assert column["train"].size == column["validation"].size == both["test"].size


@pytest.mark.parametrize("stages", [("fit", "test"), ("validate", "fit", "test"), ("test", "validate", "fit")])
def test_what_is_trained_on_is_said_once_whatever_is_opened_first(
    text_data: Data, dev_text: Path, stages: tuple[str, ...]
) -> None:
    data = text_data(path=str(dev_text), validation_path=str(dev_text), test_path=str(dev_text), column="body")
    with pytest.warns(UserWarning, match="also trained on") as caught:
        [attach(data, stage=stage) for stage in stages]
    assert sorted(str(warning.message) for warning in caught) == [
        f"1 of the 1 documents of {split}_path are also trained on" for split in ("test", "validation")
    ]


def test_the_vocabulary_is_that_of_the_training_text(corpus: Path, dev_text: Path, cache_dir: Path) -> None:
    options = {"vocabulary_size": 200, "cache_dir": str(cache_dir)}
    own = [{"path": str(dev_text), "column": "body"}]
    with_own = attach(TextDataModule(str(corpus), validation_path=own, **options)).tokenizer.get_vocab()
    assert with_own == attach(TextDataModule(str(corpus), **options)).tokenizer.get_vocab()


@pytest.mark.parametrize(("stage", "split"), [("validate", "validation"), ("test", "test")])
def test_a_text_of_its_own_is_scored_without_the_training_text(
    text_data: Data, dev_text: Path, stage: str, split: str
) -> None:
    own = [{"path": str(dev_text), "column": "body"}]
    data = attach(text_data(path="nowhere.txt", **{f"{split}_path": own}), stage=stage)
    assert data.splits.keys() == {split}
    assert data.unigram_log_probabilities is None
    loader = data.val_dataloader() if stage == "validate" else data.test_dataloader()
    assert sum(len(batch["labels"]) for batch in loader) == -(-len(data.splits[split].tokens) // 14)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
        attach(data)


def test_without_a_test_split_there_is_no_test(text_data: Data, cache_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"no test split: give --data\.test_share .* or --data\.test_path"):
        attach(text_data(cache_dir=str(cache_dir)), stage="test")
    assert not cache_dir.exists()
    assert attach(text_data(test_share=0.01), stage="test").splits["test"].size.documents == 2


def test_what_is_wrong_with_a_text_of_its_own_is_said_of_it(text_data: Data, tmp_path: Path) -> None:
    (empty := tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match="test_path: the corpus is empty"):
        attach(text_data(test_path=str(empty)))
    (foreign := tmp_path / "foreign.txt").write_text("日本語 " * 50)
    with pytest.warns(UserWarning, match=r"100% of the validation tokens are \[UNK\]"):
        attach(text_data(validation_path=str(foreign)))


def test_the_seed_of_the_run_is_taken_where_none_is_given(text_data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "4")
    run, same, other = (next(iter(attach(text_data(seed=seed)).train_dataloader()))["input_ids"] for seed in (None, 4, 5))
    assert torch.equal(run, same)
    assert not torch.equal(run, other)


def test_unigram_probabilities_are_those_of_the_training_tokens(text_data: Data) -> None:
    data = attach(text_data())
    p = data.unigram_log_probabilities.exp()
    counts = torch.bincount(torch.from_numpy(data.corpus.train.tokens.astype("int64")), minlength=len(data.tokenizer))
    torch.testing.assert_close(p, (counts + 1).double() / (counts + 1).sum())


def test_a_tokenizer_is_trained_on_the_column_that_is_read(tmp_path: Path, cache_dir: Path) -> None:
    rows = [{"a": "sparse " * count + "weights", "b": "dense " * count + "layers"} for count in range(1, 5)]
    (file := tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for column, here, absent in (("a", "sparse", "dense"), ("b", "dense", "sparse")):
        data = attach(TextDataModule(str(file), column, vocabulary_size=200, cache_dir=str(cache_dir)))
        assert here in data.tokenizer.get_vocab()
        assert absent not in data.tokenizer.get_vocab()


def test_many_sources_are_one_corpus(tmp_path: Path, cache_dir: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text(f"sparse weights {number}\n\nmasked tokens {number}\n")
    (tmp_path / "rows.jsonl").write_text('{"body": "dense dense"}\n')
    paths = [
        *(str(tmp_path / f"{number}.txt") for number in range(30)),
        {"path": str(tmp_path / "rows.jsonl"), "column": "body"},
    ]
    data = attach(TextDataModule(paths, vocabulary_size=200, cache_dir=str(cache_dir)))
    tokens = torch.cat([torch.from_numpy(stream.tokens.astype("int64")) for stream in data.splits.values()])
    assert int((tokens == data.tokenizer.sep_token_id).sum()) == 61
    assert data.tokenizer.convert_tokens_to_ids("dense") in tokens


@pytest.mark.parametrize("source", [{"column": "body"}, {"path": "corpus.txt", "colunm": "body"}])
def test_a_source_with_unknown_or_missing_fields_is_refused(source: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="a source has a path and may have column, name, split, revision, got"):
        TextDataModule([source])


def test_pretraining_without_a_number_of_steps_is_refused_before_anything_is_written(corpus: Path, cache_dir: Path) -> None:
    with pytest.raises(ValueError, match="set trainer.max_steps"):
        attach(TextDataModule(str(corpus), cache_dir=str(cache_dir)), max_steps=-1)
    assert not cache_dir.exists()


@pytest.mark.parametrize("text", ["", " \n\n\t"])
def test_an_empty_corpus_is_an_error_that_leaves_nothing(tmp_path: Path, cache_dir: Path, text: str) -> None:
    (file := tmp_path / "empty.txt").write_text(text)
    with pytest.raises(ValueError, match="the corpus is empty"):
        attach(TextDataModule(str(file), cache_dir=str(cache_dir)))
    assert [path for path in cache_dir.iterdir() if path.suffix != ".lock" and path.name != "digests"] == []


def test_a_missing_file_is_an_error_that_leaves_nothing(cache_dir: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
        attach(TextDataModule("nowhere.txt", cache_dir=str(cache_dir)))
    assert not cache_dir.exists()


def test_a_vocabulary_that_cannot_hold_the_alphabet_names_the_smallest_that_can(corpus: Path, cache_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"vocabulary_size of \d+ or more expected for this corpus, got 10") as error:
        attach(TextDataModule(str(corpus), vocabulary_size=10, cache_dir=str(cache_dir)))
    smallest = int(str(error.value).split()[2])
    data = attach(TextDataModule(str(corpus), vocabulary_size=smallest, cache_dir=str(cache_dir)))
    assert len(data.tokenizer) == smallest
    with pytest.raises(ValueError, match=f"vocabulary_size of {smallest} or more"):
        attach(TextDataModule(str(corpus), vocabulary_size=smallest - 1, cache_dir=str(cache_dir)))


def vocabulary_file(directory: Path, entries: str) -> str:
    file = directory / "vocab.txt"
    file.write_text("\n".join([*SPECIAL_TOKENS, *entries]) + "\n")
    return str(file)


def test_a_vocabulary_file_too_small_for_an_alphabet_is_refused(corpus: Path, cache_dir: Path, tmp_path: Path) -> None:
    message = r"vocab\.txt: a vocabulary of 10 entries; 31 or more expected"
    with pytest.raises(ValueError, match=message):
        attach(TextDataModule(str(corpus), tokenizer=vocabulary_file(tmp_path, "abcde"), cache_dir=str(cache_dir)))


def test_text_that_a_vocabulary_does_not_know_is_one_warning_with_its_share(
    corpus: Path, cache_dir: Path, tmp_path: Path, text_data: Data
) -> None:
    tokenizer = vocabulary_file(tmp_path, "abcdefghijklmnopqrstuvwxyz")  # and no part of a word: only "a" is known
    for _ in range(2):  # built, and from the cache
        with pytest.warns(UserWarning, match="does not fit") as caught:
            data = attach(TextDataModule(str(corpus), tokenizer=tokenizer, cache_dir=str(cache_dir)))
        counts = data.corpus.train_counts
        share = counts[data.tokenizer.unk_token_id] / (counts.sum() - counts[data.tokenizer.sep_token_id])
        assert share > 0.9
        assert [str(warning.message) for warning in caught] == [
            f"{share:.0%} of the training tokens are [UNK]: the vocabulary of {tokenizer} does not fit the text"
        ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(text_data())


BAD_SETTINGS = [
    ("eval_batch_size", 0),
    ("eval_sequences", 0),
    ("length", 7),
    ("batch_size", 0),
    ("validation_share", 0.0),
    ("validation_share", 1.0),
    ("test_share", -0.1),
    ("test_share", 0.95),
]


@pytest.mark.parametrize(("name", "value"), BAD_SETTINGS)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} .*got .*{value}"):
        TextDataModule(**{name: value})
