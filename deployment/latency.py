"""What sparse linear layers are worth on this machine: a model as it is and with them, timed in turn on the same tokens."""

import copy
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cpu import matmul_library
from deployment.inference import interleaved_seconds, sparsify_linears_

if TYPE_CHECKING:  # seconds, which commands without a model need not wait
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LatencyComparison:
    """A model dense and sparse on the same tokens.

    Args:
        linear_layers: number of linear layers in the model.
        sparse_layers: number of those that became sparse.
        library: what the dense products are made by.
        dense_ms: median milliseconds of the dense model.
        sparse_ms: median milliseconds of the sparse one.
        speedup: median over the rounds of dense over sparse time, each with its neighbour.
        best_speedup: best dense over best sparse time.
        difference: largest absolute difference of the outputs.
        choosing_s: seconds that it took to time the layers and replace them.
    """

    linear_layers: int
    sparse_layers: int
    library: str
    dense_ms: float
    sparse_ms: float
    speedup: float
    best_speedup: float
    difference: float
    choosing_s: float


@torch.inference_mode()
def compare_latency(dense: "PreTrainedModel", batch: int, length: int, rounds: int) -> LatencyComparison:
    """Time ``dense`` and a copy of it with the linear layers sparse that are faster so, with the threads torch has now.

    Args:
        dense: any model of token ids with exact zeros, fp32 on the CPU. It is not changed.
        batch: sequences.
        length: tokens a sequence; they are drawn at random.
        rounds: how often each model is timed.
    """
    sparse = copy.deepcopy(dense)
    start = time.perf_counter()
    choices = sparsify_linears_(sparse, tokens=batch * length)
    choosing = time.perf_counter() - start
    tokens = torch.randint(dense.config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(0))
    difference = (dense(input_ids=tokens)[0] - sparse(input_ids=tokens)[0]).abs().max()
    calls = {"dense": lambda: dense(input_ids=tokens), "sparse": lambda: sparse(input_ids=tokens)}
    seconds = interleaved_seconds(calls, rounds)
    ratios = [one / other for one, other in zip(*seconds.values(), strict=True)]
    return LatencyComparison(
        linear_layers=len(choices),
        sparse_layers=sum(choice.is_sparse for choice in choices.values()),
        library=matmul_library(),
        dense_ms=statistics.median(seconds["dense"]) * 1e3,
        sparse_ms=statistics.median(seconds["sparse"]) * 1e3,
        speedup=statistics.median(ratios),
        best_speedup=min(seconds["dense"]) / min(seconds["sparse"]),
        difference=float(difference),
        choosing_s=choosing,
    )
