"""Losses of logits in half precision are those of the same numbers in double: the logits are rounded, nothing after them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from objectives.distillation import distillation_loss, regression_distillation_loss
from objectives.glue_scores import task_loss
from objectives.masked_lm import masked_lm_loss

LABELS = torch.arange(64) % 50


def distilled(logits: Tensor) -> Tensor:
    return distillation_loss(logits, [logits.flip(0)], [1.0], 3.0)


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "masked_lm": lambda logits: masked_lm_loss(logits, LABELS, reduction="sum"),
    "task": lambda logits: task_loss(logits, LABELS),
    "regression": lambda logits: task_loss(logits[:, :1], LABELS / 10),
    "distillation": distilled,
    "regression_distillation": lambda logits: regression_distillation_loss(logits[:, :1], [logits[:, 1:2]], [1.0]),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_loss_is_computed_in_single_precision(name: str, dtype: torch.dtype) -> None:
    logits = (torch.randn(64, 50, generator=torch.Generator().manual_seed(0)) * 4).to(dtype)
    loss = LOSSES[name](logits)
    assert loss.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert LOSSES[name](logits).dtype == torch.float32
    exact = LOSSES[name](logits.float())
    assert float(loss) == pytest.approx(float(exact), rel=1e-6)
