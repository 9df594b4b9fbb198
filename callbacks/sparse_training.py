"""Sparse training around the optimizer step.

The model stays an ordinary one. A callback holds a method and runs it: before every optimizer step, after accumulation, the
reduction over ranks and the unscaling of mixed precision, and before clipping. When is said here, what in ``sparsity``.
"""

from collections.abc import Mapping
from typing import Any, cast

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from pytorch_lightning.utilities import rank_zero_warn
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from datamodules import run_seed
from objectives.parameter_groups import sparse_weights, tables
from sparsity import MaskSet, SparseMethod, SparseStepping, methods


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


def need_whole_weights(trainer: Trainer, who: str) -> None:
    """Refuse strategies that share the weights out, as FSDP and DeepSpeed do.

    Raises:
        ValueError: the trainer has one of them; it names ``who`` needs whole weights.
    """
    if not isinstance(trainer.strategy, DDPStrategy | SingleDeviceStrategy):
        raise ValueError(
            f"{who} needs whole weights on every device (one device or DDP), not {type(trainer.strategy).__name__}"
        )


class SparseTraining(Callback):
    """Holds a method and runs it while a model trains.

    Args:
        method: which weights are on, and when that changes.

    Attributes:
        stepping: the method at work, with its masks; None before the fit starts.
    """

    def __init__(self, method: SparseMethod) -> None:
        self.method = method
        self.stepping: SparseStepping | None = None
        self._seed = method.seed
        self._saved: dict[str, Any] = {}
        self._step = 0

    @property
    def state_key(self) -> str:
        """The method's, whether it came by this class or by a subclass."""
        return f"SparseTraining[{type(self.method).__name__}]"

    @property
    def masks(self) -> MaskSet | None:
        """By parameter name; None before the fit starts."""
        return None if self.stepping is None else self.stepping.masks

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse what would go on with fresh masks over trained weights.

        Raises:
            ValueError: the checkpoint is of a run without masks, or with those of another method.
        """
        if trainer.state.fn == "fit" and self.state_key not in checkpoint["callbacks"]:
            saved = saved_method(checkpoint)
            found = f"the masks of {saved}" if saved else "no masks"
            raise ValueError(f"the checkpoint has {found}: {type(self.method).__name__} cannot go on with it")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if sum(isinstance(callback, SparseTraining) for callback in callbacks) > 1:
            raise ValueError("two sparse-training callbacks in one run: keep one")
        if any(isinstance(callback, WeightAveraging) for callback in callbacks[callbacks.index(self) :]):
            raise ValueError(
                f"a mean of weights is made sparse behind it: put WeightAveraging before {type(self.method).__name__}"
            )
        need_whole_weights(trainer, type(self.method).__name__)
        self.method.seed = run_seed(self._seed)
        model = cast(PreTrainedModel, pl_module.model)
        if not self._saved and self.stepping is not None and self._is_of(model):
            self._saved = self.stepping.state_dict()  # the same model is fitted again
        self.stepping = self._resumed(model, trainer) if self._saved else self.begin(model, trainer)
        self._saved = {}
        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(lambda *_: self._after_step(trainer))

    def _is_of(self, model: PreTrainedModel) -> bool:
        """Whether the masks are of this very model."""
        parameters = dict(model.named_parameters())
        return all(parameters.get(name) is weight for name, weight in self._running().weights.items())

    def begin(self, model: PreTrainedModel, trainer: Trainer) -> SparseStepping:
        """The method with the masks it starts from in ``model``.

        Raises:
            ValueError: no target matches, or the sparsity cannot be met in the scope.
        """
        pretrained: str = getattr(model, "name_or_path", "")
        if pretrained and isinstance(self.method, methods.Static) and self.method.initialization == "random":
            rank_zero_warn(
                f"{type(self.method).__name__} starts from random masks, which cut pretrained weights whatever they are worth; "
                "initialization: magnitude keeps the largest"
            )
        weights, scope_size = sparse_weights(self.method, model)
        steps = total_steps(trainer)
        moves = type(self.method).update_due is not SparseMethod.update_due
        if moves and not any(self.method.update_due(step, steps) for step in range(steps)):
            rank_zero_warn(
                f"{type(self.method).__name__} never changes its masks in {steps:,} steps: give masks.every a smaller number"
            )
        return SparseStepping(self.method, weights, steps, scope_size, bool(pretrained), tables(model))

    def _resumed(self, model: PreTrainedModel, trainer: Trainer) -> SparseStepping:
        parameters = dict(model.named_parameters())
        weights: dict[str, nn.Parameter] = {}
        for name in self._saved["masks"]:
            if name not in parameters:
                raise ValueError(f"the checkpoint has a mask of {name}, which the model has not")
            weights[name] = parameters[name]
        return SparseStepping(self.method, weights, total_steps(trainer), tables=tables(model), state=self._saved)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        stepping, self._step = self._running(), trainer.global_step
        last_update = stepping.last_update
        if stepping.before_step(optimizer.state, self._step):
            for parameter in pl_module.parameters():
                parameter.grad = None  # an optimizer leaves alone what has none
        if stepping.last_update is not last_update:
            self._log(trainer)

    def _after_step(self, trainer: Trainer) -> None:
        stepping, step = self._running(), self._step  # of which the trainer's is ahead where loss scaling skipped it
        last_update = stepping.last_update
        stepping.after_step(step)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if stepping.last_update is not last_update and (step + 1) % every == 0:
            self._log(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self._after_step(trainer)  # where loss scaling skipped the step, and with it the optimizer's hook

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A mean of weights (Lightning's ``WeightAveraging``) has some wherever a mask has ever been on: they go, too."""
        if self.stepping is not None:
            self.stepping.zero_weights()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_validation_epoch_start(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.stepping is not None:
            self._after_step(trainer)  # so that what is saved now is sparse too

    def _running(self) -> SparseStepping:
        if self.stepping is None:
            raise ValueError(f"{type(self.method).__name__} has no masks yet: they are drawn when a fit starts")
        return self.stepping

    def state_dict(self) -> dict[str, Any]:
        return self._saved if self.stepping is None else self.stepping.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = state_dict

    def _log(self, trainer: Trainer) -> None:
        scalars = {f"{self.method.tag}/{name}": value for name, value in self._running().last_update.items()}
        for logger in trainer.loggers:
            logger.log_metrics(scalars, trainer.global_step)


class StaticSparsity(SparseTraining):
    """Fixed masks: the baseline every dynamic method must beat."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(methods.Static(**settings))


class SET(SparseTraining):
    """SET (Mocanu et al. 2018): drop by magnitude, grow at random; as many weights as before, or ``initial_sparsity`` decays."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(methods.SET(**settings))


class RigL(SparseTraining):
    """RigL (Evci et al. 2020): drop by magnitude, grow by gradient magnitude; as many weights as before, as with SET."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(methods.RigL(**settings))


class GlobalRigL(SparseTraining):
    """RigL that drops and grows over all tensors at once; as many weights as before in all, as with SET."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(methods.GlobalRigL(**settings))


class GMP(SparseTraining):
    """Gradual magnitude pruning (Zhu and Gupta 2017): from dense to sparse along a cubic curve."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(methods.GMP(**settings))


class OneShot(SparseTraining):
    """One-shot magnitude pruning: dense until one step, sparse after it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(methods.OneShot(**settings))


class STE(SparseTraining):
    """Straight-through magnitude pruning: dense weights are trained, the model has the largest of them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(methods.STE(**settings))


class Movement(SparseTraining):
    """Movement pruning (Sanh et al. 2020), for finetuning: weights that move towards zero go."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(methods.Movement(**settings))


def saved_method(checkpoint: Mapping[str, Any]) -> str | None:
    """The class of the method whose masks a checkpoint has; None where its run was dense."""
    keys = (key.partition("[") for key in checkpoint["callbacks"])
    return next((name.removesuffix("]") for kind, _, name in keys if kind == "SparseTraining"), None)


def sparse_training(trainer: Trainer) -> SparseStepping | None:
    """The method at work in a run, with its masks; None where the model is dense, or before the fit starts."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback.stepping for callback in callbacks if isinstance(callback, SparseTraining)), None)
