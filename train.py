"""One run: ``python train.py fit --config configs/experiments/….yaml``, and every parameter as an option.

Subcommands ``fit``, ``validate``, ``test`` and ``predict`` are Lightning's; ``--help`` lists what each takes.
"""

import ctypes
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from transformers.utils import logging as transformers_logging

import datamodules  # noqa: F401  (short class names resolve in YAML)
import lightning_modules  # noqa: F401
from callbacks import ExportPretrained, RandomState, RunSummary, SparsityMonitor, StepMonitor


def keep_freed_memory() -> None:
    """Let glibc reuse large buffers instead of returning them to the kernel: a third faster on a small BERT."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            m_trim_threshold, m_mmap_max = -1, -4
            libc.mallopt(m_mmap_max, 0)
            libc.mallopt(m_trim_threshold, 2**31 - 1)


class SaveRunConfig(SaveConfigCallback):
    """``config.yaml`` of a fit in the run's directory."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            super().setup(trainer, pl_module, stage)


def latest_checkpoint(experiment: Path) -> Path | None:
    """``last.ckpt`` of the newest version of an experiment that has one."""
    versions = sorted(experiment.glob("version_*/checkpoints/last.ckpt"), key=lambda path: int(path.parts[-3][8:]))
    return versions[-1] if versions else None


class TrifectaCLI(LightningCLI):
    """LightningCLI with the callbacks that every run has, runs kept by experiment, and a command line that wins."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--experiment", type=str, default="default", help="name of the run: RUNS/EXPERIMENT/version_N")
        parser.add_argument("--runs", type=str, default="runs", help="directory of all runs")
        parser.add_argument("--version", type=int | None, default=None, help="N of the run; null takes the next free one")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(ExportPretrained, "export")
        parser.set_defaults(
            {
                "checkpoint.filename": "step={step}",
                "checkpoint.auto_insert_metric_name": False,
                "checkpoint.save_last": True,
                "checkpoint.every_n_train_steps": 1000,
            }
        )

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        model, data = config.model.get("init_args", {}), config.data.get("init_args", {})
        if model.get("pretrained") and "tokenizer" in data and data.tokenizer is None:
            data.tokenizer = model.pretrained  # a pretrained model speaks its own tokenizer
        if config.get("ckpt_path") == "last":
            checkpoint = latest_checkpoint(Path(config.runs, config.experiment))
            config.ckpt_path = str(checkpoint) if checkpoint else None

    def _parse_ckpt_path(self) -> None:
        """Leave the command line as it is: Lightning would put the checkpoint's hyper-parameters over it."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config[self.subcommand]
        if self.subcommand != "fit":
            kwargs.setdefault("logger", False)
        elif config.trainer.logger is None:
            kwargs["logger"] = self._logger(config)
        return super().instantiate_trainer(**kwargs)

    @staticmethod
    def _logger(config: Any) -> TensorBoardLogger:
        """A new version of the experiment, or the one asked for; a run continued from a checkpoint goes on in its own."""
        run = Path(config.ckpt_path).absolute().parent.parent if config.ckpt_path else None
        continued = run is not None and run.parent == Path(config.runs, config.experiment).absolute()
        return TensorBoardLogger(config.runs, name=config.experiment, version=run.name if continued else config.version)


def main(arguments: list[str] | None = None) -> TrifectaCLI:
    """Parse ``arguments`` (the command line by default) and run the subcommand."""
    keep_freed_memory()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # batches are made in milliseconds
    torch.set_float32_matmul_precision("high")
    return TrifectaCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=SaveRunConfig,
        save_config_kwargs={"overwrite": True},
        seed_everything_default=0,
        trainer_defaults={
            "callbacks": [RandomState(), StepMonitor(), SparsityMonitor(), RunSummary()],
            "gradient_clip_val": 1.0,
            "num_sanity_val_steps": 0,
        },
        auto_configure_optimizers=False,
        args=arguments,
    )


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, MisconfigurationException) as error:
        if os.environ.get("TRIFECTA_TRACEBACK"):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
