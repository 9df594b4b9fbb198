"""Curves as runs have logged them, by TensorBoard and by CSV."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from pytorch_lightning.loggers import TensorBoardLogger

from callbacks import RunSummary
from datamodules import TextDataModule
from helpers import fit, write_events
from reports.curves import TRAIN, VALIDATION, logged_scalars, read_curves, smoothed
from reports.rows import rows_of
from reports.runs import read_runs

WriteRun = Callable[..., Path]


def test_the_first_seed_of_each_row_by_its_events(tmp_path: Path, write_run: WriteRun) -> None:
    for version, seed in enumerate((3, 1)):
        run = write_run("a", version, seed=seed)
        write_events(run, TRAIN, {10: seed + 0.5, 20: seed + 0.25, 30: math.nan})
        write_events(run, VALIDATION, {20: 2.0})
    nothing = write_run("nothing", seed=0)
    write_run("rte", task="RTE", metrics={"accuracy": 0.5})
    ((curve,), complaints) = read_curves(rows_of(read_runs([tmp_path])[0])[0])
    assert (curve.name, curve.train, curve.validation) == ("a", {10: 1.5, 20: 1.25}, {20: 2.0})
    assert complaints == [f"{nothing} left out: no TensorBoard events or metrics.csv with train/loss or val/loss"]


def test_a_seed_whose_log_is_gone_gives_way_to_the_next(tmp_path: Path, write_run: WriteRun) -> None:
    write_run("a", 0, seed=0)
    write_events(write_run("a", 1, seed=1), TRAIN, {10: 2.5})
    ((curve,), complaints) = read_curves(rows_of(read_runs([tmp_path])[0])[0])
    assert (curve.train, complaints) == ({10: 2.5}, [])


def test_a_run_that_was_continued_has_one_curve(tmp_path: Path) -> None:
    """Steps that were made twice have the later loss."""
    (tmp_path / "csv" / "version_0").mkdir(parents=True)
    (tmp_path / "csv" / "version_10").mkdir()
    head = "epoch,step,train/loss,val/loss\n"
    (tmp_path / "csv" / "version_0" / "metrics.csv").write_text(f"{head}0,10,5.0,\n0,20,4.0,\n0,20,,4.5\n")
    (tmp_path / "csv" / "version_10" / "metrics.csv").write_text(f"{head}0,20,3.5,\n0,30,3.0,\n")
    assert logged_scalars(tmp_path) == {TRAIN: {10: 5.0, 20: 3.5, 30: 3.0}, VALIDATION: {20: 4.5}}


def test_tags_are_those_that_runs_log(tmp_path: Path, text_data: Callable[..., TextDataModule]) -> None:
    run = tmp_path / "a" / "version_0"
    logger = TensorBoardLogger(tmp_path, name="a", version=0)
    fit(
        run,
        text_data(),
        [RunSummary()],
        max_steps=4,
        logger=logger,
        val_check_interval=2,
        log_every_n_steps=1,
        limit_val_batches=1,
    )
    found = logged_scalars(run)
    assert len(found[TRAIN]) == 4
    assert len(found[VALIDATION]) == 2


def test_without_any_curve_there_is_nothing_to_draw(tmp_path: Path, write_run: WriteRun) -> None:
    run = write_run("a", seed=0)
    rows, _ = rows_of(read_runs([tmp_path])[0])
    with pytest.raises(ValueError, match=f"{run} left out: no TensorBoard events"):
        read_curves(rows)
    with pytest.raises(ValueError, match="no finished pretraining run"):
        read_curves([])


def test_smoothing_keeps_a_constant_and_averages_noise() -> None:
    assert smoothed({1: 5.0, 2: 3.0}) == {1: 5.0, 2: 3.0}  # too short to have noise
    assert list(smoothed(dict.fromkeys(range(100), 2.0)).values()) == pytest.approx([2.0] * 100)
    alternating = smoothed({step: 2.0 + (-1) ** step for step in range(200)})
    assert alternating[0] == 3.0
    assert abs(alternating[199] - 2.0) < 0.1
    keep = 0.5  # of 40 points
    first, second = list(smoothed(dict(enumerate([4.0, 1.0] + [0.0] * 38))).values())[:2]
    assert (first, second) == (4.0, pytest.approx((keep * 4 + 1) / (keep + 1)))
