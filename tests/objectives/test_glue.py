"""The task table, entry by entry, and metrics against numbers worked out by hand."""

import dataclasses
import itertools
import math
import random
from fractions import Fraction

import pytest
import torch

from objectives.glue import GLUE, SUBMISSION, glue_task
from objectives.glue_scores import degenerate, predictions, task_loss, task_scores

PAIR, PREMISE, BINARY = ("sentence1", "sentence2"), ("premise", "hypothesis"), ("0", "1")
ENTAILMENT, NLI = ("entailment", "not_entailment"), ("entailment", "neutral", "contradiction")
QUESTIONS, STRINGS = ("question1", "question2"), ("#1 String", "#2 String")
DEV, TEST, MNLI_DEV = ("dev",), ("test",), ("dev_matched", "dev_mismatched")
MNLI_TEST, BOTH = ("test_matched", "test_mismatched"), ("accuracy", "accuracy_mismatched")
TABLE = {  # texts, on the hub, label, classes, metrics (the first ranks), dev files, test files, submission files
    "CoLA": (("sentence",), ("sentence",), "label", BINARY, ("matthews",), DEV, TEST, ("CoLA",)),
    "SST-2": (("sentence",), ("sentence",), "label", BINARY, ("accuracy",), DEV, TEST, ("SST-2",)),
    "MRPC": (STRINGS, PAIR, "Quality", BINARY, ("f1", "accuracy"), DEV, TEST, ("MRPC",)),
    "STS-B": (PAIR, PAIR, "score", (), ("pearson", "spearman"), DEV, TEST, ("STS-B",)),
    "QQP": (QUESTIONS, QUESTIONS, "is_duplicate", BINARY, ("accuracy", "f1"), DEV, TEST, ("QQP",)),
    "MNLI": (PAIR, PREMISE, "gold_label", NLI, BOTH, MNLI_DEV, MNLI_TEST, ("MNLI-m", "MNLI-mm")),
    "QNLI": (("question", "sentence"), ("question", "sentence"), "label", ENTAILMENT, ("accuracy",), DEV, TEST, ("QNLI",)),
    "RTE": (PAIR, PAIR, "label", ENTAILMENT, ("accuracy",), DEV, TEST, ("RTE",)),
    "WNLI": (PAIR, PAIR, "label", BINARY, ("accuracy",), DEV, TEST, ("WNLI",)),
    "AX": (PAIR, PREMISE, "gold_label", NLI, BOTH, MNLI_DEV, ("diagnostic",), ("AX",)),
}
HUB = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli", "ax")


def test_the_table() -> None:
    assert list(GLUE) == list(TABLE)
    for task, expected in zip(GLUE.values(), TABLE.values(), strict=True):
        dev, test = tuple(task.dev.values()), tuple(task.test.values())
        texts = (task.texts, task.hub_texts or task.texts, task.label, task.classes)
        assert (*texts, task.metrics, dev, test, tuple(task.test)) == expected
        assert task.rank_by == ("f1" if task.name == "QQP" else task.metrics[0])
        assert (task.outputs, task.regression) == ({"STS-B": 1, "MNLI": 3, "AX": 3}.get(task.name, 2), task.name == "STS-B")
    assert tuple(task.hub for task in GLUE.values()) == HUB
    assert [task.name for task in GLUE.values() if task.trained_on] == ["AX"]
    assert [task.name for task in GLUE.values() if task.headerless] == ["CoLA"]
    names = ("CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI-m", "MNLI-mm", "QNLI", "RTE", "WNLI", "AX")
    assert names == SUBMISSION


NAMES = {  # of the classes of nyu-mll/glue
    "CoLA": ("unacceptable", "acceptable"),
    "SST-2": ("negative", "positive"),
    "MRPC": ("not_equivalent", "equivalent"),
    "STS-B": (),
    "QQP": ("not_duplicate", "duplicate"),
    "MNLI": NLI,
    "QNLI": ENTAILMENT,
    "RTE": ENTAILMENT,
    "WNLI": ("not_entailment", "entailment"),
    "AX": NLI,
}


