"""Losses and metrics of GLUE's tasks, as GLUE defines them."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef
from torchmetrics.functional.classification import accuracy, f1_score, matthews_corrcoef

from objectives.glue import GlueTask


def matthews_correlation(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Matthews' correlation of classes (N,), 0 where either is a constant, as in scikit-learn, whose definition GLUE uses.

    The fraction is 0 / 0 then, and its limit 0 (Chicco and Jurman 2020, BMC Genomics 21:6); torchmetrics stops on the way
    there: all ones are ±0.0256 on the 1,043 rows of CoLA, and ±1 where labels are a constant, too.
    """
    if any(values.unique().numel() == 1 for values in (predicted, labels)):
        return torch.zeros(())
    return matthews_corrcoef(predicted, labels, "multiclass", num_classes=classes)


def task_scores(task: GlueTask, predicted: Tensor, labels: Tensor) -> dict[str, float]:
    """The metrics of one development set, as fractions of 1; NaN for the correlation of a constant, which there is none.

    Args:
        task: whose metrics.
        predicted: classes or scores, (N,).
        labels: the right ones, (N,).
    """
    classes = task.outputs
    if task.regression and not all(values.double().var(correction=0) > 0 for values in (predicted, labels)):
        return dict.fromkeys(task.metrics, math.nan)  # also of NaN; the library says 0 in one case and warns in another
    known = {
        "matthews": lambda: matthews_correlation(predicted, labels, classes),
        "accuracy": lambda: accuracy(predicted, labels, "multiclass", num_classes=classes, average="micro"),
        "f1": lambda: f1_score(predicted, labels, "binary"),
        "pearson": lambda: pearson_corrcoef(predicted.double(), labels.double()),
        "spearman": lambda: spearman_corrcoef(predicted.double(), labels.double()),
    }
    return {name: float(known[name]()) for name in task.metrics if name in known}


def task_loss(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy in nats of logits (N, classes), or for one output the squared error; labels are (N,)."""
    if logits.size(1) == 1:
        return F.mse_loss(logits.squeeze(1).float(), labels.float(), reduction=reduction)
    return F.cross_entropy(logits.float(), labels, reduction=reduction)


def predictions(logits: Tensor) -> Tensor:
    """Classes (N,) of logits (N, classes); of one output the scores."""
    return logits.squeeze(1).float() if logits.size(1) == 1 else logits.argmax(1)


def degenerate(task: GlueTask, scores: dict[str, float], predicted: Tensor, labels: Tensor) -> bool:
    """Whether a model has learnt nothing: it always says the same, or its score is what guessing gets.

    Guessing gets the most frequent class right, and in a correlation (Matthews', Pearson's) nothing beyond two standard
    errors, 2 / √N.

    Args:
        task: of the model.
        scores: its :func:`task_scores`.
        predicted: classes or scores, (N,).
        labels: the right ones, (N,).
    """
    if predicted.unique().numel() == 1:
        return True
    for correlation in ("matthews", "pearson"):
        if correlation in scores:
            return not scores[correlation] > 2 / len(labels) ** 0.5  # nor is NaN
    return int((predicted == labels).sum()) <= int(labels.bincount().max())
