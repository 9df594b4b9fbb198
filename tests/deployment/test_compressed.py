"""Compressed models come back bit for bit, are as small as arithmetic says, and broken files are refused in one line."""

import json
import os
import random
import stat
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from deployment.compressed import (
    FORMAT,
    WEIGHTS_FILE,
    CompressedModel,
    checksum,
    decode,
    encode,
    pack,
    read_compressed,
    unpack,
)
from sparsity import MaskSet, load_masks, save_masks
from sparsity.files import MASKS_FILE, read_safetensors

INTEGER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int8, torch.bool, torch.complex64)
SPECIAL = (-0.0, torch.nan, torch.inf, -torch.inf, 1e-42)


def assert_same_bits(first: Tensor, second: Tensor) -> None:
    assert first.dtype == second.dtype
    assert first.shape == second.shape
    assert torch.equal(first.contiguous().view(INTEGER[first.itemsize]), second.view(INTEGER[second.itemsize]))


def sparse_tensor(shape: tuple[int, ...], density: float, seed: int = 0) -> Tensor:
    """float32 with zeros, and among the rest a few special values."""
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < density)
    for number, value in enumerate(SPECIAL[: tensor.numel()]):
        if density > 0:
            tensor.view(-1)[number * 7 % tensor.numel()] = value
    return tensor


