"""Methods, a file each: which weights are on, and when that changes."""

from sparsity.methods.base import SparseMethod, finite_gradients
from sparsity.methods.global_rigl import GlobalRigL
from sparsity.methods.gmp import GMP
from sparsity.methods.movement import Movement
from sparsity.methods.one_shot import OneShot
from sparsity.methods.pruned_values import KeepPrunedValues
from sparsity.methods.rigl import RigL
from sparsity.methods.set import SET, drop_and_grow
from sparsity.methods.static import Static
from sparsity.methods.ste import STE
from sparsity.methods.tensor import SparseTensor, seeded_generator

__all__ = [
    "GMP",
    "SET",
    "STE",
    "GlobalRigL",
    "KeepPrunedValues",
    "Movement",
    "OneShot",
    "RigL",
    "SparseMethod",
    "SparseTensor",
    "Static",
    "drop_and_grow",
    "finite_gradients",
    "seeded_generator",
]
