"""The picture of runs: every finished run once, in the panel of what was measured."""

import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.axes import Axes

from reports.plot import runs_figure, save
from reports.runs import Run, read_runs

WriteRun = Callable[..., Path]


def runs_below(root: Path) -> list[Run]:
    runs, complaints = read_runs([root])
    assert not complaints
    return runs


def drawn(axes: Axes, marker: str) -> dict[str, list[float]]:
    """Values by model, of the points with a marker; the first panel has the models' names."""
    models = [label.get_text() for label in axes.get_figure().axes[0].get_yticklabels()]
    found: dict[str, list[float]] = {}
    for line in axes.lines:
        if line.get_marker() == marker:
            ((place,), (value,)) = line.get_ydata(), line.get_xdata()
            found.setdefault(models[int(place)], []).append(round(float(value), 6))
    return found


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_pretraining_alone_is_a_dot_a_run(tmp_path: Path, write_run: WriteRun) -> None:
    losses = {"dense": [3.3, 3.2], "rigl": [3.5, 3.4, 3.6], "best": [3.0]}
    for model, group in losses.items():
        for seed, loss in enumerate(group):
            write_run(model, seed, seed=seed, eval_loss=loss, unigram_loss=6.1)
    write_run("dense", 9, seed=9, eval_loss=1.0, status="running")
    figure = runs_figure(runs_below(tmp_path))
    (axes,) = figure.axes
    assert axes.get_xlabel() == "eval loss, nats"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["rigl", "dense", "best"]  # from below
    assert drawn(axes, "o") == losses
    assert drawn(axes, "|") == {"dense": [3.25], "rigl": [3.5]}
    assert texts(axes) == ["3.500 ± 0.100", f"3.250 ± {statistics.stdev([3.3, 3.2]):.3f}", "3.000"]
    low, high = axes.get_xlim()
    assert (2.9 < low < 3.0, 3.6 < high < 3.7) == (True, True)  # the unigram loss is far off


@pytest.mark.parametrize(("loss", "side"), [(4.0, "right"), (7.0, "left")])
def test_one_run_is_shown_beside_what_word_frequencies_reach(
    tmp_path: Path, write_run: WriteRun, loss: float, side: str
) -> None:
    write_run("dense", seed=0, eval_loss=loss, unigram_loss=6.0976)
    (axes,) = runs_figure(runs_below(tmp_path)).axes
    assert drawn(axes, "o") == {"dense": [loss]}
    assert texts(axes) == [f"{loss:.3f}", "word frequencies alone: 6.098"]
    assert axes.texts[-1].get_horizontalalignment() == side  # of its line, towards the run
    low, high = axes.get_xlim()
    assert low < min(loss, 6.0976)
    assert high > max(loss, 6.0976)


def test_one_run_of_a_task_has_its_score_on_an_axis_of_ten_points(tmp_path: Path, write_run: WriteRun) -> None:
    write_run("rte", task="RTE", metrics={"accuracy": 0.527}, degenerate=True, pretrained="sparse")
    figure = runs_figure(runs_below(tmp_path))
    (axes,) = figure.axes
    assert (axes.get_xlabel(), texts(axes), drawn(axes, "x")) == ("RTE, accuracy, %", ["52.7"], {"sparse": [52.7]})
    low, high = axes.get_xlim()
    assert (low + high) / 2 == pytest.approx(52.7)
    assert high - low == pytest.approx(10)
    assert "×: has learnt nothing" in figure.get_suptitle()


def test_a_panel_for_the_loss_and_for_each_task(tmp_path: Path, write_run: WriteRun) -> None:
    scores = {"dense": [0.5, 0.6, 0.6, 0.0], "sparse": [0.4]}
    for model, values in scores.items():
        for version, value in enumerate(values):
            name, degenerate = f"{model}_rte", value == 0
            write_run(name, version, task="RTE", metrics={"accuracy": value}, degenerate=degenerate, pretrained=model)
    write_run("dense_rte", 9, task="RTE", metrics={"accuracy": 0.9}, status="running", pretrained="dense")
    write_run("cola", task="CoLA", metrics={"matthews": 0.3}, pretrained="sparse")
    write_run("sparse", eval_loss=3.0)
    loss, cola, rte = runs_figure(runs_below(tmp_path)).axes
    assert [axes.get_xlabel() for axes in (loss, cola, rte)] == ["eval loss, nats", "CoLA, matthews, %", "RTE, accuracy, %"]
    assert drawn(loss, "o") == {"sparse": [3.0]}
    assert drawn(cola, "o") == {"sparse": [30.0]}
    assert drawn(rte, "o") == {"dense": [50.0, 60.0, 60.0], "sparse": [40.0]}
    assert drawn(rte, "x") == {"dense": [0.0]}
    assert drawn(rte, "|") == {"dense": [42.5]}


def test_nine_tasks_are_a_grid_without_empty_frames(tmp_path: Path, write_run: WriteRun) -> None:
    for task, metric in {"CoLA": "matthews", "SST-2": "accuracy", "RTE": "accuracy", "WNLI": "accuracy"}.items():
        write_run(task, task=task, metrics={metric: 0.5}, pretrained="m")
    assert len(runs_figure(runs_below(tmp_path)).axes) == 4


def test_what_chose_an_option_is_left_out_where_there_is_more(tmp_path: Path, write_trial: WriteRun) -> None:
    write_trial("t", "RigL", "tune", {"lr": 1}, seed=0, eval_loss=4.0)
    (axes,) = runs_figure(runs_below(tmp_path)).axes
    assert drawn(axes, "o") == {"tiny t": [4.0]}
    write_trial("p", "RigL", "pretrain", seed=0, eval_loss=3.0)
    (axes,) = runs_figure(runs_below(tmp_path)).axes
    assert drawn(axes, "o") == {"RigL": [3.0]}


def test_without_a_finished_run_there_is_nothing_to_plot(tmp_path: Path, write_run: WriteRun) -> None:
    write_run("cola", task="CoLA", status="running")
    write_run("pretraining")
    with pytest.raises(ValueError, match="nothing to plot: no finished run of a task, and none of pretraining"):
        runs_figure(runs_below(tmp_path))


@pytest.mark.parametrize(("suffix", "begins"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_the_suffix_says_the_format(tmp_path: Path, write_run: WriteRun, suffix: str, begins: bytes) -> None:
    write_run("a", eval_loss=3.0)
    save(runs_figure(runs_below(tmp_path)), tmp_path / f"runs{suffix}")
    assert (tmp_path / f"runs{suffix}").read_bytes().startswith(begins)
