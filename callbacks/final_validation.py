"""Results are those of the final weights, however a run came to its end."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from internals import begin_and_end_always


class FinalValidation(Callback):
    """Validates when training ends, unless the last optimizer step has been validated or validation is switched off.

    Where ``val_check_interval`` does not divide the steps nobody else would. Nor would anyone when a run is started again from
    the checkpoint of its last step, which is written before the validation of that step: it was killed in between, or it had
    finished.
    """

    def __init__(self) -> None:
        self.validated: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.validated = None
            begin_and_end_always(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.validated = trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.validated == trainer.global_step or not trainer.enable_validation:
            return
        loop = trainer.fit_loop.epoch_loop.val_loop
        loop.restarting = False  # from its beginning, where a checkpoint says otherwise
        trainer.validating = True
        loop.run()
        trainer.training = True

    def state_dict(self) -> dict[str, Any]:
        return {"validated": self.validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validated = state_dict["validated"]
