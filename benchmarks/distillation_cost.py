"""What a teacher costs: training steps of a BERT without one, with one of its own size, and with what it said kept on disk.

``python benchmarks/distillation_cost.py`` times the steps in turn in one process, and the teacher's forward alone beside them.
"""

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

sys.path.insert(0, str(Path(__file__).parent.parent))
from pretraining import BATCHES, LENGTH, SIZES, VOCABULARY

from callbacks.teacher_cache import TeacherCache
from cpu import keep_freed_memory, multiply_with_onednn
from lightning_modules.optimizers import adamw
from objectives.distillation import distillation_loss, top_k_distillation_loss
from objectives.masked_lm import masked_lm_logits, masked_lm_loss

MASKED, KEPT, FACTOR = 19, 64, 0.8


def measure(size: str, steps: int, cache: Path) -> dict[str, float]:
    """Median seconds a step of each kind."""
    torch.manual_seed(0)
    config = BertConfig(**SIZES[size], vocab_size=VOCABULARY, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
    student = BertForMaskedLM(config).train()
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    optimizer = adamw(student.parameters(), 1e-4, 0.01, (0.9, 0.999), 1e-8)
    tokens = torch.randint(VOCABULARY, (BATCHES[size], LENGTH))
    positions = torch.stack([torch.randperm(LENGTH)[:MASKED].sort().values for _ in tokens])
    batch = {"input_ids": tokens, "positions": positions, "labels": tokens.gather(1, positions)}
    kept = TeacherCache(cache, KEPT)

    @torch.no_grad()
    def taught() -> Tensor:
        return masked_lm_logits(teacher, tokens, positions)

    def forward_alone(logits: Tensor, loss: Tensor) -> Tensor:
        taught()
        return loss

    def distilled(logits: Tensor, loss: Tensor) -> Tensor:
        return (1 - FACTOR) * loss + FACTOR * distillation_loss(logits, [taught()], [1.0], 1.0)

    def cached(logits: Tensor, loss: Tensor) -> Tensor:
        targets = kept.answer(batch, logits, lambda: taught().softmax(1))
        return (1 - FACTOR) * loss + FACTOR * top_k_distillation_loss(logits, targets.probabilities, targets.kept, 1.0)

    kinds: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "no teacher": lambda logits, loss: loss,
        "its forward alone": forward_alone,
        "distillation": distilled,
        "from the cache": cached,
    }
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(steps + 1):
        for name, objective in kinds.items():
            began = time.perf_counter()
            optimizer.zero_grad()
            logits = masked_lm_logits(student, tokens, positions)
            objective(logits, masked_lm_loss(logits, batch["labels"])).backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}  # the first one warms up


def main() -> None:
    """A line a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["tiny", "mini", "small", "base"])
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    keep_freed_memory()
    multiply_with_onednn()
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as cache:
            seconds = measure(size, options.steps, Path(cache))
        alone = seconds["no teacher"]
        shown = ", ".join(f"{name} {1e3 * taken:.0f} ms ({taken / alone:.2f})" for name, taken in seconds.items())
        print(f"{size}: {shown}", flush=True)


if __name__ == "__main__":
    main()
