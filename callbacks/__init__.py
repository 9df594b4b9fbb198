"""What happens around a step."""

from callbacks.checkpoint_files import CheckedCheckpointIO, newest_whole
from callbacks.distillation import KnowledgeDistillation
from callbacks.export import ExportPretrained
from callbacks.final_test import FinalTest
from callbacks.final_validation import FinalValidation
from callbacks.finite_numbers import FiniteNumbers
from callbacks.flush import FlushLoggers
from callbacks.inherited_sparsity import InheritedSparsity
from callbacks.learning_rate import LinearWarmupDecay, OneCycleLR, StepwiseSchedule
from callbacks.lr_range_test import LRRangeTest
from callbacks.monitor import SparsityMonitor, StepMonitor
from callbacks.prediction_files import PredictionFiles
from callbacks.progress import StepProgressBar
from callbacks.random_state import RandomState
from callbacks.rank_agreement import RankAgreement
from callbacks.resume import RULES, ResumeRules, flat_settings
from callbacks.roll_call import RollCall, naming_lost_peers
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
from callbacks.stall_watchdog import StallWatchdog
from callbacks.start import RunOverview, quiet_lightning
from callbacks.stop import StopOnSignal
from callbacks.submission import GlueSubmission
from callbacks.tensorboard import RunTensorBoard, plain_settings

__all__ = [
    "GMP",
    "RULES",
    "SET",
    "STE",
    "CheckedCheckpointIO",
    "ExportPretrained",
    "FinalTest",
    "FinalValidation",
    "FiniteNumbers",
    "FlushLoggers",
    "GlobalRigL",
    "GlueSubmission",
    "InheritedSparsity",
    "KnowledgeDistillation",
    "LRRangeTest",
    "LinearWarmupDecay",
    "Movement",
    "OneCycleLR",
    "OneShot",
    "PredictionFiles",
    "RandomState",
    "RankAgreement",
    "ResumeRules",
    "RigL",
    "RollCall",
    "RunOverview",
    "RunSummary",
    "RunTensorBoard",
    "SparseTraining",
    "SparsityMonitor",
    "StallWatchdog",
    "StaticSparsity",
    "StepMonitor",
    "StepProgressBar",
    "StepwiseSchedule",
    "StopOnSignal",
    "flat_settings",
    "naming_lost_peers",
    "newest_whole",
    "plain_settings",
    "quiet_lightning",
]
