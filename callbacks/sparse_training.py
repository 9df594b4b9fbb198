"""Sparse training around the optimizer step.

The model stays an ordinary one. Before every optimizer step, after accumulation, the reduction over ranks and the unscaling
of mixed precision, and before clipping, the gradients of weights that are off are set to zero; on update steps the method
changes the masks instead, and the weight step is skipped.
"""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from sparsity import MaskSet, SparseMethod, methods, zero_optimizer_state_
from sparsity.methods import seeded_generator


def encoder_weights(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Matrices of the encoder's linear layers by their name in ``model``: no embeddings, no pooler, no prediction head."""
    weights = {
        id(module.weight)
        for name, module in model.base_model.named_modules()
        if isinstance(module, nn.Linear) and not {"embeddings", "pooler"} & set(name.split("."))
    }
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in weights}


def embedding_parameters(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Embedding tables and their LayerNorm by their name in ``model``."""
    return {name: parameter for name, parameter in model.named_parameters() if "embeddings" in name.split(".")}


class SparseTraining(SparseMethod, Callback):
    """Holds the masks of a :class:`~sparsity.SparseMethod` while a model trains.

    A concrete callback derives from this class and from the method: ``class RigL(SparseTraining, methods.RigL)``.

    Attributes:
        masks: by parameter name in the Hugging Face model; None before the fit starts.
        initial_nnz: weights that were on at the start, by name.
        explored: weights that have ever been on, by name.
        last_update: drop fraction and churn of the latest mask update; empty before the first.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.masks: MaskSet | None = None
        self.explored: MaskSet | None = None
        self.initial_nnz: dict[str, int] = {}
        self.last_update: dict[str, float] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if sum(isinstance(callback, SparseTraining) for callback in trainer.callbacks) > 1:
            raise ValueError("two sparse-training callbacks in one run: keep one")
        if not isinstance(trainer.strategy, DDPStrategy | SingleDeviceStrategy):
            raise ValueError(
                f"{type(self).__name__} needs whole weights on every device (one device or DDP), "
                f"not {type(trainer.strategy).__name__}"
            )
        parameters = dict(pl_module.model.named_parameters())
        if self.masks is None:
            self.masks = self.draw_masks(pl_module.model)
            self.explored = MaskSet(self.masks)
            self.initial_nnz = self.masks.nnz()
        else:
            self.masks, self.explored = self.masks.to_parameters(parameters), self.explored.to_parameters(parameters)
        self.masks.zero_weights_(parameters)

    def draw_masks(self, model: PreTrainedModel) -> MaskSet:
        """The masks this method starts from in ``model``.

        Raises:
            ValueError: no target matches, or the sparsity cannot be met in the scope.
        """
        weights = encoder_weights(model)
        if self.targets:
            matrices = {name: parameter for name, parameter in model.named_parameters() if parameter.dim() >= 2}
            weights = {name: matrices[name] for name in self.select(matrices)}
        scope = {
            "tensors": weights,
            "encoder": encoder_weights(model),
            "model": dict(model.named_parameters()),
        }[self.scope]
        if outside := weights.keys() - scope.keys():
            raise ValueError(f"scope {self.scope!r} does not hold {min(outside)}; state the sparsity of the model instead")
        return self.initial_masks(weights, sum(parameter.numel() for parameter in scope.values()))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        parameters = dict(pl_module.model.named_parameters())
        step = trainer.global_step
        if not self.update_due(step, trainer.max_steps):
            self.masks.zero_gradients_(parameters)
        elif not all(bool(parameters[name].grad.isfinite().all()) for name in self.masks):
            rank_zero_warn(f"step {step}: a gradient is not finite; the mask update is skipped")
            self.masks.zero_gradients_(parameters)
        else:
            self._update_masks(step, trainer.max_steps, parameters, optimizer)
            for parameter in pl_module.parameters():
                parameter.grad = None  # the weight step of an update step is skipped
            for logger in trainer.loggers:
                logger.log_metrics({f"rigl/{name}": value for name, value in self.last_update.items()}, step)

    @torch.no_grad()
    def _update_masks(self, step: int, max_steps: int, parameters: dict[str, Tensor], optimizer: Optimizer) -> None:
        fraction = self.drop_fraction_at(step, max_steps)
        moved = on = explored = 0
        for name, mask in self.masks.items():
            weight = parameters[name]
            generator = seeded_generator(f"{name}@{step}", self.seed)
            updated = self.update_mask(weight, mask, weight.grad, fraction, generator)
            changed = updated ^ mask
            weight.masked_fill_(changed, 0.0)  # what went is off; what came starts at zero
            zero_optimizer_state_(optimizer.state[weight], changed)
            self.masks.replace(name, updated)
            self.explored.replace(name, self.explored[name] | updated)
            moved, on = moved + int((changed & updated).sum()), on + int(updated.sum())
            explored += int(self.explored[name].sum())
        size = sum(mask.numel() for mask in self.masks.values())
        self.last_update = {"drop_fraction": fraction, "churn": moved / max(on, 1), "explored": explored / size}

    def state_dict(self) -> dict[str, Any]:
        if self.masks is None:
            return {}
        return {
            "masks": self.masks.state_dict(),
            "explored": self.explored.state_dict(),
            "initial_nnz": self.initial_nnz,
            "last_update": self.last_update,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict:
            self.masks = MaskSet.from_state_dict(state_dict["masks"])
            self.explored = MaskSet.from_state_dict(state_dict["explored"])
            self.initial_nnz, self.last_update = state_dict["initial_nnz"], state_dict["last_update"]


class StaticSparsity(SparseTraining):
    """Fixed masks: the baseline every dynamic method must beat."""


class RigL(SparseTraining, methods.RigL):
    """RigL (Evci et al. 2020): drop by magnitude, grow by gradient magnitude, nnz of every tensor constant."""


def sparse_training(trainer: Trainer) -> SparseTraining | None:
    """The sparse-training callback of a run, or None where the model is dense."""
    return next((callback for callback in trainer.callbacks if isinstance(callback, SparseTraining)), None)
