"""Sums over a whole validation are of double precision, whatever the model's."""

import torch
from torch import nn
from torchmetrics import Metric


def keep_double(metrics: nn.Module) -> None:
    """Make all metrics below a module double again: a trainer of half precision has converted them with the weights."""
    for metric in metrics.modules():
        if isinstance(metric, Metric):
            metric.set_dtype(torch.float64)
