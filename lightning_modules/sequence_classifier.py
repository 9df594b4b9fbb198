"""Finetuning on GLUE: an ordinary Hugging Face sequence classifier, or for STS-B a regressor."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import CatMetric
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from callbacks import InheritedSparsity, SparseTraining
from datamodules.glue import GLUEDataModule, SequenceBatch
from internals import has_trainer
from lightning_modules.encoders import check_fit, layer_scales, load_classifier, reinitialize
from lightning_modules.masked_language_model import Objective
from lightning_modules.optimizers import adamw
from lightning_modules.precision import keep_double
from objectives.glue import GLUE, GlueTask, degenerate, predictions, task_loss, task_scores
from objectives.masked_lm import IGNORE_INDEX

MOST_DEV_SETS = 2


def _answers() -> CatMetric:
    """Answers to a whole development set; a NaN is one, or the answers that follow would be compared with other labels."""
    return CatMetric(nan_strategy="disable").set_dtype(torch.float64)


class SequenceClassifier(LightningModule):
    """An encoder with a head for the task of the datamodule.

    A sparse encoder stays sparse: the masks of its export, or its zeros, are held while it is finetuned, unless another
    sparse-training callback is given. Callbacks may replace :attr:`objective` during a fit; validation is always the plain
    loss and the task's metrics.

    Args:
        pretrained: ``save_pretrained`` directory or hub id of an encoder, a masked LM or a classifier.
        lr: peak learning rate of the head and, without ``layer_decay``, of everything.
        weight_decay: decoupled, not on biases and LayerNorms.
        betas: of AdamW.
        eps: of AdamW.
        layer_decay: factor of the learning rate from each layer to the one below; 1 for the same everywhere.
        reinitialize_layers: so many top layers, and the pooler, start anew.
        dropout: before the head; null for the model's.
        keep_sparsity: hold the zeros of a sparse encoder; false makes it dense.
        compile_encoder: run ``torch.compile`` on the encoder.
    """

    def __init__(
        self,
        pretrained: str,
        lr: float = 2e-5,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        layer_decay: float = 1.0,
        reinitialize_layers: int = 0,
        dropout: float | None = None,
        keep_sparsity: bool = True,
        compile_encoder: bool = False,
    ) -> None:
        super().__init__()
        if lr <= 0 or weight_decay < 0 or not 0 < layer_decay <= 1:
            raise ValueError(
                f"lr > 0, weight_decay >= 0 and layer_decay in (0, 1] expected, got {lr}, {weight_decay} and {layer_decay}"
            )
        if dropout is not None and not 0 <= dropout < 1:
            raise ValueError(f"dropout in [0, 1) expected, got {dropout}")
        self.save_hyperparameters()
        self.model: PreTrainedModel | None = None
        self.unfit: str | None = None
        self.objective: Objective = self.task_loss
        self.answers = torch.nn.ModuleList(
            torch.nn.ModuleDict({name: _answers() for name in ("predicted", "labels", "loss")}) for _ in range(MOST_DEV_SETS)
        )

    @property
    def task(self) -> GlueTask:
        """The task whose labels this model learns."""
        data = self.trainer.datamodule
        if not isinstance(data, GLUEDataModule):
            raise ValueError(f"SequenceClassifier needs the data of a GLUEDataModule, not of {type(data).__name__}")
        return GLUE[data.task.trained_on or data.task.name]

    def configure_callbacks(self) -> list[Callback]:
        """The masks of a sparse encoder are held by a callback like any other method."""
        given = any(isinstance(callback, SparseTraining) for callback in self.trainer.callbacks)
        if given or self.trainer.state.fn != "fit" or not self.hparams.keep_sparsity:
            return []
        inherited = InheritedSparsity(pretrained=self.hparams.pretrained)
        return [inherited] if inherited.found else []

    def configure_model(self) -> None:
        """Load the model, once; outside a trainer ``on_load_checkpoint`` does."""
        if self.model is not None or not has_trainer(self):
            return
        self.model, self.unfit = self._load(self.hparams.pretrained)
        reinitialize(self.model, self.hparams.reinitialize_layers)
        self.model.train()
        if self.hparams.compile_encoder:
            self.model.base_model.compile()

    def load_pretrained(self, path: str) -> PreTrainedModel:
        """A finetuned model of this task, such as a teacher, from a ``save_pretrained`` directory or the hub.

        Raises:
            ValueError: no such model there, another task's, or too small for the tokenizer or the sequences.
        """
        model, unfit = self._load(path)
        if unfit:
            raise ValueError(unfit)
        return model

    def _load(self, path: str) -> tuple[PreTrainedModel, str | None]:
        model, unfit = load_classifier(path, self.task, self.hparams.dropout)
        check_fit(model.config, path, len(self.trainer.datamodule.tokenizer), self.trainer.datamodule.length)
        return model, unfit

    def on_validation_start(self) -> None:
        """Without a fit or a checkpoint, which comes after :meth:`configure_model`, the head must be the task's own."""
        if self.unfit and self.trainer.state.fn != "fit":
            raise ValueError(self.unfit)
        keep_double(self.answers)

    on_test_start = on_validation_start
    on_predict_start = on_validation_start

    def predict_logits(self, model: PreTrainedModel, batch: SequenceBatch) -> Tensor:
        """Logits (batch, classes), or scores (batch, 1), of any classifier, a student or a teacher."""
        segments = ("token_type_ids",) if getattr(model.config, "type_vocab_size", 0) > 1 else ()
        return model(**{name: batch[name] for name in ("input_ids", "attention_mask", *segments) if name in batch}).logits

    def task_loss(self, logits: Tensor, batch: SequenceBatch) -> Tensor:
        """Mean cross-entropy in nats, or mean squared error."""
        return task_loss(logits, batch["labels"])

    def training_step(self, batch: SequenceBatch, batch_idx: int) -> Tensor:
        loss = self.objective(self.predict_logits(self.model, batch), batch)
        self.log("train/loss", loss.detach(), prog_bar=True, sync_dist=True, batch_size=len(batch["labels"]))
        return loss

    def on_train_batch_end(self, outputs: object, batch: SequenceBatch, batch_idx: int) -> None:
        if self.trainer.global_step >= self.trainer.max_steps:
            self.trainer.should_stop = True  # and validate, wherever that is
            self.trainer.check_val_every_n_epoch = 1

    def validation_step(self, batch: SequenceBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        counted = batch["labels"] != IGNORE_INDEX
        logits, labels = self.predict_logits(self.model, batch)[counted], batch["labels"][counted]
        answers = self.answers[dataloader_idx]
        answers["predicted"].update(predictions(logits).double())
        answers["labels"].update(labels.double())
        answers["loss"].update(task_loss(logits, labels, reduction="none").double())

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def _log_scores(self, stage: str) -> None:
        """Metrics over each whole development set, every example of all ranks counted once."""
        for suffix, answers in zip(self.trainer.datamodule.dev, self.answers, strict=False):
            predicted, labels, losses = (metric.compute().reshape(-1) for metric in answers.values())  # one is squeezed
            if not self.task.regression:
                predicted, labels = predicted.long(), labels.long()
            scores = task_scores(self.task, predicted, labels)
            for name, score in scores.items():
                self.log(f"{stage}/{name}{suffix}", score, prog_bar=name == self.task.rank_by and not suffix)
            if not suffix:
                self.log(f"{stage}/loss", losses.mean(), prog_bar=True)
                self.log(f"{stage}/degenerate", float(degenerate(self.task, scores, predicted, labels)))
            for metric in answers.values():
                metric.reset()

    def predict_step(self, batch: SequenceBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """``index`` and ``prediction`` (class or score) of every row of a test set, both (batch,)."""
        counted = batch["index"] != IGNORE_INDEX
        answers = predictions(self.predict_logits(self.model, batch))
        return {"index": batch["index"][counted].cpu(), "prediction": answers[counted].cpu()}

    def configure_optimizers(self) -> Optimizer:
        hparams = self.hparams
        scales = layer_scales(self.model, hparams.layer_decay)
        return adamw(
            list(self.model.parameters()),
            *(hparams.lr, hparams.weight_decay, hparams.betas, hparams.eps),
            scale=lambda parameter: scales.get(id(parameter), 1.0),
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["model_config"] = self.model.config.to_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.unfit = None
        if self.model is None:  # load_from_checkpoint, outside a trainer
            self.model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**checkpoint["model_config"]))
