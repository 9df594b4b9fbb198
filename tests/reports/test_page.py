"""The page of results: every figure of a row by hand, what is not in it, and what was tuned."""

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reports.page import page_tables
from reports.runs import Run, read_runs
from reports.tables import Table

WriteRun = Callable[..., Path]
COST = {"flops_per_step": 10**9, "steps": 1000, "tokens": 2_000_000, "parameters": 1000}
LOSSES = {
    "dense": {0: 3.30, 1: 3.34, 2: 3.32},
    "RigL": {0: 3.40, 1: 3.45, 2: 3.41},
    "dense + KD": {0: 3.10, 1: 3.20, 2: 3.12},
}


def runs_below(root: Path) -> list[Run]:
    runs, complaints = read_runs([root])
    assert not complaints
    return runs


def page(root: Path, control: str | None = None) -> dict[str, Table]:
    tables, complaints = page_tables(runs_below(root), control)
    assert not complaints
    return {table.title: table for table in tables}


def rows(table: Table) -> dict[str, dict[str, str]]:
    columns = [column.replace("\n", " ") for column in table.columns]
    return {row[0]: dict(zip(columns, row, strict=True)) for row in table.rows}


def write_rows(write_trial: WriteRun, **further: Any) -> None:
    for row, losses in LOSSES.items():
        sparse = {"nonzeros": 400, "average_density": 0.25, "sparse_flops_per_step": 6 * 10**8}
        cost = COST | (sparse if row == "RigL" else {"nonzeros": 1000})
        for seed, loss in losses.items():
            write_trial(f"{row}_{seed}", row, "pretrain", seed=seed, eval_loss=loss, **cost, **further)


def mean_std(values: list[float], sign: str = "") -> str:
    return f"{statistics.mean(values):{sign}.4f} ± {statistics.stdev(values):.4f}"


def test_every_figure_of_a_row(tmp_path: Path, write_trial: WriteRun) -> None:
    write_rows(write_trial)
    found = rows(page(tmp_path)["Results"])
    assert list(found) == list(LOSSES)
    own, control = LOSSES["RigL"], LOSSES["dense + KD"]
    assert found["RigL"] == {
        "model": "RigL",
        "seeds": "3",
        "eval loss": mean_std(list(own.values())),
        "eval loss − dense + KD": mean_std([own[seed] - control[seed] for seed in own], "+"),
        "perplexity": f"{math.exp(3.42):.2f}",
        "on-params": "400",
        "average density": "0.250",
        "tokens": "2,000,000",
        "FLOPs dense": "1.00e12",
        "FLOPs sparse": "5.50e11",  # 0.4 + 0.25 · 0.6
    }
    assert found["dense + KD"]["eval loss − dense + KD"] == "control"
    dense = found["dense"]
    assert (dense["on-params"], dense["average density"], dense["FLOPs sparse"]) == ("1,000", "1.000", "1.00e12")


def test_the_control_is_dense_or_what_is_asked_for_and_without_one_there_is_no_difference(
    tmp_path: Path, write_trial: WriteRun
) -> None:
    write_trial("RigL_0", "RigL", "pretrain", seed=0, eval_loss=3.4)
    assert list(rows(page(tmp_path)["Results"])["RigL"])[:4] == ["model", "seeds", "eval loss", "perplexity"]
    for seed in (0, 5):
        write_trial(f"dense_{seed}", "dense", "pretrain", seed=seed, eval_loss=3.3)
    assert rows(page(tmp_path)["Results"])["RigL"]["eval loss − dense"] == "+0.1000"
    asked = rows(page(tmp_path, "RigL")["Results"])["dense"]
    assert asked["eval loss − RigL"] == "-0.1000 (1)"  # of two seeds one has a partner
    with pytest.raises(ValueError, match="--control: no row 'dense \\+ KD'; there are RigL, dense"):
        page(tmp_path, "dense + KD")


