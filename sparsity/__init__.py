"""Sparsity in pure PyTorch: masks, distributions, criteria, schedules, methods that combine them; sparse models in use."""

from sparsity.compressed import pack, unpack
from sparsity.distributions import erdos_renyi, nonzero_budget, uniform
from sparsity.files import load_masks, save_masks
from sparsity.inference import sparsify_linears_
from sparsity.masks import MaskSet, top_k_mask, zero_optimizer_state_
from sparsity.methods import (
    GMP,
    SET,
    STE,
    GlobalRigL,
    Movement,
    OneShot,
    RigL,
    SparseMethod,
    SparseTensor,
    Static,
    drop_and_grow,
)
from sparsity.stepping import SparseStepping
from sparsity.structures import Structure, parse_structure

__all__ = [
    "GMP",
    "SET",
    "STE",
    "GlobalRigL",
    "MaskSet",
    "Movement",
    "OneShot",
    "RigL",
    "SparseMethod",
    "SparseStepping",
    "SparseTensor",
    "Static",
    "Structure",
    "drop_and_grow",
    "erdos_renyi",
    "load_masks",
    "nonzero_budget",
    "pack",
    "parse_structure",
    "save_masks",
    "sparsify_linears_",
    "top_k_mask",
    "uniform",
    "unpack",
    "zero_optimizer_state_",
]