@given(
    shape=st.lists(st.integers(1, 9), max_size=4).map(tuple),
    density=st.sampled_from((0.0, 0.05, 0.2, 0.5, 1.0)),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
)
def test_any_tensor_comes_back_bit_for_bit(shape: tuple[int, ...], density: float, dtype: torch.dtype, seed: int) -> None:
    tensor = sparse_tensor(shape, density, seed)
    tensor = (tensor if dtype.is_floating_point or dtype.is_complex else tensor.nan_to_num(0, 1, -1)).to(dtype)
    parts = encode(tensor)
    assert parts["bits"].numel() == -(-tensor.numel() // 8)
    if not dtype.is_complex:  # of which a part may be -0.0
        assert parts["values"].numel() == tensor.count_nonzero()
    assert_same_bits(decode(parts, tensor.shape), tensor)


def test_an_encoded_tensor_by_hand() -> None:
    tensor = torch.tensor([[0.0, 1.5, 0.0], [-0.0, 0.0, 0.0], [0.0, 0.0, 2.5]], dtype=torch.float16)
    parts = {name: part.tolist() for name, part in encode(tensor).items()}
    assert parts == {"bits": [0b00000010, 0b1], "values": [1.5, 2.5], "negative": [0b00001000, 0]}


def test_a_transposed_tensor_is_encoded_as_it_is_seen() -> None:
    tensor = sparse_tensor((6, 5), 0.3).T
    assert_same_bits(decode(encode(tensor), tensor.shape), tensor)


def test_a_weight_that_is_on_and_zero_is_stored() -> None:
    mask = torch.tensor([True, False, True, False])
    parts = {name: part.tolist() for name, part in encode(torch.tensor([0.0, 0.0, 3.0, 0.0]), mask).items()}
    assert parts == {"bits": [0b0101], "values": [0.0, 3.0]}


def test_a_negative_zero_is_a_value_where_the_mask_is_on_and_a_bit_where_it_is_off() -> None:
    tensor, mask = torch.tensor([-0.0, -0.0, 3.0, 0.0]), torch.tensor([True, False, True, False])
    parts = encode(tensor, mask)
    assert parts["bits"].tolist() == [0b0101]
    assert parts["negative"].tolist() == [0b0010]
    assert_same_bits(decode(parts, (4,)), tensor)


def test_a_weight_times_a_mask_stays_small() -> None:
    """Half of the zeros are negative then: a bit more a weight, not a value."""
    tensor = torch.randn(100, 100, generator=torch.Generator().manual_seed(0))
    tensor *= torch.rand(100, 100, generator=torch.Generator().manual_seed(1)) < 0.1
    parts = encode(tensor)
    assert sum(part.nbytes for part in parts.values()) == 2 * 1250 + 4 * int(tensor.count_nonzero())
    assert_same_bits(decode(parts, (100, 100)), tensor)


@pytest.mark.parametrize("wrong", [1.0, 1e-45, torch.nan])
def test_a_weight_that_is_off_and_not_zero_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="1 of its weights are not 0.0 where its mask is off"):
        encode(torch.tensor([2.0, wrong]), torch.tensor([True, False]))


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"its mask has the shape \(3, 2\), expected \(2, 3\)"):
        encode(torch.zeros(2, 3), torch.ones(3, 2, dtype=torch.bool))


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A directory as an export leaves it: a masked, a sparse without mask, a dense and an integer tensor; small files."""
    directory = tmp_path / "export"
    directory.mkdir()
    mask = torch.rand(40, 30, generator=torch.Generator().manual_seed(1)) < 0.2
    masked = torch.randn(40, 30, generator=torch.Generator().manual_seed(2)) * mask
    masked[mask.nonzero()[0][0], mask.nonzero()[0][1]] = 0.0  # just grown
    tensors = {
        "masked": masked,
        "all_on": torch.randn(4, 4, generator=torch.Generator().manual_seed(3)),
        "sparse": sparse_tensor((50, 20), 0.1).bfloat16(),
        "dense": torch.randn(9, 5, generator=torch.Generator().manual_seed(4)),
        "positions": torch.arange(1, 8),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
    }
    save_file(tensors, directory / WEIGHTS_FILE, {"format": "pt"})
    masks = MaskSet({"masked": mask, "all_on": torch.ones(4, 4, dtype=torch.bool)})
    save_masks(directory, masks, tensors, {"method": "RigL"})
    (directory / "config.json").write_text('{"model_type": "bert", "name": "naïve"}', encoding="utf-8")
    (directory / "empty.txt").touch()
    return directory


@pytest.fixture
def packed(export: Path, tmp_path: Path) -> Path:
    pack(export, tmp_path / "model.packed")
    return tmp_path / "model.packed"


def test_a_directory_comes_back_as_it_was(export: Path, packed: Path, tmp_path: Path) -> None:
    unpack(packed, tmp_path / "deep" / "copy")
    copy = tmp_path / "deep" / "copy"
    assert sorted(path.name for path in copy.iterdir()) == sorted(path.name for path in export.iterdir())
    for path in export.iterdir():
        if path.suffix != ".safetensors":
            assert (copy / path.name).read_bytes() == path.read_bytes()
    (before, metadata), (after, copied_metadata) = (read_safetensors(d / WEIGHTS_FILE) for d in (export, copy))
    assert copied_metadata == metadata == {"format": "pt"}
    assert after.keys() == before.keys()
    for name in before:
        assert_same_bits(after[name], before[name])
    masks, copied = load_masks(export), load_masks(copy)
    assert masks is not None
    assert copied is not None
    assert copied.nnz() == masks.nnz()
    assert all(torch.equal(copied[name], masks[name]) for name in masks)


def test_each_tensor_is_stored_in_the_smaller_form(packed: Path) -> None:
    stored = load_file(packed)
    encoded = {name.removesuffix("/bits") for name in stored if name.endswith("/bits")}
    assert encoded == {"masked", "all_on", "sparse"}
    assert {"dense", "positions", "scalar", "empty"} <= stored.keys()
    assert stored["masked/bits"].numel() == 150


def test_what_is_not_carried_is_named(export: Path, tmp_path: Path) -> None:
    (export / "modeling.py").write_text("raise SystemExit")
    (export / "training_args.bin").write_bytes(b"pickle")
    (export / "1_Pooling").mkdir()
    assert pack(export, tmp_path / "packed") == ["1_Pooling", "modeling.py", "training_args.bin"]


def test_a_file_is_replaced_and_a_directory_is_not(export: Path, packed: Path) -> None:
    packed.write_bytes(b"old")
    pack(export, packed)
    assert read_compressed(packed).tensors.keys() == load_file(export / WEIGHTS_FILE).keys()
    with pytest.raises(ValueError, match="export is there already and not empty"):
        unpack(packed, export)


def test_nothing_is_left_of_a_failed_write(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError("no space left")

    before = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr("deployment.compressed.save_file", full)
    with pytest.raises(OSError, match="no space"):
        unpack(packed, tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(("sparsity", "limit"), [(0.8, 0.24), (0.9, 0.14)])
def test_the_size_of_bert_base_by_arithmetic(sparsity: float, limit: float, tmp_path: Path) -> None:
    """A matrix takes density + 1/32 of its fp32 bytes; of BERT-base's 109.5 million parameters 121,344 are in vectors."""
    total, vectors = 109_482_240, 121_344
    share = ((total - vectors) * (1 - sparsity + 1 / 32) + vectors) / total
    assert share < limit - 0.005  # room for a tokenizer of two megabytes
    mask = torch.rand(768, 64, generator=torch.Generator().manual_seed(0)) >= sparsity
    size = sum(part.nbytes for part in encode(torch.ones(768, 64) * mask).values())
    assert size == 768 * 64 // 8 + 4 * int(mask.sum())
    assert size / (768 * 64 * 4) == pytest.approx(1 - sparsity + 1 / 32, abs=0.005)


