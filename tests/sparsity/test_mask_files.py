"""Masks saved beside a model come back as they were, or with a clear error."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparsity import MaskSet, load_masks, save_masks
from sparsity.files import MASKS_FILE, REPORT_FILE

PARAMETERS = {"a.weight": torch.ones(3, 5), "b.weight": torch.ones(4, 4), "bias": torch.ones(9)}


@pytest.fixture
def masks() -> MaskSet:
    generator = torch.Generator().manual_seed(0)
    return MaskSet(
        {name: torch.rand(PARAMETERS[name].shape, generator=generator) < 0.3 for name in ("a.weight", "b.weight")}
    )


@pytest.fixture
def saved(tmp_path: Path, masks: MaskSet) -> Path:
    save_masks(tmp_path, masks, PARAMETERS, made_by={"method": "RigL", "seed": 0})
    return tmp_path


def edit_report(directory: Path, **tensor: object) -> None:
    report = json.loads((directory / REPORT_FILE).read_text())
    report["tensors"]["a.weight"] |= tensor
    (directory / REPORT_FILE).write_text(json.dumps(report))


def test_masks_come_back_bit_for_bit(saved: Path, masks: MaskSet) -> None:
    loaded = load_masks(saved)
    assert list(loaded) == list(masks)
    assert all(torch.equal(loaded[name], masks[name]) for name in masks)


def test_the_file_takes_one_bit_a_weight(saved: Path) -> None:
    assert {name: bits.numel() for name, bits in load_file(saved / MASKS_FILE).items()} == {"a.weight": 2, "b.weight": 2}


def test_the_report_counts_the_whole_model(saved: Path, masks: MaskSet) -> None:
    report = json.loads((saved / REPORT_FILE).read_text())
    nnz = masks.nnz()
    assert report["parameters"] == 15 + 16 + 9
    assert report["nonzeros"] == nnz["a.weight"] + nnz["b.weight"] + 9
    assert report["sparsity"] == pytest.approx(1 - report["nonzeros"] / 40)
    assert report["tensors"]["a.weight"] == {"shape": [3, 5], "nnz": nnz["a.weight"], "density": nnz["a.weight"] / 15}
    assert report["made_by"] == {"method": "RigL", "seed": 0}


def test_a_directory_without_masks_has_none(tmp_path: Path) -> None:
    assert load_masks(tmp_path) is None


def test_other_tensor_names_are_refused(saved: Path) -> None:
    packed = load_file(saved / MASKS_FILE)
    save_file({"a.weight": packed["a.weight"]}, saved / MASKS_FILE)
    with pytest.raises(ValueError, match="name different tensors"):
        load_masks(saved)


def test_other_counts_are_refused(saved: Path) -> None:
    edit_report(saved, nnz=15)
    with pytest.raises(ValueError, match="does not have the non-zeros"):
        load_masks(saved)


def test_other_shapes_are_refused(saved: Path) -> None:
    edit_report(saved, shape=[30, 5])
    with pytest.raises(ValueError, match=r"not a packed mask of shape \(30, 5\)"):
        load_masks(saved)


@pytest.mark.parametrize("shape", [["a", "b"], "rows", [-1, 5], 15, None])
def test_what_is_no_shape_is_refused_with_the_name_of_the_file(saved: Path, shape: object) -> None:
    edit_report(saved, shape=shape)
    with pytest.raises(ValueError, match=rf"({REPORT_FILE}|{MASKS_FILE}): .*"):
        load_masks(saved)


def test_masks_without_their_report_are_refused(saved: Path) -> None:
    (saved / REPORT_FILE).unlink()
    with pytest.raises(ValueError, match=f"{MASKS_FILE} without {REPORT_FILE}"):
        load_masks(saved)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"tensors": 3}', '{"tensors": {"a.weight": {}}}', '{"tensors": {"a.weight": 1}}']
)
def test_a_broken_report_is_refused_in_one_line(saved: Path, content: str) -> None:
    (saved / REPORT_FILE).write_text(content)
    with pytest.raises(ValueError, match=rf"{REPORT_FILE}: not a report of masks"):
        load_masks(saved)


@pytest.mark.parametrize("length", [0, 7, 30, -1])
def test_a_cut_off_file_of_masks_is_refused(saved: Path, length: int) -> None:
    file = saved / MASKS_FILE
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ValueError, match=rf"{MASKS_FILE}: not a whole safetensors file"):
        load_masks(saved)


def test_settings_that_are_not_json_are_written_as_text(tmp_path: Path, masks: MaskSet) -> None:
    save_masks(tmp_path, masks, dict(masks), {"method": "Mine", "prior": Path("scores")})
    assert json.loads((tmp_path / REPORT_FILE).read_text())["made_by"]["prior"] == "scores"
