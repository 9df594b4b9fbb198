"""Sparse training in pure PyTorch: masks, distributions, criteria, schedules, and the methods that combine them."""

from sparsity.distributions import erdos_renyi, nonzero_budget, uniform
from sparsity.files import load_masks, save_masks
from sparsity.masks import MaskSet, top_k_mask, zero_optimizer_state_
from sparsity.methods import SET, RigL, SparseMethod, drop_and_grow

__all__ = [
    "SET",
    "MaskSet",
    "RigL",
    "SparseMethod",
    "drop_and_grow",
    "erdos_renyi",
    "load_masks",
    "nonzero_budget",
    "save_masks",
    "top_k_mask",
    "uniform",
    "zero_optimizer_state_",
]
