"""Pictures of rows: every point with its error bar, and names that lie on nothing."""

import itertools
import math
import random
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from reports.curves import Curves
from reports.figures import compact, curves_figure, frontier_figure, lengths_figure, line_styles, log_ticks
from reports.frontier import Point
from reports.labels import spread_out
from reports.lengths import Lengths
from reports.rows import Row
from reports.runs import Run
from run_record import RunRecord

NAMES = [
    *("dense", "static", "SET", "RigL", "RigL balanced", "RigL global", "GMP", "STE", "dense + KD", "static + KD"),
    *("RigL + KD", "GMP + KD", "RigL + KD, 90 %", "RigL + KD, 2x wide"),
]


def labels_of(axes: Axes) -> dict[str, Annotation]:
    return {text.get_text(): text for text in axes.texts if isinstance(text, Annotation)}


def boxes(figure: Figure, axes: Axes, dpi: int) -> dict[str, Bbox]:
    """Where the names are, in pixels of a figure that is saved with so many of them an inch."""
    figure.set_dpi(dpi)
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    return {name: Text.get_window_extent(label, renderer) for name, label in labels_of(axes).items()}


def assert_legible(figure: Figure, axes: Axes) -> None:
    """No name lies on another or beyond the axes, in the size in which files are written."""
    found = boxes(figure, axes, 150)
    frame = axes.get_window_extent()
    for (one, first), (other, second) in itertools.combinations(found.items(), 2):
        assert not first.overlaps(second), f"{one} lies on {other}"
    for name, box in found.items():
        assert frame.x0 <= box.x0, name
        assert frame.x1 >= box.x1, name
        assert frame.y0 <= box.y0 + 1, name
        assert frame.y1 >= box.y1 - 1, name


def error_bars(axes: Axes) -> list[tuple[float, float, float]]:
    """Place, middle and half length of all error bars."""
    bars = []
    for container in axes.containers:
        assert isinstance(container, ErrorbarContainer)
        for segment in container.lines[2][0].get_segments() if container.has_yerr else []:
            (x, low), (_, high) = segment
            bars.append((x, (low + high) / 2, (high - low) / 2))
    return bars


def points(seed: int) -> list[Point]:
    """Rows as a table has them: most with the same number of non-zeros, many with nearly the same loss."""
    draw = random.Random(seed)
    found = []
    for name in NAMES:
        losses = [3.3 + draw.choice((-0.1, 0.0, 0.1)) + draw.gauss(0, 0.02) for _ in range(1 if name == "STE" else 3)]
        nonzeros = {
            "dense": 1_300_000,
            "dense + KD": 1_300_000,
            "RigL + KD, 90 %": 1_005_000,
            "RigL + KD, 2x wide": 1_490_000,
        }
        flops = (1 + draw.random()) * 1e13 if "GMP" in name or "dense" in name else 1e13 * (1.8 if "KD" in name else 1)
        found.append(Point(name, losses, {"non-zeros": nonzeros.get(name, 1_040_000), "FLOPs": flops}))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_every_row_is_a_point_with_its_deviation_and_a_name_that_lies_on_nothing(seed: int) -> None:
    rows = points(seed)
    figure = frontier_figure(rows, "test_loss")
    panels = figure.axes
    assert [axes.get_xscale() for axes in panels] == ["log", "log"]
    assert {axes.get_ylabel() for axes in panels} == {"test loss, nats"}
    for axes, cost in zip(panels, ("non-zeros", "FLOPs"), strict=True):
        assert set(labels_of(axes)) == {name if name != "STE" else "STE (n = 1)" for name in NAMES}
        wanted = [(row.costs[cost], row.loss, statistics.stdev(row.losses)) for row in rows if row.name != "STE"]
        assert error_bars(axes) == [pytest.approx(bar) for bar in wanted]
        dots = [container.lines[0] for container in axes.containers]
        assert [float(dot.get_ydata()[0]) for dot in dots] == pytest.approx([row.loss for row in rows])
        assert_legible(figure, axes)
        for name, box in boxes(figure, axes, 150).items():
            for row in rows:
                center = axes.transData.transform((row.costs[cost], row.loss))
                assert not box.contains(*center), f"{name} lies on the point of {row.name}"


