"""A run that is told to stop does so after the optimizer step at hand, with a checkpoint and an exit code that says so."""

import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint

from callbacks.checkpoint_files import LAST
from internals import is_accumulating, validation_not_begun
from run_exit import STOPPED_BY_SIGNAL

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Of a supervisor, of Ctrl-C, and of SLURM before the time is up."""
STEPS_ON_GPU = 10  # between two questions to the other ranks: each waits for the device


class RunStopped(SystemExit):
    """The end of a run by a signal, once its checkpoint is written; the process ends with :data:`run_exit.STOPPED_BY_SIGNAL`."""


class StopOnSignal(Checkpoint):
    """Ends a fit on SIGTERM, SIGINT or SIGUSR1, whichever rank receives it, as soon as a checkpoint can be written.

    That is after the optimizer step at hand, or after a batch of a validation, which a resumed run leaves out. A second signal
    ends the process at once.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._validating = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.received = None
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self._give_back()
            signal.raise_signal(number)
            return
        self.received = signal.Signals(number)
        print(
            f"{self.received.name}: the run stops after this step, with a checkpoint; once more ends it at once",
            file=sys.stderr,
        )

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _is_told(self, trainer: Trainer) -> bool:
        """Whether any rank has received a signal."""
        told = self.received is not None
        if trainer.world_size == 1:
            return told
        answer = torch.tensor(float(told), device=trainer.strategy.root_device)
        return bool(trainer.strategy.reduce(answer, reduce_op="sum") > 0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        every = STEPS_ON_GPU if trainer.world_size > 1 and trainer.strategy.root_device.type == "cuda" else 1
        if not is_accumulating(trainer) and trainer.global_step % every == 0 and self._is_told(trainer):
            self._stop(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.state.fn == "fit" and self._is_told(trainer):
            self._validating = True
            self._stop(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._validating:
            validation_not_begun(checkpoint)

    def _stop(self, trainer: Trainer) -> None:
        """Write the checkpoint and end the run."""
        saving = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
        directory = next((callback.dirpath for callback in saving if callback.dirpath), None)
        where = "without a checkpoint, as the run keeps none"
        if directory is not None:
            trainer.save_checkpoint(Path(directory) / LAST, weights_only=False)
            where = f"with {Path(directory) / LAST}; --ckpt_path last goes on"
        if trainer.is_global_zero:
            name = "another rank's signal" if self.received is None else self.received.name
            print(f"stopped by {name} at step {trainer.global_step:,}, {where}", file=sys.stderr)
        raise RunStopped(STOPPED_BY_SIGNAL)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._give_back()  # not in teardown, when Lightning has given back its own already: they would be put over the others

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._give_back()

    def state_dict(self) -> Mapping[str, Any]:  # type: ignore[override]
        return {}
