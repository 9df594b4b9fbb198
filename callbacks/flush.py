"""What a run has logged is on the disk before a checkpoint is."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer


class FlushLoggers(Callback):
    """Writes what loggers hold in memory before each checkpoint: a run that is killed and goes on has logged every step."""

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        for logger in trainer.loggers:
            logger.save()
