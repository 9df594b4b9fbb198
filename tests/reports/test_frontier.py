"""Who is beaten at which cost, on made-up rows."""

from collections.abc import Callable
from pathlib import Path

import pytest

from reports.frontier import Point, front, frontier_points, frontier_table
from reports.rows import rows_of
from reports.runs import read_runs

WriteRun = Callable[..., Path]


def test_the_front_has_what_no_cheaper_row_beats() -> None:
    points = [
        Point("dear", [2.0], {"non-zeros": 100}),
        Point("as dear, worse", [2.5], {"non-zeros": 100}),
        Point("cheap", [3.0], {"non-zeros": 10}),
        Point("between, worse than cheap", [3.1], {"non-zeros": 50}),
        Point("between", [2.8, 3.0], {"non-zeros": 50}),
        Point("of unknown cost", [1.0], {}),
        Point("as good as dear, dearer", [2.0], {"non-zeros": 200}),
    ]
    assert [point.name for point in front(points, "non-zeros")] == ["cheap", "between", "dear"]
    assert front(points, "FLOPs") == []
    assert (points[4].loss, points[0].deviation) == (2.9, 0.0)
    assert points[4].deviation == pytest.approx(0.02**0.5)


def test_points_and_fronts_of_runs(tmp_path: Path, write_run: WriteRun) -> None:
    cost = {"steps": 10, "parameters": 1000}
    for seed, loss in enumerate((3.3, 3.1)):
        write_run("dense", seed, seed=seed, eval_loss=loss, **cost, nonzeros=1000, flops_per_step=500)
    masks = {"average_density": 0.5, "sparse_flops_per_step": 400}
    write_run("gmp", seed=0, eval_loss=3.25, **cost, **masks, nonzeros=200, flops_per_step=500)
    write_run("rigl", seed=0, eval_loss=3.4, nonzeros=200)
    write_run("no_loss", seed=0, nonzeros=1)
    runs, _ = read_runs([tmp_path])
    points, loss, complaints = frontier_points(rows_of(runs)[0])
    assert complaints == ["no_loss left out: it has no eval loss, by which rows are compared here"]
    table = frontier_table(points, loss)
    assert list(table.columns) == ["model", "eval loss", "non-zeros", "FLOPs", "on the front of"]
    assert table.rows == [
        ["dense", "3.2000 ± 0.1414 (2)", "1,000", "5.00e3", "non-zeros, FLOPs"],
        ["gmp", "3.2500 (1)", "200", "3.00e3", "non-zeros, FLOPs"],
        ["rigl", "3.4000 (1)", "200", "", ""],
    ]


def test_without_a_loss_there_is_nothing_to_compare(tmp_path: Path, write_run: WriteRun) -> None:
    write_run("a", nonzeros=1)
    with pytest.raises(ValueError, match="no finished pretraining run with a loss"):
        frontier_points(rows_of(read_runs([tmp_path])[0])[0])


def test_rows_of_different_lengths_are_named(tmp_path: Path, write_trial: WriteRun) -> None:
    for row, steps in (("dense", 3000), ("SET", 1500)):
        write_trial(row, row, "pretrain", seed=0, steps=steps, eval_loss=3.0, parameters=10, nonzeros=10)
    rows, _ = rows_of(read_runs([tmp_path])[0])
    assert frontier_points(rows)[2] == ["rows of different lengths are compared: of 1,500 and 3,000 steps"]
