"""Dense and sparse inference of BERT-base, interleaved: ``python benchmarks/sparse_latency.py``.

Random masks over all matrices of the encoder at each sparsity. For each the same model runs as it is and with the layers
sparse that are faster so, in turn; the speedup is the median over the rounds, and that of the best times. The dense model has
the fastest matrix products there are (``TRIFECTA_ONEDNN`` chooses others).
"""

import sys
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

sys.path.insert(0, str(Path(__file__).parent.parent))
from arguments import OneLineParser, one_line_errors
from cpu import matmul_library, multiply_with_onednn
from deployment import compare_latency

COLUMNS = ("sparsity", "sparse layers", "dense ms", "sparse ms", "speedup", "of best times", "difference", "loading s")


def sparse_bert(sparsity: float) -> BertModel:
    """BERT-base with random weights and random masks over the encoder's matrices."""
    torch.manual_seed(0)
    model = BertModel(BertConfig()).eval()
    with torch.no_grad():
        for weight in model.encoder.parameters():
            if weight.ndim == 2:
                weight.mul_(torch.rand_like(weight) >= sparsity)
    return model


def row(sparsity: float, batch: int, length: int, rounds: int) -> list[str]:
    """One row of the table."""
    found = compare_latency(sparse_bert(sparsity), batch, length, rounds)
    return [
        f"{sparsity:g}",
        f"{found.sparse_layers} of {found.linear_layers}",
        f"{found.dense_ms:.1f}",
        f"{found.sparse_ms:.1f}",
        f"{found.speedup:.2f}",
        f"{found.best_speedup:.2f}",
        f"{found.difference:.0e}",
        f"{found.choosing_s:.1f}",
    ]


def main() -> None:
    """Print a row a sparsity."""
    parser = OneLineParser(description=__doc__)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    multiply_with_onednn()
    print(
        f"BERT-base, {options.batch} × {options.length} tokens, {options.threads} threads, torch {torch.__version__}, "
        f"dense products by {matmul_library()}"
    )
    print("".join(f"{title:>14}" for title in COLUMNS))
    for sparsity in options.sparsity:
        cells = row(sparsity, options.batch, options.length, options.rounds)
        print("".join(f"{cell:>14}" for cell in cells), flush=True)


if __name__ == "__main__":
    with one_line_errors():
        main()
