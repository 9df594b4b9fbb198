"""Exports: the model as an ordinary Hugging Face directory, with its tokenizer and its masks."""

import dataclasses
import shutil
import tempfile
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn

from callbacks.sparse_training import sparse_training, total_steps
from internals import is_accumulating
from sparsity import SparseStepping, save_masks


class ExportPretrained(Callback):
    """Writes ``export/`` when the fit has ended, and named directories beside it at chosen steps.

    A directory is written beside its place and renamed, so that one that exists is whole.

    Args:
        directory: where ``export`` goes; null for the run's own directory.
        at_steps: optimizer step → name, so that one long run yields several models: ``{100000: bert_100k}``.
    """

    def __init__(self, directory: str | None = None, at_steps: dict[int, str] | None = None) -> None:
        self.directory, self.at_steps = directory, at_steps or {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self.root = Path(self.directory or trainer.log_dir or trainer.default_root_dir)
        if trainer.is_global_zero and not trainer.fast_dev_run:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=self.root).close()
            except OSError as error:
                raise ValueError(f"export directory {self.root} is not writable: {error.strerror}") from error

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        name = self.at_steps.get(trainer.global_step)
        if name is not None and not is_accumulating(trainer):
            self.export(trainer, pl_module, name)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps = total_steps(trainer) if self.at_steps else 0
        for step, name in self.at_steps.items():
            if not 0 < step <= steps:
                rank_zero_warn(f"export.at_steps: {name} will not be there, as a run of {steps} steps has no step {step}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.export(trainer, pl_module, "export")

    def export(self, trainer: Trainer, pl_module: LightningModule, name: str) -> None:
        """Write the model as it is now to ``root / name``."""
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        final, partial = self.root / name, self.root / f".{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        pl_module.model.save_pretrained(partial)
        trainer.datamodule.tokenizer.save_pretrained(partial)
        if (sparse := sparse_training(trainer)) is not None:
            parameters = dict(pl_module.model.named_parameters())
            save_masks(partial, sparse.masks, parameters, made_by(sparse, trainer.global_step))
        replaced = self.root / f".{name}.replaced"
        shutil.rmtree(replaced, ignore_errors=True)
        if final.exists():
            final.rename(replaced)
        partial.rename(final)
        shutil.rmtree(replaced, ignore_errors=True)


def made_by(sparse: SparseStepping, step: int) -> dict[str, object]:
    """The method, its settings, the step and what each tensor started with, for the record."""
    method = sparse.method
    settings = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    return {"method": type(method).__name__, "step": step, **settings, "initial_nnz": sparse.initial_nnz}
