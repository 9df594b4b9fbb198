"""Where batches come from."""

from datamodules.glue import GLUEDataModule, SequenceBatch
from datamodules.masking import Masking
from datamodules.sources import TextSource
from datamodules.streams import run_seed
from datamodules.text import MaskedLMBatch, TextDataModule

__all__ = ["GLUEDataModule", "MaskedLMBatch", "Masking", "SequenceBatch", "TextDataModule", "TextSource", "run_seed"]
