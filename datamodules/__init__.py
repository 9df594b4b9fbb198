"""Where batches come from."""

from datamodules.masking import Masking
from datamodules.sources import TextSource
from datamodules.text import TextDataModule

__all__ = ["Masking", "TextDataModule", "TextSource"]
