"""Mistakes at all four entry points: one line that names the thing and what to do, exit code 1, and nothing half-written."""

import json
import os
import subprocess
import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow
import pytest
import torch
import yaml
from pyarrow.parquet import write_table
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

import deploy
import report
import sweep
import train
from cpu import SWITCH
from datamodules.tokenizers import train_tokenizer
from helpers import CONFIG, tiny_experiment
from sparsity import MaskSet, save_masks

pytestmark = pytest.mark.filterwarnings("ignore")
ROOT = Path(train.__file__).parent
RUN: dict[str, Callable[[list[str]], object]] = {
    "train": train.run,
    "sweep": sweep.run,
    "report": report.run,
    "deploy": deploy.run,
}
FIT = ("fit", "--config={in}/fit.yaml", "--runs={out}/runs")
GLUE = ("fit", "--config={in}/glue.yaml", "--runs={out}/runs")
SWEEP = ("--config={in}/protocol.yaml", "--runs={out}/runs")
MODEL = "--pretrained={in}/model"
RIGL = (*FIT, "--trainer.callbacks+=RigL")
BUDGET = ("budget", f"--config={ROOT}/configs/experiments/quickstart.yaml")

CASES: dict[str, list[tuple[tuple[str, ...], str]]] = {
    "train": [
        # what is asked for
        ((), "subcommand"),
        (("fitt",), "'fitt'"),
        (("fit", "--data=TextDataModule"), "fit.model"),
        ((*FIT, "--trainer.overfit_batches=1"), "trainer.limit_train_batches is for few batches"),
        ((*FIT, "--config={in}/key.yaml"), "does not accept option 'trainer.max_stepz'"),
        ((*FIT, "--config={in}/nested.yaml"), "'callbacks.RigL': Option 'sparsty' is not accepted"),
        ((*FIT, "--config={in}/syntax.yaml"), "Problems parsing config"),
        ((*FIT, "--config={in}/nowhere.yaml"), "nowhere.yaml: no such file, nor a shipped config of this name"),
        ((*FIT, "--config={in}/folder"), "folder"),
        ((*FIT, "--config={in}/latin1.txt"), "latin1.txt"),
        ((*FIT, "--trainer.max_stepz=3"), "--trainer.max_stepz=3"),
        ((*FIT, "--trainer.max_steps=many"), "trainer.max_steps"),
        ((*FIT, "--trainer.max_steps=-1"), "set trainer.max_steps"),
        ((*FIT, "--trainer.max_steps=0"), "trainer.max_steps"),
        ((*FIT, "--trainer.limit_val_batches=-1"), "limit_val_batches"),
        ((*FIT, "--trainer.accumulate_grad_batches=0"), "accumulate_grad_batches"),
        ((*FIT, "--trainer.precision=int3"), "precision"),
        ((*FIT, "--trainer.accelerator=quantum"), "quantum"),
        ((*FIT, "--trainer.strategy=ddp_on_tuesdays"), "ddp_on_tuesdays"),
        ((*FIT, "--trainer.devices=-2"), "devices"),
        ((*FIT, "--seed_everything=-1"), "seed"),
        ((*FIT, "--version=-3"), "version is -3; expected 0 or more"),
        ((*FIT, "--experiment=../elsewhere"), "experiment is '../elsewhere'; expected a name"),
        ((*FIT, "--experiment="), "experiment is ''; expected a name"),
        ((*FIT, "--runs={in}/file"), "{in}/file"),
        ((*FIT, "--export.directory={in}/file/below"), "file/below is not writable: Not a directory"),
        ((*FIT, "--export.at_steps={{2: checkpoints}}"), "'checkpoints' is no name for an export"),
        ((*FIT, "--export.at_steps={{2: ../up}}"), "'../up' is no name for an export"),
        ((*FIT, "--checkpoint.every_n_train_steps=-1"), "every_n_train_steps"),
        ((*FIT, "--checkpoint.save_top_k=-7"), "save_top_k"),
        # data
        ((*FIT, "--data.path={in}/nowhere.txt"), "nowhere.txt: no such file or directory"),
        ((*FIT, "--data.path={in}/folder"), "folder: no .txt, .jsonl"),
        ((*FIT, "--data.path=nobody/nothing"), "nobody/nothing: neither a data set on this machine"),
        ((*FIT, "--data.path={in}/empty.txt"), "the corpus is empty"),
        ((*FIT, "--data.path={in}/one.txt"), "separate documents by an empty line, or add files"),
        ((*FIT, "--data.path={in}/latin1.txt"), "latin1.txt:3: not UTF-8"),
        ((*FIT, "--data.path={in}/picture.png"), "picture.png: unknown kind of file; one of .txt, .jsonl"),
        ((*FIT, "--data.path={in}/broken.txt.gz"), "broken.txt.gz: not readable as gzip"),
        ((*FIT, "--data.path={in}/rows.csv"), "rows.csv: no column 'text'; there are body, number"),
        ((*FIT, "--data.path={in}/uneven.csv"), "uneven.csv:3: 3 columns, 2 expected (text, number)"),
        ((*FIT, "--data.path={in}/broken.jsonl"), "broken.jsonl:2: not readable as json"),
        ((*FIT, "--data.path={in}/list.jsonl"), "list.jsonl:1: list where a JSON object with the text is expected"),
        ((*FIT, "--data.path={in}/number.jsonl"), "number.jsonl:1"),
        ((*FIT, "--data.path={in}/broken.parquet"), "broken.parquet: not readable as parquet"),
        ((*FIT, "--data.path={in}/numbers.parquet"), "numbers.parquet: row 0"),
        ((*FIT, "--data.path={in}/saved"), "saved: not a whole save_to_disk directory"),
        ((*FIT, "--data.path=[{{name: unknown}}]"), "a source has a path"),
        ((*FIT, "--data.length=33"), "data.length is 33, but the model has positions for 32 tokens only"),
        ((*FIT, "--data.length=2"), "length"),
        ((*FIT, "--data.batch_size=0"), "batch_size"),
        ((*FIT, "--data.num_workers=-1"), "num_workers"),
        ((*FIT, "--data.seed=-1"), "error: seed of 0 or more expected, got -1"),
        ((*FIT, "--data.validation_share=2"), "validation_share"),
        ((*FIT, "--data.masking.rate=2"), "error: masking rate in (0, 1]"),
        ((*FIT, "--data.tokenizer={in}/file"), "file: no tokenizer there"),
        ((*FIT, "--data.tokenizer={in}/nowhere.txt"), "nowhere.txt: no such vocabulary file"),
        ((*FIT, "--data.tokenizer={in}/one.txt"), "one.txt: not a WordPiece vocabulary, one token a line"),
        ((*FIT, "--data.cache_dir={in}/file"), "{in}/file"),
        # model, masks, schedule, teachers
        ((*FIT, "--model.lr=-1"), "error: lr > 0 and weight_decay >= 0 expected, got -1.0 and 0.01"),
        ((*FIT, "--model.config.hidden_size=33"), "hidden size (33) is not a multiple"),
        ((*FIT, "--model.config.num_hidden_layers=none"), "num_hidden_layers"),
        ((*FIT, "--model.config.model_type=gpt5"), "gpt5"),
        ((*FIT, "--model.config=null", "--model.pretrained={in}/folder"), "folder: no"),
        (
            (*FIT, "--model.config=null", "--model.pretrained={in}/headless"),
            "tensors of the encoder are missing or of another shape",
        ),
        ((*FIT, "--trainer.callbacks+=LinearWarmupDecay"), "a second learning-rate schedule beside OneCycleLR"),
        ((*RIGL, "--trainer.callbacks.sparsity=1.5"), "error: sparsity must be in [0, 1), got 1.5"),
        ((*FIT, "--trainer.callbacks+=RigLL"), "there is no class 'RigLL'; there are"),
        ((*FIT, "--masks=RigL", "--masks.targets=[no.such]"), "no.such"),
        ((*FIT, "--masks=RigL", "--masks.every=0"), "every"),
        ((*FIT, "--masks=RigL", "--masks.drop_fraction=2"), "drop_fraction"),
        ((*FIT, "--masks=RigL", "--masks.structure=round"), "round"),
        ((*FIT, "--masks=RigL", "--masks.nonzeros=999999999"), "999,999,999"),
        ((*FIT, "--masks=RigL", "--masks.distribution=even"), "even"),
        ((*FIT, "--trainer.callbacks=null", "--schedule=OneCycleLR", "--schedule.max_lr=-1"), "max_lr"),
        ((*FIT, "--trainer.callbacks=null", "--schedule=OneCycleLR", "--schedule.pct_start=2"), "pct_start"),
        (
            (*FIT, "--distillation.teachers={in}/nowhere"),
            "{in}/nowhere: no such file or directory, where a teacher is expected",
        ),
        ((*FIT, "--distillation.teachers={in}/teacher"), "has another tokenizer"),
        ((*FIT, "--distillation.teachers={in}/model", "--distillation.factor=2"), "factor"),
        ((*FIT, "--distillation.teachers={in}/model", "--distillation.temperature=0"), "temperature"),
        # going on
        ((*FIT, "--ckpt_path={in}/nowhere.ckpt"), "nowhere.ckpt"),
        ((*FIT, "--ckpt_path={in}/folder"), "folder"),
        ((*FIT, "--ckpt_path={in}/file"), "checkpoint"),
        ((*FIT, "--ckpt_path={in}/weights.ckpt"), "checkpoint"),
        (("validate", *FIT[1:], "--ckpt_path=last"), "has no checkpoint yet"),
        # GLUE
        ((*GLUE, "--data.task=COLLA"), "no GLUE task 'COLLA'"),
        ((*GLUE, "--data.path={in}/nowhere"), "{in}/nowhere"),
        ((*GLUE, "--data.task=RTE"), "no RTE there"),
        ((*GLUE, "--data.path={in}/labels"), "train.tsv:2"),
        ((*GLUE, "--data.path={in}/columns"), "train.tsv:2"),
        ((*GLUE, "--model.pretrained={in}/nowhere"), "{in}/nowhere"),
        (("predict", "--config={in}/glue.yaml", "--submission.directory={in}/file"), "{in}/file"),
    ],
    "sweep": [
        ((), "--config"),
        (("--config={in}/nowhere.yaml", "--runs={out}/runs"), "No such file or directory"),
        (("--config={in}/syntax.yaml", "--runs={out}/runs"), "protocol {in}/syntax.yaml"),
        (("--config={in}/latin1.txt", "--runs={out}/runs"), "protocol {in}/latin1.txt"),
        (("--config={in}/list.yaml", "--runs={out}/runs"), "expected keys and values"),
        (("--config={in}/keys.yaml", "--runs={out}/runs"), "unknown key 'epochs'"),
        (("--config={in}/grid.yaml", "--runs={out}/runs"), "the grid is empty"),
        (("--config={in}/both.yaml", "--runs={out}/runs"), "a grid or a search, not both"),
        (("--config={in}/lost.yaml", "--runs={out}/runs"), "is no file"),
        (("--config={in}/seeds.yaml", "--runs={out}/runs"), "seeds is -1"),
        (SWEEP, "--pretrained is missing"),
        ((*SWEEP, "--pretrained={in}/nothing"), "nothing: no such file or directory, where a pretrained model is expected"),
        ((*SWEEP, "--pretrained={in}/folder"), "pretrained: {in}/folder has no config.json"),
        ((*SWEEP, MODEL, "--tasks", "COLLA"), "no task 'COLLA'"),
        ((*SWEEP, MODEL, "--tasks", "RTE"), "RTE is no task of this protocol; it has CoLA"),
        ((*SWEEP, MODEL, "--stages", "tune"), "tune"),
        ((*SWEEP, MODEL, "--rows", "dense"), "dense"),
        ((*SWEEP, MODEL, "--quick"), "--quick"),
        ((*SWEEP, MODEL, "--glue.path={in}"), "--glue.path is for protocols with stages"),
        ((*SWEEP, MODEL, "--start", "MNLI={in}/model"), "--start: nothing here starts from MNLI"),
        ((*SWEEP, MODEL, "--start", "CoLA"), "--start"),
        ((*SWEEP, MODEL, "--data.path=./no/glue"), "--data.path: there is no ./no/glue"),
        ((*SWEEP, MODEL, "--concurrency=none"), "argument --concurrency: invalid int above zero value: 'none'"),
        ((*SWEEP, MODEL, "--stall=-1"), "argument --stall: invalid float above zero value: '-1'"),
        ((*SWEEP, MODEL, "--seeds=0"), "argument --seeds: invalid int above zero value: '0'"),
        ((*SWEEP, MODEL, "--gpus=-1"), "argument --gpus"),
        ((*SWEEP, MODEL, "--retries=-1"), "argument --retries"),
        ((*SWEEP, MODEL, "--cpus=nan"), "argument --cpus"),
        ((*SWEEP, MODEL, "--name=../elsewhere"), "--name is '../elsewhere'; expected a name"),
        ((*SWEEP, MODEL, "--name="), "--name is ''; expected a name"),
        (("--config={in}/protocol.yaml", MODEL, "--runs={in}/file"), "{in}/file"),
        (
            ("--config={in}/protocol.yaml", MODEL, "--runs={in}/sweeps", "--name=torn"),
            "torn/sweep.json: not the record of a sweep",
        ),
        (("--config={in}/protocol.yaml", MODEL, "--runs={in}/sweeps", "--name=other"), "give another --name"),
    ],
    "report": [
        ((), "arguments are required: runs"),
        (("{in}/nowhere",), "no summary.json there or below"),
        (("{in}/torn",), "no summary.json there that can be read"),
        (("{in}/pretrained", "--frmat=csv"), "unrecognized arguments: --frmat"),
        (("{in}/pretrained", "--format=html"), "invalid choice: 'html'"),
        (("{in}/lossless", "--plot={out}/a.png"), "nothing to plot"),
        (("{in}/pretrained", "--plot={out}/nowhere/a.png"), "No such file or directory"),
        (("{in}/pretrained", "--plot={out}/a.table"), "not supported"),
        (("{in}/pretrained", "--plot={in}/folder"), "{in}/folder"),
        (("page", "{in}/pretrained", "--control=b"), "--control: no row 'b'; there are a"),
        (("frontier",), "arguments are required: runs"),
        (("frontier", "{in}/lossless"), "nothing to compare: no finished pretraining run with a loss"),
        (("frontier", "{in}/pretrained", "--plot={out}/a.png"), "no run has its non-zeros or FLOPs"),
        (("lengths", "{in}/pretrained"), "no row 'dense' to compare with"),
        (("curves", "{in}/pretrained"), "arguments are required: --plot"),
        (("curves", "{in}/pretrained", "--plot={out}/a.png"), "left out: no TensorBoard events or metrics.csv"),
        (("curves", "{in}/words", "--plot={out}/a.png"), "metrics.csv: could not convert string to float: 'low'"),
        (("masks",), "arguments are required: run"),
        (("masks", "{in}/pretrained"), "no sparsity_masks.safetensors there"),
        (("masks", "{in}/maskless"), "sparsity_masks.safetensors without sparsity.json"),
        (("masks", "{in}/sparse", "{in}/sparse_otherwise"), "mask"),
        (("budget",), "options of a fit"),
        (("budget", "{in}/folder"), "no exported model there"),
        (("budget", "{in}/headless"), "tensors of the model are in no file"),
        (("budget", "{in}/folder", "{in}/folder"), "one directory of an exported model expected"),
        (("budget", "--config=nowhere.yaml"), "File does not exist"),
        ((*BUDGET, "--masks.sparsity=2"), "sparsity must be in [0, 1), got 2.0"),
        ((*BUDGET, "--masks.sparsity=abc"), "Given value: abc"),
        ((*BUDGET, "--masks.targets=[no.such]"), "matches no parameter"),
        ((*BUDGET, "--vocabulary_size=-5"), "vocabulary_size"),
    ],
    "deploy": [
        ((), "COMMAND"),
        (("pack", "{in}/model"), "arguments are required: file"),
        (("pack", "{in}/folder", "{out}/packed"), "folder: no model.safetensors there; export the model"),
        (("pack", "{in}/damaged", "{out}/packed"), "sparsity_masks.safetensors"),
        (("pack", "{in}/cut", "{out}/packed"), "model.safetensors: not a whole safetensors file"),
        (("pack", "{in}/model", "{in}/file/packed"), "{in}/file"),
        (("pack", "{in}/model", "{in}/folder"), "{in}/folder"),
        (("unpack", "{in}/nowhere", "{out}/copy"), "nowhere"),
        (("unpack", "{in}/file", "{out}/copy"), "file: not a whole safetensors file"),
        (("unpack", "{in}/model/model.safetensors", "{out}/copy"), "not a compressed model"),
        (("unpack", "{in}/packed", "{in}/model"), "model is there already and not empty; name a new directory"),
        (("unpack", "{in}/packed", "{in}/file"), "{in}/file"),
        (("latency", "{in}/folder"), "folder: no exported model there"),
        (("latency", "{in}/cut"), "cut: no exported model there"),
        (("latency", "{in}/model", "--length=1024"), "data.length is 1024, but"),
        (("latency", "{in}/model", "--threads=0"), "must be at least 1"),
        (("latency", "{in}/model", "--batch=x"), "invalid int value: 'x'"),
    ],
}
LISTED = [(entry, arguments, message) for entry, cases in CASES.items() for arguments, message in cases]
EVERYWHERE = {
    "train": (*FIT, "--model.lr=-1"),
    "sweep": SWEEP,
    "report": ("{in}/nowhere",),
    "deploy": ("latency", "{in}/folder"),
}


