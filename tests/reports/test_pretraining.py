"""Pretraining runs of a model differ in their seeds: the best is shown with the spread, and every run can be reached."""

import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from reports.pretraining import by_model, pretraining_table, runs_table
from reports.results import unfinished_table
from reports.runs import Run, best_run, read_runs
from reports.tables import Table
from run_record import RunRecord

WriteRun = Callable[..., Path]


def runs_below(root: Path) -> list[Run]:
    runs, complaints = read_runs([root])
    assert not complaints
    return runs


def rows(table: Table) -> list[dict[str, str]]:
    columns = [column.replace("\n", " ") for column in table.columns]
    return [dict(zip(columns, row, strict=True)) for row in table.rows]


def test_seeds_are_one_row_with_their_spread(tmp_path: Path, write_run: WriteRun) -> None:
    losses = [3.5, 3.1, 3.3]
    for version, loss in enumerate(losses):
        write_run("sparse", version, seed=version, eval_loss=loss, perplexity=10 * loss, tokens_per_second=1000 * loss)
    write_run("sparse", 3, seed=3, eval_loss=2.0, status="running")
    write_run("dense", eval_loss=3.0, perplexity=20.09)
    dense, sparse = rows(pretraining_table(runs_below(tmp_path)))
    assert sparse == {
        **{"model": "sparse", "encoder zeros": "", "model zeros": "", "non-zeros": "", "runs": "3", "eval loss": "3.1000"},
        **{"median": "3.3000", "mean": "3.3000", "std": f"{statistics.stdev(losses):.4f}"},
        **{"perplexity": "31.00", "unigram loss": "", "tokens/s": "3,100"},
    }
    assert [dense[key] for key in ("runs", "eval loss", "median", "mean", "std")] == ["1", "3.0000", "3.0000", "3.0000", ""]
    assert "median, mean and std" in pretraining_table(runs_below(tmp_path)).notes[0]
    assert best_run(by_model(runs_below(tmp_path))["sparse"]).directory == tmp_path / "sparse" / "version_1"


def test_a_loss_that_is_none_is_never_the_best_and_in_no_mean(tmp_path: Path, write_run: WriteRun) -> None:
    for version, loss in enumerate([{}, {"eval_loss": float("nan")}, {"eval_loss": 5.0}, {"eval_loss": 6.0}]):
        write_run("a", version, **loss)
    (row,) = rows(pretraining_table(runs_below(tmp_path)))
    assert [row[key] for key in ("runs", "eval loss", "median", "mean")] == ["4", "5.0000", "5.5000", "5.5000"]


def test_lengths_of_a_row_are_not_mixed(tmp_path: Path, write_trial: WriteRun) -> None:
    """A run that ended early is one of the length that it was given."""
    for steps, made in ((1000, 1000), (2000, 2000), (2000, 1500)):
        settings = {"trainer.max_steps": steps}
        write_trial(f"a{made}", "RigL", "pretrain", settings, seed=made, steps=made, eval_loss=4 - made / 1000)
    write_trial("b", "dense", "pretrain", seed=0, steps=1000, eval_loss=3.0)
    table = rows(pretraining_table(runs_below(tmp_path)))
    assert [(row["model"], row["runs"], row["eval loss"], row["mean"]) for row in table] == [
        ("RigL, 1,000 steps", "1", "3.0000", "3.0000"),
        ("RigL, 2,000 steps", "2", "2.0000", "2.2500"),
        ("dense", "1", "3.0000", "3.0000"),
    ]
    assert by_model(runs_below(tmp_path)).keys() == {"RigL", "dense"}


def test_without_several_runs_of_a_model_there_is_no_spread(tmp_path: Path, write_run: WriteRun) -> None:
    figures = {"nonzeros": 1234567, "eval_loss": 3.14159, "perplexity": 23.1405, "tokens_per_second": 31000.4}
    write_run("a", sparsity={"model": 0.25, "encoder": 0.8}, **figures)
    write_run("b")
    table = pretraining_table(runs_below(tmp_path))
    assert table.rows == [
        ["a", "0.8000", "0.2500", "1,234,567", "3.1416", "23.14", "", "31,000"],
        ["b", "", "", "", "", "", "", ""],
    ]
    assert not table.notes


def test_unfinished_runs_are_named(tmp_path: Path, write_run: WriteRun) -> None:
    run = write_run("a", status="failed", error="RuntimeError: out\nof memory")
    assert pretraining_table(runs_below(tmp_path)).rows == []
    assert unfinished_table(runs_below(tmp_path)).rows == [[str(run), "a", "", "failed", "RuntimeError: out of memory"]]


def test_every_run_can_be_reached(tmp_path: Path, write_run: WriteRun) -> None:
    cola = write_run("cola", task="CoLA", metrics={"matthews": 0.4}, eval_loss=0.7, pretrained="runs/a/version_1/export")
    done = write_run("a", 0, seed=0, steps=1000, eval_loss=3.1)
    running = write_run("a", 1, seed=1, steps=500, eval_loss=3.6, status="running")
    stuck = write_run("stuck", task="STS-B", metrics={"pearson": None}, eval_loss=float("nan"))
    assert runs_table(runs_below(tmp_path)).rows == [
        [str(done), "a", "", "finished", "0", "1,000", "3.1000", ""],
        [str(running), "a", "", "running", "1", "500", "3.6000", ""],
        [str(cola), "a", "CoLA", "finished", "", "", "0.7000", "40.00"],
        [str(stuck), "stuck", "STS-B", "finished", "", "", "", ""],
    ]


def test_figures_are_whole_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    record = RunRecord(
        experiment="quickstart_teacher",
        status="finished",
        nonzeros=22_615_340,
        sparsity={"encoder": 0.8, "model": 0.7958},
        eval_loss=2.138,
        perplexity=8.48,
        unigram_loss=6.0976,
        tokens_per_second=31_000,
    )
    text = pretraining_table([Run(Path(), record, "quickstart_teacher")]).render("terminal")
    row = "quickstart_teacher 0.8000 0.7958 22,615,340 2.1380 8.48 6.0976 31,000"
    assert text.splitlines()[-1].split() == row.split()
    assert max(map(len, text.splitlines())) <= 80
