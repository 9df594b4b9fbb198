"""Files from strangers: each of these would leave a marker, or read or write elsewhere, and is refused in one line instead."""

import json
import os
import pickle
import re
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import deploy
import report
import sweep
import train
from callbacks.inherited_sparsity import InheritedSparsity
from datamodules.glue_files import GlueFiles
from datamodules.saved import load_saved
from datamodules.sources import TextSource, open_source
from datamodules.tokenizers import load_tokenizer
from deployment import load_model as load_for_latency
from helpers import tiny_experiment
from lightning_modules import MaskedLanguageModel
from lightning_modules.loading import load_model
from objectives.glue import GLUE
from sparsity import MaskSet, load_masks, save_masks
from strangers import check_names, refuse_links_out
from sweeps.record import Record

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:.*is not empty", "ignore:.*not whole", "ignore:.*args parameter.*"
)
QUIET = ("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false")


class Payload:
    """Unpickled, it leaves a marker."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return (_write, (str(self.marker), "run"))


def _write(path: str, text: str) -> int:
    return Path(path).write_text(text)


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """Where payloads would leave their mark; there must be none in the end."""
    place = tmp_path / "marker"
    yield place
    assert not place.exists(), "a stranger's code was run"


@pytest.fixture
def module(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that Python can find, leaving a marker when it is imported."""
    (tmp_path / "modules").mkdir()
    source = f"open({str(marker)!r}, 'w').close()\nfrom pytorch_lightning import Callback\nclass Evil(Callback): pass\n"
    (tmp_path / "modules" / "evil_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    yield "evil_module"
    sys.modules.pop("evil_module", None)


def refused(run: Callable[[list[str]], object], *arguments: object) -> str:
    """The one line that a command ends with."""
    with pytest.raises(SystemExit) as stop:
        run([str(argument) for argument in arguments])
    line = stop.value.code
    assert isinstance(line, str)
    assert line.startswith("error: ")
    assert "\n" not in line
    return line


@pytest.fixture
def export(tmp_path: Path, encoder_dir: Path) -> Path:
    """A copy of an exported model, to be spoilt."""
    directory = tmp_path / "export"
    directory.mkdir()
    for file in encoder_dir.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    return directory


@pytest.fixture
def fit(tmp_path: Path, corpus: Path, tokenizer_dir: Path) -> dict[str, Any]:
    """A complete experiment of two steps."""
    trainer = {"max_steps": 2, "limit_val_batches": 1}
    return tiny_experiment(corpus, tokenizer_dir, tmp_path / "cache", trainer, runs=str(tmp_path / "runs"))


def write(file: Path, content: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return file


def edit(file: Path, **entries: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


# Checkpoints


def checkpoint(kind: str, file: Path, marker: Path) -> None:
    """A file that runs code if it is unpickled without care."""
    if kind == "zip":
        torch.save({"state_dict": {}, "callbacks": {}, "loops": Payload(marker)}, file)
    elif kind == "legacy":
        torch.save({"state_dict": Payload(marker)}, file, _use_new_zipfile_serialization=False)
    elif kind == "pickle":
        file.write_bytes(pickle.dumps(Payload(marker)))
    else:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(f"../../{marker.name}", "run")
            archive.writestr(str(marker), "run")
            archive.writestr("archive/data.pkl", pickle.dumps(Payload(marker)))


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "traversal"])
def test_checkpoints_run_no_code(kind: str, fit: dict[str, Any], tmp_path: Path, marker: Path) -> None:
    config = write(tmp_path / "fit.yaml", fit)
    (tmp_path / "given").mkdir()
    checkpoint(kind, tmp_path / "given" / "evil.ckpt", marker)
    line = refused(train.run, "fit", "--config", config, *QUIET, "--ckpt_path", tmp_path / "given" / "evil.ckpt")
    assert "checkpoint" in line
    assert not list(tmp_path.glob("runs/*"))


def test_neither_an_option_nor_the_environment_makes_checkpoints_run_code(
    fit: dict[str, Any], tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write(tmp_path / "fit.yaml", fit)
    checkpoint("zip", tmp_path / "evil.ckpt", marker)
    line = refused(train.run, "fit", "--config", config, *QUIET, "--ckpt_path=x.ckpt", "--weights_only=false")
    assert "weights_only is False, which would run what a checkpoint brings along" in line
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    refused(train.run, "fit", "--config", config, *QUIET, "--ckpt_path", tmp_path / "evil.ckpt")
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    with pytest.raises(pickle.UnpicklingError):
        MaskedLanguageModel.load_from_checkpoint(tmp_path / "evil.ckpt")


# Configurations


FOREIGN = {
    "callback": {"trainer": {"callbacks": [{"class_path": "evil_module.Evil"}]}},
    "appended": {"trainer": {"callbacks+": ["evil_module.Evil"]}},
    "model": {"model": "evil_module.Evil"},
    "masks": {"masks": {"class_path": "evil_module.Evil", "init_args": {"sparsity": 0.5}}},
    "another file": {"model": "elsewhere.yaml"},
    "a function": {"trainer": {"callbacks": [{"class_path": "LambdaCallback", "init_args": {"setup": "evil_module.f"}}]}},
    "the system": {"trainer": {"callbacks": [{"class_path": "LambdaCallback", "init_args": {"setup": "os.system"}}]}},
    "by a known module": {"trainer": {"callbacks": [{"class_path": "pytorch_lightning.cli.os.system"}]}},
    "a config": {"config": "../../elsewhere.yaml"},
    "a tag of YAML": "!!python/object/apply:builtins.open [{marker}, w]",
}


@pytest.mark.parametrize("case", FOREIGN)
def test_the_config_in_the_directory_of_a_run_names_known_classes_only(
    case: str, fit: dict[str, Any], tmp_path: Path, module: str, marker: Path
) -> None:
    content = FOREIGN[case]
    file = tmp_path / "theirs" / "version_0" / "config.yaml"
    write(file, content.format(marker=marker) if isinstance(content, str) else fit | content)
    line = refused(train.run, "fit", f"--config={file}", *QUIET)
    assert str(file) in line
    assert "may come from somebody else; if you trust it, copy it" in line or "not a configuration in YAML" in line
    assert "evil_module" not in sys.modules
    assert not (tmp_path / "runs").exists()


def test_a_users_own_config_may_name_own_classes(
    fit: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the config that a run of this project has left is one of known classes."""
    (tmp_path / "own_module.py").write_text("from pytorch_lightning import Callback\nclass Mine(Callback): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = write(tmp_path / "fit.yaml", fit | {"masks": {"class_path": "RigL", "init_args": {"sparsity": 0.5}}})
    own = ["--trainer.callbacks+=own_module.Mine", "--trainer.fast_dev_run=true"]
    cli = train.main(["fit", f"--config={config}", *QUIET, *own])
    assert "Mine" in [type(callback).__name__ for callback in cli.trainer.callbacks]
    train.main(["fit", f"--config={config}", *QUIET])
    check_names(tmp_path / "runs" / "tiny" / "version_0" / "config.yaml")


# Exports


def loaders(export: Path) -> dict[str, Callable[[], object]]:
    """Every way in which this project reads the model of a directory."""
    return {
        "a model": lambda: load_model(MaskedLanguageModel.auto, str(export), "model"),
        "a model to time": lambda: load_for_latency(export),
        "masks to inherit": lambda: InheritedSparsity(str(export)).found,
        "a budget": lambda: report.report_budget([str(export)]),
    }


SPOILT: dict[str, Callable[[Path, str], None]] = {
    "code of its own": lambda export, module: edit(
        export / "config.json",
        model_type="evil",
        auto_map={"AutoConfig": f"{module}.Evil", "AutoModelForMaskedLM": "code.Evil"},
    ),
    "code of another repository": lambda export, _: edit(
        export / "config.json", model_type="evil", auto_map={"AutoConfig": "somebody/else--code.Evil"}
    ),
    "attention from elsewhere": lambda export, _: edit(export / "config.json", attn_implementation="somebody/kernel"),
    "not an object": lambda export, _: (export / "config.json").write_text("[]") and None,
    "too deep": lambda export, _: (export / "config.json").write_text('{"a":' * 10_000) and None,
    "sizes below zero": lambda export, _: edit(export / "config.json", hidden_size=-1),
    "a header without end": lambda export, _: (
        (export / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}") and None
    ),
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_models_bring_no_code(
    spoilt: str, export: Path, module: str, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (export / "code.py").write_text(f"open({str(marker)!r}, 'w').close()")
    (export / f"{module}.py").write_text(f"open({str(marker)!r}, 'w').close()")
    SPOILT[spoilt](export, module)
    for name, load in loaders(export).items():
        with pytest.raises(ValueError, match=re.escape(str(export))) as error:
            load()
        assert "\n" not in str(error.value), name
    assert "evil_module" not in sys.modules
    assert "Do you wish to run" not in capsys.readouterr().out


def test_weights_in_a_pickle_run_no_code(export: Path, marker: Path) -> None:
    (export / "model.safetensors").unlink()
    torch.save({"bert.embeddings.word_embeddings.weight": Payload(marker)}, export / "pytorch_model.bin")
    torch.save(Payload(marker), export / "optimizer.pt")
    torch.save(Payload(marker), export / "training_args.bin")
    for name, load in loaders(export).items():
        with pytest.raises(ValueError, match=re.escape(str(export))):
            load()
        assert name


@pytest.mark.parametrize("named", ["pipeline", "Trainer", "os", "AutoModel", "BertTokenizer", 3])
def test_an_architecture_is_a_model(named: object, export: Path) -> None:
    """Whatever transformers exports would be called with the config otherwise."""
    edit(export / "config.json", architectures=[named])
    for load in (lambda: load_for_latency(export), lambda: report.report_budget([str(export)])):
        with pytest.raises(ValueError, match="as architecture; expected a model of transformers"):
            load()


TOKENIZERS: dict[str, dict[str, object]] = {
    "code of its own": {"auto_map": {"AutoTokenizer": ["code.Evil", "code.Evil"]}, "tokenizer_class": "Evil"},
    "another class": {"tokenizer_class": "os.system"},
    "a class that is none": {"tokenizer_class": ["BertTokenizer"]},
    "a template": {"chat_template": "{{ cycler.__init__.__globals__.os.system('touch MARKER') }}"},
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_tokenizers_bring_no_code(case: str, export: Path, marker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What can be had without it is had without it; all else is refused in one line."""
    (export / "code.py").write_text(f"open({str(marker)!r}, 'w').close()")
    entries = json.loads(json.dumps(TOKENIZERS[case]).replace("MARKER", str(marker)))
    edit(export / "tokenizer_config.json", **entries)
    try:
        tokenizer = load_tokenizer(str(export))
    except ValueError as error:
        line = str(error)
    else:
        line = f"{export}"
        assert tokenizer.encode("sparse weights")[1:-1]
        assert type(tokenizer).__module__.startswith("transformers.")
    assert line.startswith(str(export))
    assert "\n" not in line
    assert "Do you wish to run" not in capsys.readouterr().out


@pytest.mark.parametrize("content", ["{", "[]", '{"model": {"type": "Evil"}}', '{"a":' * 10_000, ""])
def test_a_broken_tokenizer_is_one_line(content: str, export: Path) -> None:
    (export / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=re.escape(f"{export}: no tokenizer there")) as error:
        load_tokenizer(str(export))
    assert "\n" not in str(error.value)


# Masks and packed files


def masked(export: Path) -> Path:
    weights = load_file(export / "model.safetensors")
    name = next(name for name in weights if name.endswith("query.weight"))
    mask = MaskSet({name: torch.ones_like(weights[name], dtype=torch.bool)})
    save_masks(export, mask, weights, {"method": "none"})
    return export


@pytest.mark.parametrize("size", [2**63, 2**40, 100_000_001, 3])
def test_a_header_that_lies_about_its_length_takes_no_memory(size: int, export: Path) -> None:
    masked(export)
    packed = export.parent / "packed"
    deploy.main(["pack", str(export), str(packed)])
    for file, command in (
        (export / "sparsity_masks.safetensors", (report.run, "masks", export)),
        (export / "model.safetensors", (deploy.run, "pack", export, export.parent / "again")),
        (packed, (deploy.run, "unpack", packed, export.parent / "copy")),
    ):
        whole = file.read_bytes()
        file.write_bytes(struct.pack("<Q", size) + whole[8:])
        assert str(file) in refused(*command)
        file.write_bytes(whole)
    assert not (export.parent / "copy").exists()
    assert not (export.parent / "again").exists()


@pytest.mark.parametrize(
    "shape", [[2**62, 4], [2**32, 2**32], [0, 2**70], [1e300, 1], [True, 8], ["8"], [1] * 100, [-1, -8]]
)
def test_a_mask_of_an_impossible_shape_takes_no_memory(shape: list[object], export: Path) -> None:
    file = masked(export) / "sparsity.json"
    written = json.loads(file.read_text())
    next(iter(written["tensors"].values()))["shape"] = shape
    file.write_text(json.dumps(written))
    with pytest.raises(ValueError, match="is not the shape of a tensor"):
        load_masks(export)


@pytest.mark.parametrize("name", ["../marker.json", "/tmp/marker.json", "a/../marker.json", ".", "run.py", "marker"])
def test_a_packed_file_writes_nothing_outside_its_directory(name: str, export: Path, marker: Path, tmp_path: Path) -> None:
    deploy.main(["pack", str(export), str(tmp_path / "packed")])
    from deployment.compressed import FORMAT, checksum
    from sparsity import read_safetensors

    stored, metadata = read_safetensors(tmp_path / "packed")
    stored[f"files/{name}"] = torch.zeros(3, dtype=torch.uint8)
    header = json.loads(metadata[FORMAT])
    header["sha256"] = checksum(header, stored)
    save_file(stored, tmp_path / "packed", {FORMAT: json.dumps(header)})
    before = set(tmp_path.iterdir())
    assert "is none that a model has beside it" in refused(deploy.run, "unpack", tmp_path / "packed", tmp_path / "copy")
    assert set(tmp_path.iterdir()) == before


def test_a_link_is_not_packed(export: Path, tmp_path: Path) -> None:
    """Or a model that is passed on would carry a file that its owner did not mean to."""
    (tmp_path / "secret.json").write_text('"secret"')
    (export / "notes.json").symlink_to(tmp_path / "secret.json")
    line = refused(deploy.run, "pack", export, tmp_path / "packed")
    assert f"{export / 'notes.json'} is a link out of {export}" in line
    assert not (tmp_path / "packed").exists()


# Data sets


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    texts = datasets.Dataset.from_dict({"text": ["one", "two"]})
    texts.save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("filename", ["../elsewhere.arrow", "/etc/passwd", "a/b.arrow", "", 3, None])
def test_a_saved_data_set_reads_its_own_files(filename: object, saved: Path, tmp_path: Path) -> None:
    edit(saved / "state.json", _data_files=[{"filename": filename}])
    for read in (
        lambda: open_source(TextSource(str(saved)), tmp_path / "cache"),
        lambda: load_saved(saved),
    ):
        with pytest.raises(ValueError, match=f"{saved}: not a whole save_to_disk directory") as error:
            read()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("state.json", "{"),
        ("state.json", "[]"),
        ("state.json", '{"_data_files": 3}'),
        ("state.json", '{"a":' * 10_000),
        ("dataset_info.json", '{"features": {"text": {"_type": "os.system"}}}'),
        ("dataset_info.json", '{"features": {"text": {"_type": "Path"}}}'),
        ("data-00000-of-00001.arrow", "no arrow"),
    ],
)
def test_a_broken_data_set_is_one_line(file: str, content: str, saved: Path, tmp_path: Path) -> None:
    (saved / file).write_text(content)
    with pytest.raises(ValueError, match=f"{saved}: ") as error:
        open_source(TextSource(str(saved)), tmp_path / "cache")
    assert "\n" not in str(error.value)


def test_splits_outside_a_data_set_are_refused(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "all" / "cola").mkdir(parents=True)
    for folder in ("all", "all/cola"):
        (tmp_path / folder / "dataset_dict.json").write_text('{"splits": ["../saved"]}')
    with pytest.raises(ValueError, match=r"'\.\./saved' is no name of a file in this directory"):
        open_source(TextSource(str(tmp_path / "all")), tmp_path / "cache")
    with pytest.raises(ValueError, match=r"'\.\./saved' is no name of a file in this directory"):
        GlueFiles(GLUE["CoLA"], str(tmp_path / "all"))


def test_pictures_are_not_fetched(tmp_path: Path) -> None:
    """A column of them names paths and addresses, which reading a row would open."""
    features = datasets.Features({"text": datasets.Image()})
    rows = datasets.Dataset.from_dict({"text": [{"bytes": None, "path": str(tmp_path / "private.png")}]}, features=features)
    (tmp_path / "private.png").touch()
    rows.save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="column 'text' is of Image, text or numbers expected"):
        open_source(TextSource(str(tmp_path / "saved")), tmp_path / "cache")