def test_the_front_is_a_line_of_steps_through_its_points() -> None:
    rows = [
        Point("cheap", [3.0, 3.2], {"non-zeros": 10}),
        Point("beaten", [3.5], {"non-zeros": 20}),
        Point("dear", [2.0], {"non-zeros": 40}),
    ]
    (axes,) = frontier_figure(rows, "eval_loss").axes  # without a cost in FLOPs there is no panel for it
    (front,) = (line for line in axes.lines if len(line.get_xdata()) > 2)
    edge = axes.get_xlim()[1]
    np.testing.assert_allclose(front.get_xydata(), [(10, 3.1), (40, 3.1), (40, 2.0), (edge, 2.0)])
    colours = [container.lines[0].get_color() for container in axes.containers]
    assert colours[0] == colours[2] != colours[1]


def test_one_row_and_rows_without_a_cost() -> None:
    (axes,) = frontier_figure([Point("a", [3.0], {"FLOPs": 1e12}), Point("b", [3.0], {})], "eval_loss").axes
    assert set(labels_of(axes)) == {"a"}  # said once, in the title
    with pytest.raises(ValueError, match="no run has its non-zeros or FLOPs"):
        frontier_figure([Point("a", [3.0], {})], "eval_loss")


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (9e5, 1.6e6, [1e6, 1.2e6, 1.4e6, 1.6e6]),
        (8e12, 4.5e13, [8e12, 1e13, 1.5e13, 2e13, 3e13, 4e13]),
        (15, 120, [20, 50, 100]),
        (0.5, 2000, [1, 10, 100, 1000]),
        (9.9e5, 1.01e6, [9.9e5, 9.95e5, 1e6, 1.005e6, 1.01e6]),
    ],
)
def test_ticks_of_a_logarithmic_axis_are_round_and_few(low: float, high: float, ticks: list[float]) -> None:
    assert log_ticks(low, high) == pytest.approx(ticks)


def test_numbers_at_an_axis() -> None:
    texts = ["12", "800k", "1.005M", "2G", "3×10¹²", "1.25×10¹³"]
    assert [compact(value) for value in (12, 8e5, 1.005e6, 2e9, 3e12, 1.25e13)] == texts


STEPS = (1000, 2000, 4000, 8000)


def lengths(seed: int, names: Sequence[str] = NAMES) -> Lengths:
    draw = random.Random(seed)
    rows: dict[str, dict[int, Row]] = {}
    for name in names:
        for steps in STEPS[1:] if name == "RigL" else STEPS:
            runs = []
            for run in range(1 if name == "STE" else 3):
                loss = 3.3 - math.log(steps) / 10 + draw.gauss(0, 0.02)
                record = RunRecord(experiment=name, status="finished", seed=run, steps=steps, eval_loss=loss)
                runs.append(Run(Path(), record, name))
            rows.setdefault(name, {})[steps] = Row(name, runs, {})
    return Lengths(rows, "dense", "static", "eval_loss")


@pytest.mark.parametrize("seed", range(3))
def test_every_row_but_the_control_is_a_line_over_lengths_with_its_deviations(seed: int) -> None:
    data = lengths(seed)
    figure = lengths_figure(data)
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_ylabel()) == ("log", "eval loss − that of dense, nats")
    assert axes.xaxis.get_transform().base == 2
    assert [round(tick) for tick in axes.get_xticks()] == list(STEPS)
    assert set(labels_of(axes)) == set(NAMES)
    drawn = [name for name in NAMES if name != "dense"]
    assert len(axes.containers) == len(drawn)
    for name, container in zip(drawn, axes.containers, strict=True):
        expected = {steps: data.differences(name, steps, "dense") for steps in STEPS if steps in data.rows[name]}
        x, y = container.lines[0].get_data()
        assert list(y) == pytest.approx([statistics.fmean(found) for found in expected.values()])
        assert list(x) == pytest.approx(list(expected), rel=0.04)  # a little apart, for the bars
        half = [(high - low) / 2 for (_, low), (_, high) in container.lines[2][0].get_segments()]
        wanted = [statistics.stdev(found) if len(found) > 1 else 0.0 for found in expected.values()]
        assert half == pytest.approx(wanted)
    assert_legible(figure, axes)
    ends = {name: float(container.lines[0].get_ydata()[-1]) for name, container in zip(drawn, axes.containers, strict=True)}
    heights = {name: box.y0 for name, box in boxes(figure, axes, 150).items()}
    assert sorted(ends, key=ends.__getitem__) == sorted(drawn, key=heights.__getitem__)  # in the order of the lines


