"""Losses that bring their gradient along: those of autograd, however the rows are divided."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from objectives import row_losses
from objectives.distillation import distillation_loss
from objectives.masked_lm import IGNORE_INDEX, masked_lm_loss

ROWS, CLASSES = 13, 40


def logits(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (4 * torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(seed))).to(dtype)


LABELS = torch.randint(0, CLASSES, (ROWS,), generator=torch.Generator().manual_seed(9))
LABELS[[0, 5, 12]] = IGNORE_INDEX
COUNTED = LABELS != IGNORE_INDEX


def ours(z: Tensor) -> dict[str, Tensor]:
    return {
        "cross-entropy": masked_lm_loss(z, LABELS),
        "sum": masked_lm_loss(z, LABELS, "sum"),
        "distillation": distillation_loss(z, [logits(1)], [2.0], 3.0, COUNTED),
        "two teachers": distillation_loss(z, [logits(1), logits(2)], [1.0, 3.0], 0.5, COUNTED),
    }


def autograds(z: Tensor) -> dict[str, Tensor]:
    """The same by the operations of torch."""

    def divergence(mixture: Tensor, temperature: float) -> Tensor:
        each = F.kl_div(F.log_softmax(z / temperature, 1), mixture, reduction="none").sum(1)
        return temperature**2 * each[COUNTED].mean()

    soft = [F.softmax(logits(seed) / 0.5, 1) for seed in (1, 2)]
    return {
        "cross-entropy": F.cross_entropy(z, LABELS, ignore_index=IGNORE_INDEX),
        "sum": F.cross_entropy(z, LABELS, ignore_index=IGNORE_INDEX, reduction="sum"),
        "distillation": divergence(F.softmax(logits(1) / 3.0, 1), 3.0),
        "two teachers": divergence(0.25 * soft[0] + 0.75 * soft[1], 0.5),
    }


@pytest.mark.parametrize("rows", [1, 4, 5, ROWS, 100])
@pytest.mark.parametrize("name", ["cross-entropy", "sum", "distillation", "two teachers"])
@pytest.mark.parametrize("upstream", [1.0, 0.3])
def test_value_and_gradient_are_autograds(name: str, rows: int, upstream: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_losses, "IN_CACHE", rows * CLASSES)
    found, expected = logits(0).requires_grad_(), logits(0).requires_grad_()
    loss, reference = ours(found)[name], autograds(expected)[name]
    torch.testing.assert_close(loss, reference, rtol=2e-6, atol=2e-6)
    (upstream * loss).backward()
    (upstream * reference).backward()
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_get_the_gradient_of_fp32_rounded_once(dtype: torch.dtype) -> None:
    """That of fp16 too: what a loss scale is there to lift is not lost before it comes."""
    scale = 2.0**14
    found, expected = logits(0, dtype).requires_grad_(), logits(0, dtype).float().requires_grad_()
    (scale * ours(found)["cross-entropy"]).backward()
    (scale * autograds(expected)["cross-entropy"]).backward()
    assert found.grad is not None
    assert found.grad.dtype == dtype
    torch.testing.assert_close(
        found.grad.float(), expected.grad.to(dtype).float(), rtol=1e-2 if dtype == torch.bfloat16 else 2e-3, atol=0.0
    )


@pytest.mark.parametrize("name", ["cross-entropy", "sum", "distillation", "two teachers"])
def test_autocast_changes_neither_value_nor_gradient(name: str) -> None:
    """Although it would take the products with probabilities for half precision."""
    found, expected = (logits(0).requires_grad_() for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        loss = ours(found)[name]
    reference = ours(expected)[name]
    loss.backward()
    reference.backward()
    assert torch.equal(loss, reference)
    assert torch.equal(found.grad, expected.grad)


def test_a_gradient_can_be_asked_for_once() -> None:
    """A second would be that of a buffer which has been handed on."""
    z = logits(0).requires_grad_()
    loss = masked_lm_loss(z, LABELS)
    torch.autograd.grad(loss, z, retain_graph=True)
    with pytest.raises(RuntimeError, match="can be asked for once"):
        torch.autograd.grad(loss, z)


def test_a_certain_student_that_is_wrong_has_a_finite_loss() -> None:
    """Whose probability of the label is zero in fp32."""
    z = torch.zeros(1, 4)
    z[0, 0] = 500.0
    assert masked_lm_loss(z, torch.tensor([2])).item() == 500.0


def test_what_is_not_finite_shows_in_the_loss() -> None:
    z = logits(0)
    z[3, 7] = torch.nan
    assert masked_lm_loss(z, LABELS).isnan()
    assert distillation_loss(z, [logits(1)], [1.0], 1.0, COUNTED).isnan()


@pytest.mark.parametrize("padded", [CLASSES + 8])
def test_a_slice_of_a_padded_vocabulary_is_as_good(padded: int) -> None:
    wide = torch.cat([logits(0), logits(3)[:, :8]], 1).requires_grad_()
    assert wide.shape == (ROWS, padded)
    narrow = logits(0).requires_grad_()
    distillation_loss(wide[:, :CLASSES], [logits(1)], [1.0], 2.0).backward()
    distillation_loss(narrow, [logits(1)], [1.0], 2.0).backward()
    assert wide.grad is not None
    assert not wide.grad[:, CLASSES:].any()
    torch.testing.assert_close(wide.grad[:, :CLASSES], narrow.grad)
