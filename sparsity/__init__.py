"""Sparsity in pure PyTorch: masks, distributions, criteria, schedules, methods that combine them."""

from sparsity import criteria, methods, schedules, statistics
from sparsity.distributions import erdos_renyi, nonzero_budget, uniform
from sparsity.files import MASKS_FILE, REPORT_FILE, apply_umask, load_masks, read_safetensors, save_masks, sha256
from sparsity.masks import MaskSet, pack_bits, top_k_mask, unpack_bits, zero_optimizer_state_
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
    finite_gradients,
)
from sparsity.patterns import check_patterns, matching
from sparsity.stepping import SparseStepping
from sparsity.structures import Structure, parse_structure

__all__ = [
    "GMP",
    "MASKS_FILE",
    "REPORT_FILE",
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
    "apply_umask",
    "check_patterns",
    "criteria",
    "drop_and_grow",
    "erdos_renyi",
    "finite_gradients",
    "load_masks",
    "matching",
    "methods",
    "nonzero_budget",
    "pack_bits",
    "parse_structure",
    "read_safetensors",
    "save_masks",
    "schedules",
    "sha256",
    "statistics",
    "top_k_mask",
    "uniform",
    "unpack_bits",
    "zero_optimizer_state_",
]
