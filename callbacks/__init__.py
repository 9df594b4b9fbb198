"""What happens around a step."""

from callbacks.distillation import KnowledgeDistillation
from callbacks.export import ExportPretrained
from callbacks.final_test import FinalTest
from callbacks.final_validation import FinalValidation
from callbacks.inherited_sparsity import InheritedSparsity
from callbacks.learning_rate import LinearWarmupDecay, OneCycleLR, StepwiseSchedule
from callbacks.lr_range_test import LRRangeTest
from callbacks.monitor import SparsityMonitor, StepMonitor
from callbacks.progress import StepProgressBar
from callbacks.random_state import RandomState
from callbacks.run_summary import RunSummary
from callbacks.sparse_training import (
    GMP,
    SET,
    STE,
    GlobalRigL,
    Movement,
    OneShot,
    RigL,
    SparseTraining,
    StaticSparsity,
)
from callbacks.start import RunOverview, quiet_lightning
from callbacks.submission import GlueSubmission
from callbacks.tensorboard import RunTensorBoard, flat_settings

__all__ = [
    "GMP",
    "SET",
    "STE",
    "ExportPretrained",
    "FinalTest",
    "FinalValidation",
    "GlobalRigL",
    "GlueSubmission",
    "InheritedSparsity",
    "KnowledgeDistillation",
    "LRRangeTest",
    "LinearWarmupDecay",
    "Movement",
    "OneCycleLR",
    "OneShot",
    "RandomState",
    "RigL",
    "RunOverview",
    "RunSummary",
    "RunTensorBoard",
    "SparseTraining",
    "SparsityMonitor",
    "StaticSparsity",
    "StepMonitor",
    "StepProgressBar",
    "StepwiseSchedule",
    "flat_settings",
    "quiet_lightning",
]
