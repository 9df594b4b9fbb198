"""Masked-language-model logits and loss, computed at the masked positions only.

The encoder sees every position; the head (transform and vocabulary projection, the largest matrix product of a small BERT)
sees the 15 % that are predicted. The loss and all gradients are those of the usual all-positions computation.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from objectives.row_losses import log_partition, weighted_row_loss

IGNORE_INDEX = -100


def _distilbert_head(model: Any, hidden: Tensor) -> Tensor:
    return model.vocab_projector(model.vocab_layer_norm(model.activation(model.vocab_transform(hidden))))


# Prediction heads of Hugging Face masked-LM models by config.model_type: (model, hidden (N, H)) -> logits (N, V).
_HEADS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "bert": lambda model, hidden: model.cls(hidden),
    "roberta": lambda model, hidden: model.lm_head(hidden),
    "xlm-roberta": lambda model, hidden: model.lm_head(hidden),
    "camembert": lambda model, hidden: model.lm_head(hidden),
    "distilbert": _distilbert_head,
    "modernbert": lambda model, hidden: model.decoder(model.head(hidden)),
}


def check_family(model_type: str) -> None:
    """Raise ValueError unless masked-position logits are known for this Hugging Face model type."""
    if model_type not in _HEADS:
        raise ValueError(
            f"model type {model_type!r} has no entry for its prediction head in objectives/masked_lm.py; "
            f"there are {', '.join(_HEADS)}"
        )


def masked_lm_logits(model: Any, input_ids: Tensor, positions: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Vocabulary logits at ``positions``.

    Args:
        model: a Hugging Face masked-LM model of a known family.
        input_ids: (batch, length) int64.
        positions: (batch, masked) int64, indices into ``length``.
        attention_mask: (batch, length), 0 at padding; None where nothing is padded.

    Returns:
        (batch · masked, vocabulary) logits.
    """
    hidden = model.base_model(input_ids=input_ids, attention_mask=attention_mask)[0]
    at_masked = hidden.gather(1, positions.unsqueeze(-1).expand(-1, -1, hidden.size(-1)))
    return _HEADS[model.config.model_type](model, at_masked.flatten(0, 1))


def masked_lm_loss(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy in nats; labels of ``IGNORE_INDEX`` do not count.

    Args:
        logits: (N, vocabulary).
        labels: N token ids, any shape.
        reduction: ``mean`` over the labels that count, 0 where none does, or ``sum``.
    """
    labels = labels.flatten()
    counted = labels != IGNORE_INDEX
    correct = labels.where(counted, 0)[:, None]

    def cross_entropy(z: Tensor, rows: slice, gradient: Tensor) -> Tensor:
        q = torch.softmax(z, 1, out=gradient)
        losses = log_partition(z, q) - z.gather(1, correct[rows]).squeeze(1)
        gradient.scatter_(1, correct[rows], q.gather(1, correct[rows]) - 1)
        return losses

    share = counted / counted.sum().clamp(min=1) if reduction == "mean" else counted
    return weighted_row_loss(logits, share, cross_entropy)


def unigram_log_probabilities(counts: Tensor) -> Tensor:
    """log p(token) of a training set by its token counts (V,), with one added to each so that no token is impossible."""
    smoothed = counts.double() + 1
    return (smoothed / smoothed.sum()).log()


def unigram_loss(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Summed loss in nats of a model that knows token frequencies only: the floor a language model must beat."""
    return -log_probabilities[labels[labels != IGNORE_INDEX]].sum()


def label_count(labels: Tensor) -> Tensor:
    """How many labels count."""
    return torch.count_nonzero(labels != IGNORE_INDEX)