def test_a_gz_that_holds_too_much_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    from datamodules import documents

    for constant in ("ROW_CHARACTERS", "ARRAY_CHARACTERS"):
        monkeypatch.setattr(documents, constant, 1 << 16)
    bomb = "a" * (1 << 20)
    for name, text, message in (
        ("rows.jsonl.gz", f'{{"text": "{bomb}"}}', "rows.jsonl.gz:1: a row of 65,536 characters or more"),
        ("rows.json.gz", f'[{{"text": "{bomb}"}}]', "rows.json.gz: an array of 65,536 characters or more"),
        ("rows.csv.gz", f'text\n"{bomb}"\n', "rows.csv.gz:2: not readable as csv: field larger than field limit"),
    ):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
        with pytest.raises(ValueError, match=re.escape(message)):
            list(open_source(TextSource(str(tmp_path / name)), tmp_path / "cache").pieces())
    (tmp_path / "text.txt.gz").write_bytes(gzip.compress(bomb.encode()))
    pieces = list(open_source(TextSource(str(tmp_path / "text.txt.gz")), tmp_path / "cache").pieces())
    assert sum(len(text) for text, _ in pieces) == len(bomb)


# Caches


def token_cache(cache: Path) -> Path:
    (directory,) = (path for path in cache.glob("tokens-*") if path.is_dir())
    return directory


