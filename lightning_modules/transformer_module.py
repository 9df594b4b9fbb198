"""What the modules have in common: a Hugging Face model, an objective that callbacks may replace, AdamW, a checkpoint."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule
from torch import Tensor
from torch.optim import AdamW
from torchmetrics import Metric
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

import cpu
from callbacks import InheritedSparsity, SparseTraining
from datamodules import FinetuningDataModule, MaskedLMBatch, SequenceBatch, TaskBatch, TextDataModule
from internals import attention, has_trainer
from lightning_modules.encoders import check_fit
from lightning_modules.loading import AutoModelClass
from lightning_modules.optimizers import adamw

CHECKPOINT_FORMAT = 1  # raised when older releases could not go on with what is written
Batch = TypeVar("Batch", MaskedLMBatch, SequenceBatch, TaskBatch)
Data = TypeVar("Data", bound=LightningDataModule)


class TransformerModule(LightningModule, ABC, Generic[Batch]):
    """A Hugging Face model that is built when the trainer starts, when the tokenizer and the task are known.

    Attributes:
        auto: what kind of model; where the task decides, :meth:`auto_of`.
        what: it is called in errors.
        default_lr: learning rate where neither the module nor a schedule is given one.
        model: the model.
        unfit: why the model says nothing before it is trained; None where it does.
        objective: the loss that is minimised, of logits and a batch; callbacks may replace it during a fit.
    """

    auto: ClassVar[AutoModelClass]
    what: ClassVar[str] = "model"
    default_lr: ClassVar[float]

    def __init__(self, lr: float | None, weight_decay: float) -> None:
        super().__init__()
        if (lr is not None and lr <= 0) or weight_decay < 0:
            raise ValueError(f"lr > 0 and weight_decay >= 0 expected, got {lr} and {weight_decay}")
        self.model: PreTrainedModel = None  # type: ignore[assignment]  # until the trainer starts
        self.unfit: str | None = None
        self.objective: Callable[[Tensor, Batch], Tensor] = self.task_loss

    @property
    @abstractmethod
    def data(self) -> TextDataModule | FinetuningDataModule:
        """The trainer's datamodule."""

    def auto_of(self, config: PretrainedConfig) -> AutoModelClass:
        """The kind of model that a config of this module's was of."""
        return self.auto

    @abstractmethod
    def build(self) -> PreTrainedModel:
        """The model that is trained or scored; sets :attr:`unfit`."""

    @abstractmethod
    def load(self, path: str) -> tuple[PreTrainedModel, str | None]:
        """A model from a ``save_pretrained`` directory or the hub, and why it says nothing before it is trained."""

    @abstractmethod
    def predict_logits(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """Logits (N, classes) of any model of this kind, a student or a teacher."""

    @abstractmethod
    def task_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The loss without a teacher."""

    @abstractmethod
    def log_scores(self, stage: str) -> None:
        """Log what the validation steps have gathered, over the whole set and all ranks, as ``val/…`` or ``test/…``."""

    def data_of(self, kind: type[Data]) -> Data:
        """The trainer's datamodule; ValueError unless it is of a kind."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, kind):
            raise ValueError(f"{type(self).__name__} needs the data of a {kind.__name__}, not of {type(data).__name__}")
        return data

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """That of the data, which are set up before the model."""
        return cast(PreTrainedTokenizerFast, self.data.tokenizer)

    def configure_model(self) -> None:
        """Build the model, once; outside a trainer :meth:`on_load_checkpoint` does."""
        if self.model is not None or not has_trainer(self):
            return
        self.model = self.build()
        self._attend_fast(self.model)
        self.model.train()
        if self.hparams["compile_encoder"]:
            self.model.base_model.compile()

    def configure_callbacks(self) -> list[Callback]:
        """The masks of a sparse model that training starts from are held by a callback like any other method."""
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        pretrained = self.hparams["pretrained"]
        for callback in [*callbacks]:
            if isinstance(callback, InheritedSparsity) and callback.pretrained != pretrained:
                callbacks.remove(callback)  # of a module that this trainer has fitted before
        given = any(isinstance(callback, SparseTraining) for callback in callbacks)
        if given or pretrained is None or self.trainer.state.fn != "fit" or not self.hparams["keep_sparsity"]:
            return []
        inherited = InheritedSparsity(pretrained, self.what)
        return [inherited] if inherited.found else []

    def load_pretrained(self, path: str) -> PreTrainedModel:
        """A trained model of this kind, such as a teacher, from a ``save_pretrained`` directory or the hub.

        Raises:
            ValueError: no such model there, one without a head or with another task's, or too small for the tokenizer or
                the sequences.
        """
        model, unfit = self.load(path)
        if unfit:
            raise ValueError(unfit)
        self._attend_fast(model)
        return model

    def _attend_fast(self, model: PreTrainedModel) -> None:
        """Let a model that is run in bf16 on a CPU attend by what is fastest there, unless ``model.config`` says how."""
        on_cpu, in_bf16 = self.trainer.strategy.root_device.type == "cpu", str(self.trainer.precision).startswith("bf16")
        if on_cpu and in_bf16 and "attn_implementation" not in (self.hparams.get("config") or {}):
            model.set_attn_implementation(cpu.bf16_attention(attention(model)))

    def check_fit(self, config: PretrainedConfig, name: str) -> None:
        """Raise ValueError unless a model of this name takes the tokens and the length of the data."""
        check_fit(config, name, len(self.tokenizer), self.data.length)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.objective(self.predict_logits(self.model, batch), batch)
        self.log("train/loss", loss.detach(), prog_bar=True, sync_dist=True, batch_size=len(batch["labels"]))
        return loss

    def on_fit_start(self) -> None:
        self.unfit = None  # it is trained now

    def on_validation_start(self) -> None:
        """What was neither trained nor restored from a checkpoint, which comes after :meth:`configure_model`, must be fit."""
        if self.unfit:
            raise ValueError(self.unfit)
        with torch.inference_mode(False):  # of which tensors could not be added to in a fit that comes after a validation
            for module in self.modules():
                if isinstance(module, Metric):
                    module.set_dtype(torch.float64)  # which a trainer of half precision has converted with the weights
                    module.reset()

    def on_validation_epoch_end(self) -> None:
        self.log_scores("val")

    def on_test_start(self) -> None:
        self.on_validation_start()

    def test_step(self, *batch: Any) -> None:
        self.validation_step(*batch)

    def on_test_epoch_end(self) -> None:
        self.log_scores("test")

    def on_predict_start(self) -> None:
        self.on_validation_start()

    def layer_scales(self) -> dict[int, float]:
        """Factor of the learning rate by ``id`` of the parameter; what is not here has 1."""
        return {}

    def configure_optimizers(self) -> AdamW:
        hparams = self.hparams
        lr = self.default_lr if hparams["lr"] is None else hparams["lr"]
        others = hparams["weight_decay"], hparams["betas"], hparams["eps"]
        return adamw(self.model.parameters(), lr, *others, scales=self.layer_scales())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["trifecta_format"] = CHECKPOINT_FORMAT
        checkpoint["model_config"] = self.model.config.to_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if (found := checkpoint.get("trifecta_format", CHECKPOINT_FORMAT)) > CHECKPOINT_FORMAT:
            raise ValueError(
                f"the checkpoint is of format {found}, and this release reads formats up to {CHECKPOINT_FORMAT}: take a newer one"
            )
        self.unfit = None
        if self.model is None:  # load_from_checkpoint, outside a trainer
            config = AutoConfig.for_model(**checkpoint["model_config"])
            self.model = self.auto_of(config).from_config(config)
            self.model.name_or_path = "checkpoint"  # its weights are no new ones
