"""What is optimised."""

from lightning_modules.masked_language_model import MaskedLanguageModel

__all__ = ["MaskedLanguageModel"]