def test_the_header_says_which_loss_it_is_and_a_cell_that_was_not_run_is_empty(
    tmp_path: Path, write_trial: WriteRun
) -> None:
    write_trial("dense_0", "dense", "pretrain", seed=0, eval_loss=3.3, test_loss=3.5)
    write_trial("dense_1", "dense", "pretrain", seed=1, eval_loss=3.4)
    write_trial("RigL_0", "RigL", "pretrain", seed=0, eval_loss=3.4)
    found = rows(page(tmp_path)["Results"])
    columns = ["model", "seeds", "test loss", "test loss − dense", "eval loss", "test perplexity"]
    assert list(found["dense"])[:6] == columns
    assert [found["dense"][key] for key in columns] == ["dense", "2", "3.5000 (1)", "control", "3.3500 ± 0.0707", "33.12"]
    assert [found["RigL"][key] for key in columns] == ["RigL", "1", "", "", "3.4000", ""]
    assert set(list(found["RigL"].values())[6:]) == {""}


def test_glue_is_maximum_median_and_deviation_and_a_mean_over_seeds(tmp_path: Path, write_trial: WriteRun) -> None:
    """MRPC ranks by F1, and counts in the mean as the mean of its two metrics."""
    cola, mrpc = [0.30, 0.34, 0.35], [(0.80, 0.70), (0.82, 0.74), (0.90, 0.80)]
    for seed, (matthews, (f1, accuracy)) in enumerate(zip(cola, mrpc, strict=True)):
        write_trial(f"p{seed}", "dense", "pretrain", seed=seed, eval_loss=3.0)
        export = {"seed": seed, "pretrained": "runs/dense/export"}
        write_trial(f"c{seed}", "dense", "finetune", task="CoLA", metrics={"matthews": matthews}, **export)
        both = {"f1": f1, "accuracy": accuracy}
        write_trial(f"m{seed}", "dense", "finetune", task="MRPC", metrics=both, degenerate=seed == 1, **export)
    write_trial("r", "RigL", "finetune", task="CoLA", metrics={"matthews": 0.2}, seed=0, pretrained="runs/rigl/export")
    table = page(tmp_path)["Results"]
    dense, rigl = rows(table).values()
    assert dense["CoLA matthews"] == f"35.0 / 34.0 ± {statistics.stdev([30, 34, 35]):.1f}"
    assert dense["MRPC f1"] == f"90.0 / 82.0 ± {statistics.stdev([80, 82, 90]):.1f}†"
    means = [(30 + 75) / 2, (34 + 78) / 2, (35 + 85) / 2]
    assert dense["GLUE mean"] == f"{statistics.mean(means):.1f} ± {statistics.stdev(means):.1f}"
    assert (rigl["seeds"], rigl["CoLA matthews"], rigl["MRPC f1"], rigl["GLUE mean"]) == ("", "20.0 (1)", "", "")
    assert "The mean is over CoLA, MRPC" in " ".join(table.notes)


def test_published_rows_are_in_a_table_of_their_own(tmp_path: Path, write_trial: WriteRun) -> None:
    write_rows(write_trial)
    tables = page(tmp_path)
    assert rows(tables["Published"])["bert_100k"]["eval loss"] == "2.154"
    assert "do not compare with those above" in tables["Published"].notes[0]
    assert "bert_100k" not in rows(tables["Results"])


