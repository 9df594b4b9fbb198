"""Where the weights of a sparse model are: as a config plans them before any training, or as an exported file has them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule, LightningModule
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel

from datamodules import TextDataModule, load_tokenizer
from hub import local_or_hub
from lightning_modules import MaskedLanguageModel
from objectives.masked_lm import check_family
from objectives.parameter_groups import embedding_parameters, encoder_weights, sparse_weights
from pretrained import architecture, new_config, read_config, reading
from reports.tables import Table
from sparsity import MASKS_FILE, SparseMethod, load_masks


def planned_budget(
    module: LightningModule, data: LightningDataModule, method: SparseMethod | None, vocabulary_size: int
) -> list[Table]:
    """The budget that a fit would start with; no data are read.

    Args:
        module: what would be trained.
        data: gives the vocabulary.
        method: of sparse training; None is dense.
        vocabulary_size: where neither the model's config nor a tokenizer on this machine says it.

    Raises:
        ValueError: the sparsity cannot be met, or the fit is not one of a masked LM.
    """
    if not isinstance(module, MaskedLanguageModel) or not isinstance(data, TextDataModule):
        raise ValueError(
            f"only masked-LM pretraining is planned, not {type(module).__name__}; give the directory of an export"
        )
    if module.hparams["pretrained"] is not None:
        path, origin = local_or_hub(module.hparams["pretrained"], "model"), "that of the pretrained model"
        config, _ = read_config(path, "model")
        with reading(path, "model"):
            model = AutoModelForMaskedLM.from_pretrained(path, config=config, dtype=torch.float32, weights_only=True)
    else:
        fields = dict(module.hparams["config"])
        size, origin = (
            (fields["vocab_size"], "as the config says")
            if "vocab_size" in fields
            else data_vocabulary(data, vocabulary_size)
        )
        model = new_model({"vocab_size": size} | fields, drawn=method is not None and method.distribution == "global")
    nnz = {} if method is None else method.allocate(*sparse_weights(method, model))
    note = f"{planned_by(method)}. Vocabulary of {model.config.vocab_size:,} tokens, {origin}."
    return tables(model, {name: nnz.get(name, p.numel()) for name, p in model.named_parameters()}, nnz, {}, note)


def planned_by(method: SparseMethod | None) -> str:
    """Who says how many weights stay, and how many that is."""
    if method is None:
        return "dense: no method of sparse training"
    wanted = f"nonzeros {method.nonzeros}" if method.sparsity is None else f"sparsity {method.sparsity}"
    return f"{type(method).__name__}, {wanted}, {method.distribution}"


def data_vocabulary(data: TextDataModule, default: int) -> tuple[int, str]:
    """Tokens of a datamodule's vocabulary without its data, and who says so: of a trained one the most it may have."""
    if data.tokenizer_path is None:
        return data.vocabulary_size, "the most that the trained one may have"
    if Path(data.tokenizer_path).exists():
        return len(load_tokenizer(data.tokenizer_path)), f"of {data.tokenizer_path}"
    return default, f"as --vocabulary_size says, because {data.tokenizer_path} is not on this machine"


def new_model(fields: dict[str, Any], drawn: bool) -> PreTrainedModel:
    """A masked LM on the CPU, of zeros unless its weights must be drawn: most budgets depend on nothing but shapes."""
    model_type = str(fields.get("model_type", "bert"))
    check_family(model_type)
    default = AutoConfig.for_model(model_type).to_dict()
    special = {name: 0 for name, value in default.items() if name.endswith("_token_id") and value is not None}
    config = new_config(model_type, special | {key: value for key, value in fields.items() if key != "model_type"})
    if drawn:
        return AutoModelForMaskedLM.from_config(config)
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(config)
    model.to_empty(device="cpu")
    model.tie_weights()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def exported_budget(directory: Path) -> list[Table]:
    """The zeros that the files of an exported model have, beside those that its masks say.

    Raises:
        ValueError: no model there, or one whose files lack a parameter.
    """
    if not directory.is_dir():
        raise ValueError(f"{directory}: no exported model there: it is no directory")
    config, _ = read_config(directory, "exported model")
    kind = architecture(config, directory)
    with reading(directory, "exported model"), torch.device("meta"):
        model = kind(config)
    masks = load_masks(directory)
    masked = {} if masks is None else masks.nnz()
    nnz = count_nonzeros(directory, {name for name, _ in model.named_parameters()})
    note = "Counted in the file. A weight that is on may be 0.0 by value: the row of the padding token, a bias at its start."
    return tables(model, nnz, masked, masked, note if masks is not None else note + " There are no masks.")


def count_nonzeros(directory: Path, names: Iterable[str]) -> dict[str, int]:
    """Non-zeros of every named tensor in the model's safetensors files."""
    counted: dict[str, int] = {}
    for file in sorted(directory.glob("*.safetensors")):
        if file.name != MASKS_FILE:
            try:
                with safe_open(file, framework="pt") as tensors:
                    counted |= {name: int(torch.count_nonzero(tensors.get_tensor(name))) for name in tensors.keys()}  # noqa: SIM118
            except SafetensorError as error:
                raise ValueError(f"{file}: not a whole safetensors file ({error})") from error
    if missing := sorted(set(names) - counted.keys()):
        raise ValueError(f"{directory}: {len(missing)} tensors of the model are in no file, the first is {missing[0]}")
    return {name: counted[name] for name in names}


def tables(
    model: PreTrainedModel, nnz: dict[str, int], sparse: Iterable[str], masked: dict[str, int], note: str
) -> list[Table]:
    """A table of tensors and one of totals.

    Args:
        model: whose parameters; on any device.
        nnz: non-zeros of every parameter.
        sparse: names of those that have a mask.
        masked: non-zeros by the masks, for a column of their own; or empty.
        note: one line.
    """
    parameters = dict(model.named_parameters())
    sizes = {name: parameter.numel() for name, parameter in parameters.items()}
    matrices = [name for name, parameter in parameters.items() if parameter.dim() > 1]
    vectors = [name for name in parameters if name not in matrices]

    def row(title: str, shape: str, names: list[str]) -> list[str]:
        size, on = sum(sizes[name] for name in names), sum(nnz[name] for name in names)
        cells = [title, shape, f"{on / size:.6f}" if size else "", f"{on:,}"]
        return cells + ([f"{sum(masked.get(name, sizes[name]) for name in names):,}"] if masked else [])

    rows = [row(name, "×".join(map(str, parameters[name].shape)), [name]) for name in matrices]
    rows.append(row(f"{len(vectors)} vectors (biases, norms)", "", vectors))
    columns = ["tensor", "shape", "density", "nnz", *(["nnz by masks"] if masked else [])]
    groups = {
        "sparse tensors": list(sparse),
        "encoder matrices": list(encoder_weights(model)),
        "embeddings": list(embedding_parameters(model)),
        "model": list(parameters),
    }
    totals = []
    for group, names in groups.items():
        size, on = sum(sizes[name] for name in names), sum(nnz[name] for name in names)
        if size:
            totals.append([group, f"{size:,}", f"{on:,}", f"{size - on:,}", f"{(size - on) / size:.6f}"])
    return [
        Table("Tensors", columns, rows),
        Table("Totals", ["of", "parameters", "non-zeros", "zeros", "sparsity"], totals, [note]),
    ]