def test_classes_are_called_as_on_the_hub() -> None:
    assert {name: task.class_names for name, task in GLUE.items()} == NAMES


def test_the_table_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        GLUE["CoLA"].label = "other"
    with pytest.raises(TypeError):
        GLUE["CoLA"] = GLUE["RTE"]


def test_names_in_any_case_and_of_the_hub() -> None:
    for name, hub in zip(GLUE, HUB, strict=True):
        assert {glue_task(spelling).name for spelling in (name, name.lower(), name.upper(), hub)} == {name}
    with pytest.raises(ValueError, match="no GLUE task 'SNLI'; there are CoLA, SST-2, MRPC"):
        glue_task("SNLI")


LABELS = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
PREDICTED = torch.tensor([1, 1, 1, 0, 1, 0, 0, 0, 0, 0])  # 3 hits, 1 miss, 1 false alarm, 5 rejections
MATTHEWS = (3 * 5 - 1 * 1) / math.sqrt(4 * 4 * 6 * 6)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("CoLA", {"matthews": MATTHEWS}),
        ("SST-2", {"accuracy": 0.8}),
        ("MRPC", {"f1": 0.75, "accuracy": 0.8}),
        ("QQP", {"f1": 0.75, "accuracy": 0.8}),
        ("RTE", {"accuracy": 0.8}),
        ("MNLI", {"accuracy": 0.8}),
    ],
)
def test_scores_of_classes(task: str, expected: dict[str, float]) -> None:
    assert task_scores(GLUE[task], PREDICTED, LABELS) == pytest.approx(expected, abs=1e-6)


def correlation(first: list[int], second: list[int]) -> float:
    """Pearson's correlation of two binary lists in exact fractions up to the root, which Matthews' is; 0 without a variance."""
    n = len(first)
    together = Fraction(sum(a * b for a, b in zip(first, second, strict=True)), n)
    means = [Fraction(sum(values), n) for values in (first, second)]
    variances = [mean * (1 - mean) for mean in means]
    return float(together - means[0] * means[1]) / math.sqrt(variances[0] * variances[1]) if all(variances) else 0.0


def constant_cases() -> list[tuple[list[int], list[int]]]:
    """As many rows as CoLA's development set, and few: a constant prediction, constant labels, both."""
    right = [1] * 721 + [0] * 322
    constants = [[value] * 1043 for value in (0, 1)]
    return [
        *((constant, right) for constant in constants),
        *((right, constant) for constant in constants),
        *itertools.product(constants, constants),
        *(([a], [b]) for a in (0, 1) for b in (0, 1)),
    ]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("predicted", "labels"), constant_cases())
def test_matthews_correlation_with_a_constant_is_exactly_zero(predicted: list[int], labels: list[int]) -> None:
    assert task_scores(GLUE["CoLA"], torch.tensor(predicted), torch.tensor(labels)) == {"matthews": 0.0}


@pytest.mark.filterwarnings("error")
def test_matthews_correlation_of_random_answers() -> None:
    draw = random.Random(0)
    for rows in (2, 3, 5, 10, 277, 1043):
        for _ in range(20):
            shares = draw.choice((0.02, 0.5, 0.98)), draw.random()
            predicted, labels = ([int(draw.random() < share) for _ in range(rows)] for share in shares)
            found = task_scores(GLUE["CoLA"], torch.tensor(predicted), torch.tensor(labels))["matthews"]
            assert found == pytest.approx(correlation(predicted, labels), abs=1e-6), (predicted, labels)
    assert task_scores(GLUE["CoLA"], torch.tensor([0, 1]), torch.tensor([0, 1])) == {"matthews": 1.0}
    assert task_scores(GLUE["CoLA"], torch.tensor([0, 1]), torch.tensor([1, 0])) == {"matthews": -1.0}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("labels", [[0, 1, 1], [0, 0, 0]])
