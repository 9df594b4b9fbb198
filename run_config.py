"""The configuration of a run: a file in its directory, and hyper-parameters in its loggers."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import LightningArgumentParser, SaveConfigCallback

from callbacks import plain_settings
from run_directory import EVENTS

SETTINGS = ("experiment", "seed_everything", "model", "data", "masks", "schedule", "distillation")
TRAINER_SETTINGS = ("max_steps", "max_epochs", "precision", "accumulate_grad_batches", "gradient_clip_val")


class SaveRunConfig(SaveConfigCallback):
    """``config.yaml`` in the run's directory, once nothing can refuse to start any more, and hyper-parameters in the loggers.

    A run that is refused leaves the directory as it was.

    Args:
        parser: of the configuration.
        config: what to save.
        kept: event files that are there already, of the run that this one goes on with.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, kept: Sequence[Path] = ()) -> None:
        super().__init__(parser, config)
        self.kept, self.began = kept, False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Too early: the model, the other callbacks and the checkpoint may still refuse."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began = True
        if trainer.is_global_zero:
            run = Path(trainer.default_root_dir)
            run.mkdir(parents=True, exist_ok=True)
            again = self.config.clone()
            again.version = again.ckpt_path = None  # so that a run from this file is a new one
            self.parser.save(again, run / "config.yaml", skip_none=False, overwrite=True, multifile=False)
            for logger in trainer.loggers:
                logger.log_hyperparams(hyper_parameters(self.config))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if trainer.state.fn != "fit" or self.began or not trainer.is_global_zero:
            return
        run = Path(trainer.default_root_dir)
        for events in set(run.glob(f"{EVENTS}.{os.getpid()}.*")) - set(self.kept):  # opened before anything can refuse
            events.unlink()
        for directory in (*sorted(filter(Path.is_dir, run.rglob("*")), reverse=True), run, run.parent):
            with contextlib.suppress(OSError):  # not empty, or not there
                directory.rmdir()


def hyper_parameters(config: Namespace) -> dict[str, bool | int | float | str]:
    """What tells one run from another, for loggers."""
    given = config.as_dict()
    chosen = {name: given[name] for name in SETTINGS if given.get(name) is not None}
    return plain_settings(chosen | {"trainer": {name: given["trainer"].get(name) for name in TRAINER_SETTINGS}})