@pytest.fixture(scope="module")
def inputs(
    tmp_path_factory: pytest.TempPathFactory, corpus: Path, tokenizer_dir: Path, encoder_dir: Path, documents: list[str]
) -> Path:
    """A directory of inputs, nearly all of which are wrong in one way; tests do not change it."""
    root = tmp_path_factory.mktemp("inputs")
    write_text(root, documents)
    write_models(root, encoder_dir, documents)
    write_runs(root)
    cache = tmp_path_factory.mktemp("cache")
    trainer = {"max_steps": 4, "limit_val_batches": 1, "accelerator": "cpu", "enable_progress_bar": False}
    fit = tiny_experiment(corpus, tokenizer_dir, cache, trainer | {"callbacks": [{"class_path": "OneCycleLR"}]})
    glue = {"task": "CoLA", "path": str(root / "cola"), "length": 24, "batch_size": 8, "cache_dir": str(cache)}
    finetune = fit | {"data": {"class_path": "GLUEDataModule", "init_args": glue}}
    finetune["model"] = {"class_path": "SequenceClassifier", "init_args": {"pretrained": str(encoder_dir)}}
    for name, content in {
        "fit": fit,
        "glue": finetune,
        "key": {"trainer": {"max_stepz": 3}},
        "nested": {"trainer": {"callbacks": [{"class_path": "RigL", "init_args": {"sparsty": 0.8}}]}},
        "protocol": {"config": "fit.yaml", "tasks": {"CoLA": None}},
        "keys": {"config": "fit.yaml", "epochs": 3},
        "grid": {"config": "fit.yaml", "tasks": {"CoLA": None}, "grid": {}},
        "both": {"config": "fit.yaml", "grid": {"model.lr": [1]}, "search": {"trials": 1}},
        "lost": {"config": "lost/fit.yaml"},
        "seeds": {"config": "fit.yaml", "seeds": -1},
        "list": ["config"],
    }.items():
        (root / f"{name}.yaml").write_text(yaml.safe_dump(content))
    (root / "syntax.yaml").write_text("trainer: [\n  max_steps: 3\n")
    return root


