"""Dense and sparse inference of BERT-base, interleaved: ``python benchmarks/sparse_latency.py``.

Random masks over all matrices of the encoder at each sparsity. For each the same model runs as it is and with the layers
sparse that are faster so, in turn; the speedup is the median over the rounds, and that of the best times.
"""

import argparse
import copy
import statistics
import sys
import time
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

sys.path.insert(0, str(Path(__file__).parent.parent))
from deployment.inference import interleaved_seconds, sparsify_linears_

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


@torch.inference_mode()
def row(sparsity: float, batch: int, length: int, rounds: int) -> list[str]:
    """One row of the table."""
    dense = sparse_bert(sparsity)
    sparse = copy.deepcopy(dense)
    start = time.perf_counter()
    choices = sparsify_linears_(sparse, tokens=batch * length)
    loading = time.perf_counter() - start
    tokens = torch.randint(dense.config.vocab_size, (batch, length))
    difference = (dense(tokens)[0] - sparse(tokens)[0]).abs().max()
    seconds = interleaved_seconds({"dense": lambda: dense(tokens), "sparse": lambda: sparse(tokens)}, rounds)
    ratios = [one / other for one, other in zip(*seconds.values(), strict=True)]
    return [
        f"{sparsity:g}",
        f"{sum(choice.is_sparse for choice in choices.values())} of {len(choices)}",
        *(f"{statistics.median(times) * 1e3:.1f}" for times in seconds.values()),
        f"{statistics.median(ratios):.2f}",
        f"{min(seconds['dense']) / min(seconds['sparse']):.2f}",
        f"{difference:.0e}",
        f"{loading:.1f}",
    ]


def main() -> None:
    """Print a row a sparsity."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"BERT-base, {options.batch} × {options.length} tokens, {options.threads} threads, torch {torch.__version__}")
    print("".join(f"{title:>14}" for title in COLUMNS))
    for sparsity in options.sparsity:
        cells = row(sparsity, options.batch, options.length, options.rounds)
        print("".join(f"{cell:>14}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