def rewrite(file: Path, tensors: dict[str, Tensor | None] | None = None, **header: object) -> None:
    """Change tensors (None takes one away) and entries of the header, under a checksum that fits."""
    before, metadata = read_safetensors(file)
    changed = {name: tensor.clone() for name, tensor in before.items()} | (tensors or {})
    stored = {name: tensor for name, tensor in changed.items() if tensor is not None}
    entry = json.loads(metadata[FORMAT]) | header
    save_file(stored, file, {FORMAT: json.dumps(entry | {"sha256": checksum(entry, stored)})})


def shapes(**changed: object) -> dict[str, object]:
    return {"shapes": {"masked": [40, 30], "all_on": [4, 4], "sparse": [50, 20]} | changed}


BYTES = torch.zeros(3, dtype=torch.uint8)
BROKEN = {
    "a value less": ({"masked/values": torch.ones(3)}, {}, "tensor masked: 3 values for"),
    "fewer bits": ({"masked/bits": BYTES}, {}, r"tensor masked: 3 bytes are too few for the shape \(40, 30\)"),
    "more bits": ({"masked/bits": torch.zeros(999, dtype=torch.uint8)}, {}, "tensor masked: 999 bytes"),
    "bits of floats": ({"masked/bits": torch.zeros(150)}, {}, "are not a packed mask"),
    "values in two dimensions": ({"masked/values": torch.ones(3, 3)}, {}, "tensor masked: its parts have other shapes"),
    "scalar bits": ({"masked/bits": torch.tensor(0, dtype=torch.uint8)}, {}, "tensor masked: "),
    "negative zeros too few": ({"sparse/negative": BYTES}, {}, "tensor sparse: 3 bytes"),
    "no bits": ({"masked/bits": None}, {}, "tensor masked: its bits are missing"),
    "no values": ({"masked/values": None}, {}, "tensor masked: its values are missing"),
    "one tensor more": ({"other/values": torch.ones(3)}, {}, "other/values is none that was packed"),
    "a name twice": ({"masked": torch.ones(3)}, {}, "tensor masked is none that was packed"),
    "another shape": ({}, shapes(masked=[40, 31]), "tensor masked: 150 bytes"),
    "a huge shape": ({}, shapes(masked=[2**62, 2**62]), "are too few for the shape"),
    "a shape beyond any": ({}, shapes(masked=[10**400]), "are too few for the shape"),
    "a negative shape": ({}, shapes(masked=[-40, -30]), "a shape in its metadata"),
    "a shape of no elements": ({}, shapes(masked=[0, 2**70]), "a shape in its metadata"),
    "a shape of text": ({}, shapes(masked="40"), "a shape in its metadata"),
    "a shape of truths": ({}, shapes(masked=[True]), "a shape in its metadata"),
    "a shape of 65 dimensions": ({}, shapes(masked=[1] * 65), "a shape in its metadata"),
    "a number for a shape": ({}, shapes(masked=3), "not a compressed model"),
    "a list of shapes": ({}, {"shapes": []}, "not a compressed model"),
    "a name with a slash": ({}, shapes(**{"files/x": [1]}), "a name in its metadata"),
    "the name of the metadata": ({}, shapes(__metadata__=[1]), "a name in its metadata"),
    "a mask of nothing": ({}, {"masked": ["dense"]}, "a mask or an entry"),
    "a mask of a list": ({}, {"masked": [["masked"]]}, "a mask or an entry"),
    "metadata of numbers": ({}, {"metadata": {"format": 3}}, "a mask or an entry"),
    "a newer version": ({}, {"version": 3}, "version 3 of the format; this release reads versions 1 and 2"),
    "a version of text": ({}, {"version": "2"}, "version '2' of the format"),
    "a path upwards": ({"files/../evil.json": BYTES}, {}, "file '../evil.json' is none"),
    "an absolute path": ({"files//tmp/evil.json": BYTES}, {}, "file '/tmp/evil.json' is none"),
    "code": ({"files/modeling.py": BYTES}, {}, "file 'modeling.py' is none"),
    "a pickle": ({"files/pytorch_model.bin": BYTES}, {}, "file 'pytorch_model.bin' is none"),
    "a file of no name": ({"files/": BYTES}, {}, "file '' is none"),
    "a file of floats": ({"files/config.json": torch.zeros(3)}, {}, "file 'config.json' is none"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_in_one_line(case: str, packed: Path, tmp_path: Path) -> None:
    tensors, header, message = BROKEN[case]
    rewrite(packed, tensors, **header)
    with pytest.raises(ValueError, match=message) as error:
        unpack(packed, tmp_path / "copy")
    assert str(error.value).startswith(f"{packed}: ")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "copy").exists()


def test_values_too_wide_for_any_integer_are_refused() -> None:
    with pytest.raises(ValueError, match="complex128"):
        decode({"bits": BYTES, "values": torch.zeros(0, dtype=torch.complex128)}, (24,))


@pytest.mark.parametrize("entry", ["", "{", "3", "[" * 100_000, '{"version": 1}', "null"])
def test_metadata_that_are_not_ours_are_refused(entry: str, tmp_path: Path) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "file", {FORMAT: entry})
    with pytest.raises(ValueError, match="not a compressed model"):
        read_compressed(tmp_path / "file")


