"""Tasks beyond GLUE: one frozen table, of which every task has a kind of head; and GLUE's and these by name."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from objectives.glue import GLUE, GlueTask, named

Kind = Literal["span", "choice", "tag"]
Split = Literal["train", "dev", "test"]
ENTITIES = ("PER", "ORG", "LOC", "MISC")
TAGS = ("O", *(f"{prefix}-{entity}" for entity in ENTITIES for prefix in "BI"))
"""IOB2, numbered as on the hub."""
CHOICES = 4
N_BEST, MAX_ANSWER_TOKENS = 20, 30


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: the official name.
        kind: what is predicted: the span of an answer, one of some choices, or a tag for every word.
        metrics: in the order in which they are published.
        hub: data set, or configuration of one, on the hub.
        files: split → words of which its file's name has one, where the file is not called after the split itself.
        ranking: the metric that ranks runs, where it is not the first.
        class_names: what the outputs of the head are called in the config of a model; none where there is a single one.
        unanswerable: whether some questions have no answer.
        labelled_test: whether the test file has labels.
    """

    name: str
    kind: Kind
    metrics: tuple[str, ...]
    hub: str
    files: Mapping[Split, tuple[str, ...]]
    ranking: str | None = None
    class_names: tuple[str, ...] = ()
    unanswerable: bool = False
    labelled_test: bool = False

    @property
    def rank_by(self) -> str:
        """The metric that ranks runs."""
        return self.ranking or self.metrics[0]

    @property
    def trained_on(self) -> None:
        """Every one of these has training data of its own."""
        return None


_SPLITS: Mapping[Split, tuple[str, ...]] = {"train": ("train",), "dev": ("dev", "val"), "test": ("test",)}
_SQUAD = Task("SQuAD", "span", ("exact_match", "f1"), "squad", _SPLITS, ranking="f1", class_names=("start", "end"))
_SQUAD2 = replace(_SQUAD, name="SQuAD2", hub="squad_v2", unanswerable=True)
_SWAG = Task("SWAG", "choice", ("accuracy",), "swag", _SPLITS)
_CONLL = Task(
    *("CoNLL", "tag", ("f1", "f1_strict"), "conll2003"),
    files={"train": ("train",), "dev": ("testa", "dev", "val"), "test": ("testb", "test")},
    class_names=TAGS,
    labelled_test=True,
)

BEYOND_GLUE: Mapping[str, Task] = MappingProxyType({task.name: task for task in (_SQUAD, _SQUAD2, _SWAG, _CONLL)})
FINETUNING: Mapping[str, GlueTask | Task] = MappingProxyType({**GLUE, **BEYOND_GLUE})
"""All tasks by name."""


def task_named(name: str) -> GlueTask | Task:
    """The task of this name, GLUE's or another (:func:`objectives.glue.named`)."""
    return named(name, FINETUNING, "task")


def beyond_glue(name: str) -> Task:
    """The task of this name that is none of GLUE's (:func:`objectives.glue.named`)."""
    return named(name, BEYOND_GLUE, "task beyond GLUE")
