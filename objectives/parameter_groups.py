"""Which parameters of a Hugging Face model are its encoder's matrices, which its embeddings, and which become sparse."""

from torch import nn
from transformers import PreTrainedModel

from sparsity import SparseMethod


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


def tables(model: PreTrainedModel) -> set[str]:
    """Names in ``model`` of the weights of which rows are looked up, tied ones among them."""
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return {name for name, parameter in model.named_parameters() if id(parameter) in looked_up}


def sparse_weights(method: SparseMethod, model: PreTrainedModel) -> tuple[dict[str, nn.Parameter], int]:
    """The weights of ``model`` that a method makes sparse, by name, and the number of parameters its budget is counted in.

    Raises:
        ValueError: a target matches nothing, or the scope does not hold one of the weights.
    """
    if not method.targets:
        weights = encoder_weights(model)
    else:
        matrices = {name: parameter for name, parameter in model.named_parameters() if parameter.dim() >= 2}
        weights = {name: matrices[name] for name in method.select(matrices)}
    scope = weights
    if method.scope == "model" or method.nonzeros is not None:
        scope = dict(model.named_parameters())
    elif method.scope == "encoder":
        scope = encoder_weights(model)
    if outside := weights.keys() - scope.keys():
        raise ValueError(f"scope {method.scope!r} does not hold {min(outside)}; state the sparsity of the model instead")
    return weights, sum(parameter.numel() for parameter in scope.values())
