"""Masks beside an exported model: ``sparsity_masks.safetensors`` (a bit a weight) and ``sparsity.json`` (what they are)."""

import ctypes
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparsity.masks import MaskSet, pack_bits, unpack_bits

MASKS_FILE = "sparsity_masks.safetensors"
REPORT_FILE = "sparsity.json"
LARGEST = 2**48  # weights; no tensor has them


def read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file.

    Raises:
        ValueError: it is no safetensors file, or not a whole one.
    """
    try:
        with safe_open(file, "pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{file}: not a whole safetensors file ({error})") from error


def apply_umask(path: Path) -> None:
    """Let others read a file, or a directory and all in it, as far as the umask does: safetensors keeps its files private."""
    umask = os.umask(0o077)  # the only way to read it is to set it
    os.umask(umask)
    for each in (path, *path.rglob("*")):
        each.chmod(each.stat().st_mode | (0o777 if each.is_dir() else 0o666) & ~umask)


def sha256(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Digest of ``text`` and of names, types, shapes and bytes of tensors, in whatever order they come: 64 hexadecimal digits.

    Of the digests of the standard library the fastest where processors have instructions for it, as nearly all do.
    """
    names = sorted(tensors)
    described = [[name, str(tensors[name].dtype), list(tensors[name].shape)] for name in names]
    digest = hashlib.sha256(json.dumps([text, described]).encode())
    for name in names:
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update((ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr()) if tensor.nbytes else b"")
    return digest.hexdigest()


def sparsity_report(masks: MaskSet, parameters: Mapping[str, Tensor]) -> dict[str, Any]:
    """Shape, nnz and density of every sparse tensor, and the totals of the model, counted from the masks."""
    nnz = masks.nnz()
    tensors = {
        name: {"shape": list(mask.shape), "nnz": nnz[name], "density": nnz[name] / mask.numel()}
        for name, mask in masks.items()
    }
    total = sum(parameter.numel() for parameter in parameters.values())
    zeros = sum(mask.numel() for mask in masks.values()) - sum(nnz.values())
    return {"parameters": total, "nonzeros": total - zeros, "sparsity": zeros / total, "tensors": tensors}


def save_masks(directory: Path, masks: MaskSet, parameters: Mapping[str, Tensor], made_by: Mapping[str, Any]) -> None:
    """Write both files into ``directory``. ``made_by`` says how the masks were made; what is not JSON is written as text."""
    save_file({name: pack_bits(mask) for name, mask in masks.items()}, directory / MASKS_FILE)
    apply_umask(directory / MASKS_FILE)
    report = sparsity_report(masks, parameters) | {"masks_sha256": sha256(masks), "made_by": dict(made_by)}
    (directory / REPORT_FILE).write_text(json.dumps(report, indent=2, default=str) + "\n", encoding="utf-8")


def checked_shape(shape: list[int]) -> tuple[int, ...]:
    """The shape of a tensor that may be; ValueError for any other, on which torch would fail in many ways, or overflow."""
    if (
        not all(type(size) is int and 0 <= size < LARGEST for size in shape)
        or math.prod(shape) >= LARGEST
        or len(shape) > 64
    ):
        raise ValueError(f"{shape!r:.60} is not the shape of a tensor")
    return tuple(shape)


def load_masks(directory: Path) -> MaskSet | None:
    """The masks saved in ``directory``, on the CPU; None where there are none.

    Raises:
        ValueError: one of the two files is missing or broken, or they do not belong together.
    """
    if not (directory / MASKS_FILE).exists():
        return None
    if not (directory / REPORT_FILE).exists():
        raise ValueError(f"{directory}: {MASKS_FILE} without {REPORT_FILE}")
    packed, _ = read_safetensors(directory / MASKS_FILE)
    try:
        report = json.loads((directory / REPORT_FILE).read_text(encoding="utf-8"))
        tensors, digest = report["tensors"], report.get("masks_sha256")
        shapes = {name: checked_shape(entry["shape"]) for name, entry in tensors.items()}
        nnz = {name: entry["nnz"] for name, entry in tensors.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{directory / REPORT_FILE}: not a report of masks ({type(error).__name__}: {error})") from error
    if packed.keys() != shapes.keys():
        raise ValueError(f"{directory}: {MASKS_FILE} and {REPORT_FILE} name different tensors")
    unpacked = {}
    for name, shape in shapes.items():
        try:
            unpacked[name] = unpack_bits(packed[name], shape)
        except ValueError as error:
            raise ValueError(f"{directory / MASKS_FILE}: {name}: {error}") from error
    masks = MaskSet(unpacked)
    if masks.nnz() != nnz:
        raise ValueError(f"{directory}: {MASKS_FILE} does not have the non-zeros that {REPORT_FILE} states")
    if digest not in (None, sha256(masks)):  # none in reports of older releases
        raise ValueError(f"{directory}: {MASKS_FILE} is damaged, or not the one of {REPORT_FILE}: export the model again")
    return masks
