"""Three kinds of tasks: what their losses are, and how what a model says of rows becomes answers and scores of a whole set.

Rows come in any order and from any number of ranks. Of each is kept what its answer needs, in tensors with as many rows, of which
``index`` tells them apart. Examples are columns by name, as the readers of the files make them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from objectives.beyond_glue import TAGS, Kind, Task
from objectives.masked_lm import IGNORE_INDEX
from objectives.squad import Answer, answers_of_windows, best_spans, span_loss, squad2_scores, squad_scores
from objectives.tagging import entity_scores, tag_loss

A = TypeVar("A")
Batch = Mapping[str, Any]
Examples = Mapping[str, Any]


class Family(ABC, Generic[A]):
    """What tasks of a kind have in common.

    Attributes:
        kept: names of what :meth:`keep` keeps.
    """

    kept: ClassVar[tuple[str, ...]]

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        """In nats: the mean, or with ``none`` that of each row (of tags, of each word) that counts."""

    @abstractmethod
    def keep(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """What the answers need of each row of a batch (of tags, of each word), null examples left out."""

    @abstractmethod
    def answers(self, kept: Mapping[str, Tensor], examples: Examples) -> list[A]:
        """An answer to each example, from what was kept of all rows; where a row was left out, one that is wrong."""

    @abstractmethod
    def scores(self, task: Task, answers: Sequence[A], examples: Examples) -> dict[str, float]:
        """The metrics of a task, as fractions of 1."""

    @abstractmethod
    def degenerate(self, scores: Mapping[str, float], answers: Sequence[A], examples: Examples) -> bool:
        """Whether a model has learnt nothing: it always says the same, or its score is what guessing gets."""


class Spans(Family[Answer]):
    """Logits of starts and ends, (2 · batch, length), and labels (batch, 2)."""

    kept = ("index", "question", "null_start", "null_end", "char_start", "char_end", "start_logit", "end_logit")

    def loss(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        return span_loss(logits, labels, reduction)

    def keep(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        start, end = logits.unflatten(0, (-1, 2)).unbind(1)
        best = best_spans(start, end, batch["char_starts"] >= 0)
        found = {
            "index": batch["index"],
            "question": batch["question"],
            "null_start": start[:, 0],
            "null_end": end[:, 0],
            "char_start": batch["char_starts"].gather(1, best.first),
            "char_end": batch["char_ends"].gather(1, best.last),
            "start_logit": best.start_logit,
            "end_logit": best.end_logit,
        }
        return {name: values[batch["index"] != IGNORE_INDEX] for name, values in found.items()}

    def answers(self, kept: Mapping[str, Tensor], examples: Examples) -> list[Answer]:
        return answers_of_windows(kept, examples["context"])

    def scores(self, task: Task, answers: Sequence[Answer], examples: Examples) -> dict[str, float]:
        texts = dict(zip(examples["id"], (answer.text for answer in answers), strict=True))
        golds = dict(zip(examples["id"], examples["answers"], strict=True))
        if not task.unanswerable:
            return squad_scores(texts, golds)
        return squad2_scores(texts, dict(zip(texts, (answer.null_odds for answer in answers), strict=True)), golds)

    def degenerate(self, scores: Mapping[str, float], answers: Sequence[Answer], examples: Examples) -> bool:
        unanswerable = sum(not golds for golds in examples["answers"]) / len(answers)
        return scores["f1"] <= unanswerable or len({answer.text for answer in answers}) == 1 < len(answers)


class Choices(Family[int]):
    """Logits (batch, choices), and labels (batch,)."""

    kept = ("index", "predicted")

    def loss(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        return F.cross_entropy(logits.float(), labels, reduction=reduction, ignore_index=IGNORE_INDEX)

    def keep(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        counted = batch["index"] != IGNORE_INDEX
        return {"index": batch["index"][counted], "predicted": logits.argmax(1)[counted]}

    def answers(self, kept: Mapping[str, Tensor], examples: Examples) -> list[int]:
        answers = torch.full((len(examples["sent1"]),), -1)
        answers[kept["index"].long().cpu()] = kept["predicted"].long().cpu()
        return answers.tolist()

    def scores(self, task: Task, answers: Sequence[int], examples: Examples) -> dict[str, float]:
        right = sum(answer == choice for answer, choice in zip(answers, examples["choice"], strict=True))
        return {"accuracy": right / len(answers)}

    def degenerate(self, scores: Mapping[str, float], answers: Sequence[int], examples: Examples) -> bool:
        most_frequent = int(torch.tensor(list(examples["choice"])).bincount().max())
        return len(set(answers)) == 1 or scores["accuracy"] <= most_frequent / len(answers)


class Tags(Family[list[str]]):
    """Logits (batch · length, tags), and labels (batch, length); a word that was cut off is tagged ``O``."""

    kept = ("index", "predicted")

    def loss(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        return tag_loss(logits, labels, reduction)

    def keep(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        counted = (batch["word"] >= 0) & (batch["index"] != IGNORE_INDEX)[:, None]
        return {"index": batch["word"][counted], "predicted": logits.argmax(1)[counted.flatten()]}

    def answers(self, kept: Mapping[str, Tensor], examples: Examples) -> list[list[str]]:
        lengths = [len(tags) for tags in examples["tags"]]
        tags = torch.zeros(sum(lengths), dtype=torch.long)  # O
        tags[kept["index"].long().cpu()] = kept["predicted"].long().cpu()
        return [[TAGS[tag] for tag in sentence.tolist()] for sentence in tags.split(lengths)]

    def scores(self, task: Task, answers: Sequence[list[str]], examples: Examples) -> dict[str, float]:
        return entity_scores(answers, [[TAGS[tag] for tag in tags] for tags in examples["tags"]])

    def degenerate(self, scores: Mapping[str, float], answers: Sequence[list[str]], examples: Examples) -> bool:
        return scores["f1"] == 0.0 or len({tag for tags in answers for tag in tags}) == 1


FAMILIES: Mapping[Kind, Family[Any]] = MappingProxyType({"span": Spans(), "choice": Choices(), "tag": Tags()})
