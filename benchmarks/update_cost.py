"""What a mask update costs at BERT-base size: training steps with an update of all encoder tensors in each, in one process.

``python benchmarks/update_cost.py`` prints the median time of a training step (forward, backward, AdamW; batch 8 of 128 tokens
on a vocabulary of 30,522) without the update, of the update, and their ratio, by the clock and by the processor: the clock
suffers from whatever else the machine does.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import BertConfig, BertForMaskedLM

sys.path.insert(0, str(Path(__file__).parent.parent))
from cpu import keep_freed_memory, matmul_library, multiply_with_onednn
from objectives.masked_lm import masked_lm_logits, masked_lm_loss
from objectives.parameter_groups import sparse_weights
from sparsity import SET, STE, GlobalRigL, RigL, SparseMethod, SparseStepping

METHODS: dict[str, Callable[[], SparseMethod]] = {
    "RigL": lambda: RigL(every=1, stop=1.0),
    "RigL, 16x16": lambda: RigL(every=1, stop=1.0, structure="16x16"),
    "RigL, 1:4": lambda: RigL(every=1, stop=1.0, structure="1:4", sparsity=0.75),
    "GlobalRigL": lambda: GlobalRigL(every=1, stop=1.0),
    "SET": lambda: SET(every=1, stop=1.0),
    "STE": lambda: STE(),
}


Timing = tuple[float, float]


def timed(work: Callable[[], object]) -> Timing:
    """Seconds by the clock and of the processor, all threads together."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def measure(model: BertForMaskedLM, method: SparseMethod, batch_size: int, rounds: int) -> tuple[list[Timing], list[Timing]]:
    """Times of training steps and of the updates within them, after one round of each that warms up."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    inputs = torch.randint(1000, 30522, (batch_size, 128))
    positions = torch.rand(batch_size, 128).argsort(1)[:, :19].sort(1).values  # 15 %
    labels = inputs.gather(1, positions)
    weights, scope_size = sparse_weights(method, model)
    sparse = SparseStepping(method, weights, max_steps=100, scope_size=scope_size)

    def gradients() -> None:
        optimizer.zero_grad()
        masked_lm_loss(masked_lm_logits(model, inputs, positions), labels).backward()

    steps, updates = [], []
    for _ in range(rounds + 1):
        parts = [
            timed(gradients),
            timed(lambda: sparse.before_step(optimizer.state, 1)),
            timed(optimizer.step),
            timed(lambda: sparse.after_step(1)),
        ]
        steps.append(tuple(map(sum, zip(parts[0], parts[2], strict=True))))
        updates.append(tuple(map(sum, zip(parts[1], parts[3], strict=True))))
    return steps[1:], updates[1:]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["RigL", "GlobalRigL"])
    options = parser.parse_args()
    keep_freed_memory()
    multiply_with_onednn()
    print(
        f"{torch.get_num_threads()} threads; products by {matmul_library()}; median seconds by the clock and of the processor"
    )
    for name in options.methods:
        torch.manual_seed(0)
        steps, updates = measure(BertForMaskedLM(BertConfig()), METHODS[name](), options.batch_size, options.rounds)
        step, update = ([statistics.median(times) for times in zip(*timings, strict=True)] for timings in (steps, updates))
        ratios = ", ".join(f"{one / other:.2f}" for one, other in zip(update, step, strict=True))
        print(
            f"{name}: step {step[0]:.2f}, {step[1]:.2f}; update {update[0]:.2f}, {update[1]:.2f}; ratio {ratios}", flush=True
        )


if __name__ == "__main__":
    main()