def test_what_was_tuned_is_an_appendix_and_counts_nowhere(tmp_path: Path, write_trial: WriteRun) -> None:
    write_rows(write_trial)
    before = page(tmp_path)["Results"]
    for row, losses in {"dense": {0.002: 3.8, 0.01: 3.7, 0.005: 3.75}, "RigL": {0.002: 3.6, 0.005: 3.9, 0.01: None}}.items():
        for rate, loss in losses.items():
            point = {"schedule.max_lr": rate}
            settings = point | {"trainer.max_steps": 500, "seed_everything": 0}
            status = {"status": "failed"} if loss is None else {"eval_loss": loss}
            write_trial(f"{row}_lr={rate}", row, "tune", settings, point, seed=0, steps=500, **status)
    write_trial("dense_7", "dense", "pretrain", {"schedule.max_lr": 0.005}, seed=7, status="running")
    tables = page(tmp_path)
    assert [list(row) for row in tables["Results"].rows] == [list(row) for row in before.rows]
    assert rows(tables["Tuned"]) == {
        # what the row's runs have, though another loss is lower; of a row without runs nothing is chosen
        "dense": _points("dense", "3.8000", "3.7500*", "3.7000"),
        "RigL": _points("RigL", "3.6000", "3.9000", ""),
    }
    assert "after 500 steps" in tables["Tuned"].notes[0]


def _points(row: str, *cells: str) -> dict[str, str]:
    titles = [f"schedule.max_lr={rate}" for rate in (0.002, 0.005, 0.01)]
    return {"model": row} | dict(zip(titles, cells, strict=True))


def test_points_of_several_options_and_seeds(tmp_path: Path, write_trial: WriteRun) -> None:
    for every in (100, 50):
        for seed, shift in ((0, 0.1), (1, -0.1)):
            point = {"masks.every": every, "masks.targets": ["a", every]}
            name = f"e{every}_{seed}"
            write_trial(name, "RigL", "tune", point, point, seed=seed, steps=seed + 1, eval_loss=3 + every / 100 + shift)
    table = page(tmp_path)["Tuned"]
    assert list(table.columns[1:]) == [
        "masks.every=50, masks.targets=['a', 50]",
        "masks.every=100, masks.targets=['a', 100]",
    ]
    deviation = f"{statistics.stdev([0.1, -0.1]):.4f}"
    assert table.rows == [["RigL", f"3.5000 ± {deviation}", f"4.0000 ± {deviation}"]]
    assert "after" not in table.notes[0]


def test_a_diverged_row_has_no_perplexity_that_would_overflow(tmp_path: Path, write_run: WriteRun) -> None:
    write_run("a", seed=0, eval_loss=1000.0)
    assert rows(page(tmp_path)["Results"])["a"]["perplexity"] == "inf"


def test_a_dead_run_does_not_raise_the_mean(tmp_path: Path, write_trial: WriteRun) -> None:
    """Of three seeds two have no correlation: the mean of the other one would be that of a good row."""
    for seed, pearson in enumerate((0.8, None, None)):
        scores = {"pearson": pearson, "spearman": pearson}
        write_trial(f"s{seed}", "SET", "finetune", task="STS-B", metrics=scores, seed=seed, degenerate=pearson is None)
        write_trial(f"c{seed}", "SET", "finetune", task="CoLA", metrics={"matthews": 0.4}, seed=seed)
    (found,) = rows(page(tmp_path)["Results"]).values()
    assert (found["GLUE mean"], found["STS-B pearson"]) == ("", "80.0† (1)")


def test_only_runs_of_equal_length_are_compared_and_rows_without_a_partner_are_named(
    tmp_path: Path, write_trial: WriteRun
) -> None:
    write_trial("d", "dense", "pretrain", seed=0, steps=3000, eval_loss=3.0)
    write_trial("s", "SET", "pretrain", seed=0, steps=1500, eval_loss=3.6)
    write_trial("r", "RigL", "pretrain", seed=1, steps=3000, eval_loss=3.2)
    tables, complaints = page_tables(runs_below(tmp_path))
    assert [row["eval loss − dense"] for row in rows(tables[0]).values()] == ["control", "", ""]
    assert complaints == [
        "SET: no difference to dense, as it has 1,500 steps, dense 3,000",
        "RigL: no difference to dense, as it has no seed of dense",
    ]
    tables, complaints = page_tables([run for run in runs_below(tmp_path) if run.model != "dense"])
    assert complaints == ["no differences: none of the rows is called dense + KD or dense; --control names another"]
