"""Where batches come from."""

from datamodules.beyond_glue import TaskBatch, TaskDataModule, TaskDataset
from datamodules.docstrings import prose
from datamodules.finetuning import FinetuningDataModule
from datamodules.glue import GLUEDataModule, SequenceBatch
from datamodules.glue_files import GlueFiles
from datamodules.masking import Masking
from datamodules.sources import TextSource
from datamodules.streams import run_seed
from datamodules.task_files import TaskFiles
from datamodules.text import MaskedLMBatch, TextDataModule
from datamodules.token_cache import TokenStream
from datamodules.tokenizers import load_tokenizer, train_tokenizer
from datamodules.toy_glue import write_toy_glue
from datamodules.windows import OUTSIDE

__all__ = [
    "OUTSIDE",
    "FinetuningDataModule",
    "GLUEDataModule",
    "GlueFiles",
    "MaskedLMBatch",
    "Masking",
    "SequenceBatch",
    "TaskBatch",
    "TaskDataModule",
    "TaskDataset",
    "TaskFiles",
    "TextDataModule",
    "TextSource",
    "TokenStream",
    "load_tokenizer",
    "prose",
    "run_seed",
    "train_tokenizer",
    "write_toy_glue",
]