def test_f1_without_a_positive_prediction_is_zero(labels: list[int]) -> None:
    scores = task_scores(GLUE["MRPC"], torch.zeros(3, dtype=torch.long), torch.tensor(labels))
    assert scores == pytest.approx({"f1": 0.0, "accuracy": labels.count(0) / 3}, abs=1e-6)


def test_accuracy_of_three_classes() -> None:
    predicted, labels = torch.tensor([0, 1, 2, 2, 1]), torch.tensor([0, 1, 1, 2, 0])
    assert task_scores(GLUE["MNLI"], predicted, labels) == pytest.approx({"accuracy": 0.6})


def test_correlations_with_a_tie() -> None:
    """Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / √(4.5 · 5). Scores deviate by -2, 0, 0, 2 and -1.5, -0.5, 0.5, 1.5."""
    predicted, labels = torch.tensor([0.0, 2.0, 2.0, 4.0]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    expected = {"pearson": 6 / math.sqrt(8 * 5), "spearman": 4.5 / math.sqrt(4.5 * 5)}
    assert task_scores(GLUE["STS-B"], predicted, labels) == pytest.approx(expected, abs=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [2.0, math.nan])
def test_a_constant_correlates_with_nothing(value: float) -> None:
    constant, other = torch.full((4,), value), torch.arange(4.0)
    for scores in (task_scores(GLUE["STS-B"], constant, other), task_scores(GLUE["STS-B"], other, constant)):
        assert scores.keys() == {"pearson", "spearman"}
        assert all(math.isnan(score) for score in scores.values())


def test_loss_is_cross_entropy_or_the_squared_error() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])
    nats = [math.log(4 / 3), math.log(2)]
    assert task_loss(logits, torch.tensor([1, 0]), "none").tolist() == pytest.approx(nats)
    assert float(task_loss(logits, torch.tensor([1, 0]))) == pytest.approx(sum(nats) / 2)
    assert float(task_loss(torch.tensor([[1.0], [4.0]]), torch.tensor([2.0, 2.0]))) == 2.5


def test_predictions_are_classes_or_scores() -> None:
    assert predictions(torch.tensor([[0.1, 0.2, -1.0], [3.0, 1.0, 2.0]])).tolist() == [1, 0]
    assert predictions(torch.tensor([[-0.75], [2.5], [7.0]])).tolist() == [-0.75, 2.5, 7.0]


@pytest.mark.parametrize(
    ("task", "predicted", "labels", "expected"),
    [
        ("SST-2", [1] * 10, [1] * 9 + [0], True),  # one class only
        ("SST-2", [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 1], True),  # 4 of 6 right, and 5 of 6 are positive
        ("SST-2", [1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 1], True),  # 4 of 6 is what the larger class has
        ("SST-2", [1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 1], False),
        ("CoLA", [1, 0] * 50, ([1, 0] * 29) + ([0, 1] * 21), True),  # Matthews 0.16 < 2 / √100
        ("CoLA", [1, 0] * 50, ([1, 0] * 31) + ([0, 1] * 19), False),  # 0.24
        ("STS-B", [2.0] * 9, [1.0, 2.0, 3.0] * 3, True),
        ("STS-B", [1.0, 2.0, 3.0] * 3, [1.0, 2.0, 3.0] * 3, False),
        ("STS-B", [3.0, 2.0, 1.0] * 3, [1.0, 2.0, 3.0] * 3, True),
        ("STS-B", [math.nan] * 9, [1.0, 2.0, 3.0] * 3, True),
        ("MNLI", [0, 1, 2, 0, 1, 0], [0, 1, 2, 0, 1, 2], False),
    ],
)
def test_degenerate(task: str, predicted: list[float], labels: list[float], expected: bool) -> None:
    answers, right = torch.tensor(predicted), torch.tensor(labels)
    assert degenerate(GLUE[task], task_scores(GLUE[task], answers, right), answers, right) is expected
