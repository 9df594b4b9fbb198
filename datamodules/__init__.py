"""Where batches come from."""

from datamodules.glue import GLUEDataModule
from datamodules.masking import Masking
from datamodules.sources import TextSource
from datamodules.text import TextDataModule

__all__ = ["GLUEDataModule", "Masking", "TextDataModule", "TextSource"]
