"""What RigL costs: steps of a mini BERT (4×256) with and without it, interleaved in one process, update steps included.

``python benchmarks/callback_cost.py`` prints the ratio of the times of neighbouring blocks of ΔT = 100 steps, and its spread, and
the share of the time that is spent inside the callback, which a noisy machine disturbs less.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

sys.path.insert(0, str(Path(__file__).parent.parent))
from callbacks import RigL
from cpu import keep_freed_memory, multiply_with_onednn
from datamodules import TextDataModule
from lightning_modules import MaskedLanguageModel

MINI = {
    "model_type": "bert",
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
}


class SwitchedRigL(RigL):
    """RigL that can be turned off between blocks of steps. The masks stay; only the work around the step stops."""

    on = True
    inside = 0.0

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if self.on:
            start = time.perf_counter()
            super().on_before_optimizer_step(trainer, pl_module, optimizer)
            self.inside += time.perf_counter() - start


class Blocks(Callback):
    """Times blocks of ``every`` steps, with RigL and without in turn; a block with it has one update."""

    def __init__(self, rigl: SwitchedRigL) -> None:
        self.rigl, self.seconds = rigl, {True: [], False: []}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if batch_idx % self.rigl.method.every == 1:
            now = time.perf_counter()
            if batch_idx > self.rigl.method.every + 1:  # the first block warms up
                self.seconds[self.rigl.on].append(now - self.start)
            else:
                self.rigl.inside = 0.0
            self.rigl.on, self.start = not self.rigl.on, now


def main() -> None:
    """Run the blocks and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=8, help="pairs of blocks")
    parser.add_argument("--every", type=int, default=100, help="steps a block, and ΔT")
    parser.add_argument("--length", type=int, default=64)
    options = parser.parse_args()
    keep_freed_memory()
    multiply_with_onednn()
    rigl = SwitchedRigL(sparsity=0.8, every=options.every, stop=1.0)
    blocks = Blocks(rigl)
    trainer = Trainer(
        max_steps=(2 * options.blocks + 1) * options.every + 2,
        callbacks=[rigl, blocks],
        logger=False,
        enable_checkpointing=False,
        limit_val_batches=0,
        gradient_clip_val=1.0,
    )
    trainer.fit(MaskedLanguageModel(MINI), TextDataModule(length=options.length, vocabulary_size=4096))
    for on in (True, False):
        times = ", ".join(f"{seconds / options.every * 1e3:.1f}" for seconds in blocks.seconds[on])
        print(f"ms a step {'with RigL' if on else 'without'}, block by block: {times}")
    ratios = [with_rigl / without for with_rigl, without in zip(blocks.seconds[True], blocks.seconds[False], strict=True)]
    print(f"ratio of neighbouring blocks: median {statistics.median(ratios):.4f}, {min(ratios):.4f} to {max(ratios):.4f}")
    share = rigl.inside / sum(blocks.seconds[True])
    print(
        f"inside the callback: {rigl.inside / options.blocks / options.every * 1e3:.2f} ms a step, {share:.2%} of the time"
    )


if __name__ == "__main__":
    main()
