"""Where batches come from."""

from datamodules.glue import GLUEDataModule
from datamodules.masking import Masking
from datamodules.sources import TextSource
from datamodules.streams import run_seed
from datamodules.text import TextDataModule

__all__ = ["GLUEDataModule", "Masking", "TextDataModule", "TextSource", "run_seed"]
