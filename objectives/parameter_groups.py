"""Which parameters of a Hugging Face model are its encoder's matrices, and which its embeddings."""

from torch import nn
from transformers import PreTrainedModel


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
