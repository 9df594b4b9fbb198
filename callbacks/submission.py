"""GLUE submissions: one file a test set, and a zip of all of them."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import BasePredictionWriter
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from datamodules import GLUEDataModule
from objectives.glue import SCORE_RANGE, SUBMISSION, GlueTask

ARCHIVE = "submission.zip"


def submission_lines(task: GlueTask, index: Tensor, prediction: Tensor) -> list[str]:
    """The lines of a submission file, header first, in the order of the index; classes as their strings, scores in range.

    Args:
        task: whose classes.
        index: number of each row, (N,).
        prediction: class or score of each row, (N,).
    """
    order = index.argsort()
    if task.regression:
        texts = [f"{score:.3f}" for score in prediction[order].clamp(*SCORE_RANGE).tolist()]
    else:
        texts = [task.classes[label] for label in prediction[order].tolist()]
    return ["index\tprediction", *(f"{row}\t{text}" for row, text in zip(index[order].tolist(), texts, strict=True))]


def of_all_ranks(trainer: Trainer, names: Sequence[str], predictions: Sequence[Any]) -> dict[str, dict[str, Tensor]]:
    """What all ranks have predicted: name of a set → key → tensor over its rows, in no particular order.

    Args:
        trainer: of the predictions.
        names: of the sets predicted.
        predictions: of each set, or of the only one, a dictionary of tensors a batch.
    """
    by_set = [predictions] if len(names) == 1 else predictions
    answers = {
        name: {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}
        for name, batches in zip(names, by_set, strict=True)
    }
    if trainer.world_size == 1:
        return answers
    ranks: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(ranks, answers)
    return {name: {key: torch.cat([rank[name][key] for rank in ranks]) for key in answers[name]} for name in names}


class GlueSubmission(BasePredictionWriter):
    """Writes ``NAME.tsv`` for every test set predicted and puts all files of ``directory`` into ``submission.zip``.

    Args:
        directory: of the files; predict task after task into the same one.
    """

    def __init__(self, directory: str = "runs/submission") -> None:
        super().__init__(write_interval="epoch")
        self.directory = Path(directory)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "predict" and self.directory.exists() and not self.directory.is_dir():
            raise ValueError(f"submission.directory: {self.directory} is a file; name a directory")

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        if not isinstance(data, GLUEDataModule) or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        answers = of_all_ranks(trainer, list(data.test), predictions)
        for name, answer in answers.items():
            if len(answer["index"]) != len(data.test[name]):
                raise ValueError(f"{name}: {len(answer['index'])} answers to {len(data.test[name])} rows")
            if wrong := int((~answer["finite"]).sum()):
                raise ValueError(
                    f"{name}: {wrong} of {len(answer['index'])} answers are not finite numbers, so nothing is written: "
                    "the model has diverged"
                )
        if trainer.is_global_zero:
            task = cast(GlueTask, pl_module.task)
            self.write(
                {name: submission_lines(task, answer["index"], answer["prediction"]) for name, answer in answers.items()}
            )

    def write(self, files: dict[str, list[str]]) -> None:
        """Write the files (name → lines), then the zip of those there are."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for name, lines in files.items():
            file = self.directory / f"{name}.tsv"
            partial = file.with_suffix(".partial")
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
            partial.replace(file)
        present = [name for name in SUBMISSION if (self.directory / f"{name}.tsv").exists()]
        partial = self.directory / f".{ARCHIVE}.partial"
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in present:
                archive.write(self.directory / f"{name}.tsv", f"{name}.tsv")
        partial.replace(self.directory / ARCHIVE)
        missing = [name for name in SUBMISSION if name not in present]
        still = f", still missing {', '.join(missing)}" if missing else ", ready to upload"
        rank_zero_info(f"{self.directory / ARCHIVE}: {len(present)} of {len(SUBMISSION)} files{still}")
