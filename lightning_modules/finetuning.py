"""What finetuning on any task has in common: an encoder with a head for it, which stays as sparse as it was."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torchmetrics import CatMetric, Metric
from transformers import PreTrainedModel

from datamodules import SequenceBatch, TaskBatch
from internals import has_trainer
from lightning_modules.encoders import layer_scales, reinitialize
from lightning_modules.heads import AnyTask, load_with_head, misfit
from lightning_modules.loading import AutoModelClass
from lightning_modules.transformer_module import Batch, TransformerModule

MOST_DEV_SETS = 2


class FinetuningModule(TransformerModule[Batch]):
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

    Attributes:
        kept: names of what is kept of every example of a development set until all ranks have answered.
        answers: what is kept, of each development set.
    """

    default_lr = 2e-5
    kept: ClassVar[tuple[str, ...]]

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
            torch.nn.ModuleDict({name: CatMetric(nan_strategy="disable") for name in self.kept})
            for _ in range(MOST_DEV_SETS)
        )

    @property
    @abstractmethod
    def task(self) -> AnyTask:
        """The task whose labels this model learns."""

    def auto_of_task(self) -> AutoModelClass:
        """The kind of model that the task has."""
        return self.auto

    def build(self) -> PreTrainedModel:
        """The encoder of ``pretrained`` with a head of the task."""
        model, self.unfit = self.load(self.hparams["pretrained"], fitting=self.trainer.state.fn == "fit")
        reinitialize(model, self.hparams["reinitialize_layers"])
        return model

    def load(self, path: str, fitting: bool = False) -> tuple[PreTrainedModel, str | None]:
        """A model that fits the task and the data, and what is wrong with its head before it is finetuned.

        Raises:
            ValueError: no encoder there, or too small for the tokenizer or the sequences.
        """
        model, unfit = load_with_head(self.auto_of_task(), path, self.task, self.hparams["dropout"], fitting)
        self.check_fit(model.config, path)
        return model, unfit

    @staticmethod
    def outputs(model: PreTrainedModel, batch: SequenceBatch | TaskBatch) -> Any:
        """What a model makes of a batch, with its segments where the model has a table of more than one."""
        segmented = getattr(model.config, "type_vocab_size", 0) > 1
        segments = {"token_type_ids": batch["token_type_ids"]} if segmented else {}
        return model(batch["input_ids"], attention_mask=batch.get("attention_mask"), **segments)

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
