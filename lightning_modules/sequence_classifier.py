"""Finetuning on GLUE: an ordinary Hugging Face sequence classifier, or for STS-B a regressor."""

from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from datamodules import GLUEDataModule, SequenceBatch
from lightning_modules.finetuning import FinetuningModule
from objectives.glue import GLUE, GlueTask
from objectives.glue_scores import degenerate, predictions, task_loss, task_scores
from objectives.masked_lm import IGNORE_INDEX


class SequenceClassifier(FinetuningModule[SequenceBatch]):
    """An encoder with a head for a task of GLUE, a classifier or, for STS-B, a regressor."""

    auto = AutoModelForSequenceClassification
    kept = ("predicted", "labels", "loss")

    @property
    def data(self) -> GLUEDataModule:
        """The task's."""
        return self.data_of(GLUEDataModule)

    @property
    def task(self) -> GlueTask:
        """The task whose labels this model learns."""
        task = self.data.task
        return GLUE[task.trained_on or task.name]

    def predict_logits(self, model: PreTrainedModel, batch: SequenceBatch) -> Tensor:
        """Logits (batch, classes), or scores (batch, 1), of any classifier, a student or a teacher."""
        return self.outputs(model, batch).logits

    def task_loss(self, logits: Tensor, batch: SequenceBatch) -> Tensor:
        """Mean cross-entropy in nats, or mean squared error."""
        return task_loss(logits, batch["labels"])

    def validation_step(self, batch: SequenceBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        counted = batch["labels"] != IGNORE_INDEX
        logits, labels = self.predict_logits(self.model, batch)[counted], batch["labels"][counted]
        answers = self.answers[dataloader_idx]
        answers["predicted"].update(predictions(logits).double())
        answers["labels"].update(labels.double())
        answers["loss"].update(task_loss(logits, labels, reduction="none").double())

    def log_scores(self, stage: str) -> None:
        """Metrics over each whole development set, every example of all ranks counted once."""
        for suffix, answers in zip(self.data.dev, self.answers, strict=False):
            predicted, labels, losses = (metric.compute().reshape(-1) for metric in answers.values())  # one is squeezed
            if not self.task.regression:
                predicted, labels = predicted.long(), labels.long()
            scores = task_scores(self.task, predicted, labels)
            for name, score in scores.items():
                self.log(f"{stage}/{name}{suffix}", score, prog_bar=name == self.task.rank_by and not suffix)
            if not suffix:
                self.log(f"{stage}/loss", losses.mean(), prog_bar=True)
                self.log(f"{stage}/degenerate", float(degenerate(self.task, scores, predicted, labels)))
            for metric in answers.values():
                metric.reset()

    def predict_step(self, batch: SequenceBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """``index``, ``prediction`` (class or score) and ``finite`` of every row of a test set, each (batch,)."""
        counted = batch["index"] != IGNORE_INDEX
        logits = self.predict_logits(self.model, batch)[counted]
        finite = logits.isfinite().all(1)  # a class would hide what is not
        return {"index": batch["index"][counted].cpu(), "prediction": predictions(logits).cpu(), "finite": finite.cpu()}
