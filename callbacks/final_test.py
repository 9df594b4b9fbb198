"""The test split is scored once, with the final weights."""

from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn

from datamodules import TextDataModule
from internals import begin_and_end_always
from run_record import RunRecord

TEST = {
    "test/loss": "test_loss",
    "test/perplexity": "test_perplexity",
    "test/loss_per_word": "test_loss_per_word",
    "test/loss_per_character": "test_loss_per_character",
}


class FinalTest(Callback):
    """Scores the final weights on the test split when training ends, where the text has one.

    A run that had finished and is started again keeps the results in its ``summary.json``; ``train.py test`` scores it on another
    text. Training knows nothing of the test: checkpoints are those of a run without this callback.

    Attributes:
        results: fields of :class:`RunRecord`; empty until the test, and where there is none.
    """

    def __init__(self) -> None:
        self.results: dict[str, float] = {}
        self._record: RunRecord | None = None
        self._tested: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            begin_and_end_always(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for what is there, before it is written anew when training starts."""
        run = Path(trainer.default_root_dir).absolute()
        goes_on = trainer.ckpt_path is not None and Path(trainer.ckpt_path).absolute().is_relative_to(run)
        # of one rank, or some would test and some would not
        self._record = trainer.strategy.broadcast(RunRecord.find(run) if goes_on and trainer.is_global_zero else None)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.results = {}
        if self._record is not None and self._record.steps == trainer.global_step:
            found = {name: getattr(self._record, name) for name in TEST.values()}
            self.results = {name: value for name, value in found.items() if value is not None}
        self._tested = trainer.global_step if self.results else None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, TextDataModule) or "test" not in data.splits or self._tested == trainer.global_step:
            return
        loop = trainer.test_loop  # that of trainer.test, which itself would end the fit
        loop.verbose = loop.inference_mode = False  # as in the validation of a fit
        trainer.state.fn, trainer.testing = TrainerFn.TESTING, True
        try:
            loop.run()
        finally:
            trainer.state.fn, trainer.training = TrainerFn.FITTING, True
        loop.teardown()
        loop.batch_progress.reset()  # which a checkpoint would keep
        metrics = trainer.callback_metrics
        self.results = {field: float(metrics[name]) for name, field in TEST.items() if name in metrics}


def final_results(trainer: Trainer) -> dict[str, float]:
    """What a run's :class:`FinalTest` has found, as fields of :class:`RunRecord`."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback.results for callback in callbacks if isinstance(callback, FinalTest)), {})
