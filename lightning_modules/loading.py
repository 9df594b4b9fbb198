"""Models from ``save_pretrained`` directories and the hub; whatever transformers has to complain of is one line."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from hub import local_or_hub
from pretrained import read_config, reading

AutoModelClass = (
    type[AutoModelForMaskedLM]
    | type[AutoModelForSequenceClassification]
    | type[AutoModelForQuestionAnswering]
    | type[AutoModelForMultipleChoice]
    | type[AutoModelForTokenClassification]
)


class Loaded(NamedTuple):
    """A model in evaluation mode, names of its weights that are new, and the fields of its ``config.json``, untouched."""

    model: PreTrainedModel
    new: list[str]
    fields: dict[str, Any]


def load_model(
    auto: AutoModelClass, path: str, what: str, prepare: Callable[[PretrainedConfig], object] = lambda config: None
) -> Loaded:
    """A model with its encoder from ``path``, in single precision whatever the file's; what its head lacks is new.

    Args:
        auto: what kind of head.
        path: ``save_pretrained`` directory or hub id.
        what: what is expected there, in words.
        prepare: changes the config before the model is built.

    Raises:
        ValueError: no such model there, or weights of the encoder missing; FileNotFoundError where there is nothing at all.
    """
    path = local_or_hub(path, what)
    config, fields = read_config(path, what)
    prepare(config)
    with reading(path, what):
        model, found = auto.from_pretrained(
            path,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            weights_only=True,
        )
    new = sorted({*found["missing_keys"], *(key[0] for key in found["mismatched_keys"])})
    prefix = f"{model.base_model_prefix}."
    if lost := [name for name in new if name.startswith(prefix) and "pooler" not in name.split(".")]:
        raise ValueError(
            f"{path}: {len(lost)} tensors of the encoder are missing or of another shape, the first is {lost[0]}"
        )
    return Loaded(model, new, fields)
