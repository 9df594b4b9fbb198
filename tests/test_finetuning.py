"""Finetuning from the command line: one command for every task, its submission, its resume, and one line for every mistake."""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel

import train
from datamodules.tokenizers import train_tokenizer
from fake_glue import LABELS, SUBMISSION_ROWS
from helpers import CONFIG, assert_identical, complaint
from objectives.glue import GLUE

ROOT = Path(__file__).parent.parent
CONFIG_FILE = f"--config={ROOT / 'configs' / 'glue' / 'finetune.yaml'}"
TINY = ("--data.length=24", "--data.batch_size=8", "--trainer.accelerator=cpu")
QUIET = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:.*is not empty", "ignore:.*infer the batch indices"
)


@pytest.fixture(autouse=True, scope="module")
def command_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A directory and a cache of these tests, nothing of pytest's own command line, and the precision as it was."""
    precision = torch.get_float32_matmul_precision()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py"])
        patch.setenv("TRIFECTA_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.chdir(tmp_path_factory.mktemp("work"))
        yield
    torch.set_float32_matmul_precision(precision)


def command(name: str, task: str, path: Path, pretrained: Path | str, *options: str) -> list[str]:
    return [
        name,
        CONFIG_FILE,
        f"--data.task={task}",
        f"--data.path={path}",
        f"--model.pretrained={pretrained}",
        *TINY,
        *QUIET,
        *options,
    ]


@pytest.fixture(scope="module")
def runs(glue_dir: Path, encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of every task, by a command in which nothing else differs; every other task is given its own folder."""
    root = tmp_path_factory.mktemp("runs")
    for number, task in enumerate(GLUE):
        path = glue_dir / task if number % 2 else glue_dir
        train.main(
            command("fit", task, path, encoder_dir, "--trainer.max_epochs=1", f"--runs={root}", f"--experiment={task}")
        )
    return root


def export(runs: Path, task: str) -> Path:
    return runs / task / "version_0" / "export"


@pytest.mark.parametrize("task", GLUE)
def test_every_task_by_the_same_command(runs: Path, task: str) -> None:
    summary = json.loads((runs / task / "version_0" / "summary.json").read_text())
    assert (summary["status"], summary["steps"], summary["task"]) == ("finished", 5, GLUE[task].trained_on or task)
    assert set(summary["metrics"]) == set(GLUE[task].metrics)
    assert "perplexity" not in summary
    config = AutoModelForSequenceClassification.from_pretrained(export(runs, task)).config
    assert tuple(config.id2label.values()) == (GLUE[task].class_names or ("score",))
    assert config.label2id == {name: label for label, name in config.id2label.items()}
    checkpoints = {file.name for file in (runs / task / "version_0" / "checkpoints").iterdir()}
    assert checkpoints == {"last.ckpt", "step=5.ckpt"}


def test_a_submission_of_all_tasks(runs: Path, glue_dir: Path, tmp_path: Path) -> None:
    """MNLI's model answers AX, too."""
    directory = f"--submission.directory={tmp_path}"
    for task in GLUE:
        if task != "AX":
            train.main(command("predict", task, glue_dir, export(runs, task), directory))
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        assert set(archive.namelist()) == {f"{name}.tsv" for name in SUBMISSION_ROWS}
        for name, rows in SUBMISSION_ROWS.items():
            header, *lines = archive.read(f"{name}.tsv").decode().split("\n")[:-1]
            assert header == "index\tprediction"
            index, answers = zip(*(line.split("\t") for line in lines), strict=True)
            assert index == tuple(map(str, range(rows)))
            labels = LABELS[name.split("-m")[0]]
            assert all(answer in labels if labels else 0 <= float(answer) <= 5 for answer in answers)


def test_a_checkpoint_predicts_what_the_export_predicts(
    runs: Path, glue_dir: Path, encoder_dir: Path, tmp_path: Path
) -> None:
    checkpoint = runs / "MNLI" / "version_0" / "checkpoints" / "last.ckpt"
    last = (f"--runs={runs}", "--experiment=MNLI", "--ckpt_path=last")
    ways = {
        "export": command("predict", "MNLI", glue_dir, export(runs, "MNLI")),
        "checkpoint": command("predict", "MNLI", glue_dir, encoder_dir, f"--ckpt_path={checkpoint}"),
        "last": command("predict", "MNLI", glue_dir, encoder_dir, *last),
        "ax": command("predict", "AX", glue_dir / "diagnostic", export(runs, "MNLI")),
    }
    files = {}
    for way, arguments in ways.items():
        train.main([*arguments, f"--submission.directory={tmp_path / way}"])
        files[way] = {file.name: file.read_text() for file in (tmp_path / way).glob("*.tsv")}
    assert files["export"].keys() == {"MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"}
    assert files["export"] == files["checkpoint"] == files["last"]
    assert files["ax"] == {"AX.tsv": files["export"]["AX.tsv"]}


def test_validation_of_an_export_gives_the_scores_of_its_run(runs: Path, glue_dir: Path) -> None:
    cli = train.main(command("validate", "MNLI", glue_dir, export(runs, "MNLI")))
    expected = json.loads((runs / "MNLI" / "version_0" / "summary.json").read_text())["metrics"]
    assert {name: float(cli.trainer.callback_metrics[f"val/{name}"]) for name in expected} == pytest.approx(expected)


def test_a_run_goes_on_where_its_last_epoch_ended(glue_dir: Path, encoder_dir: Path, tmp_path: Path) -> None:
    """Two epochs at once, and one after another."""
    epochs = ("--trainer.max_epochs=1", "--trainer.max_epochs=2")
    fit = command("fit", "RTE", glue_dir, encoder_dir, "--schedule=null")
    train.main([*fit, epochs[1], f"--runs={tmp_path / 'whole'}"])
    for epoch in epochs:
        train.main([*fit, epoch, f"--runs={tmp_path / 'halves'}", "--ckpt_path=last", "--resume.allow=trainer.max_epochs"])
    weights = [
        torch.load(tmp_path / name / "glue/version_0/checkpoints/last.ckpt")["state_dict"] for name in ("whole", "halves")
    ]
    assert_identical(*weights)


def test_a_run_of_one_task_does_not_go_on_as_one_of_another(
    capsys: pytest.CaptureFixture[str], glue_dir: Path, encoder_dir: Path, tmp_path: Path
) -> None:
    """Or the score of one would be filed under the other: all are runs of one experiment."""
    where = (f"--runs={tmp_path}", "--trainer.max_epochs=1")
    train.main(command("fit", "MRPC", glue_dir, encoder_dir, *where))
    summary = (tmp_path / "glue" / "version_0" / "summary.json").read_bytes()
    line = complaint(capsys, *command("fit", "QNLI", glue_dir, encoder_dir, *where, "--ckpt_path=last"))
    assert line.startswith("error: the checkpoint: ")
    assert "MRPC" in line
    assert (tmp_path / "glue" / "version_0" / "summary.json").read_bytes() == summary


@pytest.fixture(scope="module")
def blunders(tmp_path_factory: pytest.TempPathFactory, documents: list[str]) -> Path:
    """Models that do not fit: without a head, with another vocabulary, of few positions, and a file that is none."""
    root = tmp_path_factory.mktemp("blunders")
    fields = {key: value for key, value in CONFIG.items() if key != "model_type"}
    for name, size in (("encoder", 120), ("small", 90)):
        BertModel(BertConfig(**fields, vocab_size=size)).save_pretrained(root / name)
        train_tokenizer(lambda: iter(documents), vocabulary_size=size).save_pretrained(root / name)
    (root / "file").write_text("in the way")
    return root


KD = "--trainer.callbacks+=KnowledgeDistillation"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fit", ["--data.task=SNLI"], "error: no GLUE task 'SNLI'; there are CoLA, SST-2"),
        ("fit", ["--data.path=nowhere"], "error: nowhere: no RTE there"),
        ("fit", ["--model.pretrained=./nowhere"], "error: ./nowhere: no "),
        ("fit", ["--model.pretrained=nobody/nothing"], "error: nobody/nothing: neither a model on this machine"),
        ("fit", ["--model.pretrained={}/file"], "file: no "),
        ("fit", ["--data.length=33"], "encoder has positions for 32 tokens only"),
        ("fit", ["--data.length=3"], "error: length of 8 or more expected, got 3"),
        ("fit", ["--data.batch_size=0"], "error: batch_size of 1 or more expected, got 0"),
        ("fit", ["--model.layer_decay=2"], "layer_decay in (0, 1] expected"),
        ("fit", ["--model.reinitialize_layers=3"], "reinitialize_layers from 0 to 2 expected, got 3"),
        ("fit", ["--trainer.max_epochs=-1"], "finetuning needs an end"),
        ("fit", ["--data.tokenizer={}/small", "--model.pretrained={}/small", "--data.task=STS"], "no GLUE task 'STS'"),
        ("fit", ["--model.pretrained={}/small", "--data.tokenizer={}/encoder"], "the tokenizer has 120 tokens, "),
        ("fit", [KD, "--trainer.callbacks.teachers={}/encoder"], "encoder: no head of RTE there"),
        ("fit", [KD, "--trainer.callbacks.teachers={}/small"], "has another tokenizer"),
        ("predict", [], "encoder: no head of RTE there"),
        ("validate", [], "encoder: no head of RTE there"),
        ("test", [], "encoder: no head of RTE there"),
        ("predict", ["--ckpt_path=nowhere.ckpt"], "nowhere.ckpt"),
        (
            "fit",
            ["--model=MaskedLanguageModel"],
            "MaskedLanguageModel needs the data of a TextDataModule, not of GLUEDataModule",
        ),
    ],
)
def test_a_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str],
    blunders: Path,
    glue_dir: Path,
    tmp_path: Path,
    name: str,
    options: list[str],
    message: str,
) -> None:
    options = [option.format(blunders) for option in options]
    runs = (f"--runs={tmp_path}", f"--submission.directory={tmp_path / 'submission'}")
    assert message in complaint(capsys, *command(name, "RTE", glue_dir, blunders / "encoder", *runs, *options))
    assert not list(tmp_path.rglob("summary.json"))
    assert not list(tmp_path.rglob("*.tsv"))


