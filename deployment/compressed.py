"""A sparse Hugging Face model in one file: of every sparse tensor a bit a weight and the weights that are not zero.

A safetensors file, so that reading it runs no code. Its tensors are

====================  ==================================================================================================
``NAME``              a tensor that is stored as it is
``NAME/bits``         uint8: a bit a weight, the first weight lowest, set where the weight is stored
``NAME/values``       the stored weights in their own type, in order
``NAME/negative``     uint8: a bit a weight, set where one that is not stored is -0.0; absent where there is none
``files/FILE``        uint8: a small file of the model's directory (config, tokenizer)
====================  ==================================================================================================

and its metadata hold what the dense file's did, the shapes, which tensors have a mask, and a SHA-256 over all that, and names,
types, shapes and bytes of the tensors: a file with a bit that changed is refused. A weight of a masked tensor is
stored where its mask is on, 0.0 or not; any other weight where it is neither 0.0 nor -0.0, which is what a negative weight times
a mask leaves. All that is done on the bits of the numbers, so that everything comes back bit for bit, NaN included. At fp32 the
size is density + 1/32 of the dense one, or + 2/32 with negative zeros.
"""

import contextlib
import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from sparsity import MASKS_FILE, apply_umask, load_masks, pack_bits, read_safetensors, sha256, unpack_bits
from strangers import refuse_links_out

WEIGHTS_FILE = "model.safetensors"
FORMAT = "trifecta.compressed"  # the key of our entry in the metadata
VERSION = 2  # of which version 1 has no checksum
CARRIED = (".json", ".txt", ".model", ".md", ".jinja")  # what a model's directory may hold besides; nothing that can run
PARTS = ("bits", "values", "negative")
_INTEGER = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


@dataclass(frozen=True)
class CompressedModel:
    """What a compressed file holds, decoded.

    Args:
        tensors: the dense state dict, tied tensors once.
        masks: bits of the tensors that have a mask, as ``sparsity_masks.safetensors`` has them.
        files: name → bytes (uint8) of the small files.
        metadata: that of the dense ``model.safetensors``.
        checked: whether a checksum vouches for all that; the first version of the format had none.
    """

    tensors: dict[str, Tensor]
    masks: dict[str, Tensor]
    files: dict[str, Tensor]
    metadata: dict[str, str]
    checked: bool


