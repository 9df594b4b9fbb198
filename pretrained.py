"""Models and tokenizers that anybody may have written: read without running what they bring along, and errors in one line."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

ATTENTION = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
OWN_CODE = "brings code of its own (auto_map), which is never run; expected one that transformers knows by itself"


@contextlib.contextmanager
def reading(path: str | Path, what: str) -> Iterator[None]:
    """Silence about missing and unused weights, which the caller judges, and one line for what cannot be loaded.

    Args:
        path: directory or hub id, for the line.
        what: should be there, in words.

    Raises:
        ValueError: whatever went wrong inside the block.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except Exception as error:  # of another class for every way in which a file can be broken or a hub not be reached
        reason = OWN_CODE if "trust_remote_code" in str(error) else " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: no {what} there: {reason or type(error).__name__}") from error
    finally:
        logging.set_verbosity(verbosity)


def read_config(path: str | Path, what: str) -> tuple[PretrainedConfig, dict[str, Any]]:
    """The config of a model, and the fields of its ``config.json``, untouched.

    Raises:
        ValueError: there is none, it is broken, or it asks for code: of its own, or kernels for its attention.
    """
    with reading(path, what):
        fields, _ = PretrainedConfig.get_config_dict(path)
        if not isinstance(fields, dict):
            raise ValueError("config.json is not an object")
        check_fields(fields)
        return AutoConfig.from_pretrained(path, trust_remote_code=False), fields


def new_config(model_type: str, fields: Mapping[str, Any]) -> PretrainedConfig:
    """The config of a model that begins with nothing.

    Raises:
        ValueError: a field holds what it cannot hold.
    """
    try:
        return AutoConfig.for_model(model_type, **fields)
    except Exception as error:  # every family checks its fields in its own way
        raise ValueError(f"model.config of a {model_type}: {' '.join(str(error).split())[:300]}") from error


def check_fields(fields: dict[str, Any]) -> None:
    """Raise ValueError where a ``config.json`` has attention come from elsewhere: transformers would fetch and run it."""
    for key in ATTENTION:
        named = fields.get(key)
        for value in named.values() if isinstance(named, dict) else [named]:
            if value is not None and not str(value).replace("_", "").isalnum():
                raise ValueError(f"its config.json takes {key} from {value!r}, which is never fetched; remove the entry")


def read_tokenizer(path: str | Path, what: str = "tokenizer") -> PreTrainedTokenizerBase:
    """The tokenizer in a directory or of a hub id.

    Raises:
        ValueError: there is none, it is broken, or it asks for code of its own.
    """
    with reading(path, what):
        return AutoTokenizer.from_pretrained(path, use_fast=True, trust_remote_code=False)


def architecture(config: PretrainedConfig, path: str | Path) -> type[PreTrainedModel]:
    """The class that a model was saved from.

    Raises:
        ValueError: ``config`` names none, or something in transformers that is no model.
    """
    named = config.architectures or []
    found = getattr(transformers, str(named[0]), None) if isinstance(named, list) and named else None
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise ValueError(f"{path}: its config.json names {named!r} as architecture; expected a model of transformers")
    return found