def test_a_dense_model_is_not_taken_for_a_compressed_one(export: Path) -> None:
    with pytest.raises(ValueError, match=f"{WEIGHTS_FILE}: not a compressed model"):
        read_compressed(export / WEIGHTS_FILE)


def outcome(file: Path, content: bytes) -> CompressedModel | str:
    """What is read of ``file`` with that content: the model, or the line that refuses it."""
    file.write_bytes(content)
    try:
        return read_compressed(file)
    except ValueError as error:
        return str(error)


def assert_refused_or_the_same(after: CompressedModel | str, before: CompressedModel) -> None:
    if isinstance(after, str):
        assert "\n" not in after
        return
    assert (after.metadata, after.checked) == (before.metadata, True)
    for one, other in ((after.tensors, before.tensors), (after.masks, before.masks), (after.files, before.files)):
        assert one.keys() == other.keys()
        for name in one:
            assert_same_bits(one[name], other[name])


def test_flipped_bits_are_refused_or_harmless(packed: Path) -> None:
    """Five hundred of one bit each, all over the file."""
    whole, model, file = packed.read_bytes(), read_compressed(packed), packed.with_name("damaged")
    bits = random.Random(0).sample(range(8 * len(whole)), 500)
    refused = 0
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        after = outcome(file, damaged)
        assert_refused_or_the_same(after, model)
        refused += isinstance(after, str)
    assert refused > 490  # all but spaces of the header


def test_every_bit_of_the_header_is_refused_or_harmless(packed: Path) -> None:
    whole, model, file = packed.read_bytes(), read_compressed(packed), packed.with_name("damaged")
    for bit in range(8 * (8 + int.from_bytes(whole[:8], "little"))):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        assert_refused_or_the_same(outcome(file, damaged), model)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_byte_that_changed_is_refused_or_harmless(packed: Path, place: float, byte: int) -> None:
    damaged = bytearray(packed.read_bytes())
    damaged[int(place * len(damaged))] = byte
    assert_refused_or_the_same(outcome(packed.with_name("damaged"), damaged), read_compressed(packed))


def test_a_cut_off_or_longer_file_is_refused(packed: Path) -> None:
    whole, file = packed.read_bytes(), packed.with_name("damaged")
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        assert "not a whole safetensors file" in outcome(file, whole[:length])
    assert "not a whole safetensors file" in outcome(file, whole + b"0")


DAMAGED = "damaged: its content does not have the checksum that was packed with it"


def rewrite_without_checksum(file: Path, renamed: dict[str, str], **header: object) -> None:
    """Give tensors other names and the header other entries, under the checksum that was."""
    stored, metadata = read_safetensors(file)
    stored = {renamed.get(name, name): tensor.clone() for name, tensor in stored.items()}
    entry = json.loads(metadata[FORMAT]) | header
    kept = {key: value for key, value in entry.items() if value is not None}
    save_file(stored, file, {FORMAT: json.dumps(kept)})