def test_without_a_pair_there_is_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="no run with the seed and the steps of one of dense"):
        lengths_figure(lengths(0, ["dense"]))


@pytest.mark.parametrize("seed", range(3))
def test_curves_of_training_and_validation_are_named_at_their_ends(seed: int) -> None:
    draw = random.Random(seed)
    curves = []
    for name in NAMES:
        final = 3 + draw.random() / 4
        train = {step: final + 6 * math.exp(-step / 300) + draw.gauss(0, 0.1) for step in range(50, 3001, 50)}
        curves.append(Curves(name, train, {step: final + 6 * math.exp(-step / 300) for step in range(300, 3001, 300)}))
    figure = curves_figure(curves)
    train, validation = figure.axes
    assert (train.get_title("left"), validation.get_title("left")) == ("training, smoothed", "validation")
    assert [len(axes.lines) for axes in (train, validation)] == [14, 14]
    for curve, line in zip(curves, validation.lines, strict=True):
        assert dict(zip(*line.get_data(), strict=True)) == curve.validation
    roughness = [
        np.abs(np.diff(values, 2)).mean() for values in (list(curves[0].train.values()), train.lines[0].get_ydata())
    ]
    assert roughness[1] < roughness[0] / 3
    assert [line.get_color() for line in train.lines] == [line.get_color() for line in validation.lines]
    assert validation.get_ylim()[1] < 6.0  # the fall of the first steps does not flatten the rest
    for axes in (train, validation):
        assert set(labels_of(axes)) == set(NAMES)
        assert_legible(figure, axes)
        assert max(axes.get_xticks()) == 3000


def test_the_loss_that_a_distilled_row_trains_on_does_not_flatten_validation() -> None:
    steps = range(999, 12000, 1000)  # loggers count from 0
    plain = Curves("plain", dict.fromkeys(steps, 4.0), dict.fromkeys(steps, 3.3))
    distilled = Curves("distilled", dict.fromkeys(steps, 1.5), dict.fromkeys(steps, 3.1))
    train, validation = curves_figure([plain, distilled]).axes
    assert validation.get_ylim() == pytest.approx((3.09, 3.31))
    assert train.get_ylim() == pytest.approx((1.375, 4.125))
    assert max(train.get_xticks()) == 12000


def test_without_validation_there_is_one_panel() -> None:
    (axes,) = curves_figure([Curves("a", {1: 3.0, 2: 3.0}, {})]).axes
    assert axes.get_title("left") == "training, smoothed"


def test_no_two_of_twenty_four_lines_look_the_same() -> None:
    assert len(set(line_styles([str(number) for number in range(24)]).values())) == 24
    assert len(line_styles([str(number) for number in range(30)])) == 30


def test_places_keep_their_order_their_distance_and_their_mean() -> None:
    assert spread_out([1.0, 5.0, 9.0], 2.0, 0, 10) == [1.0, 5.0, 9.0]
    assert spread_out([5.0, 5.0, 5.0], 2.0, 0, 10) == [3.0, 5.0, 7.0]
    assert spread_out([5.2, 5.0], 1.0, 0, 10) == pytest.approx([5.6, 4.6])
    assert spread_out([9.8, 9.9], 2.0, 0, 10) == [8.0, 10.0]
    assert spread_out([0.0, 0.1, 4.0], 1.0, 0, 10) == [0.0, 1.0, 4.0]
    assert spread_out([], 1.0, 0, 1) == []
