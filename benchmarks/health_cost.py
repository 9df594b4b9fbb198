"""What it costs that a run watches itself: blocks of steps of a tiny BERT (2×128) with and without it in turn, in one process.

``python benchmarks/health_cost.py`` prints the median ratio of the times of neighbouring blocks, the share of the time that is
spent inside the hooks, and what hashing all weights for the comparison of ranks takes, as a share of the 100 steps between two.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything

sys.path.insert(0, str(Path(__file__).parent.parent))
from callbacks import FiniteNumbers, RankAgreement, StallWatchdog
from callbacks.rank_agreement import tensor_hash, what_ranks_share
from datamodules import TextDataModule
from lightning_modules import MaskedLanguageModel

TINY = {"model_type": "bert", "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
HOOKS = ("on_before_backward", "on_before_optimizer_step", "on_train_batch_start", "on_train_batch_end")


class Switch(Callback):
    """Turns callbacks on and off between blocks of steps, and times their hooks and the blocks."""

    def __init__(self, watched: list[Callback], block: int) -> None:
        self.watched, self.block, self.on, self.inside = watched, block, True, 0.0
        self.blocks: list[float] = []

    def call(self, hook: str, *arguments: Any) -> None:
        began = time.perf_counter()
        for callback in self.watched if self.on else ():
            getattr(callback, hook)(*arguments)
        self.inside += time.perf_counter() - began

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for callback in self.watched:
            callback.on_train_start(trainer, pl_module)
        self.began = time.perf_counter()

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.call("on_train_batch_end", *arguments)
        if arguments[0].global_step % self.block == 0:
            now = time.perf_counter()
            self.blocks.append(now - self.began)
            self.began, self.on = now, not self.on

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.watched[-1].on_fit_end(trainer, pl_module)
        times = []
        for _ in range(5):
            began = time.perf_counter()
            with torch.no_grad():
                torch.stack([tensor_hash(tensor) for tensor in what_ranks_share(trainer, pl_module).values()])
            times.append(time.perf_counter() - began)
        self.hash = statistics.median(times)


for name in HOOKS[:-1]:
    setattr(Switch, name, lambda self, *arguments, name=name: self.call(name, *arguments))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--block", type=int, default=10)
    options = parser.parse_args()
    seed_everything(0)
    switch = Switch([FiniteNumbers(), RankAgreement(), StallWatchdog()], options.block)
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    data = TextDataModule("docstrings", length=128, batch_size=8, vocabulary_size=8192)
    with tempfile.TemporaryDirectory() as root:
        steps = {"max_steps": options.steps, "limit_val_batches": 0, "gradient_clip_val": 1.0}
        Trainer(accelerator="cpu", default_root_dir=root, callbacks=[switch], **steps, **silent).fit(
            MaskedLanguageModel(TINY, lr=1e-3), data
        )
    pairs = list(zip(switch.blocks[2::2], switch.blocks[3::2], strict=False))
    ratios = [on / off for on, off in pairs]
    on = sum(switch.blocks[::2])
    step = statistics.median(off for _, off in pairs) / options.block
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    print(f"step {step * 1000:.1f} ms; with / without: median {statistics.median(ratios):.4f} ({spread})")
    print(
        f"inside the hooks: {switch.inside / on:.2%} of the time with them, {switch.inside / on * step * 1e6:.0f} µs a step"
    )
    print(f"hashes: {switch.hash * 1000:.1f} ms, {switch.hash / (100 * step):.2%} of 100 steps")


if __name__ == "__main__":
    main()
