"""Masked-LM pretraining of an ordinary Hugging Face model."""

from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torchmetrics import Metric, SumMetric
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast

from datamodules import MaskedLMBatch, TextDataModule
from lightning_modules.loading import load_model
from lightning_modules.transformer_module import TransformerModule
from objectives.masked_lm import check_family, label_count, masked_lm_logits, masked_lm_loss, unigram_loss
from pretrained import new_config


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


class MaskedLanguageModel(TransformerModule[MaskedLMBatch]):
    """Cross-entropy at the masked positions, head on those positions only.

    The model is built when the trainer starts, with the vocabulary of the datamodule's tokenizer. Callbacks may replace
    the objective during a fit; validation and test are always plain cross-entropy.

    Both log the mean ``loss`` in nats over the masked tokens, its exponential, ``perplexity``, and what token frequencies
    alone would reach, ``unigram_loss``, where the training text is at hand. A token is more or less text, as the vocabulary
    is. ``loss_per_word`` and ``loss_per_character`` compare models with different ones, on a text of its own, as documents
    that are held out are others for another vocabulary: the mean loss times the tokens of the whole split over its words
    (``TextSize``), or its characters. Tokens are those of the text: separators do not count; unknown ones do, although none
    is ever masked. It is a pseudo-likelihood, as each masked token is predicted from 85 % of its neighbours on both sides: it
    compares masked LMs with each other, not with causal ones.

    Args:
        config: fields of a Hugging Face config, ``model_type`` among them; the vocabulary is the tokenizer's by default.
        pretrained: ``save_pretrained`` directory or hub id to start from (or to validate), instead of ``config``.
        lr: peak learning rate; null leaves it to the schedule callback (``OneCycleLR.max_lr``), else 1e-3.
        weight_decay: decoupled, not on biases and LayerNorms.
        betas: of AdamW.
        eps: of AdamW.
        keep_sparsity: hold the masks of a sparse model that ``pretrained`` names, or its zeros, unless ``masks`` are given; false
            makes it dense.
        compile_encoder: run ``torch.compile`` on the encoder.
    """

    auto = AutoModelForMaskedLM
    what = "masked language model"
    default_lr = 1e-3

    def __init__(
        self,
        config: dict[str, Any] | None = None,
        pretrained: str | None = None,
        lr: float | None = None,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        keep_sparsity: bool = True,
        compile_encoder: bool = False,
    ) -> None:
        super().__init__(lr, weight_decay)
        if (config is None) == (pretrained is None):
            raise ValueError("give either model.config (fields of a Hugging Face config) or model.pretrained (a directory)")
        self.save_hyperparameters(logger=False)
        self.totals: Mapping[str, Metric] = torch.nn.ModuleDict(  # type: ignore[assignment]  # of what, torch does not say
            {name: SumMetric() for name in ("loss", "unigram_loss", "labels")}
        )
        self._unigram: Tensor | None = None

    @property
    def data(self) -> TextDataModule:
        """The text."""
        return self.data_of(TextDataModule)

    def build(self) -> PreTrainedModel:
        """The model of ``pretrained``, or a new one for the tokenizer."""
        if self.hparams["pretrained"] is not None:
            model, self.unfit = self.load(self.hparams["pretrained"])
            if self.unfit and self.trainer.state.fn == "fit":
                rank_zero_warn(f"{self.unfit}; it starts anew")
            return model
        fields = dict(self.hparams["config"])
        model_type = fields.pop("model_type", "bert")
        check_family(model_type)
        config = new_config(model_type, tokenizer_fields(model_type, self.tokenizer) | fields)
        self.check_fit(config, "the model")
        return AutoModelForMaskedLM.from_config(config)

    def load(self, path: str) -> tuple[PreTrainedModel, str | None]:
        """A masked-LM model that fits the data, and what is missing of its prediction head.

        Raises:
            ValueError: no such model there, of an unknown family, or too small for the tokenizer or the sequences.
        """
        model, new, _ = load_model(AutoModelForMaskedLM, path, self.what)
        check_family(model.config.model_type)
        self.check_fit(model.config, path)
        return model, f"{path}: no prediction head there ({new[0]} is missing or of another shape)" if new else None

    def predict_logits(self, model: PreTrainedModel, batch: MaskedLMBatch) -> Tensor:
        """Logits (batch · masked, vocabulary) of any masked-LM model, a student or a teacher, at the masked positions."""
        return masked_lm_logits(model, batch["input_ids"], batch["positions"])

    def task_loss(self, logits: Tensor, batch: MaskedLMBatch) -> Tensor:
        """Mean cross-entropy in nats over the masked positions."""
        return masked_lm_loss(logits, batch["labels"])

    def on_validation_start(self) -> None:
        super().on_validation_start()
        log_probabilities = self.data.unigram_log_probabilities
        self._unigram = None if log_probabilities is None else log_probabilities.to(self.device)

    def validation_step(self, batch: MaskedLMBatch, batch_idx: int) -> None:
        logits, labels = self.predict_logits(self.model, batch), batch["labels"]
        self.totals["loss"].update(masked_lm_loss(logits, labels, reduction="sum").double())
        if self._unigram is not None:
            self.totals["unigram_loss"].update(unigram_loss(self._unigram, labels))
        self.totals["labels"].update(label_count(labels).double())

    def log_scores(self, stage: str) -> None:
        """Token-weighted means over the whole set and all ranks."""
        split = self.data.splits["validation" if stage == "val" else stage]
        labels = self.totals["labels"].compute()
        loss = self.totals["loss"].compute() / labels
        self.log(f"{stage}/loss", loss, prog_bar=True)
        self.log(f"{stage}/perplexity", loss.exp())
        self.log(f"{stage}/loss_per_word", loss * split.text_tokens / split.size.words)
        self.log(f"{stage}/loss_per_character", loss * split.text_tokens / split.size.characters)
        if self._unigram is not None:
            self.log(f"{stage}/unigram_loss", self.totals["unigram_loss"].compute() / labels)
        for metric in self.totals.values():
            metric.reset()