def write_text(root: Path, documents: list[str]) -> None:
    """Corpora and GLUE files."""
    (root / "folder").mkdir()
    for name, content in {
        "file": b"in the way",
        "empty.txt": b"",
        "one.txt": b"a single document\n",
        "latin1.txt": "one\n\ntwo caf\xe9\n".encode("latin-1"),
        "picture.png": b"\x89PNG",
        "broken.txt.gz": b"\x1f\x8b\x08 and no more",
        "rows.csv": b"body,number\nhello,1\nworld,2\n",
        "uneven.csv": b"text,number\nhello,1\nhello, world,2\n",
        "broken.jsonl": b'{"text": "one"}\n{"text": "tw\n',
        "list.jsonl": b'["text"]\n',
        "number.jsonl": b'{"text": 3}\n',
        "broken.parquet": b"PAR1 and no more",
        "saved/dataset_info.json": b"{}",
        "cola/CoLA/train.tsv": b"a\t1\t\tone sentence\na\t0\t*\tanother sentence\n" * 8,
        "cola/CoLA/dev.tsv": b"a\t1\t\tone sentence\na\t0\t*\tanother sentence\n",
        "cola/CoLA/test.tsv": b"index\tsentence\n0\tone sentence\n",
        "labels/CoLA/train.tsv": b"a\t1\t\tone sentence\na\t7\t*\tanother sentence\n",
        "labels/CoLA/dev.tsv": b"a\t1\t\tone sentence\n",
        "columns/CoLA/train.tsv": b"a\t1\t\tone sentence\na\t0\n",
        "columns/CoLA/dev.tsv": b"a\t1\t\tone sentence\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    write_table(pyarrow.table({"text": [1, 2]}), root / "numbers.parquet")


def write_models(root: Path, encoder_dir: Path, documents: list[str]) -> None:
    """Exports, masks, checkpoints and a packed file."""
    for name in ("model", "cut", "damaged", "maskless", "sparse", "sparse_otherwise", "headless"):
        (root / name).mkdir()
        for file in encoder_dir.iterdir():
            (root / name / file.name).write_bytes(file.read_bytes())
    weights = load_file(root / "model" / "model.safetensors")
    for number, name in enumerate(("damaged", "maskless", "sparse", "sparse_otherwise")):
        matrices = [key for key in weights if key.endswith("query.weight")][: 2 - number // 3]
        save_masks(root / name, MaskSet({key: weights[key] != 0 for key in matrices}), weights, {})
    masks = (root / "damaged" / "sparsity_masks.safetensors").read_bytes()
    (root / "damaged" / "sparsity_masks.safetensors").write_bytes(masks[:-1] + bytes([masks[-1] ^ 1]))
    (root / "maskless" / "sparsity.json").unlink()
    whole = (root / "cut" / "model.safetensors").read_bytes()
    (root / "cut" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    without = {name: weight for name, weight in weights.items() if "layer.0." not in name}
    save_file(without, root / "headless" / "model.safetensors", {"format": "pt"})
    fields = {key: value for key, value in CONFIG.items() if key != "model_type"}
    BertForMaskedLM(BertConfig(**fields, vocab_size=90)).save_pretrained(root / "teacher")
    train_tokenizer(lambda: iter(documents), vocabulary_size=90).save_pretrained(root / "teacher")
    torch.save({"weights": torch.zeros(3)}, root / "weights.ckpt")
    deploy.main(["pack", str(root / "model"), str(root / "packed")])


def write_runs(root: Path) -> None:
    """Summaries and sweeps."""
    plain = {"experiment": "a", "status": "finished", "seed": 0}
    for name, content in {"pretrained": plain | {"eval_loss": 3.0, "steps": 10}, "lossless": plain, "words": plain}.items():
        run = root / name / "a" / "version_0"
        (run / "csv" / "version_0").mkdir(parents=True) if name == "words" else run.mkdir(parents=True)
        (run / "summary.json").write_text(json.dumps(content))
    (root / "words" / "a" / "version_0" / "csv" / "version_0" / "metrics.csv").write_text("step,train/loss\n10,low\n")
    (root / "torn" / "a" / "version_0").mkdir(parents=True)
    (root / "torn" / "a" / "version_0" / "summary.json").write_text('{"experiment": "a", "sta')
    header = {"name": "other", "model": "m", "protocol": "another", "pretrained": "", "extra": [], "trials": {}}
    for name, text in {"torn": '{"name": "torn", "tri', "other": json.dumps(header)}.items():
        (root / "sweeps" / name).mkdir(parents=True)
        (root / "sweeps" / name / "sweep.json").write_text(text)


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As a fresh one: no command line of pytest's, no start of Ray, and in the end what was set in torch as it was."""
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setenv(SWITCH, "0")
    monkeypatch.delenv("TRIFECTA_TRACEBACK", raising=False)
    monkeypatch.setitem(sys.modules, "sweeps.tuning", None)  # an import of it is an error
    monkeypatch.setattr("sweeps.driver.ray_environment", lambda address: {})  # other tests have theirs
    yield
    torch.set_float32_matmul_precision(precision)
    torch.set_num_threads(threads)


def contents(*directories: Path) -> dict[Path, bytes | None]:
    """All files and folders below."""
    paths = (path for directory in directories for path in directory.rglob("*"))
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


def filled(text: str, inputs: Path, out: Path) -> str:
    return text.replace("{in}", str(inputs)).replace("{out}", str(out)).replace("{{", "{").replace("}}", "}")


def test_there_are_enough_of_them() -> None:
    assert len(LISTED) == len({(entry, arguments) for entry, arguments, _ in LISTED}) > 150


@pytest.mark.parametrize(("entry", "arguments", "message"), LISTED)
def test_a_mistake_is_one_line_and_leaves_nothing(
    entry: str,
    arguments: tuple[str, ...],
    message: str,
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = contents(inputs)
    with pytest.raises(SystemExit) as stop:
        RUN[entry]([filled(argument, inputs, tmp_path) for argument in arguments])
    line = stop.value.code
    assert isinstance(line, str)  # which Python prints on stderr, and exits with 1
    assert line.startswith("error: ")
    assert "\n" not in line
    assert len(line) < 600
    assert filled(message, inputs, tmp_path) in line
    printed = capsys.readouterr()
    assert "usage:" not in printed.err
    assert "Traceback" not in printed.err + printed.out
    assert contents(inputs) == before
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize("entry", RUN)
def test_the_traceback_is_there_on_demand(entry: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [filled(argument, inputs, tmp_path) for argument in EVERYWHERE[entry]]
    with pytest.raises(SystemExit, match="^error: "):
        RUN[entry](arguments)
    monkeypatch.setenv("TRIFECTA_TRACEBACK", "1")
    with pytest.raises((ValueError, OSError, ArgumentError)):
        RUN[entry](arguments)


@pytest.mark.parametrize("traceback", ["", "1"])
@pytest.mark.parametrize("entry", ["train", "deploy"])
def test_a_process_ends_with_one_line(entry: str, traceback: str, inputs: Path, tmp_path: Path) -> None:
    arguments = [filled(argument, inputs, tmp_path) for argument in EVERYWHERE[entry]]
    environment = os.environ | {"TRIFECTA_TRACEBACK": traceback, SWITCH: "0"}
    ended = subprocess.run(
        [sys.executable, ROOT / f"{entry}.py", *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ("Traceback" in ended.stderr) == bool(traceback)
    assert traceback or (ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1)
    assert list(tmp_path.iterdir()) == []
