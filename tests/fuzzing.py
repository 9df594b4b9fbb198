"""Files that are nearly right: a whole one of each kind, with bytes changed or values exchanged, and what reads it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from hypothesis import strategies as st
from safetensors.torch import save_file

from datamodules.documents import pieces_of_file
from datamodules.glue_files import read_tsv
from deployment.compressed import pack, read_compressed
from objectives.glue import GLUE
from run_record import RunRecord
from sparsity import MASKS_FILE, REPORT_FILE, MaskSet, load_masks, save_masks
from sweeps.protocol import load_protocol

MENDABLE = (ValueError, FileNotFoundError)  # what the command line makes one line of
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([2**63, -1, 1e300])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
SUMMARY = {
    "experiment": "a",
    "status": "finished",
    "eval_loss": 3.0,
    "metrics": {"f1": 0.5},
    "sparsity": {"model": 0.8},
    "task": "RTE",
}
PROTOCOL = {
    "stages": {"tune": {"config": "fit.yaml", "grid": {"lr": [1]}}, "fit": {"config": "fit.yaml", "best_of": "tune"}}
}
PROTOCOL |= {"rows": {"a": {"settings": {"x": 1}}, "b": {"teacher": "a", "tuned": "a"}}, "quick": {"stages": {}}}


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where values stand in nested JSON, the whole included."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(place for key, value in items for place in places(value, (*path, key)))]


def exchanged(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The content with another value at one place."""
    if not path:
        return value
    items = dict(content) if isinstance(content, dict) else list(content)
    items[path[0]] = exchanged(content[path[0]], path[1:], value)
    return items


def nearly(content: Any, write: Callable[[Any], str]) -> st.SearchStrategy[bytes]:
    """Structured text with one value exchanged, or with bytes changed."""
    changed = st.tuples(st.sampled_from(places(content)), VALUES).map(
        lambda at: write(exchanged(content, *at)).encode("utf-8", "replace")
    )
    return changed | damaged(write(content).encode())


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """Bytes with a few replaced, inserted or cut off; or none of them."""
    cut = st.tuples(st.integers(0, len(whole)), st.binary(max_size=8), st.integers(0, 16))
    return cut.map(lambda at: whole[: at[0]] + at[1] + whole[at[0] + at[2] :]) | st.binary(max_size=200)


def in_order(content: Any) -> str:
    """YAML whose keys stay in order, as stages of a protocol must."""
    return yaml.safe_dump(content, sort_keys=False)


class Fuzzed:
    """A directory in which the files of each kind are replaced and read.

    Attributes:
        kinds: name → strategy of contents, where they are written, and what reads one.
        right: name → the content that all others are made from.
    """

    def __init__(self, root: Path) -> None:
        torch.manual_seed(0)
        weights = {"a.weight": torch.randn(4, 6), "bias": torch.randn(3)}
        masks = MaskSet({"a.weight": weights["a.weight"] > 0.5})
        masks.zero_weights_(weights)
        export = root / "export"
        export.mkdir(parents=True)
        save_file(weights, export / "model.safetensors", {"format": "pt"})
        save_masks(export, masks, weights, {"method": "none"})
        pack(export, root / "packed")
        (root / "fit.yaml").touch()
        self.root = root
        bits, report = (export / MASKS_FILE).read_bytes(), json.loads((export / REPORT_FILE).read_text())
        tsv = b"sentence\tlabel\none sentence\t1\nanother\t0\n"
        rows = b'{"text": "one"}\n{"text": "two"}\n'
        self.kinds: dict[str, tuple[st.SearchStrategy[bytes], Path, Callable[[Path], object]]] = {
            "mask file": (damaged(bits), export / MASKS_FILE, lambda file: load_masks(file.parent)),
            "mask report": (nearly(report, json.dumps), export / REPORT_FILE, lambda file: load_masks(file.parent)),
            "packed file": (damaged((root / "packed").read_bytes()), root / "packed", read_compressed),
            "TSV": (damaged(tsv), root / "train.tsv", lambda file: read_tsv(file, GLUE["SST-2"], labelled=True)),
            "JSON lines": (damaged(rows), root / "rows.jsonl", lambda file: list(pieces_of_file(file, "text"))),
            "summary": (nearly(SUMMARY, json.dumps), root / "summary.json", RunRecord.read),
            "protocol": (nearly(PROTOCOL, in_order), root / "protocol.yaml", load_protocol),
        }
        self.whole = {export / MASKS_FILE: bits, export / REPORT_FILE: json.dumps(report).encode()}
        self.right = {"mask file": bits, "mask report": self.whole[export / REPORT_FILE], "TSV": tsv, "JSON lines": rows}
        self.right |= {"packed file": (root / "packed").read_bytes(), "summary": json.dumps(SUMMARY).encode()}
        self.right |= {"protocol": in_order(PROTOCOL).encode()}

    def read(self, kind: str, content: bytes) -> bool:
        """Read a file of a kind with this content; whether it was taken for whole. Errors nobody can mend come through."""
        _, file, reader = self.kinds[kind]
        file.write_bytes(content)
        try:
            reader(file)
        except MENDABLE:
            return False
        finally:
            if file in self.whole:
                file.write_bytes(self.whole[file])
        return True
