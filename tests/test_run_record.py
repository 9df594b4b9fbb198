"""``summary.json`` is written whole and read back as it was; what is broken is one line; names come from directories."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from run_record import LARGEST, RunRecord, experiment_name, model_name

PLAIN = {"experiment": "sparse_80", "status": "finished"}
FULL = RunRecord(
    **PLAIN,
    error="RuntimeError: no",
    seed=0,
    steps=4,
    skipped_steps=1,
    tokens=1024,
    seconds=2.5,
    train_seconds=2.0,
    tokens_per_second=512.0,
    parameters=10,
    nonzeros=2,
    sparsity={"model": 0.8, "encoder": 1 / 3},
    masks="RigL(every=50)",
    average_density=0.2,
    eval_step=4,
    eval_loss=2.1380000000000003,
    perplexity=8.48,
    unigram_loss=6.1,
    loss_per_word=3.2,
    loss_per_character=0.6,
    test_loss=2.2,
    test_perplexity=9.03,
    test_loss_per_word=3.3,
    test_loss_per_character=0.62,
    task="CoLA",
    metrics={"matthews": 0.0},
    thresholds={"f1": -1.5},
    degenerate=False,
    pretrained="runs/dense/version_0/export",
    pretrained_name="base",
    flops_per_step=10**15,
    sparse_flops_per_step=10**14,
    saved_flops=10**17,
    peak_memory_mb=100.5,
    matmul="MKL",
    versions={"torch": "2.13.0"},
    revision="0123456789ab-dirty",
    command="train.py fit",
)


def write(directory: Path, content: str | bytes | dict[str, object]) -> Path:
    file = directory / "summary.json"
    text = json.dumps(content) if isinstance(content, dict) else content
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert all(getattr(FULL, field.name) not in (None, {}) for field in dataclasses.fields(FULL))  # or this shows nothing
    FULL.write(tmp_path / "run")
    assert RunRecord.read(tmp_path / "run" / "summary.json") == RunRecord.find(tmp_path / "run") == FULL
    assert list(json.loads((tmp_path / "run" / "summary.json").read_text())) == [f.name for f in dataclasses.fields(FULL)]
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["summary.json"]


def test_what_has_no_meaning_is_absent_and_a_zero_is_not(tmp_path: Path) -> None:
    RunRecord(**PLAIN, tokens=0, degenerate=False, eval_loss=math.nan, perplexity=math.inf).write(tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text()) == PLAIN | {"tokens": 0, "degenerate": False}


def test_a_metric_that_is_not_defined_is_null_in_the_file_and_nan_for_its_readers(tmp_path: Path) -> None:
    RunRecord(**PLAIN, metrics={"pearson": math.nan, "spearman": 0.5}).write(tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["metrics"] == {"pearson": None, "spearman": 0.5}
    metrics = RunRecord.read(tmp_path / "summary.json").metrics
    assert (math.isnan(metrics["pearson"]), metrics["spearman"]) == (True, 0.5)


def test_files_of_other_versions_are_read(tmp_path: Path) -> None:
    """An older one lacks keys, a newer one has more."""
    older = PLAIN | {"seed": 0, "eval_loss": 2, "sparsity": {"model": 0}}
    assert RunRecord.read(write(tmp_path, older)) == RunRecord(**PLAIN, seed=0, eval_loss=2.0, sparsity={"model": 0.0})
    newer = PLAIN | {"watts": [1, 2], "eval_loss": None}
    assert RunRecord.read(write(tmp_path, newer)) == RunRecord(**PLAIN)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"experiment": "a", "sta', "not JSON"),
        ("", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        ('{"a":' * 100_000, "not JSON"),
        ("[1, 2]", "object expected, not list"),
        ({"loss": 1}, "an experiment and a status (running, finished, failed, stopped) expected"),
        ({"experiment": "a"}, "an experiment and a status"),
        (PLAIN | {"experiment": 3}, "an experiment and a status"),
        (PLAIN | {"status": "perhaps"}, "an experiment and a status"),
        (PLAIN | {"status": ["finished"]}, "an experiment and a status"),
        (PLAIN | {"eval_loss": "low"}, "eval_loss: a number expected, not 'low'"),
        (PLAIN | {"nonzeros": True}, "nonzeros: a number expected, not True"),
        (PLAIN | {"eval_loss": 10 * LARGEST}, "eval_loss: a number expected, not 922"),
        (PLAIN | {"sparsity": {"model": "half"}}, "sparsity.model: a number expected, not 'half'"),
        (PLAIN | {"sparsity": 0.8}, "sparsity: an object expected, not 0.8"),
        (PLAIN | {"metrics": [0.5]}, "metrics: an object expected, not [0.5]"),
        (PLAIN | {"metrics": {"f1": "0.5"}}, "metrics.f1: a number expected, not '0.5'"),
        (PLAIN | {"task": ["CoLA"]}, "task: a text expected, not ['CoLA']"),
        (PLAIN | {"degenerate": 1}, "degenerate: true or false expected, not 1"),
        (PLAIN | {"versions": {"torch": 2}}, "versions.torch: a text expected, not 2"),
    ],
)
def test_a_broken_file_is_one_line_or_a_run_that_has_not_begun(
    tmp_path: Path, content: str | bytes | dict[str, object], complaint: str
) -> None:
    file = write(tmp_path, content)
    with pytest.raises(ValueError, match="expected|not JSON") as error:
        RunRecord.read(file)
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200
    assert RunRecord.find(tmp_path) is None


def test_a_run_without_a_file_has_not_begun(tmp_path: Path) -> None:
    assert RunRecord.find(tmp_path / "nowhere") is None
    with pytest.raises(FileNotFoundError):
        RunRecord.read(tmp_path / "summary.json")


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ("runs/sparse_80/version_12", "sparse_80"),
        ("runs/sparse_80", "sparse_80"),
        ("runs/sparse_80/version_final", "version_final"),
    ],
)
def test_an_experiment_is_called_after_its_directory(run: str, name: str) -> None:
    assert experiment_name(Path(run)) == name


@pytest.mark.parametrize(
    ("pretrained", "name"),
    [
        ("runs/bert_100k/version_3/export", "bert_100k"),
        ("runs/bert_100k/version_3/export/", "bert_100k"),
        ("runs/bert_100k/version_3", "bert_100k"),
        ("runs/bert_1mi/version_0/bert_100k", "bert_100k"),  # exported at a step, under this name
        ("/somewhere/base/export", "base"),
        ("/somewhere/base", "base"),
        ("base/export", "base"),
        ("export", "export"),
        ("google-bert/bert-base-cased", "bert-base-cased"),
    ],
)
def test_a_model_is_called_after_its_experiment_or_its_directory(pretrained: str, name: str) -> None:
    assert model_name(pretrained) == name
