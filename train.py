"""One run: ``python train.py fit --config configs/experiments/….yaml``, and every parameter as an option.

Subcommands ``fit``, ``validate``, ``test`` and ``predict`` are Lightning's; ``--help`` lists what each takes.
"""

import contextlib
import os
import re
import sys
import warnings
from argparse import ArgumentError
from pathlib import Path
from typing import Any

import datasets
import torch
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from transformers.utils import logging as transformers_logging

import datamodules  # noqa: F401  (short class names resolve in YAML)
import lightning_modules  # noqa: F401
from callbacks import (
    ExportPretrained,
    GlueSubmission,
    RandomState,
    RunSummary,
    SparsityMonitor,
    StepMonitor,
    StepProgressBar,
)
from cpu import keep_freed_memory, multiply_with_onednn


class SaveRunConfig(SaveConfigCallback):
    """``config.yaml`` in the run's directory when a fit starts; one that fails before that leaves no directory."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Too early: the model and the other callbacks may still refuse."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().setup(trainer, pl_module, "fit")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.already_saved or not trainer.is_global_zero or not isinstance(trainer.logger, TensorBoardLogger):
            return
        run = Path(trainer.logger.log_dir)
        if not (run / "config.yaml").exists():  # else a run of before, to be continued
            for events in run.glob("events.out.tfevents.*"):
                events.unlink()
            with contextlib.suppress(OSError):  # not empty, or not there
                run.rmdir()


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
        parser.add_lightning_class_args(GlueSubmission, "submission")
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
            print(f"ckpt_path last: {checkpoint or 'there is no checkpoint yet, so this is a new run'}", file=sys.stderr)

    def _parse_ckpt_path(self) -> None:
        """Leave the command line as it is: Lightning would put the checkpoint's hyper-parameters over it."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config[self.subcommand]
        if self.subcommand != "fit":
            kwargs.setdefault("logger", False)
        elif config.trainer.logger is None:
            kwargs["logger"] = self._logger(config)
        trainer = super().instantiate_trainer(**kwargs)
        if type(trainer.progress_bar_callback) is RichProgressBar:
            trainer.callbacks[trainer.callbacks.index(trainer.progress_bar_callback)] = StepProgressBar()
        return trainer

    @staticmethod
    def _logger(config: Any) -> TensorBoardLogger:
        """A new version of the experiment, or the one asked for; a run continued from a checkpoint goes on in its own."""
        run = Path(config.ckpt_path).absolute().parent.parent if config.ckpt_path else None
        continued = run is not None and run.parent == Path(config.runs, config.experiment).absolute()
        version = run.name if continued else config.version
        return TensorBoardLogger(config.runs, name=config.experiment, version=version, default_hp_metric=False)


def main(arguments: list[str] | None = None, cli: type[TrifectaCLI] = TrifectaCLI) -> TrifectaCLI:
    """Parse ``arguments`` (the command line by default) and run the subcommand, or do what ``cli`` does instead."""
    keep_freed_memory()
    multiply_with_onednn()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # batches are made in milliseconds
    warnings.filterwarnings("ignore", ".*infer the batch indices.*")  # the rows of a submission carry their own
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated.*")  # Lightning on a newer torch
    torch.set_float32_matmul_precision("high")
    return cli(
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
        parser_kwargs={"exit_on_error": False} | {name: {"exit_on_error": False} for name in LightningCLI.subcommands()},
        args=arguments,
    )


def first_alternatives(lines: list[str]) -> list[str]:
    """jsonargparse's message without what it says of each further type that a value could have been."""

    def indent(line: str) -> int:
        return len(line) - len(line.lstrip())

    for number, line in enumerate(lines):
        if line.strip(" -") != "Does not validate against any of the Union subtypes":
            continue
        start = next((index for index in range(number, len(lines)) if lines[index].strip() == "Errors:"), len(lines)) + 1
        if start >= len(lines):
            break
        level = indent(lines[start])
        end = next((index for index in range(start + 1, len(lines)) if indent(lines[index]) <= level), len(lines))
        leaf = end == start + 1 and "Expected a" in lines[start]
        given = [line for line in lines[end:] if indent(line) < level] if leaf else []
        return lines[:number] + first_alternatives([lines[start].replace("- ", "", 1), *lines[start + 1 : end]]) + given
    return lines


def one_line(error: Exception) -> str:
    """What is wrong in one line."""
    message = re.sub(r"\n *- Expected a path but .*", "", str(error))
    return " ".join(" ".join(first_alternatives(message.split("\n"))).split())


def run(arguments: list[str] | None = None) -> None:
    """:func:`main`; the user's mistakes end with one line, and with the traceback where TRIFECTA_TRACEBACK is set."""
    try:
        main(arguments)
    except (ArgumentError, ValueError, OSError, MisconfigurationException) as error:
        if os.environ.get("TRIFECTA_TRACEBACK"):
            raise
        sys.exit(f"error: {one_line(error)}")


if __name__ == "__main__":
    run()
