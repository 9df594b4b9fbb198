"""Masks saved beside a model come back as they were, or with a clear error."""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from sparsity import MaskSet, load_masks, pack_bits, save_masks
from sparsity.files import MASKS_FILE, REPORT_FILE, apply_umask, sha256

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


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    """Sets the process's umask until the end of the test."""
    before = os.umask(0o022)
    yield lambda mode: os.umask(mode) and None
    os.umask(before)


@pytest.mark.parametrize(("mask", "file_mode", "directory_mode"), [(0o022, 0o644, 0o755), (0o027, 0o640, 0o750)])
def test_files_have_the_mode_that_the_umask_gives(
    mask: int, file_mode: int, directory_mode: int, tmp_path: Path, masks: MaskSet, umask: Callable[[int], None]
) -> None:
    umask(mask)
    save_masks(tmp_path, masks, PARAMETERS, {})
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {file_mode}
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "private" / "script").touch(mode=0o700)
    apply_umask(tmp_path / "private")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "private", tmp_path / "private" / "script")]
    assert modes == [directory_mode, file_mode | 0o700]
    assert os.umask(mask) == mask


def test_masks_of_the_same_counts_under_other_names_are_refused(tmp_path: Path) -> None:
    first, second = torch.tensor([True, False, False]), torch.tensor([False, False, True])
    save_masks(tmp_path, MaskSet({"a": first, "b": second}), {"a": first, "b": second}, {})
    packed = load_file(tmp_path / MASKS_FILE)
    save_file({"a": packed["b"], "b": packed["a"]}, tmp_path / MASKS_FILE)
    with pytest.raises(ValueError, match=f"{MASKS_FILE} is damaged, or not the one of {REPORT_FILE}"):
        load_masks(tmp_path)


def test_a_bit_that_moved_is_refused(saved: Path, masks: MaskSet) -> None:
    """As many weights are on as before."""
    off, on = (
        (mask == value).nonzero()[0].tolist() for mask, value in ((masks["b.weight"], False), (masks["b.weight"], True))
    )
    moved = masks["b.weight"].clone()
    moved[*off], moved[*on] = True, False
    save_file({"a.weight": pack_bits(masks["a.weight"]), "b.weight": pack_bits(moved)}, saved / MASKS_FILE)
    with pytest.raises(ValueError, match="is damaged"):
        load_masks(saved)


def test_another_shape_of_as_many_bytes_is_refused(saved: Path) -> None:
    edit_report(saved, shape=[5, 3])
    with pytest.raises(ValueError, match="is damaged"):
        load_masks(saved)


def test_every_flipped_bit_of_the_masks_is_refused_or_harmless(saved: Path, masks: MaskSet) -> None:
    file = saved / MASKS_FILE
    whole = file.read_bytes()
    refused = []
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        try:
            loaded = load_masks(saved)
        except ValueError as error:
            refused.append(str(error))
        else:
            assert loaded is not None
            assert list(loaded) == list(masks)
            assert all(torch.equal(loaded[name], masks[name]) for name in masks)
    assert not any("\n" in line for line in refused)
    assert len(refused) > 0.9 * 8 * len(whole)


def test_masks_saved_before_there_was_a_digest_still_load(saved: Path, masks: MaskSet) -> None:
    report = json.loads((saved / REPORT_FILE).read_text())
    assert len(report.pop("masks_sha256")) == 64
    (saved / REPORT_FILE).write_text(json.dumps(report))
    loaded = load_masks(saved)
    assert loaded is not None
    assert all(torch.equal(loaded[name], masks[name]) for name in masks)


@given(
    tensors=st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3)),
    others=st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3)),
)
def test_a_digest_is_that_of_the_content(tensors: dict[str, int], others: dict[str, int]) -> None:
    """Equal for equal tensors in any order, and different for different ones."""
    variants = [torch.zeros(2, 2), torch.zeros(4), torch.zeros(4, dtype=torch.int32), torch.zeros(0)]
    first, second = ({name: variants[index] for name, index in chosen.items()} for chosen in (tensors, others))
    assert (sha256(first) == sha256(second)) == (tensors == others)
    assert sha256(first) == sha256(dict(reversed(first.items())))


def test_a_digest_is_of_what_is_seen_of_a_tensor_and_of_the_text() -> None:
    tensor = torch.arange(12.0).view(3, 4)
    assert sha256({"a": tensor.T}) == sha256({"a": tensor.T.contiguous()}) != sha256({"a": tensor.view(4, 3)})
    assert sha256({"a": tensor[1:]}) == sha256({"a": tensor[1:].clone()})
    assert sha256({"a": torch.tensor(1.5)}) != sha256({"a": torch.tensor([1.5])})
    assert sha256({"a": tensor}, "text") != sha256({"a": tensor})


def test_the_digest_by_hand() -> None:
    described = json.dumps(["text", [["a", "torch.uint8", [2]], ["b", "torch.bool", []]]]).encode()
    tensors = {"b": torch.tensor(True), "a": torch.tensor([7, 8], dtype=torch.uint8)}
    assert sha256(tensors, "text") == hashlib.sha256(described + b"\x07\x08\x01").hexdigest()