def test_data_for_pretraining_is_one_line(capsys: pytest.CaptureFixture[str], corpus: Path, encoder_dir: Path) -> None:
    options = ["--model=SequenceClassifier", f"--model.pretrained={encoder_dir}", "--data=TextDataModule", *TINY, *QUIET]
    line = complaint(capsys, "fit", *options, f"--data.path={corpus}", "--trainer.max_steps=3")
    assert "SequenceClassifier needs the data of a GLUEDataModule, not of TextDataModule" in line


Damage = Callable[[bytes], bytes]


def lines(change: Callable[[list[bytes]], list[bytes]]) -> Damage:
    return lambda content: b"".join(change(content.splitlines(keepends=True)))


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (
            "train",
            lines(lambda rows: [rows[0].replace(b"sentence2", b"text"), *rows[1:]]),
            "train.tsv:1: no column 'sentence2'",
        ),
        ("train", lines(lambda rows: [*rows[:4], b"x\t" + rows[4], *rows[5:]]), "train.tsv:5: 5 columns, 4 expected"),
        ("dev", lines(lambda rows: [*rows[:4], b"3\ta sentence\tentailment\n"]), "dev.tsv:5: 3 columns, 4 expected"),
        (
            "dev",
            lines(lambda rows: [*rows[:4], b"3\ta\tb\tneutral\n"]),
            "dev.tsv:5: column 'label': 'neutral' is not one of",
        ),
        ("dev", lines(lambda rows: [*rows[:4], b"3\t\tb\tentailment\n"]), "dev.tsv:5: column 'sentence1' is empty"),
        ("train", lines(lambda rows: [*rows[:4], b"\n", *rows[4:]]), "train.tsv:5: an empty line"),
        ("train", lines(lambda rows: rows[:1]), "train.tsv:1: a header and no row"),
        ("train", lambda content: b"", "train.tsv:1: the file is empty"),
        ("train", lambda content: content.decode().encode("utf-16"), "train.tsv:1: not UTF-8"),
        ("train", lambda content: content.decode().encode("utf-16-le"), "train.tsv:1: a NUL byte"),
        ("dev", lambda content: content + "13\tnaïve\tb\tentailment\n".encode("latin-1"), "dev.tsv:15: not UTF-8"),
        ("dev", None, "no dev.tsv of RTE there, only test.tsv, train.tsv"),
        ("train", None, "no train.tsv of RTE there, only dev.tsv, test.tsv"),
    ],
)
def test_a_broken_file_is_one_line(
    capsys: pytest.CaptureFixture[str],
    glue_dir: Path,
    encoder_dir: Path,
    tmp_path: Path,
    file: str,
    damage: Damage | None,
    message: str,
) -> None:
    shutil.copytree(glue_dir / "RTE", tmp_path / "RTE")
    broken = tmp_path / "RTE" / f"{file}.tsv"
    if damage is None:
        broken.unlink()
    else:
        broken.write_bytes(damage(broken.read_bytes()))
    line = complaint(capsys, *command("fit", "RTE", tmp_path, encoder_dir, f"--runs={tmp_path / 'runs'}"))
    assert line.startswith("error: ")
    assert message in line
    assert not list((tmp_path / "runs").glob("*/*"))
    if damage is not None:
        fixed = shutil.copyfile(glue_dir / "RTE" / f"{file}.tsv", broken)  # and what was wrong is not kept
        train.main(command("fit", "RTE", tmp_path, encoder_dir, f"--runs={tmp_path / 'runs'}", "--trainer.fast_dev_run=1"))
        assert fixed.exists()


