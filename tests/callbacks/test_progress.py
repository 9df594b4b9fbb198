"""What the progress bar shows."""

from collections.abc import Callable
from pathlib import Path

from callbacks import RigL, SparsityMonitor, StepMonitor, StepProgressBar
from datamodules import TextDataModule
from helpers import fit


def test_short_names_and_steps(tmp_path: Path, text_data: Callable[..., TextDataModule]) -> None:
    bar = StepProgressBar()
    callbacks = [RigL(sparsity=0.8), SparsityMonitor(figures=False), StepMonitor(), bar]
    trainer = fit(tmp_path, text_data(), callbacks, max_steps=3, enable_progress_bar=True, limit_val_batches=2)
    shown = bar.get_metrics(trainer, trainer.lightning_module)
    assert shown.keys() == {"loss", "val", "tokens/s", "sparsity"}
    assert shown["val"] == f"{float(trainer.callback_metrics['val/loss']):.3f}"
    assert int(shown["tokens/s"].replace(",", "")) > 0
    assert bar._get_train_description(0) == "Steps"
