"""Answers to the tasks beyond GLUE as files in the official formats."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import BasePredictionWriter
from pytorch_lightning.utilities import rank_zero_info

from callbacks.submission import of_all_ranks
from datamodules import TaskDataModule, TaskDataset
from objectives.beyond_glue import N_BEST, Task
from objectives.families import FAMILIES
from objectives.squad import Answer, probabilities

Examples = Mapping[str, Any]


def squad_files(answers: Sequence[Answer], examples: Examples, threshold: float | None) -> dict[str, str]:
    """``predictions.json`` and ``nbest_predictions.json``, and where there is a threshold ``null_odds.json``.

    Args:
        answers: to each question.
        examples: with the ``id`` of each.
        threshold: odds of no answer above which none is given; None where every question has one.
    """
    best, texts, odds = {}, {}, {}
    for question, answer in zip(examples["id"], answers, strict=True):
        ranked = list(answer.candidates)
        if threshold is not None:
            odds[question] = answer.null_odds
            ranked = sorted([*ranked, answer.null], key=lambda each: -each.start_logit - each.end_logit)[:N_BEST]
        texts[question] = "" if threshold is not None and answer.null_odds > threshold else answer.text
        ranked = ranked or [answer.null]
        best[question] = [
            {
                "text": each.text,
                "probability": probability,
                "start_logit": each.start_logit,
                "end_logit": each.end_logit,
            }
            for each, probability in zip(ranked, probabilities(ranked), strict=True)
        ]
    files = {"predictions.json": texts, "nbest_predictions.json": best} | (
        {} if threshold is None else {"null_odds.json": odds}
    )
    return {
        name: json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n" for name, content in files.items()
    }


def swag_files(answers: Sequence[int], examples: Any) -> dict[str, str]:
    """``predictions.csv``: the columns of the official file, with ``label`` the ending that was chosen."""
    text, columns = io.StringIO(), [name for name in examples.column_names if name not in ("choice", "label")]
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["" if name == "index" else name for name in columns] + ["label"])
    lines.writerows([*row, answer] for *row, answer in zip(*(examples[name] for name in columns), answers, strict=True))
    return {"predictions.csv": text.getvalue()}


def conll_files(answers: Sequence[Sequence[str]], examples: Examples) -> dict[str, str]:
    """``predictions.txt``: the columns of the official file, with the predicted tags, in IOB2, in the place of its own."""
    lines: list[str] = []
    for words, others, document, tags in zip(
        examples["words"], examples["others"], examples["document"], answers, strict=True
    ):
        lines += [document, ""] if document else []
        lines += [" ".join(filter(None, columns)) for columns in zip(words, others, tags, strict=True)]
        lines.append("")
    return {"predictions.txt": "\n".join(lines)}


class PredictionFiles(BasePredictionWriter):
    """Writes what a model of a task beyond GLUE answers: to the test set where there is one, else to the development set.

    SQuAD: ``predictions.json``, ``nbest_predictions.json`` and, where questions may have no answer, ``null_odds.json``; SWAG:
    ``predictions.csv``; CoNLL: ``predictions.txt``.

    Args:
        directory: of the files.
        null_threshold: odds of no answer above which none is given; null takes those with the best F1 where the answers are
            known, else 0.
    """

    def __init__(self, directory: str = "runs/predictions", null_threshold: float | None = None) -> None:
        super().__init__(write_interval="epoch")
        if null_threshold is not None and not math.isfinite(null_threshold):
            raise ValueError(f"predictions.null_threshold is {null_threshold}; a finite number expected")
        self.directory, self.null_threshold = Path(directory), null_threshold

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "predict" and self.directory.exists() and not self.directory.is_dir():
            raise ValueError(f"predictions.directory: {self.directory} is a file; name a directory")

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        if not isinstance(data, TaskDataModule) or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        ((name, dataset),) = data.test.items()
        kept = of_all_ranks(trainer, [name], predictions)[name]
        if wrong := int((~kept.pop("finite")).sum()):
            raise ValueError(
                f"{name}: {wrong} answers are not finite numbers, so nothing is written: the model has diverged"
            )
        if data.task.kind != "tag" and len(kept["index"]) != len(dataset):  # of words some may have been cut off
            raise ValueError(f"{name}: {len(kept['index'])} answers to {len(dataset)} rows")
        if trainer.is_global_zero and isinstance(dataset, TaskDataset):
            self.write(data.task, kept, dataset.examples, scored=name == "dev" or data.task.labelled_test)

    def write(self, task: Task, kept: Mapping[str, Any], examples: Any, scored: bool) -> None:
        """Write the files of a task, and say how good the answers are where that is known."""
        family = FAMILIES[task.kind]
        answers = family.answers(kept, examples)
        scores = family.scores(task, answers, examples) if scored else {}
        files = self.files(task, answers, examples, scores)
        self.directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            partial = self.directory / f".{name}.partial"
            partial.write_text(content, encoding="utf-8")
            partial.replace(self.directory / name)
        figures = "".join(f", {name} {score:.4f}" for name, score in scores.items())
        rank_zero_info(f"{self.directory}: {', '.join(files)}; {len(answers):,} answers{figures}")

    def files(self, task: Task, answers: Sequence[Any], examples: Any, scores: Mapping[str, float]) -> dict[str, str]:
        """Name → content."""
        if task.kind == "choice":
            return swag_files(answers, examples)
        if task.kind == "tag":
            return conll_files(answers, examples)
        threshold = self.null_threshold if self.null_threshold is not None else scores.get("f1_threshold", 0.0)
        return squad_files(answers, examples, threshold if task.unanswerable else None)
