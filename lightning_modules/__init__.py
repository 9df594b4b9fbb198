"""What is optimised."""

from lightning_modules.encoders import check_fit
from lightning_modules.masked_language_model import MaskedLanguageModel
from lightning_modules.sequence_classifier import SequenceClassifier

__all__ = ["MaskedLanguageModel", "SequenceClassifier", "check_fit"]