def lying_npy(file: Path, marker: Path) -> None:
    """Ten thousand billion numbers, by the header."""
    with file.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<i8", "fortran_order": False, "shape": (10**13,)})


def pickled_npy(file: Path, marker: Path) -> None:
    np.save(file, np.array([Payload(marker)], dtype=object), allow_pickle=True)


@pytest.mark.parametrize("spoil", [lying_npy, pickled_npy])
def test_a_poisoned_token_cache_is_made_again(
    spoil: Callable[[Path, Path], None], text_data: Callable[..., Any], marker: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    text_data(cache_dir=str(cache)).setup("fit")
    whole = {file.name: file.read_bytes() for file in token_cache(cache).iterdir()}
    spoil(token_cache(cache) / "train_counts.npy", marker)
    meta = json.loads(whole["meta.json"])
    (token_cache(cache) / "meta.json").write_text(json.dumps(meta))
    text_data(cache_dir=str(cache)).setup("fit")
    assert {file.name: file.read_bytes() for file in token_cache(cache).iterdir()} == whole


def test_splits_outside_a_token_cache_are_not_read(text_data: Callable[..., Any], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    text_data(cache_dir=str(cache)).setup("fit")
    directory = token_cache(cache)
    whole, meta = (directory / "meta.json").read_bytes(), json.loads((directory / "meta.json").read_text())
    (directory / "train.bin").rename(cache / "train.bin")
    meta["splits"]["../train"] = meta["splits"]["train"]
    (directory / "meta.json").write_text(json.dumps(meta))
    text_data(cache_dir=str(cache)).setup("fit")
    assert (directory / "meta.json").read_bytes() == whole
    assert (directory / "train.bin").exists()


# Directories of runs and sweeps


@pytest.mark.parametrize(
    "place", [".export.partial", "checkpoints", "summary.json.partial", "export/config.json", "config.yaml"]
)
def test_a_run_does_not_write_through_a_link(place: str, fit: dict[str, Any], tmp_path: Path) -> None:
    run, outside = tmp_path / "runs" / "tiny" / "version_0", tmp_path / "outside"
    outside.mkdir()
    (run / place).parent.mkdir(parents=True, exist_ok=True)
    (run / place).symlink_to(outside)
    config = write(tmp_path / "fit.yaml", fit)
    line = refused(train.run, "fit", f"--config={config}", *QUIET, "--version=0")
    assert f"{run / place} is a link out of {run}, to {outside}" in line.replace(str(tmp_path.resolve()), str(tmp_path))
    assert not list(outside.iterdir())


def test_links_within_a_directory_may_stay(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "step=2.ckpt").touch()
    (tmp_path / "run" / "checkpoints" / "last.ckpt").symlink_to("step=2.ckpt")
    (tmp_path / "run" / "loop").symlink_to(".")
    (tmp_path / "link").symlink_to("run")
    refuse_links_out(tmp_path / "run")
    refuse_links_out(tmp_path / "link")
    refuse_links_out(tmp_path / "nowhere")
    (tmp_path / "run" / "loop2").symlink_to("loop2")
    refuse_links_out(tmp_path / "run")


def sweep_json(**trial: object) -> dict[str, object]:
    entry = {"task": "CoLA", "seed": 0, "settings": {}, "start": "", "run": "CoLA_seed=0/version_0", "status": "finished"}
    header = {"name": "p", "model": "m", "protocol": "protocol", "pretrained": "", "extra": [], "tasks": {}}
    name = trial.pop("name", "CoLA_seed=0")
    return header | {"trials": {name: entry | trial}}


@pytest.mark.parametrize(
    "trial",
    [
        {"name": "../../victim", "run": "../../victim/version_0"},
        {"name": "/etc", "run": "/etc/version_0"},
        {"name": "..", "run": "../version_0"},
        {"run": "../../victim/version_0"},
        {"run": 3},
        {"settings": []},
        {"status": ["finished"]},
        {"task": {}},
    ],
)
def test_a_trial_is_a_directory_of_its_sweep(trial: dict[str, object], tmp_path: Path, export: Path) -> None:
    (tmp_path / "fit.yaml").touch()
    file = write(tmp_path / "protocol.yaml", {"config": "fit.yaml", "tasks": {"CoLA": None}})
    (tmp_path / "runs" / "p").mkdir(parents=True)
    content = json.dumps(sweep_json(**trial))
    (tmp_path / "runs" / "p" / "sweep.json").write_text(content)
    with pytest.raises(ValueError, match=r"sweep\.json: not the record of a sweep"):
        Record.load(tmp_path / "runs" / "p")
    line = refused(sweep.run, f"--config={file}", f"--pretrained={export}", f"--runs={tmp_path / 'runs'}", "--name=p")
    assert "sweep.json: not the record of a sweep" in line
    assert (tmp_path / "runs" / "p" / "sweep.json").read_text() == content


def test_a_sweep_does_not_write_through_a_link(tmp_path: Path, export: Path) -> None:
    """The log of a trial is appended to: it could be any file of the user's."""
    (tmp_path / "fit.yaml").touch()
    file = write(tmp_path / "protocol.yaml", {"config": "fit.yaml", "tasks": {"CoLA": None}})
    trial = tmp_path / "runs" / "p" / "CoLA_seed=0"
    trial.mkdir(parents=True)
    (victim := tmp_path / "profile").write_text("mine\n")
    (trial / "log.txt").symlink_to(victim)
    line = refused(sweep.run, f"--config={file}", f"--pretrained={export}", f"--runs={tmp_path / 'runs'}", "--name=p")
    assert f"{trial / 'log.txt'} is a link out of" in line
    assert victim.read_text() == "mine\n"


@pytest.mark.parametrize("target", ["summary.json", "/dev/null", "nowhere"])
def test_a_summary_that_is_a_link_without_end_is_skipped(target: str, tmp_path: Path) -> None:
    (tmp_path / "a" / "version_0").mkdir(parents=True)
    os.symlink(target, tmp_path / "a" / "version_0" / "summary.json")
    assert "summary.json" in refused(report.run, tmp_path)
