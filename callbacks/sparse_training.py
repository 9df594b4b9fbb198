"""Sparse training around the optimizer step.

The model stays an ordinary one. Before every optimizer step, after accumulation, the reduction over ranks and the unscaling
of mixed precision, and before clipping, the method changes the masks where it is time to, and the gradients of weights that
are off are set to zero. Methods differ in two ways around the step: SET and RigL skip the weight step at an update; a
straight-through method puts the dense weights in for the step alone, and chooses masks after it.
"""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from pytorch_lightning.utilities import rank_zero_warn
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from datamodules import run_seed
from objectives.parameter_groups import encoder_weights
from sparsity import MaskSet, SparseStepping, methods


def total_steps(trainer: Trainer) -> int:
    """Optimizer steps of the whole fit, also where its length is given in epochs."""
    if trainer.max_steps > 0:
        return trainer.max_steps
    steps = trainer.estimated_stepping_batches
    if steps == float("inf"):
        raise ValueError(
            "a sparse-training schedule needs the length of the run: set trainer.max_steps or trainer.max_epochs"
        )
    return int(steps)


class SparseTraining(SparseStepping, Callback):
    """Runs a :class:`~sparsity.SparseMethod` while a model trains: says when; the method and its stepping say what.

    A concrete callback derives from this class and from the method: ``class RigL(SparseTraining, methods.RigL)``.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._max_steps: int | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if sum(isinstance(callback, SparseTraining) for callback in trainer.callbacks) > 1:
            raise ValueError("two sparse-training callbacks in one run: keep one")
        if not isinstance(trainer.strategy, DDPStrategy | SingleDeviceStrategy):
            raise ValueError(
                f"{type(self).__name__} needs whole weights on every device (one device or DDP), "
                f"not {type(trainer.strategy).__name__}"
            )
        max_steps, begun = total_steps(trainer), self._max_steps
        if self.masks is not None and self.ramps and begun not in (None, max_steps):
            raise ValueError(
                f"{type(self).__name__} ramps over the length of the run: {begun} steps when it began, {max_steps} now; "
                "give the first number again"
            )
        self._max_steps = max_steps
        self.seed = run_seed(self.seed)
        weights = dict(pl_module.model.named_parameters())
        masks = self.draw_masks(pl_module.model) if self.masks is None else self.masks
        if self.needs_gradients and (frozen := [name for name in masks if not weights[name].requires_grad]):
            raise ValueError(f"{type(self).__name__} chooses by gradients, and {frozen[0]} is frozen")
        if self.masks is None:
            self.begin(weights, masks)
        else:
            self.resume(weights)
        for optimizer in trainer.optimizers if self.straight_through else ():
            optimizer.register_step_post_hook(lambda *_: self._after_step(trainer, pl_module))

    def draw_masks(self, model: PreTrainedModel) -> MaskSet:
        """The masks this method starts from in ``model``.

        Raises:
            ValueError: no target matches, or the sparsity cannot be met in the scope.
        """
        if getattr(self, "initialization", None) == "random" and model.name_or_path:
            rank_zero_warn(
                f"{type(self).__name__} starts from random masks, which cut pretrained weights whatever they are worth; "
                "initialization: magnitude keeps the largest"
            )
        return self.initial_masks(*self.weights_in_scope(model))

    def weights_in_scope(self, model: PreTrainedModel) -> tuple[dict[str, nn.Parameter], int]:
        """The weights of ``model`` that become sparse, by name, and the number of parameters the budget is counted in."""
        weights = encoder_weights(model)
        if self.targets:
            matrices = {name: parameter for name, parameter in model.named_parameters() if parameter.dim() >= 2}
            weights = {name: matrices[name] for name in self.select(matrices)}
        scope = {
            "tensors": weights,
            "encoder": encoder_weights(model),
            "model": dict(model.named_parameters()),
        }["model" if self.nonzeros is not None else self.scope]
        if outside := weights.keys() - scope.keys():
            raise ValueError(f"scope {self.scope!r} does not hold {min(outside)}; state the sparsity of the model instead")
        return weights, sum(parameter.numel() for parameter in scope.values())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        weights, step, last_update = dict(pl_module.model.named_parameters()), trainer.global_step, self.last_update
        if self.before_step(weights, optimizer.state, step, self._max_steps):
            for parameter in pl_module.parameters():
                parameter.grad = None  # the weights rest at this step
        if self.last_update is not last_update:
            self._log(trainer)

    def _after_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step, last_update = trainer.global_step, self.last_update
        self.after_step(dict(pl_module.model.named_parameters()), step, self._max_steps)
        if self.last_update is not last_update and (step + 1) % trainer.log_every_n_steps == 0:
            self._log(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if self.dense_in:
            self._after_step(trainer, pl_module)  # mixed precision skipped the step, and with it the optimizer's hook

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.dense_in:
            self._after_step(trainer, pl_module)  # so that what is saved now is sparse too

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return state and state | {"max_steps": self._max_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._max_steps = state_dict.get("max_steps")

    def _log(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(
                {f"{self.tag}/{name}": value for name, value in self.last_update.items()}, trainer.global_step
            )


class StaticSparsity(SparseTraining, methods.Static):
    """Fixed masks: the baseline every dynamic method must beat."""


class SET(SparseTraining, methods.SET):
    """SET (Mocanu et al. 2018): drop by magnitude, grow at random, nnz of every tensor constant."""


class RigL(SparseTraining, methods.RigL):
    """RigL (Evci et al. 2020): drop by magnitude, grow by gradient magnitude, nnz of every tensor constant."""


class GlobalRigL(SparseTraining, methods.GlobalRigL):
    """RigL that drops and grows over all tensors at once; the total nnz is constant."""


class GMP(SparseTraining, methods.GMP):
    """Gradual magnitude pruning (Zhu and Gupta 2017): from dense to sparse along a cubic curve."""


class OneShot(SparseTraining, methods.OneShot):
    """One-shot magnitude pruning: dense until one step, sparse after it."""


class STE(SparseTraining, methods.STE):
    """Straight-through magnitude pruning: dense weights are trained, the model has the largest of them."""


class Movement(SparseTraining, methods.Movement):
    """Movement pruning (Sanh et al. 2020), for finetuning: weights that move towards zero go."""


def sparse_training(trainer: Trainer) -> SparseTraining | None:
    """The sparse-training callback of a run, or None where the model is dense."""
    return next((callback for callback in trainer.callbacks if isinstance(callback, SparseTraining)), None)
