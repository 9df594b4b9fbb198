"""Finetuning beyond GLUE: an ordinary Hugging Face model that finds answers, chooses endings or tags words."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from transformers import (
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from datamodules import TaskBatch, TaskDataModule, TaskDataset
from lightning_modules.finetuning import FinetuningModule
from lightning_modules.loading import AutoModelClass
from objectives.beyond_glue import FINETUNING, Kind, Task
from objectives.families import FAMILIES, Family
from objectives.squad import span_logits


class Head(NamedTuple):
    """A kind of head: the model that has it, and from what that gives to logits (N, classes)."""

    auto: AutoModelClass
    logits: Callable[[Any, TaskBatch], Tensor]


HEADS: Mapping[Kind, Head] = {
    "span": Head(
        AutoModelForQuestionAnswering,
        lambda output, batch: span_logits(output.start_logits, output.end_logits, batch.get("attention_mask")),
    ),
    "choice": Head(AutoModelForMultipleChoice, lambda output, batch: output.logits),
    "tag": Head(AutoModelForTokenClassification, lambda output, batch: output.logits.flatten(0, 1)),
}


class TaskModel(FinetuningModule[TaskBatch]):
    """An encoder with a head for a task beyond GLUE: spans (SQuAD), choices (SWAG) or tags (CoNLL)."""

    kept: ClassVar[tuple[str, ...]] = tuple(
        dict.fromkeys(name for each in FAMILIES.values() for name in (*each.kept, "loss"))
    )

    @property
    def data(self) -> TaskDataModule:
        """The task's."""
        return self.data_of(TaskDataModule)

    @property
    def task(self) -> Task:
        """The task whose labels this model learns."""
        return self.data.task

    @property
    def family(self) -> Family[Any]:
        """What the task's kind has in common."""
        return FAMILIES[self.task.kind]

    def auto_of_task(self) -> AutoModelClass:
        return HEADS[self.task.kind].auto

    def auto_of(self, config: PretrainedConfig) -> AutoModelClass:
        task = FINETUNING[config.finetuning_task]
        assert isinstance(task, Task), "a checkpoint of this module"
        return HEADS[task.kind].auto

    def load(self, path: str, fitting: bool = False) -> tuple[PreTrainedModel, str | None]:
        """A model that fits the task and the data, and what is wrong with its head before it is finetuned.

        Raises:
            ValueError: no encoder there, too small for the tokenizer or the sequences, or a dropout that its head has not.
        """
        if self.task.kind == "span" and self.hparams["dropout"] is not None:
            raise ValueError("a head for spans has no dropout before it; leave model.dropout out")
        return super().load(path, fitting)

    def predict_logits(self, model: PreTrainedModel, batch: TaskBatch) -> Tensor:
        """Logits of any model for the task, a student or a teacher.

        Of spans (2 · batch, length), of starts and ends in turn; of choices (batch, choices); of tags (batch · length, tags).
        """
        return HEADS[self.task.kind].logits(self.outputs(model, batch), batch)

    def task_loss(self, logits: Tensor, batch: TaskBatch) -> Tensor:
        """Mean cross-entropy in nats."""
        return self.family.loss(logits, batch["labels"])

    def validation_step(self, batch: TaskBatch, batch_idx: int) -> None:
        logits, (answers, *_) = self.predict_logits(self.model, batch), self.answers
        kept = self.family.keep(logits, batch)
        losses = self.family.loss(logits, batch["labels"], reduction="none")
        kept["loss"] = losses if len(kept["index"]) else losses[:0]
        for name, values in kept.items():
            answers[name].update(values.double().flatten())  # or a rank without answers would have tensors of another shape

    def log_scores(self, stage: str) -> None:
        """Metrics over the whole development set, every example of all ranks counted once."""
        examples = self.development_set.examples
        kept = {name: self.answers[0][name].compute().reshape(-1) for name in (*self.family.kept, "loss")}  # one is squeezed
        order = kept["index"].argsort()  # so that sums do not depend on the ranks
        kept = {name: values.view(len(order), -1).squeeze(1)[order] for name, values in kept.items()}
        answers = self.family.answers(kept, examples)
        scores = self.family.scores(self.task, answers, examples)
        for name, score in scores.items():
            exact = torch.tensor(score, dtype=torch.float64)  # a float would be logged in single precision
            self.log(f"{stage}/{name}", exact, prog_bar=name == self.task.rank_by)
        self.log(f"{stage}/loss", kept["loss"].mean(), prog_bar=True)
        self.log(f"{stage}/degenerate", float(self.family.degenerate(scores, answers, examples)))
        for metric in self.answers[0].values():
            metric.reset()

    @property
    def development_set(self) -> TaskDataset:
        """The one that is scored."""
        dataset = self.data.dev[""]
        assert isinstance(dataset, TaskDataset)
        return dataset

    def predict_step(self, batch: TaskBatch, batch_idx: int) -> dict[str, Tensor]:
        """What the family keeps of every row, and ``finite``, whether its logits are finite numbers, of the whole batch."""
        logits = self.predict_logits(self.model, batch)
        kept = self.family.keep(logits, batch)
        finite = logits.isfinite().all().expand(len(kept["index"]))
        return {name: values.cpu() for name, values in (kept | {"finite": finite}).items()}
