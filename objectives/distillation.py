"""Knowledge distillation (Hinton, Vinyals and Dean 2015, arXiv 1503.02531, section 2)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from objectives.row_losses import log_partition, weighted_row_loss


def teacher_probabilities(logits: Sequence[Tensor], weights: Sequence[float], temperature: float) -> Tensor:
    """The mixture Σ w_i · softmax(z_i / T) of one or more teachers, in fp32.

    The weighted sum of the divergences from each teacher has the gradient of the divergence from this mixture.

    Args:
        logits: one (N, classes) tensor a teacher.
        weights: one a teacher, non-negative; normalised to sum 1.
        temperature: T > 0.
    """
    if len(logits) == 1:
        return F.softmax(logits[0].float() / temperature, dim=-1)
    shares = [weight / sum(weights) for weight in weights]
    return torch.stack(
        [share * F.softmax(z.float() / temperature, -1) for z, share in zip(logits, shares, strict=True)]
    ).sum(0)


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Sequence[Tensor],
    weights: Sequence[float],
    temperature: float,
    counted: Tensor | None = None,
) -> Tensor:
    """T² · KL(teachers' mixture ‖ student) in nats, mean over examples.

    T² keeps the size of the gradient independent of the temperature. The gradient with respect to the student's logits is
    T · (softmax(z / T) - mixture), equation 2 of the paper times T².

    Args:
        student_logits: (N, classes).
        teacher_logits: one (N, classes) tensor a teacher; they get no gradient.
        weights: one a teacher, non-negative; normalised to sum 1.
        temperature: T > 0.
        counted: (N,) boolean, the rows that count; all by default.
    """

    def divergence(z: Tensor, rows: slice, gradient: Tensor) -> Tensor:
        taught = [logits[rows] for logits in teacher_logits]
        p = teacher_probabilities(taught, weights, temperature)
        z = z / temperature
        q = torch.softmax(z, 1, out=gradient)
        if len(taught) == 1:  # spares a logarithm of each class
            t = taught[0].float() / temperature
            negative_entropy = torch.linalg.vecdot(p, t) - log_partition(t, p)
        else:
            negative_entropy = torch.xlogy(p, p).sum(1)
        cross_entropy = log_partition(z, q) - torch.linalg.vecdot(p, z)
        gradient.sub_(p).mul_(temperature)
        return temperature**2 * (negative_entropy + cross_entropy)

    return weighted_row_loss(student_logits, _mean_weight(student_logits, counted), divergence)


def top_k_probabilities(target: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k likeliest classes of each row, and everything else as one more outcome.

    Args:
        target: (N, classes) probabilities.
        k: classes kept; all where there are no more.

    Returns:
        (N, k + 1) probabilities, the last that of any other class, and the (N, k) classes of the others, likeliest first.
    """
    top, kept = target.topk(min(k, target.size(1)), dim=1)
    return torch.cat([top, target.scatter(1, kept, 0.0).sum(1, keepdim=True)], dim=1), kept


def top_k_distillation_loss(
    student_logits: Tensor, probabilities: Tensor, kept: Tensor, temperature: float, counted: Tensor | None = None
) -> Tensor:
    """T² · KL(teacher ‖ student) over k classes S of each row and "any other class", mean over examples.

    KL_S = Σ_{i ∈ S} p_i · log(p_i / q_i) + p_R · log(p_R / q_R), where p_R = 1 - Σ_{i ∈ S} p_i and likewise
    q_R = Σ_{i ∉ S} exp(z_i / T) / Σ_i exp(z_i / T), which is summed as it stands there, since 1 - Σ q_i would cancel.

    It is never more than the divergence over all classes (log sum inequality): what is missing is p_R · KL of the teacher from
    the student among the other classes. With all classes kept it is that divergence.

    Args:
        student_logits: (N, classes).
        probabilities: (N, k + 1) of the teacher at the same temperature, of :func:`top_k_probabilities`.
        kept: (N, k) classes that they are of.
        temperature: T > 0.
        counted: (N,) boolean, the rows that count; all by default.
    """
    log_p = probabilities.clamp_min(torch.finfo(torch.float32).tiny).log()  # finite where the teacher rules out a class
    if kept.size(1) == student_logits.size(1):  # there is no other class
        whole = student_logits.gather(1, kept), [temperature * log_p[:, :-1]]
        return distillation_loss(*whole, [1.0], temperature, counted)

    def divergence(z: Tensor, rows: slice, gradient: Tensor) -> Tensor:
        log_q = torch.log_softmax(z / temperature, 1, out=gradient)
        log_q_kept = log_q.gather(1, kept[rows])
        log_q.scatter_(1, kept[rows], -torch.inf)
        log_q_rest = log_q.logsumexp(1, keepdim=True)
        outcomes, p = torch.cat([log_q_kept, log_q_rest], 1), probabilities[rows]
        residual = outcomes.exp() - p  # of each outcome; that of the rest is shared by its classes as the student has them
        gradient.sub_(log_q_rest).exp_().mul_(residual[:, -1:]).scatter_(1, kept[rows], residual[:, :-1]).mul_(temperature)
        return temperature**2 * (p * (log_p[rows] - outcomes)).sum(1)

    return weighted_row_loss(student_logits, _mean_weight(student_logits, counted), divergence)


def _mean_weight(logits: Tensor, counted: Tensor | None) -> Tensor:
    """Weights of the mean over the rows that count."""
    if counted is None:
        counted = logits.new_ones(len(logits), dtype=torch.bool)
    return counted / counted.sum().clamp(min=1)


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
