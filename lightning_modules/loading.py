"""Models from ``save_pretrained`` directories and the hub; whatever transformers has to complain of is one line."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from hub import local_or_hub

AutoModelClass = type[AutoModelForMaskedLM] | type[AutoModelForSequenceClassification]


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
    with _one_line(path, what):
        fields, _ = PretrainedConfig.get_config_dict(path)
        config = AutoConfig.from_pretrained(path)
    prepare(config)
    with _one_line(path, what):
        model, found = auto.from_pretrained(
            path, config=config, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    new = sorted({*found["missing_keys"], *(key[0] for key in found["mismatched_keys"])})
    prefix = f"{model.base_model_prefix}."
    if lost := [name for name in new if name.startswith(prefix) and "pooler" not in name.split(".")]:
        raise ValueError(
            f"{path}: {len(lost)} tensors of the encoder are missing or of another shape, the first is {lost[0]}"
        )
    return Loaded(model, new, fields)


@contextlib.contextmanager
def _one_line(path: str, what: str) -> Iterator[None]:
    """Silence about missing and unused weights, which :func:`load_model` judges, and one line for what cannot be loaded."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except Exception as error:  # of another class for every way in which a file can be broken or a hub not be reached
        raise ValueError(f"{path}: no {what} there: {' '.join(str(error).split())[:200]}") from error
    finally:
        logging.set_verbosity(verbosity)
