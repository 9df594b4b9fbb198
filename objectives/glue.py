"""GLUE (Wang et al. 2019, arXiv 1804.07461): one frozen table of its tasks. Their metrics are in :mod:`objectives.glue_scores`.

Columns and file names are those of the official TSV layout and, beside them, of the hub's ``nyu-mll/glue``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol, TypeVar

BINARY = ("0", "1")
EQUIVALENT, DUPLICATE = ("not_equivalent", "equivalent"), ("not_duplicate", "duplicate")
ENTAILMENT = ("entailment", "not_entailment")
NLI = ("entailment", "neutral", "contradiction")
SCORE_RANGE = (0.0, 5.0)  # of STS-B


def plain(name: object) -> str:
    """The name of a class, lower-case and with words between underscores."""
    return re.sub(r"[\W_]+", "_", str(name).lower())


@dataclass(frozen=True)
class GlueTask:
    """One task.

    Attributes:
        name: the official name, which is also that of its folder.
        hub: configuration on the hub.
        texts: columns of one or two sentences in the TSV files.
        classes: label strings of official files and submissions, by class; none for a regression.
        test: submission file, without ``.tsv`` → test file, without ``.tsv``.
        metrics: in the order in which they are published.
        ranking: the metric that ranks runs, where it is not the first.
        label: the label's column in the TSV files.
        index: the column of the test files that numbers the rows of a submission.
        dev: suffix of the metrics' names → development file, without ``.tsv``.
        headerless: columns of training and development files that come without a header.
        hub_texts: names of ``texts`` on the hub, where it has others.
        hub_classes: names of ``classes`` on the hub, where it has others.
        trained_on: the task whose data train it, where it has none of its own.
        truncated_rows: share of rows that lack columns in the official files themselves; these are skipped.
    """

    name: str
    hub: str
    texts: tuple[str, ...]
    classes: tuple[str, ...]
    test: Mapping[str, str]
    metrics: tuple[str, ...] = ("accuracy",)
    label: str = "label"
    index: str = "index"
    dev: Mapping[str, str] = field(default_factory=lambda: {"": "dev"})
    headerless: tuple[str, ...] = ()
    hub_texts: tuple[str, ...] = ()
    hub_classes: tuple[str, ...] = ()
    trained_on: str | None = None
    truncated_rows: float = 0.0
    ranking: str | None = None

    @property
    def rank_by(self) -> str:
        """The metric that ranks runs."""
        return self.ranking or self.metrics[0]

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classes are called in the config of a model."""
        return self.hub_classes or self.classes

    @property
    def regression(self) -> bool:
        """Whether the label is a number (STS-B: similarity from 0 to 5)."""
        return not self.classes

    @property
    def outputs(self) -> int:
        """Logits a model of this task has."""
        return len(self.classes) or 1


_PAIR, _PREMISE = ("sentence1", "sentence2"), ("premise", "hypothesis")
_COLA = GlueTask(
    *("CoLA", "cola", ("sentence",), BINARY, {"CoLA": "test"}),
    metrics=("matthews",),
    headerless=("source", "label", "mark", "sentence"),
    hub_classes=("unacceptable", "acceptable"),
)
_SST2 = GlueTask("SST-2", "sst2", ("sentence",), BINARY, {"SST-2": "test"}, hub_classes=("negative", "positive"))
_MRPC = GlueTask(
    *("MRPC", "mrpc", ("#1 String", "#2 String"), BINARY, {"MRPC": "test"}),
    metrics=("f1", "accuracy"),
    label="Quality",
    hub_texts=_PAIR,
    hub_classes=EQUIVALENT,
)
_STSB = GlueTask("STS-B", "stsb", _PAIR, (), {"STS-B": "test"}, metrics=("pearson", "spearman"), label="score")
_QQP = GlueTask(
    *("QQP", "qqp", ("question1", "question2"), BINARY, {"QQP": "test"}),
    metrics=("accuracy", "f1"),
    ranking="f1",
    label="is_duplicate",
    index="id",
    hub_classes=DUPLICATE,
    truncated_rows=1e-4,  # a few of 364,000 in training
)
_MNLI = GlueTask(
    *("MNLI", "mnli", _PAIR, NLI, {"MNLI-m": "test_matched", "MNLI-mm": "test_mismatched"}),
    metrics=("accuracy", "accuracy_mismatched"),
    label="gold_label",
    dev={"": "dev_matched", "_mismatched": "dev_mismatched"},
    hub_texts=_PREMISE,
)
_QNLI = GlueTask("QNLI", "qnli", ("question", "sentence"), ENTAILMENT, {"QNLI": "test"})
_RTE = GlueTask("RTE", "rte", _PAIR, ENTAILMENT, {"RTE": "test"})
_WNLI = GlueTask("WNLI", "wnli", _PAIR, BINARY, {"WNLI": "test"}, hub_classes=("not_entailment", "entailment"))
_AX = replace(_MNLI, name="AX", hub="ax", test={"AX": "diagnostic"}, trained_on="MNLI")

GLUE: Mapping[str, GlueTask] = MappingProxyType(
    {task.name: task for task in (_COLA, _SST2, _MRPC, _STSB, _QQP, _MNLI, _QNLI, _RTE, _WNLI, _AX)}
)
SUBMISSION = tuple(file for task in GLUE.values() for file in task.test)
"""The eleven files of a submission, without ``.tsv``."""


class Named(Protocol):
    """What a task is called here, and what on the hub."""

    @property
    def name(self) -> str: ...

    @property
    def hub(self) -> str: ...


AnyNamed = TypeVar("AnyNamed", bound=Named)


def named(name: str, tasks: Mapping[str, AnyNamed], what: str) -> AnyNamed:
    """The task of this name, in any case, or of this name on the hub (``mrpc``, ``MRPC``; ``sst2``).

    Raises:
        ValueError: there is none; ``what`` is missing then.
    """
    for task in tasks.values():
        if name.lower() in (task.name.lower(), task.hub):
            return task
    raise ValueError(f"no {what} {name!r}; there are {', '.join(tasks)}")


def glue_task(name: str) -> GlueTask:
    """The task of GLUE of this name (:func:`named`)."""
    return named(name, GLUE, "GLUE task")
