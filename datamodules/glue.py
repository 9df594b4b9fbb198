"""GLUE batches: tokenised once, grouped by length, padded to the longest of a batch."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import NotRequired, TypedDict

import datasets
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from datamodules.cache import build_once
from datamodules.files import content_digest
from datamodules.finetuning import FinetuningDataModule, SequenceDataset
from datamodules.glue_files import GlueFiles, Split
from datamodules.saved import load_saved
from datamodules.streams import there
from datamodules.tokenizers import tokenizer_fingerprint
from objectives.glue import GLUE, GlueTask, glue_task

FORMAT = 3


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


class GLUEDataModule(FinetuningDataModule[GlueTask, SequenceBatch]):
    """One task of GLUE.

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
        sizes = (length, batch_size, eval_batch_size, train_examples)
        super().__init__(glue_task(task), path, tokenizer, *sizes, seed, num_workers, cache_dir)

    def open_splits(self, stage: str | None) -> None:
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

    def _test_sets(self) -> dict[str, SequenceDataset[SequenceBatch]]:
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

    def _tokenised(self, files: GlueFiles, task: GlueTask, name: str, labelled: bool) -> SequenceDataset[SequenceBatch]:
        tokenizer = there(self.tokenizer)
        content = files.fingerprint(name, lambda file: content_digest(file, self.cache_dir))
        tokens = [tokenizer_fingerprint(tokenizer), tokenizer.truncation_side]
        identity = [FORMAT, task.name, content, labelled, tokens, self.length]
        key = hashlib.blake2b(json.dumps(identity).encode(), digest_size=12).hexdigest()

        def build(directory: Path) -> None:
            tokenise(files.read(name, labelled), tokenizer, self.length).save_to_disk(directory)

        rows = build_once(self.cache_dir / f"glue-{key}", build, load_saved)
        if name == "train" and self.train_examples is not None:
            rows = rows.select(range(min(self.train_examples, len(rows))))
        padding = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        return SequenceDataset(rows, padding)


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
