"""Masked-LM pretraining of an ordinary Hugging Face model."""

from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import SumMetric
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast

from datamodules.text import MaskedLMBatch, TextDataModule
from internals import has_trainer
from lightning_modules.encoders import check_fit
from lightning_modules.optimizers import adamw
from lightning_modules.precision import keep_double
from objectives.masked_lm import check_family, label_count, masked_lm_logits, masked_lm_loss, unigram_loss

Objective = Callable[[Tensor, MaskedLMBatch], Tensor]


def tokenizer_fields(model_type: str, tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """What a config must know of the tokenizer: its size, and the special tokens that this family's config names."""
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }
    default = AutoConfig.for_model(model_type)
    named = {name: value for name, value in ids.items() if getattr(default, name, None) is not None}
    return {"vocab_size": len(tokenizer)} | named


class MaskedLanguageModel(LightningModule):
    """Cross-entropy at the masked positions, head on those positions only.

    The model is built when the trainer starts, with the vocabulary of the datamodule's tokenizer. Callbacks may replace
    :attr:`objective` during a fit; validation is always plain cross-entropy.

    Args:
        config: fields of a Hugging Face config, ``model_type`` among them; the vocabulary is the tokenizer's by default.
        pretrained: ``save_pretrained`` directory or hub id to start from (or to validate), instead of ``config``.
        lr: peak learning rate where no schedule callback sets another.
        weight_decay: decoupled, not on biases and LayerNorms.
        betas: of AdamW.
        eps: of AdamW.
        compile_encoder: run ``torch.compile`` on the encoder.
    """

    def __init__(
        self,
        config: dict[str, Any] | None = None,
        pretrained: str | None = None,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        compile_encoder: bool = False,
    ) -> None:
        super().__init__()
        if (config is None) == (pretrained is None):
            raise ValueError("give either model.config (fields of a Hugging Face config) or model.pretrained (a directory)")
        if lr <= 0 or weight_decay < 0:
            raise ValueError(f"lr > 0 and weight_decay >= 0 expected, got {lr} and {weight_decay}")
        self.save_hyperparameters()
        self.model: PreTrainedModel | None = None
        self.objective: Objective = self.task_loss
        self.totals = torch.nn.ModuleDict(
            {name: SumMetric().set_dtype(torch.float64) for name in ("loss", "unigram_loss", "labels")}
        )

    def configure_model(self) -> None:
        """Build or load the model, once; outside a trainer ``on_load_checkpoint`` does."""
        if self.model is not None or not has_trainer(self):
            return
        if not isinstance(self.trainer.datamodule, TextDataModule):
            data = type(self.trainer.datamodule).__name__
            raise ValueError(f"MaskedLanguageModel needs the data of a TextDataModule, not of {data}")
        tokenizer = self.trainer.datamodule.tokenizer
        if self.hparams.pretrained is not None:
            self.model = self.load_pretrained(self.hparams.pretrained)
        else:
            fields = dict(self.hparams.config)
            model_type = fields.pop("model_type", "bert")
            check_family(model_type)
            config = AutoConfig.for_model(model_type, **tokenizer_fields(model_type, tokenizer) | fields)
            check_fit(config, "the model", len(tokenizer), self.trainer.datamodule.length)
            self.model = AutoModelForMaskedLM.from_config(config)
        self.model.train()
        if self.hparams.compile_encoder:
            self.model.base_model.compile()

    def load_pretrained(self, path: str) -> PreTrainedModel:
        """A masked-LM model, student or teacher, from a ``save_pretrained`` directory or the hub that fits the data.

        Raises:
            ValueError: no such model there, of an unknown family, or too small for the tokenizer or the sequences.
        """
        try:
            model = AutoModelForMaskedLM.from_pretrained(path, dtype=torch.float32)  # half-precision files too
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: no masked language model there: {' '.join(str(error).split())[:200]}") from error
        check_family(model.config.model_type)
        check_fit(model.config, path, len(self.trainer.datamodule.tokenizer), self.trainer.datamodule.length)
        return model

    def predict_logits(self, model: PreTrainedModel, batch: MaskedLMBatch) -> Tensor:
        """Logits (batch · masked, vocabulary) of any masked-LM model, a student or a teacher, at the masked positions."""
        return masked_lm_logits(model, batch["input_ids"], batch["positions"])

    def task_loss(self, logits: Tensor, batch: MaskedLMBatch) -> Tensor:
        """Mean cross-entropy in nats over the masked positions."""
        return masked_lm_loss(logits, batch["labels"])

    def training_step(self, batch: MaskedLMBatch, batch_idx: int) -> Tensor:
        loss = self.objective(self.predict_logits(self.model, batch), batch)
        self.log("train/loss", loss.detach(), prog_bar=True, sync_dist=True)
        return loss

    def on_validation_start(self) -> None:
        keep_double(self.totals)
        self._unigram = self.trainer.datamodule.unigram_log_probabilities.to(self.device)

    def validation_step(self, batch: MaskedLMBatch, batch_idx: int) -> None:
        logits, labels = self.predict_logits(self.model, batch), batch["labels"]
        self.totals["loss"].update(masked_lm_loss(logits, labels, reduction="sum").double())
        self.totals["unigram_loss"].update(unigram_loss(self._unigram, labels))
        self.totals["labels"].update(label_count(labels).double())

    def on_validation_epoch_end(self) -> None:
        self._log_totals("val")

    on_test_start = on_validation_start
    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        self._log_totals("test")

    def _log_totals(self, stage: str) -> None:
        """Token-weighted means over the whole set and all ranks."""
        sums = {name: metric.compute() for name, metric in self.totals.items()}
        loss = sums["loss"] / sums["labels"]
        self.log(f"{stage}/loss", loss, prog_bar=True)
        self.log(f"{stage}/perplexity", loss.exp())
        self.log(f"{stage}/unigram_loss", sums["unigram_loss"] / sums["labels"])
        for metric in self.totals.values():
            metric.reset()

    def configure_optimizers(self) -> Optimizer:
        hparams = self.hparams
        return adamw(self.parameters(), hparams.lr, hparams.weight_decay, hparams.betas, hparams.eps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["model_config"] = self.model.config.to_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.model is None:  # load_from_checkpoint, outside a trainer
            self.model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(**checkpoint["model_config"]))
