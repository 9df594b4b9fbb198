"""Batches of the tasks beyond GLUE: tokenised once, grouped by length, padded to the longest of a batch."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import datasets
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from datamodules.cache import build_once
from datamodules.files import content_digest
from datamodules.finetuning import FinetuningDataModule, SequenceDataset
from datamodules.saved import load_saved
from datamodules.streams import there
from datamodules.swag_files import ENDINGS
from datamodules.task_files import TaskFiles
from datamodules.tokenizers import of_single_words, tokenizer_fingerprint
from datamodules.windows import OUTSIDE, Span, question_limit, windows
from internals import dataset_fingerprint
from objectives.beyond_glue import Split, Task, beyond_glue
from objectives.masked_lm import IGNORE_INDEX

FORMAT = 3
EVALUATED = ("char_starts", "char_ends", "question", "word")
"""Columns that only answers need."""
ENCODED_AT_ONCE = 200  # examples; a long context has many windows


class TaskBatch(TypedDict):
    """``input_ids`` and ``token_type_ids``, (batch, length) int64, of choices (batch, choices, length).

    ``attention_mask`` is absent where nothing is padded, and ``labels`` where a test set has none. These are, of a span, its
    first and last token, (batch, 2), 0, the class token, where the window has none; the number of the right choice, (batch,);
    or the tag of every word at its first sub-token, (batch, length), ``IGNORE_INDEX`` elsewhere. ``index`` (batch,) numbers the
    rows and is ``IGNORE_INDEX`` in a null example.

    Outside training there are also, of spans, ``question`` (batch,), which question a window is of, and ``char_starts`` and
    ``char_ends`` (batch, length), the characters of every token of the context; of tags ``word`` (batch, length), the number of
    the word over the whole set at its first sub-token. All three are ``OUTSIDE`` elsewhere.
    """

    input_ids: Tensor
    token_type_ids: Tensor
    index: Tensor
    attention_mask: NotRequired[Tensor]
    labels: NotRequired[Tensor]
    question: NotRequired[Tensor]
    char_starts: NotRequired[Tensor]
    char_ends: NotRequired[Tensor]
    word: NotRequired[Tensor]


class TaskDataset(SequenceDataset[TaskBatch]):
    """Tokenised rows, and the ``examples`` that they were made from, as the files have them."""

    def __init__(self, rows: datasets.Dataset, examples: datasets.Dataset, padding: Mapping[str, int]) -> None:
        super().__init__(rows, padding)
        self.examples = examples


class TaskDataModule(FinetuningDataModule[Task, TaskBatch]):
    """One task beyond GLUE.

    Args:
        task: SQuAD (version 1.1), SQuAD2 (2.0), SWAG or CoNLL (2003, named entities).
        path: directory with the official files, a directory in the hub's layout, or a hub id.
        tokenizer: directory or hub id; null for that of the model.
        length: tokens a sequence at most, special ones included. Longer contexts of SQuAD are cut into windows, longer sentences
            lose their end, whose words are then tagged ``O``.
        stride: tokens of context that a window of SQuAD shares with the next.
        batch_size: sequences a device and micro-batch; of SWAG rows, which have four.
        eval_batch_size: the same outside training; null for ``batch_size``.
        train_examples: use the first so many questions, rows or sentences of the training set only; null for all.
        seed: of the order; null takes the run's (``seed_everything``).
        num_workers: loader processes; 0 makes batches in the training process.
        cache_dir: where tokens are kept; null for ``$TRIFECTA_CACHE``, else ``~/.cache/trifecta``.
    """

    def __init__(
        self,
        task: str,
        path: str,
        tokenizer: str | None = None,
        length: int = 384,
        stride: int = 128,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        train_examples: int | None = None,
        seed: int | None = None,
        num_workers: int = 0,
        cache_dir: str | None = None,
    ) -> None:
        sizes = (length, batch_size, eval_batch_size, train_examples)
        super().__init__(beyond_glue(task), path, tokenizer, *sizes, seed, num_workers, cache_dir)
        if stride < 0:
            raise ValueError(f"stride of 0 or more expected, got {stride}")
        self.stride = stride
        self.test_split: Split = "test"

    def open_splits(self, stage: str | None) -> None:
        files = TaskFiles(self.task, self.path)
        if stage == "fit" and self.train is None:
            files.require("train")
            self.train = self._tokenised(files, "train")
        if stage == "predict":
            split: Split = "test" if "test" in files else "dev"
            files.require(split)
            self.test = {split: self._tokenised(files, split)}
            return
        split = "test" if stage == "test" and self.task.labelled_test and "test" in files else "dev"
        if not self.dev or split != self.test_split:
            files.require(split)
            self.dev, self.test_split = {"": self._tokenised(files, split)}, split

    def _tokenised(self, files: TaskFiles, split: Split) -> TaskDataset:
        tokenizer = there(self.tokenizer)
        window = (self.length, self.stride) if self.task.kind == "span" else (self.length,)
        if self.task.kind == "span":
            question_limit(self.length, self.stride, tokenizer.num_special_tokens_to_add(pair=True))
        content = files.fingerprint(split, lambda file: content_digest(file, self.cache_dir))
        examples = self.train_examples if split == "train" else None
        tokens = [tokenizer_fingerprint(tokenizer), tokenizer.truncation_side]
        identity = [FORMAT, self.task.name, content, split, tokens, window, examples]
        key = hashlib.blake2b(json.dumps(identity).encode(), digest_size=12).hexdigest()

        def build(directory: Path) -> None:
            rows = files.read(split)
            if examples is not None:
                rows = rows.select(range(min(examples, len(rows))))
            rows.save_to_disk(directory / "examples")
            tokens = tokenise_task(rows, self.task, tokenizer, self.length, self.stride)
            if split == "train":
                tokens = tokens.remove_columns([name for name in tokens.column_names if name in EVALUATED])
            tokens.save_to_disk(directory / "rows")

        def load(directory: Path) -> tuple[Any, Any]:
            return load_saved(directory / "rows"), load_saved(directory / "examples")

        rows, originals = build_once(self.cache_dir / f"{self.task.name.lower()}-{key}", build, load)
        padding = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        padding |= {"char_starts": OUTSIDE, "char_ends": OUTSIDE, "word": OUTSIDE}
        if self.task.kind == "tag":
            padding["labels"] = IGNORE_INDEX
        return TaskDataset(rows, originals, padding)


def tokenise_task(
    examples: datasets.Dataset, task: Task, tokenizer: PreTrainedTokenizerFast, length: int, stride: int
) -> datasets.Dataset:
    """The columns of a :class:`TaskBatch`, and ``length``, of what a reader of the task's files made."""

    def of_spans(rows: dict[str, list], numbers: list[int]) -> dict[str, list]:
        golds = [_first_answer(*pair) for pair in zip(rows["answers"], rows["starts"], strict=True)]
        columns = windows(rows["question"], rows["context"], golds, tokenizer, length, stride)
        return columns | {"question": [numbers[owner] for owner in columns["question"]]}

    def of_choices(rows: dict[str, list], numbers: list[int]) -> dict[str, list]:
        encoded = [
            tokenizer(
                rows["sent1"],
                [f"{begun} {ending}".strip() for begun, ending in zip(rows["sent2"], rows[ending_column], strict=True)],
                truncation=True,
                max_length=length,
                return_attention_mask=False,
                return_token_type_ids=True,
            )
            for ending_column in ENDINGS
        ]
        columns: dict[str, list] = {
            name: list(map(list, zip(*(choice[name] for choice in encoded), strict=True)))
            for name in ("input_ids", "token_type_ids")
        }
        columns["length"] = [max(map(len, choices)) for choices in columns["input_ids"]]
        return columns | ({"labels": rows["choice"]} if "choice" in rows else {})

    offset, tokenizer_of_words = 0, of_single_words(tokenizer)

    def of_words(rows: dict[str, list], numbers: list[int]) -> dict[str, list]:
        nonlocal offset
        encoded = tokenizer_of_words(
            rows["words"],
            is_split_into_words=True,
            truncation=True,
            max_length=length,
            return_attention_mask=False,
            return_token_type_ids=True,
        )
        columns: dict[str, list] = {name: encoded[name] for name in ("input_ids", "token_type_ids")}
        columns |= {"labels": [], "word": [], "length": [len(tokens) for tokens in encoded["input_ids"]]}
        for number, tags in enumerate(rows["tags"]):
            owners = encoded.word_ids(number)
            first = [word is not None and word != before for word, before in zip(owners, [None, *owners], strict=False)]
            marked = list(zip(owners, first, strict=True))
            columns["labels"].append([tags[word] if begins else IGNORE_INDEX for word, begins in marked])
            columns["word"].append([offset + word if begins else OUTSIDE for word, begins in marked])
            offset += len(tags)
        return columns

    encode = {"span": of_spans, "choice": of_choices, "tag": of_words}[task.kind]
    rows = examples.map(
        encode,
        batched=True,
        batch_size=ENCODED_AT_ONCE,
        with_indices=True,
        remove_columns=examples.column_names,
        new_fingerprint=f"{dataset_fingerprint(examples)}-tokens",
        load_from_cache_file=False,
    )
    return rows.add_column("index", list(range(len(rows))), new_fingerprint=f"{dataset_fingerprint(examples)}-rows")


def _first_answer(texts: list[str], starts: list[int]) -> Span | None:
    """Where the first answer is that is where it says; None where there is none."""
    found = ((start, start + len(text)) for text, start in zip(texts, starts, strict=True) if start >= 0)
    return next((Span(*pair) for pair in found), None)