def encode(tensor: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """The parts of a tensor of any shape whose elements take 1, 2, 4 or 8 bytes: ``bits``, ``values``, maybe ``negative``.

    Raises:
        ValueError: the tensor is empty; ``mask`` is of another shape, or off where a weight is not zero.
    """
    if tensor.numel() == 0:
        raise ValueError("it has no elements")
    integers = tensor.contiguous().view(_INTEGER[tensor.itemsize])
    limits = torch.iinfo(integers.dtype)
    stored = integers & limits.max != 0  # the largest integer has all bits but the sign's
    if mask is not None:
        if mask.shape != tensor.shape:
            raise ValueError(f"its mask has the shape {tuple(mask.shape)}, expected {tuple(tensor.shape)}")
        if wrong := int((stored & ~mask).count_nonzero()):
            raise ValueError(f"{wrong} of its weights are not 0.0 where its mask is off")
        stored = mask
    parts = {"bits": pack_bits(stored), "values": integers[stored].view(tensor.dtype)}
    negative = (integers == limits.min) & ~stored
    return parts | {"negative": pack_bits(negative)} if negative.any() else parts


def decode(parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    """The dense tensor of ``shape`` that :func:`encode` took apart.

    Raises:
        ValueError: the parts do not belong together.
    """
    if missing := {"bits", "values"} - parts.keys():
        raise ValueError(f"its {min(missing)} are missing")
    if any(part.ndim != 1 for part in parts.values()) or parts["values"].itemsize not in _INTEGER:
        raise ValueError(f"its parts have other shapes or types than those of a tensor (values: {parts['values'].dtype})")
    if (size := math.prod(shape)) > 8 * len(parts["bits"]):
        raise ValueError(f"{len(parts['bits'])} bytes are too few for the shape {shape}")
    stored = unpack_bits(parts["bits"], (size,)).nonzero().squeeze(1)
    if len(stored) != len(parts["values"]):
        raise ValueError(f"{len(parts['values'])} values for {len(stored)} bits that are set")
    dense = torch.zeros(size, dtype=_INTEGER[parts["values"].itemsize])
    if "negative" in parts:
        dense[unpack_bits(parts["negative"], (size,))] = torch.iinfo(dense.dtype).min
    dense[stored] = parts["values"].view(dense.dtype)
    return dense.view(parts["values"].dtype).view(shape)


def encoded_or_not(name: str, tensor: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
    """What a file stores of a tensor: its parts where it has a mask or they are fewer bytes, or else the tensor itself."""
    if mask is None and (tensor.itemsize not in _INTEGER or tensor.numel() == 0):
        return {name: tensor}
    parts = {f"{name}/{part}": content for part, content in encode(tensor, mask).items()}
    return parts if mask is not None or sum(part.nbytes for part in parts.values()) < tensor.nbytes else {name: tensor}


@contextlib.contextmanager
def written_beside(final: Path) -> Iterator[Path]:
    """A new directory beside ``final`` to write to; what was written there by ``final``'s name takes its place at the end."""
    final.parent.mkdir(parents=True, exist_ok=True)
    final = final.resolve()  # "." has no name, and a link to an empty directory is none
    with tempfile.TemporaryDirectory(prefix=f".{final.name}.", dir=final.parent) as directory:
        partial = Path(directory, final.name)
        yield partial
        apply_umask(partial)
        partial.replace(final)


def checksum(header: Mapping[str, Any], stored: Mapping[str, Tensor]) -> str:
    """SHA-256 of all that a file holds, but for the checksum itself."""
    return sha256(stored, json.dumps({key: header[key] for key in header if key != "sha256"}, sort_keys=True))


def refuse_links_out_of_model(directory: Path) -> None:
    """The same for the directory of a model; one in the hub's cache has links to files beside its snapshots."""
    whole = directory.resolve()
    refuse_links_out(whole.parents[1] if whole.parent.name == "snapshots" else whole)


def pack(directory: Path, file: Path) -> list[str]:
    """Compress the model in ``directory``, with its masks if it has some, into ``file``.

    Returns:
        Names of what ``directory`` holds besides and the file does not carry.

    Raises:
        ValueError: no ``model.safetensors`` there, or its masks do not fit it, or a link that leads out: whoever gets the packed
            file would get what it leads to.
    """
    if not (directory / WEIGHTS_FILE).is_file():
        raise ValueError(f"{directory}: no {WEIGHTS_FILE} there; export the model by save_pretrained, as one file")
    refuse_links_out_of_model(directory)
    tensors, metadata = read_safetensors(directory / WEIGHTS_FILE)
    masks: Mapping[str, Tensor] = load_masks(directory) or {}
    if unknown := sorted({*masks} - {*tensors}):
        raise ValueError(f"{directory}: mask {unknown[0]} is of no tensor in {WEIGHTS_FILE}")
    stored: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        if "/" in name:
            raise ValueError(f"{directory}: tensor {name} has a / in its name, which the format keeps for itself")
        try:
            stored |= encoded_or_not(name, tensor, masks.get(name))
        except ValueError as error:
            raise ValueError(f"{directory}: tensor {name}: {error}") from error
        if name not in stored:
            shapes[name] = list(tensor.shape)
    left_out = []
    for path in sorted(directory.iterdir()):
        if path.is_file() and path.suffix in CARRIED:
            stored[f"files/{path.name}"] = torch.from_numpy(np.fromfile(path, np.uint8))
        elif path.name not in (WEIGHTS_FILE, MASKS_FILE):
            left_out.append(path.name)
    header = {"version": VERSION, "shapes": shapes, "masked": [*masks], "metadata": metadata}
    with written_beside(file) as partial:
        save_file(stored, partial, {FORMAT: json.dumps(header | {"sha256": checksum(header, stored)})})
    return left_out


def read_header(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Our entry in the metadata of a file, with the types that it must have.

    Raises:
        ValueError: it is absent or not what :func:`pack` writes.
    """
    try:
        header = json.loads(metadata[FORMAT])
        version, shapes, masked, dense = (header[key] for key in ("version", "shapes", "masked", "metadata"))
        sizes = [size for shape in shapes.values() for size in shape]
        strings = [*masked, *dense.values()]
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"not a compressed model, or of a broken one: no readable {FORMAT!r} in its metadata") from error
    if version not in (1, VERSION):
        raise ValueError(f"version {version!r} of the format; this release reads versions 1 and {VERSION}")
    if any("/" in name or name == "__metadata__" for name in shapes):
        raise ValueError("a name in its metadata is not one of a tensor")
    if not all(type(size) is int and size > 0 for size in sizes) or any(len(shape) > 64 for shape in shapes.values()):
        raise ValueError("a shape in its metadata is not one of a tensor")
    if not (isinstance(masked, list) and {*map(type, strings)} <= {str} and {*masked} <= {*shapes}):
        raise ValueError("a mask or an entry in its metadata is not what was packed")
    return header


def read_compressed(file: Path) -> CompressedModel:
    """Decode a file that :func:`pack` wrote. Nothing it says is trusted; a tensor takes at most 8 bytes a bit in the file.

    Raises:
        ValueError: the file is broken, or not a compressed model.
    """
    stored, metadata = read_safetensors(file)
    try:
        header = read_header(metadata)
        checked = header["version"] > 1 or "sha256" in header
        if checked and header.get("sha256") != checksum(header, stored):
            raise ValueError(
                "damaged: its content does not have the checksum that was packed with it; copy it again, or pack the model again"
            )
        tensors: dict[str, Tensor] = {}
        masks: dict[str, Tensor] = {}
        for name, shape in header["shapes"].items():
            keys = {part: f"{name}/{part}" for part in PARTS if f"{name}/{part}" in stored}
            parts = {part: stored.pop(key) for part, key in keys.items()}
            try:
                tensors[name] = decode(parts, tuple(shape))
            except ValueError as error:
                raise ValueError(f"tensor {name}: {error}") from error
            if name in header["masked"]:
                masks[name] = parts["bits"]
        files = {name.removeprefix("files/"): stored.pop(name) for name in [*stored] if name.startswith("files/")}
        for name, content in files.items():
            if name != Path(name).name or Path(name).suffix not in CARRIED or content.dtype != torch.uint8:
                raise ValueError(f"file {name!r} is none that a model has beside it")
        if unexpected := sorted(name for name in stored if "/" in name or name in tensors):
            raise ValueError(f"tensor {unexpected[0]} is none that was packed")
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return CompressedModel(tensors | stored, masks, files, header["metadata"], checked)


def unpack(file: Path, directory: Path) -> bool:
    """Write the model in ``file`` as the ordinary directory that it was: weights, masks, config and tokenizer.

    Returns:
        Whether the file has a checksum, so that damage would have been noticed: false for version 1 of the format.

    Raises:
        ValueError: ``directory`` holds something already, or the file is broken.
    """
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(f"{directory} is there already and not empty; name a new directory")
    model = read_compressed(file)
    with written_beside(directory) as partial:
        partial.mkdir()
        save_file(model.tensors, partial / WEIGHTS_FILE, model.metadata)
        if model.masks:
            save_file(model.masks, partial / MASKS_FILE)
        for name, content in model.files.items():
            (partial / name).write_bytes(content.numpy().tobytes())
    return model.checked
