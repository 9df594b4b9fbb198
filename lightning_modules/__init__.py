"""What is optimised."""

from lightning_modules.encoders import check_fit
from lightning_modules.masked_language_model import MaskedLanguageModel
from lightning_modules.sequence_classifier import SequenceClassifier
from lightning_modules.task_model import TaskModel

__all__ = ["MaskedLanguageModel", "SequenceClassifier", "TaskModel", "check_fit"]