CHANGED = {
    "swapped tensors": ({"one/bits": "two/bits", "two/bits": "one/bits"}, {}),
    "a tensor under another name": ({"scalar": "skalar"}, {}),
    "another shape of as many elements": ({}, shapes(masked=[30, 40])),
    "a mask less": ({}, {"masked": ["all_on"]}),
    "metadata of another framework": ({}, {"metadata": {"format": "tf"}}),
    "another checksum": ({}, {"sha256": "0" * 64}),
    "a checksum that is none": ({}, {"sha256": 3}),
    "no checksum": ({}, {"sha256": None}),
    "an older version that has a checksum": ({}, {"version": 1}),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_change_that_leaves_the_parts_whole_is_refused(case: str, export: Path, tmp_path: Path) -> None:
    first, second = torch.eye(40), torch.eye(40).flip(0)
    tensors, _ = read_safetensors(export / WEIGHTS_FILE)
    save_file(tensors | {"one": first, "two": second}, export / WEIGHTS_FILE, {"format": "pt"})
    pack(export, tmp_path / "packed")
    renamed, header = CHANGED[case]
    if "shapes" in header:
        header = {"shapes": header["shapes"] | {"one": [40, 40], "two": [40, 40]}}
    rewrite_without_checksum(tmp_path / "packed", renamed, **header)
    with pytest.raises(ValueError, match=DAMAGED) as error:
        unpack(tmp_path / "packed", tmp_path / "copy")
    assert str(error.value).startswith(f"{tmp_path / 'packed'}: ")
    assert not (tmp_path / "copy").exists()


def test_a_file_of_the_first_version_is_read_and_said_to_be_unchecked(packed: Path, tmp_path: Path) -> None:
    model = read_compressed(packed)
    assert unpack(packed, tmp_path / "checked")
    rewrite_without_checksum(packed, {}, version=1, sha256=None)
    assert read_compressed(packed).tensors.keys() == model.tensors.keys()
    assert not unpack(packed, tmp_path / "unchecked")
    assert load_masks(tmp_path / "unchecked") is not None


def test_a_checksum_does_not_depend_on_the_order(packed: Path) -> None:
    stored, metadata = read_safetensors(packed)
    header = json.loads(metadata[FORMAT])
    shuffled = dict(reversed(header.items())) | {"shapes": dict(reversed(header["shapes"].items()))}
    assert checksum(shuffled, dict(reversed(stored.items()))) == header["sha256"]
    assert len(header["sha256"]) == 64


@pytest.mark.parametrize(("umask", "modes"), [(0o022, {0o644, 0o755}), (0o027, {0o640, 0o750})])
def test_what_is_written_has_the_modes_that_the_umask_gives(
    umask: int, modes: set[int], export: Path, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        pack(export, tmp_path / "new" / "packed")
        unpack(tmp_path / "new" / "packed", tmp_path / "new" / "copy")
    finally:
        os.umask(before)
    written = [*(tmp_path / "new").rglob("*")]
    assert len(written) == 7
    for path in written:
        assert stat.S_IMODE(path.stat().st_mode) == (max(modes) if path.is_dir() else min(modes)), path


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda export: (export / WEIGHTS_FILE).unlink(), "no model.safetensors there"),
        (lambda export: (export / WEIGHTS_FILE).write_bytes(b"short"), "not a whole safetensors file"),
        (
            lambda export: save_file({"a": torch.ones(1)}, export / WEIGHTS_FILE),
            f"mask all_on is of no tensor in {WEIGHTS_FILE}",
        ),
        (
            lambda export: save_file({"masked": torch.ones(40, 30), "all_on": torch.ones(4, 4)}, export / WEIGHTS_FILE),
            "tensor masked: .* are not 0.0 where its mask is off",
        ),
        (
            lambda export: [
                (export / MASKS_FILE).unlink(),
                save_file({"a/b": torch.ones(1)}, export / WEIGHTS_FILE),
            ],
            "tensor a/b has a / in its name",
        ),
    ],
)
def test_an_export_that_does_not_fit_together_is_refused(export: Path, tmp_path: Path, damage: object, message: str) -> None:
    damage(export)  # type: ignore[operator]
    with pytest.raises(ValueError, match=message):
        pack(export, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_the_directory_one_is_in_can_be_packed_and_unpacked_into(
    export: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    unpack(packed, Path())
    assert (tmp_path / "here" / WEIGHTS_FILE).is_file()
    (tmp_path / "empty").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "empty")
    unpack(packed, tmp_path / "linked")
    assert (tmp_path / "empty" / WEIGHTS_FILE).is_file()
    snapshot = tmp_path / "hub" / "snapshots" / "one"  # as the hub's cache keeps a model
    (tmp_path / "hub" / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in export.iterdir():
        path.replace(tmp_path / "hub" / "blobs" / path.name)
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", path.name))
    monkeypatch.chdir(snapshot)
    pack(Path(), tmp_path / "again.packed")
    assert (tmp_path / "again.packed").read_bytes() == packed.read_bytes()