def test_a_score_out_of_range_is_one_line(
    capsys: pytest.CaptureFixture[str], glue_dir: Path, encoder_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(glue_dir / "STS-B", tmp_path / "STS-B")
    for score, message in (("5.5", "5.5 is not in [0, 5]"), ("many", "'many' is not a number")):
        rows = (glue_dir / "STS-B" / "dev.tsv").read_text().split("\n")
        rows[3] = "\t".join([*rows[3].split("\t")[:-1], score])
        (tmp_path / "STS-B" / "dev.tsv").write_text("\n".join(rows))
        line = complaint(capsys, *command("fit", "STS-B", tmp_path, encoder_dir, f"--runs={tmp_path / 'runs'}"))
        assert f"dev.tsv:4: column 'score': {message}" in line


@pytest.mark.slow
def test_the_process_ends_with_one_line(glue_dir: Path, encoder_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(glue_dir / "RTE", tmp_path / "RTE")
    with (tmp_path / "RTE" / "train.tsv").open("a") as file:
        file.write("37\tone\ttwo\tthree\tfour\n")
    process = [sys.executable, str(ROOT / "train.py"), *command("fit", "RTE", tmp_path, encoder_dir)]
    ended = subprocess.run(process, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 1
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [ended.stderr.splitlines()[-1]]
    assert "Traceback" not in ended.stderr
    assert "train.tsv:39: 5 columns, 4 expected" in errors[0]
