"""Which runs are found, what they are called, and that broken summaries are named and left out."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from reports.runs import find_summaries, model_name, newest_versions, read_runs

WriteRun = Callable[..., Path]
COLA = {"task": "CoLA", "metrics": {"matthews": 0.5}, "degenerate": False}


def test_versions_come_in_the_order_of_their_numbers(tmp_path: Path, write_run: WriteRun) -> None:
    wanted = [write_run("a", version) for version in (0, 2, 10)]
    other = write_run("b")
    assert [file.parent for file in find_summaries([tmp_path])] == [*wanted, other]
    assert [file.parent for file in find_summaries([tmp_path / "b", tmp_path / "a"])] == [other, *wanted]
    runs, _ = read_runs([tmp_path])
    assert [run.directory for run in newest_versions(runs)] == [wanted[-1], other]


def test_a_run_that_is_named_twice_counts_once(tmp_path: Path, write_run: WriteRun) -> None:
    run = write_run("a")
    assert find_summaries([tmp_path, run, tmp_path / "a", tmp_path / "a" / ".." / "a"]) == [run / "summary.json"]


@pytest.mark.parametrize("missing", [".", "nowhere"])
def test_a_directory_without_runs_is_an_error(tmp_path: Path, missing: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"no summary\.json there or below"):
        find_summaries([tmp_path / missing])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"experiment": "a", "sta', "not JSON"),
        ("", "not JSON"),
        ("\xff\xfe{}".encode("latin-1"), "not JSON"),
        ("[1, 2]", "object expected, not list"),
        ('{"loss": 1}', "an experiment and a status"),
        ('{"experiment": "a"}', "an experiment and a status"),
        ('{"experiment": 3, "status": "finished"}', "an experiment and a status"),
        ('{"experiment": "a", "status": "perhaps"}', "an experiment and a status"),
        ('{"experiment": "a", "status": "finished", "eval_loss": "low"}', "eval_loss: a number expected, not 'low'"),
        ('{"experiment": "a", "status": "finished", "nonzeros": true}', "nonzeros: a number expected, not True"),
        ('{"experiment": "a", "status": "finished", "sparsity": {"model": "half"}}', "sparsity.model: a number expected"),
        ('{"experiment": "a", "status": "finished", "sparsity": 0.8}', "sparsity: an object of numbers"),
        ('{"experiment": "a", "status": "finished", "task": "COLD"}', "no GLUE task 'COLD'"),
        ('{"experiment": "a", "status": "finished", "task": ["CoLA"]}', "task: a name expected"),
        (
            '{"experiment": "a", "status": "finished", "task": "CoLA"}',
            "metrics of a finished run of CoLA expected, matthews among them",
        ),
        (
            '{"experiment": "a", "status": "finished", "task": "MRPC", "metrics": {"accuracy": 0.5}}',
            "expected, f1 among them",
        ),
        (
            '{"experiment": "a", "status": "finished", "eval_loss": ' + "9" * 400 + "}",
            "eval_loss: a number expected, not 999",
        ),
        ('{"a":' * 100_000, "not JSON"),
        ('{"experiment": "a", "status": "running", "task": "CoLA", "metrics": [0.5]}', "metrics of a finished run"),
        ('{"experiment": "a", "status": "finished", "task": "CoLA", "metrics": {"matthews": "0.5"}}', "a number expected"),
    ],
)
def test_broken_summaries_are_one_line_each(
    tmp_path: Path, write_run: WriteRun, content: str | bytes, complaint: str
) -> None:
    good, broken = write_run("good"), tmp_path / "broken" / "version_0"
    broken.mkdir(parents=True)
    (broken / "summary.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    runs, complaints = read_runs([tmp_path])
    assert [run.directory for run in runs] == [good]
    (line,) = complaints
    assert line.startswith(f"{broken / 'summary.json'} skipped: ")
    assert "\n" not in line
    assert complaint in line


@pytest.mark.parametrize(
    ("pretrained", "model"),
    [
        ("runs/sparse_80/version_3/export", "sparse_80"),
        ("runs/sparse_80/version_3/export/", "sparse_80"),
        ("runs/bert_1mi/version_0/bert_100k", "bert_100k"),
        ("/somewhere/kept/export", "kept"),
        ("google-bert/bert-base-cased", "bert-base-cased"),
        (None, "cola"),
    ],
)
def test_a_finetuning_run_is_named_by_what_it_started_from(pretrained: str | None, model: str) -> None:
    summary = {"experiment": "finetuning/cola", "task": "CoLA"} | ({"pretrained": pretrained} if pretrained else {})
    assert model_name(summary) == model


def test_a_pretraining_run_keeps_its_own_name() -> None:
    assert model_name({"experiment": "sparse_80", "pretrained": "runs/dense/version_0/export"}) == "sparse_80"


def test_runs_of_a_sweep_have_its_model(tmp_path: Path, write_run: WriteRun) -> None:
    write_run("sweep/cola_0", **COLA, pretrained="runs/dense/version_0/export")
    write_run("alone", **COLA, pretrained="runs/dense/version_0/export")
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({"name": "sweep", "model": "sparse_80"}))
    assert [run.model for run in read_runs([tmp_path])[0]] == ["dense", "sparse_80"]
    assert [run.model for run in read_runs([tmp_path / "sweep" / "cola_0"])[0]] == ["sparse_80"]


def test_a_broken_record_of_a_sweep_is_named_once(tmp_path: Path, write_run: WriteRun) -> None:
    for seed in range(3):
        write_run(f"sweep/cola_{seed}", **COLA, pretrained="runs/dense/version_0/export")
    (tmp_path / "sweep" / "sweep.json").write_text('{"name": "sw')
    runs, complaints = read_runs([tmp_path])
    assert [run.model for run in runs] == ["dense"] * 3
    assert [line.partition(" skipped")[0] for line in complaints] == [str(tmp_path / "sweep" / "sweep.json")]


def test_a_model_of_mnli_without_all_of_its_sets_or_meant_for_ax_is_one_of_mnli(tmp_path: Path, write_run: WriteRun) -> None:
    write_run("matched", task="MNLI", metrics={"accuracy": 0.8})
    write_run("ax", task="AX", metrics={"accuracy": 0.8, "accuracy_mismatched": 0.7})
    runs, complaints = read_runs([tmp_path])
    assert [(run.task, len(run.metrics)) for run in runs] == [("MNLI", 2), ("MNLI", 1)]
    assert complaints == []


def test_what_is_not_a_number_is_no_metric(tmp_path: Path, write_run: WriteRun) -> None:
    """Pearson's correlation of a model that always says the same."""
    write_run("a", task="stsb", metrics={"pearson": float("nan"), "spearman": None}, degenerate=True)
    ((run,), complaints) = read_runs([tmp_path])
    assert (run.task, run.metrics, run.degenerate, complaints) == ("STS-B", {}, True, [])
