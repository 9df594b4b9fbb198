"""Encoders: whether they fit the data, with a classification head, their layers."""

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from internals import draw_anew
from objectives.glue import GLUE, GlueTask

HEAD_DROPOUT = ("classifier_dropout", "seq_classif_dropout", "classifier_dropout_prob")  # as the families call it


def check_fit(config: PretrainedConfig, model: str, tokens: int, length: int) -> None:
    """Raise ValueError unless a model takes sequences of ``length`` from a tokenizer of ``tokens``; ``model`` is its name."""
    if tokens > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokens} tokens, {model} only {config.vocab_size}: give data.tokenizer the model's own"
        )
    positions = getattr(config, "max_position_embeddings", length)
    if "roberta" in config.model_type or config.model_type == "camembert":
        positions -= config.pad_token_id + 1  # RoBERTa counts positions from there
    if length > positions:
        raise ValueError(f"data.length is {length}, but {model} has positions for {positions} tokens only")


def load_classifier(path: str, task: GlueTask, dropout: float | None) -> tuple[PreTrainedModel, str | None]:
    """An encoder with a head of this task's size, the one that comes with it if it fits, and why that is not the task's.

    Args:
        path: ``save_pretrained`` directory or hub id of any encoder, masked LM or classifier.
        task: gives the number of outputs and the names of the classes.
        dropout: before the head; None for what the model's config says.

    Returns:
        The model, and what is wrong with its head before it is finetuned: None where it comes from the task.

    Raises:
        ValueError: no encoder there, or weights of the encoder missing.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # missing and unused weights are judged here
    try:
        config = AutoConfig.from_pretrained(path)
        known = [str(name).lower() for _, name in sorted(config.id2label.items())]
        learnt = getattr(config, "finetuning_task", None)
        set_head(config, task, dropout)
        model, found = AutoModelForSequenceClassification.from_pretrained(
            path, config=config, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ValueError(f"{path}: no encoder there: {' '.join(str(error).split())[:200]}") from error
    finally:
        logging.set_verbosity(verbosity)
    new = {*found["missing_keys"], *(key[0] for key in found["mismatched_keys"])}
    prefix = f"{model.base_model_prefix}."
    lost = sorted(name for name in new if name.startswith(prefix) and "pooler" not in name.split("."))
    if lost:
        raise ValueError(
            f"{path}: {len(lost)} tensors of the encoder are missing or of another shape, the first is {lost[0]}"
        )
    if new:
        return model, f"{path}: no head of {task.name} there ({min(new)} is missing or of another shape): finetune it first"
    if any(str(learnt).lower() in (other.name.lower(), other.hub) for other in GLUE.values() if other != task):
        return model, f"{path}: its head has learnt {learnt}, not {task.name}: finetune it first"
    if known != list(task.classes) and sorted(known) == sorted(task.classes):
        return model, f"{path}: its classes are {', '.join(known)}, those of {task.name} {', '.join(task.classes)}"
    return model, None


def set_head(config: PretrainedConfig, task: GlueTask, dropout: float | None) -> None:
    """Make ``config`` that of a classifier for ``task``, with this dropout before its head where it is not None.

    Raises:
        ValueError: a dropout for a model that has none there.
    """
    config.id2label = dict(enumerate(task.classes or ("score",)))
    config.label2id = {name: label for label, name in config.id2label.items()}
    config.finetuning_task = task.name
    if dropout is not None:
        name = next((name for name in HEAD_DROPOUT if hasattr(config, name)), None)
        if name is None:
            raise ValueError(f"{config.model_type} has no dropout of its own before the head; leave model.dropout out")
        setattr(config, name, dropout)


def encoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The transformer layers of an encoder, first to last."""
    layers = model.config.num_hidden_layers
    for module in model.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == layers:
            return module
    raise ValueError(f"{type(model).__name__} has no list of its {layers} layers")


def reinitialize(model: PreTrainedModel, top_layers: int) -> None:
    """Draw the pooler and the top layers anew (Zhang et al. 2021, arXiv 2006.05987, section 4).

    Raises:
        ValueError: ``top_layers`` is not from 0 to the number of layers.
    """
    if top_layers == 0:
        return
    layers = encoder_layers(model)
    if not 0 < top_layers <= len(layers):
        raise ValueError(f"reinitialize_layers from 0 to {len(layers)} expected, got {top_layers}")
    anew = nn.ModuleList(layers[len(layers) - top_layers :])
    if (pooler := getattr(model.base_model, "pooler", None)) is not None:
        anew.append(pooler)
    for module in anew.modules():
        draw_anew(model, module)


def layer_scales(model: PreTrainedModel, decay: float) -> dict[int, float]:
    """Factor of the learning rate by ``id`` of the parameter: ``decay`` a layer further down; what is not here has 1.

    The embeddings are the lowest layer; the head and what comes after the top layer have 1. Howard and Ruder 2018
    (arXiv 1801.06146), section 3.2.
    """
    if decay == 1:
        return {}
    layers = encoder_layers(model)
    scales = {
        id(parameter): decay ** (len(layers) + 1)
        for name, parameter in model.base_model.named_parameters()
        if "embeddings" in name
    }
    for depth, layer in enumerate(layers):
        scales |= {id(parameter): decay ** (len(layers) - depth) for parameter in layer.parameters()}
    return scales
