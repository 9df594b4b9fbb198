"""Finetuning on GLUE: an ordinary Hugging Face sequence classifier, or for STS-B a regressor."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning import Callback
from torch import Tensor
from torchmetrics import CatMetric, Metric
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from callbacks import InheritedSparsity, SparseTraining
from datamodules import GLUEDataModule, SequenceBatch
from internals import has_trainer
from lightning_modules.encoders import layer_scales, reinitialize
from lightning_modules.heads import load_classifier, misfit
from lightning_modules.transformer_module import TransformerModule
from objectives.glue import GLUE, GlueTask, degenerate, predictions, task_loss, task_scores
from objectives.masked_lm import IGNORE_INDEX

MOST_DEV_SETS = 2


class SequenceClassifier(TransformerModule[SequenceBatch]):
    """An encoder with a head for the task of the datamodule.

    A sparse encoder stays sparse: the masks of its export, or its zeros, are held while it is finetuned, unless another
    sparse-training callback is given. Callbacks may replace the objective during a fit; validation is always the plain
    loss and the task's metrics.

    Args:
        pretrained: ``save_pretrained`` directory or hub id of an encoder, a masked LM or a classifier.
        lr: peak learning rate, with ``layer_decay`` that of the head; null leaves it to the schedule callback
            (``OneCycleLR.max_lr``), else 2e-5.
        weight_decay: decoupled, not on biases and LayerNorms.
        betas: of AdamW.
        eps: of AdamW.
        layer_decay: factor of the learning rate from each layer to the one below; 1 for the same everywhere.
        reinitialize_layers: so many top layers, and the pooler, start anew.
        dropout: before the head; null for the model's.
        keep_sparsity: hold the zeros of a sparse encoder; false makes it dense.
        compile_encoder: run ``torch.compile`` on the encoder.
    """

    auto = AutoModelForSequenceClassification
    default_lr = 2e-5

    def __init__(
        self,
        pretrained: str,
        lr: float | None = None,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        layer_decay: float = 1.0,
        reinitialize_layers: int = 0,
        dropout: float | None = None,
        keep_sparsity: bool = True,
        compile_encoder: bool = False,
    ) -> None:
        super().__init__(lr, weight_decay)
        if not 0 < layer_decay <= 1:
            raise ValueError(f"layer_decay in (0, 1] expected, got {layer_decay}")
        if dropout is not None and not 0 <= dropout < 1:
            raise ValueError(f"dropout in [0, 1) expected, got {dropout}")
        self.save_hyperparameters(logger=False)
        # a NaN is an answer, too, or those that follow would be compared with other labels
        self.answers: Sequence[Mapping[str, Metric]] = torch.nn.ModuleList(  # type: ignore[assignment]  # torch does not say
            torch.nn.ModuleDict({name: CatMetric(nan_strategy="disable") for name in ("predicted", "labels", "loss")})
            for _ in range(MOST_DEV_SETS)
        )

    @property
    def data(self) -> GLUEDataModule:
        """The task's."""
        return self.data_of(GLUEDataModule)

    @property
    def task(self) -> GlueTask:
        """The task whose labels this model learns."""
        task = self.data.task
        return GLUE[task.trained_on or task.name]

    def configure_callbacks(self) -> list[Callback]:
        """The masks of a sparse encoder are held by a callback like any other method."""
        given = any(isinstance(callback, SparseTraining) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        if given or self.trainer.state.fn != "fit" or not self.hparams["keep_sparsity"]:
            return []
        inherited = InheritedSparsity(pretrained=self.hparams["pretrained"])
        return [inherited] if inherited.found else []

    def build(self) -> PreTrainedModel:
        """The encoder of ``pretrained`` with a head of the task."""
        model, self.unfit = self.load(self.hparams["pretrained"], fitting=self.trainer.state.fn == "fit")
        reinitialize(model, self.hparams["reinitialize_layers"])
        return model

    def load(self, path: str, fitting: bool = False) -> tuple[PreTrainedModel, str | None]:
        """A classifier that fits the data, and what is wrong with its head before it is finetuned.

        Raises:
            ValueError: no encoder there, or too small for the tokenizer or the sequences.
        """
        model, unfit = load_classifier(path, self.task, self.hparams["dropout"], fitting)
        self.check_fit(model.config, path)
        return model, unfit

    def predict_logits(self, model: PreTrainedModel, batch: SequenceBatch) -> Tensor:
        """Logits (batch, classes), or scores (batch, 1), of any classifier, a student or a teacher."""
        segmented = getattr(model.config, "type_vocab_size", 0) > 1
        segments = {"token_type_ids": batch["token_type_ids"]} if segmented else {}
        return model(batch["input_ids"], attention_mask=batch.get("attention_mask"), **segments).logits

    def task_loss(self, logits: Tensor, batch: SequenceBatch) -> Tensor:
        """Mean cross-entropy in nats, or mean squared error."""
        return task_loss(logits, batch["labels"])

    def validation_step(self, batch: SequenceBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        counted = batch["labels"] != IGNORE_INDEX
        logits, labels = self.predict_logits(self.model, batch)[counted], batch["labels"][counted]
        answers = self.answers[dataloader_idx]
        answers["predicted"].update(predictions(logits).double())
        answers["labels"].update(labels.double())
        answers["loss"].update(task_loss(logits, labels, reduction="none").double())

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def test_step(self, batch: SequenceBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.validation_step(batch, batch_idx, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def _log_scores(self, stage: str) -> None:
        """Metrics over each whole development set, every example of all ranks counted once."""
        for suffix, answers in zip(self.data.dev, self.answers, strict=False):
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
        """``index``, ``prediction`` (class or score) and ``finite`` of every row of a test set, each (batch,)."""
        counted = batch["index"] != IGNORE_INDEX
        logits = self.predict_logits(self.model, batch)[counted]
        finite = logits.isfinite().all(1)  # a class would hide what is not
        return {"index": batch["index"][counted].cpu(), "prediction": predictions(logits).cpu(), "finite": finite.cpu()}

    def layer_scales(self) -> dict[int, float]:
        """Factor of the learning rate by ``id`` of the parameter, smaller in lower layers."""
        return layer_scales(self.model, self.hparams["layer_decay"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the weights; those of another task cannot answer, and a fit does not go on with them.

        Raises:
            ValueError: a fit of another task.
        """
        super().on_load_checkpoint(checkpoint)
        if has_trainer(self) and (wrong := misfit(checkpoint["model_config"], self.task)):
            self.unfit = f"the checkpoint: {wrong}"
            if self.trainer.state.fn == "fit":
                raise ValueError(self.unfit)
