"""Distillation: the gradients that theory gives."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from objectives.distillation import (
    distillation_loss,
    teacher_probabilities,
    top_k_distillation_loss,
    top_k_probabilities,
)

EXAMPLES, CLASSES = 6, 11


def random_logits(seed: int) -> Tensor:
    return 3 * torch.randn(EXAMPLES, CLASSES, generator=torch.Generator().manual_seed(seed))


def gradient(loss: Tensor, student: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(loss, student)
    return result


@pytest.fixture
def student() -> Tensor:
    return random_logits(0).requires_grad_()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_a_student_that_is_its_own_teacher_gets_no_gradient(student: Tensor, temperature: float) -> None:
    loss = distillation_loss(student, [student.detach()], [1.0], temperature)
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert gradient(loss, student).abs().max() < 1e-6


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_loss_is_the_divergence_from_the_teacher(student: Tensor, temperature: float) -> None:
    p = F.softmax(random_logits(1) / temperature, -1)
    q = F.softmax(student / temperature, -1)
    expected = temperature**2 * (p * (p / q).log()).sum(-1).mean()
    loss = distillation_loss(student, [random_logits(1)], [1.0], temperature)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_mixture_of_teachers_has_the_gradient_of_the_weighted_sum(student: Tensor, temperature: float) -> None:
    teachers, weights = [random_logits(1), random_logits(2)], [3.0, 1.0]
    mixed = distillation_loss(student, teachers, weights, temperature)
    apart = sum(
        weight / 4 * distillation_loss(student, [teacher], [1.0], temperature)
        for teacher, weight in zip(teachers, weights, strict=True)
    )
    torch.testing.assert_close(gradient(mixed, student), gradient(apart, student), atol=1e-6, rtol=0)


def test_probabilities_of_a_mixture_sum_to_one_whatever_the_weights() -> None:
    mixture = teacher_probabilities([random_logits(1), random_logits(2)], [5.0, 0.5], 2.0)
    torch.testing.assert_close(mixture.sum(-1), torch.ones(EXAMPLES))


def test_at_high_temperature_the_gradient_is_the_difference_of_centred_logits(student: Tensor) -> None:
    """Hinton et al. 2015, eq. 4: T² cancels the 1/T² of the soft targets' gradient."""
    teacher, temperature = random_logits(1), 1e3
    loss = distillation_loss(student, [teacher], [1.0], temperature)
    difference = student - teacher
    expected = (difference - difference.mean(-1, keepdim=True)) / CLASSES / EXAMPLES
    torch.testing.assert_close(gradient(loss, student), expected, atol=1e-3 * expected.abs().max().item(), rtol=0.02)


def test_rows_that_do_not_count_change_nothing(student: Tensor) -> None:
    teacher = random_logits(1)
    counted = torch.tensor([True, False, True, True, False, False])
    loss = distillation_loss(student, [teacher], [1.0], 2.0, counted)
    torch.testing.assert_close(loss, distillation_loss(student[counted], [teacher[counted]], [1.0], 2.0))
    assert torch.equal(gradient(loss, student).abs().sum(-1) > 0, counted)


def test_no_row_that_counts_is_a_loss_of_zero(student: Tensor) -> None:
    loss = distillation_loss(student, [random_logits(1)], [1.0], 2.0, torch.zeros(EXAMPLES, dtype=torch.bool))
    assert loss.item() == 0.0
    assert not gradient(loss, student).any()


def test_a_certain_teacher_gives_cross_entropy(student: Tensor) -> None:
    labels = torch.arange(EXAMPLES)
    loss = distillation_loss(student, [1e4 * F.one_hot(labels, CLASSES).float()], [1.0], 1.0)
    torch.testing.assert_close(loss, F.cross_entropy(student, labels))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_all_classes_kept_is_the_whole_divergence(student: Tensor, temperature: float) -> None:
    target = teacher_probabilities([random_logits(1)], [1.0], temperature)
    counted = torch.tensor([True, False, True, True, False, True])
    for k in (CLASSES, 64):
        whole = distillation_loss(student, [random_logits(1)], [1.0], temperature, counted)
        coarse = top_k_distillation_loss(student, *top_k_probabilities(target, k), temperature, counted)
        torch.testing.assert_close(coarse, whole, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(gradient(coarse, student), gradient(whole, student), atol=1e-6, rtol=1e-6)


def test_the_fewer_classes_are_kept_the_less_is_the_divergence(student: Tensor) -> None:
    target = teacher_probabilities([random_logits(1)], [1.0], 2.0)
    losses = [top_k_distillation_loss(student, *top_k_probabilities(target, k), 2.0).item() for k in range(1, CLASSES + 1)]
    assert all(fewer <= more + 1e-6 for fewer, more in pairwise([0.0, *losses]))
    assert losses[0] < losses[3] < losses[-1]


def test_two_of_four_classes_by_hand() -> None:
    """p = (1/2, 1/4, 1/8, 1/8) and q = 1/4 each: KL over {0, 1, other} is 1/2 · log 2 + 1/4 · log 1 + 1/4 · log 1/2."""
    target = torch.tensor([[0.125, 0.5, 0.25, 0.125]])
    probabilities, kept = top_k_probabilities(target, 2)
    assert kept.tolist() == [[1, 2]]
    assert probabilities.tolist() == [[0.5, 0.25, 0.25]]
    loss = top_k_distillation_loss(torch.zeros(1, 4), probabilities, kept, 1.0)
    assert loss.item() == pytest.approx(0.25 * math.log(2))


def test_what_is_left_over_does_not_cancel() -> None:
    """A student that leaves 1e-13 for the other classes, which 1 - q in single precision takes for nothing."""
    student = torch.tensor([[30.0, 0.0, 0.0]], requires_grad=True)
    loss = top_k_distillation_loss(student, torch.tensor([[0.9, 0.1]]), torch.tensor([[0]]), 1.0)
    expected = 0.9 * math.log(0.9) + 0.1 * (math.log(0.1) + 30 - math.log(2))
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(gradient(loss, student), torch.tensor([[0.1, -0.05, -0.05]]))


def test_a_certain_teacher_and_a_student_that_is_far_off_have_finite_gradients() -> None:
    student = torch.tensor([[-1e4, 1e4, 0.0]], requires_grad=True)
    for probabilities in ([[1.0, 0.0]], [[0.0, 1.0]]):
        loss = top_k_distillation_loss(student, torch.tensor(probabilities), torch.tensor([[0]]), 1.0)
        assert gradient(loss, student).isfinite().all()
