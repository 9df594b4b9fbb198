"""Rows by the length of training, paired by seed with a control of the same length."""

import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from reports.lengths import Lengths, lengths_of, lengths_table
from reports.runs import read_runs

WriteRun = Callable[..., Path]
LOSSES = {
    "dense": {1000: [3.6, 3.7], 2000: [3.4, 3.5], 4000: [3.2, 3.3]},
    "static": {1000: [3.7, 3.8], 2000: [3.5, 3.6], 4000: [3.3, 3.4]},
    "RigL": {1000: [3.69, 3.8], 2000: [3.6, 3.6], 4000: [3.28, 3.4]},  # below static at first, and at last
    "SET": {2000: [3.5, 3.6, 3.4], 4000: [3.4, 3.5]},
    "late": {4000: [3.25]},
    "other": {500: [4.0]},
}


def written(root: Path, write_run: WriteRun, **names: str | None) -> Lengths:
    for row, lengths in LOSSES.items():
        for steps, losses in lengths.items():
            for seed, loss in enumerate(losses):
                write_run(f"{steps}/{row}", seed, seed=seed, steps=steps, eval_loss=loss)
    write_run("rte", task="RTE", metrics={"accuracy": 0.5}, steps=1000, seed=0)
    lengths, complaints = lengths_of(read_runs([root])[0], **names)
    assert not complaints
    return lengths


def test_rows_by_steps(tmp_path: Path, write_run: WriteRun) -> None:
    table = lengths_table(written(tmp_path, write_run))
    rows = {row[0]: row[1:] for row in table.rows}
    columns = ["500\nsteps", "1,000\nsteps", "2,000\nsteps", "4,000\nsteps", "below static\nfrom"]
    assert list(table.columns[1:]) == columns
    assert table.rows[0][0] == "dense"
    assert rows["dense"] == ["", "3.6500 ± 0.0707 (2)", "3.4500 ± 0.0707 (2)", "3.2500 ± 0.0707 (2)", "1,000"]
    assert rows["static"] == ["", *["+0.1000 ± 0.0000 (2)"] * 3, "baseline"]
    deviation = statistics.stdev([0.2, 0.1])
    assert rows["RigL"][2] == f"+0.1500 ± {deviation:.4f} (2)"
    assert rows["RigL"][4] == "4,000"  # not from 1,000 on
    assert rows["SET"] == ["", "", "+0.1000 ± 0.0000 (2)", "+0.2000 ± 0.0000 (2)", "never"]  # its third seed has no partner
    assert rows["late"] == ["", "", "", "+0.0500 (1)", "4,000"]
    assert rows["other"] == ["", "", "", "", ""]


def test_another_control_and_baseline(tmp_path: Path, write_run: WriteRun) -> None:
    lengths = written(tmp_path, write_run, control="static", baseline="RigL")
    rows = {row[0]: row[1:] for row in lengths_table(lengths).rows}
    assert rows["dense"][1:] == [*["-0.1000 ± 0.0000 (2)"] * 3, "1,000"]
    assert rows["static"][4] == "never"
    assert rows["RigL"][4] == "baseline"


def test_a_control_that_is_not_there_is_named(tmp_path: Path, write_run: WriteRun) -> None:
    write_run("a", seed=0, steps=10, eval_loss=3.0)
    runs, _ = read_runs([tmp_path])
    with pytest.raises(ValueError, match="no row 'dense' to compare with; --control names another of a"):
        lengths_of(runs)
    with pytest.raises(ValueError, match="--baseline: no row 'SET'; there are a"):
        lengths_of(runs, "a", "SET")
    lengths, _ = lengths_of(runs, "a")
    assert list(lengths_table(lengths).columns) == ["model", "10\nsteps"]  # without static nothing is to be beaten
