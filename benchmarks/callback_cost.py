"""What RigL costs: steps of a mini BERT (4×256) with and without it, interleaved in one process, update steps included.

``python benchmarks/callback_cost.py`` prints the ratio of the median times of blocks of ΔT = 100 steps.
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
from datamodules import TextDataModule
from lightning_modules import MaskedLanguageModel
from train import keep_freed_memory

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

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if self.on:
            super().on_before_optimizer_step(trainer, pl_module, optimizer)


class Blocks(Callback):
    """Times blocks of ``every`` steps, with RigL and without in turn; a block with it has one update."""

    def __init__(self, rigl: SwitchedRigL) -> None:
        self.rigl, self.seconds = rigl, {True: [], False: []}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if batch_idx % self.rigl.every == 1:
            now = time.perf_counter()
            if batch_idx > self.rigl.every:  # the first block warms up
                self.seconds[self.rigl.on].append(now - self.start)
            self.rigl.on, self.start = not self.rigl.on, now


def main() -> None:
    """Run the blocks and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=8, help="pairs of blocks")
    parser.add_argument("--every", type=int, default=100, help="steps a block, and ΔT")
    parser.add_argument("--length", type=int, default=64)
    options = parser.parse_args()
    keep_freed_memory()
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
    with_rigl, without = (statistics.median(blocks.seconds[on]) / options.every * 1e3 for on in (True, False))
    print(f"ms a step, median of {options.blocks} blocks: {with_rigl:.2f} with RigL, {without:.2f} without")
    print(f"ratio {with_rigl / without:.4f}")


if __name__ == "__main__":
    main()
