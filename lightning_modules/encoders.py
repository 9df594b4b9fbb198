"""Encoders: whether they fit the data, and their layers."""

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from internals import draw_anew


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
