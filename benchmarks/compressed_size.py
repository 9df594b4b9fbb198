"""How small a sparse BERT-base is in a compressed file: ``python benchmarks/compressed_size.py``.

Random masks over all matrices at each sparsity, embeddings included, LayerNorms and biases dense; fp32. Sizes are of files on
the disk, tokenizer-free; times are of one pack and one unpack. The unpacked weights are compared bit for bit. Both hash
all bytes for the file's checksum.
"""

import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parent.parent))
from arguments import OneLineParser, one_line_errors
from deployment import WEIGHTS_FILE, pack, unpack
from sparsity import MaskSet, save_masks


def export_sparse_bert(directory: Path, sparsity: float) -> None:
    """BERT-base with random masks over every matrix, as a training run would export it."""
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig())
    parameters = dict(model.named_parameters())
    masks = MaskSet({name: torch.rand(weight.shape) >= sparsity for name, weight in parameters.items() if weight.ndim == 2})
    masks.zero_weights_(parameters)
    model.save_pretrained(directory)
    save_masks(directory, masks, parameters, {"method": "random"})


def main() -> None:
    """Print a row a sparsity."""
    parser = OneLineParser(description=__doc__)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.5, 0.8, 0.9, 0.95])
    logging.disable_progress_bar()
    table = Table("sparsity", "dense MB", "compressed MB", "share", "pack s", "unpack s")
    for sparsity in parser.parse_args().sparsity:
        with tempfile.TemporaryDirectory() as scratch:
            export, file, copy = (Path(scratch, name) for name in ("export", "model.packed", "copy"))
            export_sparse_bert(export, sparsity)
            start = time.perf_counter()
            pack(export, file)
            packed_at = time.perf_counter()
            unpack(file, copy)
            seconds = packed_at - start, time.perf_counter() - packed_at
            before, after = load_file(export / WEIGHTS_FILE), load_file(copy / WEIGHTS_FILE)
            if before.keys() != after.keys() or any(
                not torch.equal(before[name].view(torch.int32), after[name].view(torch.int32)) for name in before
            ):
                sys.exit(f"error: at sparsity {sparsity} the unpacked weights are not those that were packed")
            dense, packed = (path.stat().st_size / 1e6 for path in (export / WEIGHTS_FILE, file))
            cells = (f"{sparsity:g}", f"{dense:.1f}", f"{packed:.1f}", f"{packed / dense:.4f}")
            table.add_row(*cells, *(f"{duration:.1f}" for duration in seconds))
    Console(width=110).print(table)


if __name__ == "__main__":
    with one_line_errors():
        main()
