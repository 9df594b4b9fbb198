"""Knowledge distillation (Hinton, Vinyals and Dean 2015, arXiv 1503.02531, section 2)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def teacher_probabilities(logits: Sequence[Tensor], weights: Sequence[float], temperature: float) -> Tensor:
    """The mixture Σ w_i · softmax(z_i / T) of one or more teachers.

    The weighted sum of the divergences from each teacher has the gradient of the divergence from this mixture.

    Args:
        logits: one (N, classes) tensor a teacher.
        weights: one a teacher, non-negative; normalised to sum 1.
        temperature: T > 0.
    """
    total = sum(weights)
    return torch.stack(
        [weight / total * F.softmax(z.float() / temperature, dim=-1) for z, weight in zip(logits, weights, strict=True)]
    ).sum(0)


def distillation_loss(student_logits: Tensor, target: Tensor, temperature: float, counted: Tensor | None = None) -> Tensor:
    """T² · KL(teacher ‖ student) in nats, mean over examples.

    T² keeps the size of the gradient independent of the temperature.

    Args:
        student_logits: (N, classes).
        target: (N, classes) teacher probabilities at the same temperature.
        temperature: T > 0.
        counted: (N,) boolean, the rows that count; all by default.
    """
    log_student = F.log_softmax(student_logits.float() / temperature, dim=-1)
    per_row = F.kl_div(log_student, target, reduction="none").sum(-1)
    if counted is not None:
        per_row = per_row.masked_fill(~counted, 0.0)
        return temperature**2 * per_row.sum() / counted.sum().clamp(min=1)
    return temperature**2 * per_row.mean()


def regression_distillation_loss(student: Tensor, teachers: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Mean squared distance of the student's scores from the teachers' weighted mean; a temperature has no meaning here.

    Args:
        student: (N, 1) scores.
        teachers: one (N, 1) tensor a teacher.
        weights: one a teacher, non-negative; normalised to sum 1.
    """
    total = sum(weights)
    target = torch.stack([weight / total * z.float() for z, weight in zip(teachers, weights, strict=True)]).sum(0)
    return F.mse_loss(student.float(), target)
