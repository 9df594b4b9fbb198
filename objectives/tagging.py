"""Named entities as tags of words (CoNLL-2003, Tjong Kim Sang and De Meulder 2003, arXiv cs/0306050): schemes and scores."""

from collections.abc import Sequence

import torch
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2
from torch import Tensor
from torch.nn import functional as F

from objectives.masked_lm import IGNORE_INDEX


def to_iob2(tags: Sequence[str]) -> list[str]:
    """Tags of a sentence in IOB2, of IOB1 or IOB2: an entity that begins with ``I-`` is given its ``B-``.

    In IOB1, as distributed, ``B-`` stands only between two entities of the same type that touch; in IOB2 every entity begins
    with one. Where both can be read, they say the same.
    """
    before, converted = "O", []
    for tag in tags:
        begins = tag.startswith("I-") and before[2:] != tag[2:]
        converted.append(f"B-{tag[2:]}" if begins else tag)
        before = tag
    return converted


def entity_scores(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> dict[str, float]:
    """Precision, recall and F1 of entities over all sentences, as fractions of 1, 0 where there is none.

    ``f1`` is that of ``seqeval`` as it comes, which like conlleval takes an ``I-`` without a ``B-`` for a beginning;
    ``f1_strict`` counts only what is right by IOB2.
    """
    default, strict = {"zero_division": 0}, {"mode": "strict", "scheme": IOB2, "zero_division": 0}
    own, right = [list(tags) for tags in predicted], [list(tags) for tags in gold]
    return {
        "f1": float(f1_score(right, own, **default)),
        "precision": float(precision_score(right, own, **default)),
        "recall": float(recall_score(right, own, **default)),
        "f1_strict": float(f1_score(right, own, **strict)),
    }


def tag_loss(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy in nats of logits (batch · length, tags); labels (batch, length) are those of first sub-tokens.

    Args:
        logits: of every token.
        labels: ``IGNORE_INDEX`` elsewhere.
        reduction: ``mean`` over the labels that count, or ``none`` for the loss of each of these.
    """
    labels = labels.flatten()
    counted = labels != IGNORE_INDEX
    losses = F.cross_entropy(logits[counted].float(), labels[counted], reduction="none")
    return losses if reduction == "none" else losses.sum() / torch.clamp(counted.sum(), min=1)
