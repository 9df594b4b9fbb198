"""Finished models as they are used in a program: from their directory or from a packed file, in one call."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from deployment.compressed import unpack
from deployment.inference import sparsify_linears_

if TYPE_CHECKING:  # seconds, which commands without a model need not wait
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Loaded(NamedTuple):
    """A model in evaluation mode and its tokenizer, as ``transformers.pipeline`` takes them; None where there is none."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase | None"


def load_model(export: Path) -> "PreTrainedModel":
    """The exported model in fp32, as the class it was saved from, in evaluation mode."""
    import transformers

    from pretrained import architecture, read_config, reading

    transformers.utils.logging.disable_progress_bar()
    config, _ = read_config(export, "exported model")
    kind = architecture(config, export) if config.architectures else transformers.AutoModel
    with reading(export, "exported model"):
        return kind.from_pretrained(export, config=config, dtype=torch.float32, weights_only=True).eval()


def load(path: str | Path, sparse_tokens: int | None = None) -> Loaded:
    """A model and its tokenizer from an exported directory or from a file that :func:`pack` wrote.

    Args:
        path: the directory, or the packed file; nothing is left on the disk of what is unpacked.
        sparse_tokens: batch size times length that the model will run with: linear layers that are faster so on this machine
            become sparse (:func:`sparsify_linears_`). None leaves the model dense.

    Raises:
        ValueError: the file is damaged or no packed model; FileNotFoundError where there is nothing.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such directory of a model, or packed file")
    if path.is_file():
        with tempfile.TemporaryDirectory() as directory:
            unpack(path, Path(directory, "model"))
            return load(Path(directory, "model"), sparse_tokens)
    from pretrained import read_tokenizer

    model = load_model(path)
    tokenizer = read_tokenizer(path) if any(path.glob("tokenizer*")) else None
    if sparse_tokens is not None:
        sparsify_linears_(model, sparse_tokens)
    return Loaded(model, tokenizer)
