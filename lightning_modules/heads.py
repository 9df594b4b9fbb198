"""Heads: an encoder with one for a task, and whether a head that was loaded means what the task means."""

from collections.abc import Mapping
from typing import Any

from pytorch_lightning.utilities import rank_zero_warn
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from internals import draw_anew
from lightning_modules.loading import AutoModelClass, load_model
from objectives.beyond_glue import FINETUNING, Task
from objectives.glue import GlueTask, plain

AnyTask = GlueTask | Task

HEAD_DROPOUT = ("classifier_dropout", "seq_classif_dropout", "classifier_dropout_prob")  # as the families call it


def load_with_head(
    auto: AutoModelClass, path: str, task: AnyTask, dropout: float | None, fitting: bool = False
) -> tuple[PreTrainedModel, str | None]:
    """An encoder with a head of this task's size, the one that comes with it if it fits, and why that is not the task's.

    Args:
        auto: what kind of head.
        path: ``save_pretrained`` directory or hub id of any encoder, masked LM or classifier.
        task: gives the number of outputs and the names of the classes.
        dropout: before the head; None for what the model's config says.
        fitting: let a head that has the task's classes in another order start anew, and say so.

    Returns:
        The model, and what is wrong with its head before it is finetuned: None where it comes from the task.

    Raises:
        ValueError: no encoder there, weights of the encoder missing, or a dropout for a head that has none.
    """
    model, new, fields = load_model(auto, path, "encoder", lambda config: set_head(config, task, dropout))
    if dropout is not None:
        set_dropout(model, dropout)
    if new:
        return model, f"{path}: no head of {task.name} there ({new[0]} is missing or of another shape): finetune it first"
    if fitting and permuted(fields, task):
        rank_zero_warn(f"{path}: the head has the classes of {task.name} in another order, and starts anew")
        encoder = {id(module) for module in model.base_model.modules()}
        for module in model.modules():
            if id(module) not in encoder and module is not model:
                draw_anew(model, module)
    unfit = misfit(fields, task)
    return model, unfit and f"{path}: {unfit}"


def set_head(config: PretrainedConfig, task: AnyTask, dropout: float | None) -> None:
    """Make ``config`` that of a model for ``task``, with this dropout before its head where it is not None."""
    config.id2label = dict(enumerate(task.class_names or ("score",)))
    config.label2id = {name: label for label, name in config.id2label.items()}
    config.finetuning_task = task.name
    config.problem_type = None  # another head's; transformers finds out
    if dropout is not None and (name := next((name for name in HEAD_DROPOUT if hasattr(config, name)), None)):
        setattr(config, name, dropout)  # for whoever loads the model


def set_dropout(model: PreTrainedModel, dropout: float) -> None:
    """Give every dropout outside the encoder this rate: which field of a config a head reads differs from head to head.

    Raises:
        ValueError: there is none.
    """
    encoder = set(model.base_model.modules())
    dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout) and module not in encoder]
    if not dropouts:
        raise ValueError(f"{model.config.model_type} has no dropout of its own before the head; leave model.dropout out")
    for module in dropouts:
        module.p = dropout


def head_names(fields: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The class names of a config in the order of the classes, lower-case: by ``id2label`` and by ``label2id``.

    Names that say nothing (``LABEL_0``, ``0``, each at its place) are left out.
    """
    by_label, by_name = (pairs if isinstance(pairs := fields.get(key), dict) else {} for key in ("id2label", "label2id"))
    known = []
    for pairs in (by_label.items(), ((label, name) for name, label in by_name.items())):
        names = {str(label): plain(name) for label, name in pairs}  # JSON has strings as keys
        ordered = tuple(names.get(str(label), "?") for label in range(len(names)))
        if any(name not in (f"label_{label}", str(label)) for label, name in enumerate(ordered)):
            known.append(ordered)
    return known


def permuted(fields: Mapping[str, Any], task: AnyTask) -> bool:
    """Whether a config names the classes of ``task`` in another order, in either of its lists."""
    own = tuple(map(plain, task.class_names))
    return any(names != own and sorted(names) == sorted(own) for names in head_names(fields))


def misfit(fields: Mapping[str, Any], task: AnyTask) -> str | None:
    """Why the head that a config describes does not mean what ``task`` means; None where nothing speaks against it."""
    learnt = fields.get("finetuning_task")
    if any(str(learnt).lower() in (other.name.lower(), other.hub) for other in FINETUNING.values() if other != task):
        return f"its head has learnt {learnt}, not {task.name}: finetune it first"
    if not task.class_names:
        return None
    for names in head_names(fields):
        if names != tuple(map(plain, task.class_names)):
            return (
                f"its classes are {', '.join(names)}, those of {task.name} {', '.join(task.class_names)}, in this order: "
                "finetune it, or correct id2label and label2id in its config.json"
            )
    return None
