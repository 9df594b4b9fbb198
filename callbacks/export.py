"""Exports: the model as an ordinary Hugging Face directory, with its tokenizer and its masks."""

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from transformers import PreTrainedModel

from callbacks.run_summary import RunSummary
from callbacks.sparse_training import sparse_training, total_steps
from datamodules import TextDataModule
from deployment import check_repository, files_to_push, push, write_card
from internals import is_accumulating
from run_record import experiment_name, model_name
from sparsity import SparseStepping, apply_umask, save_masks


def recover(final: Path) -> None:
    """Finish or undo a replacement of ``final`` (:func:`replacing`) that was cut off; what is named ``final`` is whole then."""
    partial, replaced = (final.with_name(f".{final.name}.{state}") for state in ("partial", "replaced"))
    shutil.rmtree(partial, ignore_errors=True)
    if replaced.exists():
        replaced.rename(partial if final.exists() else final)  # so that only what is called partial ever misses a file
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def replacing(final: Path) -> Iterator[Path]:
    """A place beside ``final`` for a directory that takes its place at the end; a directory named ``final`` is always whole.

    If the process dies between the two renames, there is none of that name until :func:`recover` brings the old one back.
    """
    recover(final)
    partial = final.with_name(f".{final.name}.partial")
    yield partial
    apply_umask(partial)
    if final.exists():
        final.rename(final.with_name(f".{final.name}.replaced"))
    partial.rename(final)
    recover(final)


OCCUPIED = ("checkpoints", "export", "config.yaml", "summary.json")


class ExportPretrained(Callback):
    """Writes ``export/`` when the fit has ended, and named directories beside it at chosen steps.

    The weights keep the type that they were trained in. A directory is written beside its place and renamed, so that one that
    exists is whole; what a run that died has left is put in order when the next one starts.

    Args:
        directory: where ``export`` goes; null for the run's own directory.
        at_steps: optimizer step → name, so that one long run yields several models: ``{100000: bert_100k}``.
        name: what the model in ``export`` is called, in its card and in tables; null for the experiment's name.
        license: of the model, as an identifier of the hub, for its card.
        push_to_hub: repository, OWNER/NAME, that ``export`` is sent to when the fit has ended; null sends nothing.
        private: whether the repository must be private.
        dry_run: only say what would be sent.
    """

    def __init__(
        self,
        directory: str | None = None,
        at_steps: dict[int, str] | None = None,
        name: str | None = None,
        license: str | None = None,
        push_to_hub: str | None = None,
        private: bool = True,
        dry_run: bool = False,
    ) -> None:
        if push_to_hub is not None:
            check_repository(push_to_hub)
        for place in (at_steps or {}).values():
            if Path(place).name != place or place.startswith(".") or place in OCCUPIED:
                raise ValueError(f"export.at_steps: {place!r} is no name for an export; expected a new directory of the run")
        self.directory, self.at_steps = directory, at_steps or {}
        self.name, self.license = name, license
        self.push_to_hub, self.private, self.dry_run = push_to_hub, private, dry_run

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self.root = Path(self.directory or trainer.default_root_dir)
        if writes(trainer):
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=self.root).close()
                for name in ("export", *self.at_steps.values()):
                    recover(self.root / name)
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
        if self.push_to_hub is not None and writes(trainer):
            self.push(self.root / "export", self.push_to_hub)

    def push(self, directory: Path, repository: str) -> None:
        """Send the export, or say what would be sent. The model is safe on the disk: what goes wrong is a warning."""
        kind = "private" if self.private else "public"
        if self.dry_run:
            sizes = ", ".join(f"{name} ({size:,} bytes)" for name, size in files_to_push(directory).items())
            rank_zero_info(f"would be sent to the {kind} repository {repository}: {sizes}")
            return
        try:
            rank_zero_info(f"sent: {push(directory, repository, self.private)}")
        except (OSError, ValueError) as error:
            rank_zero_warn(f"{error}; later: python deploy.py push {directory} {repository}")

    def export(self, trainer: Trainer, pl_module: LightningModule, name: str) -> None:
        """Write the model as it is now to ``root / name``."""
        if not writes(trainer):
            return
        model, sparse = cast(PreTrainedModel, pl_module.model), sparse_training(trainer)
        with replacing(self.root / name) as directory:
            model.save_pretrained(directory)
            trainer.datamodule.tokenizer.save_pretrained(directory)  # type: ignore[attr-defined]
            if sparse is not None:
                parameters = dict(model.named_parameters())
                save_masks(directory, sparse.masks, parameters, made_by(sparse, trainer.global_step))
            summaries = [each for each in trainer.callbacks if isinstance(each, RunSummary)]  # type: ignore[attr-defined]
            records = [summary.record(trainer, pl_module, "finished") for summary in summaries]
            repository = self.push_to_hub if name == "export" else None
            write_card(directory, self.called(trainer, name), records, datasets_of(trainer), self.license, repository)

    def called(self, trainer: Trainer, name: str) -> str:
        """What the model in the directory ``name`` is called."""
        if name != "export":
            return name
        return self.name or experiment_name(Path(trainer.default_root_dir).absolute())


def writes(trainer: Trainer) -> bool:
    """Whether this process is the one that writes files, in a run that leaves some."""
    return trainer.is_global_zero and not trainer.fast_dev_run  # type: ignore[attr-defined]


def datasets_of(trainer: Trainer) -> list[str]:
    """Paths or hub ids of the text that a run's datamodule reads; of GLUE its task says enough."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    return [source.path for source in data.sources] if isinstance(data, TextDataModule) else []


def made_by(sparse: SparseStepping, step: int) -> dict[str, object]:
    """The method, its settings, the step and what each tensor started with, for the record."""
    method = sparse.method
    settings = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    if pretrained := settings.get("pretrained"):
        settings["pretrained"] = model_name(str(pretrained))  # where it lay on a machine is nobody's business
    return {"method": type(method).__name__, "step": step, **settings, "initial_nnz": sparse.initial_nnz}
