"""Rows against each other as pictures: by what they cost, by the length of training, and while they train."""

import itertools
import math
import statistics
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from reports.curves import Curves, smoothed
from reports.frontier import COSTS, Point, front
from reports.labels import label_ends, label_points
from reports.lengths import Lengths
from reports.plot import BEHIND, FRONT, PALETTE, WIDTH, new_figure
from reports.rows import LOSS_NAMES, Loss

STYLES = ("-", "--", ":", "-.")


def line_styles(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour and a line style for each name; no pair twice, as long as there are enough."""
    return dict(zip(names, itertools.cycle((colour, style) for style in STYLES for colour in PALETTE), strict=False))


def compact(value: float) -> str:
    """A number at an axis: ``800k``, ``1.2M``, ``3×10¹⁵``."""
    if value >= 1e10:
        exponent = int(np.floor(np.log10(value) + 1e-9))
        raised = str(exponent).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{value / 10**exponent:.3g}×10{raised}"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.3g}"


def log_ticks(low: float, high: float) -> list[float]:
    """Three to eight round numbers from ``low`` to ``high``, as far apart as a logarithmic axis allows."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        ticks = [digit * 10.0**decade for decade in decades for digit in digits if low <= digit * 10.0**decade <= high]
        if len(ticks) > 2:
            return ticks
    return [tick for tick in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= tick <= high]


def frontier_figure(points: Sequence[Point], loss: Loss) -> Figure:
    """Loss against each cost, on a logarithmic axis: a point a row with its deviation, and the front as steps.

    Raises:
        ValueError: no row has a cost.
    """
    costs = [cost for cost in COSTS if any(cost in point.costs for point in points)]
    if not costs:
        raise ValueError("nothing to plot: no run has its non-zeros or FLOPs")
    figure, panels = new_figure(WIDTH, 0.4 + 4.8 * len(costs), len(costs))
    several = any(len(point.losses) > 1 for point in points)
    seeds = "its bar ± standard deviation over seeds" if several else "one run each"
    title = f"What a loss costs: a point a row, {seeds}.\nBlue: no cheaper row is better."
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    for axes, cost in zip(panels, costs, strict=True):
        known = [point for point in points if cost in point.costs]
        best = front(known, cost)
        for point in known:
            colour = FRONT if point in best else BEHIND
            deviation = point.deviation if len(point.losses) > 1 else None
            axes.errorbar(
                point.costs[cost], point.loss, deviation, fmt="o", color=colour, markersize=5.5, elinewidth=1.2, capsize=2.5
            )
        low, high = min(point.costs[cost] for point in known), max(point.costs[cost] for point in known)
        room = max(high / low, 1.2) ** 0.3
        axes.set_xscale("log")
        axes.set_xlim(low / room, high * room)
        axes.xaxis.set_major_locator(FixedLocator(log_ticks(low / room, high * room)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
        axes.set_xlabel(f"{COSTS[cost]} (logarithmic)")
        axes.set_ylabel(f"{LOSS_NAMES[loss]}, nats")
        axes.margins(y=0.12)
        ends = [*(point.costs[cost] for point in best[1:]), high * room]
        corners = [(x, point.loss) for point, end in zip(best, ends, strict=True) for x in (point.costs[cost], end)]
        (steps,) = axes.plot(*zip(*corners, strict=True), color=FRONT, linewidth=0.9, alpha=0.6, zorder=1)
        names = [f"{point.name} (n = 1)" if several and len(point.losses) == 1 else point.name for point in known]
        places = np.array([(point.costs[cost], point.loss) for point in known])
        label_points(axes, names, places, [point.deviation for point in known], steps)
    return figure


def lengths_figure(lengths: Lengths) -> Figure:
    """Loss minus the control's against steps, on a logarithmic axis: a line a row with its deviation at each length.

    Raises:
        ValueError: no row can be compared with the control.
    """
    drawn = {}
    for name in lengths.rows:
        found = {steps: lengths.differences(name, steps, lengths.control) for steps in lengths.steps}
        if name != lengths.control and any(found.values()):
            drawn[name] = {steps: values for steps, values in found.items() if values}
    if not drawn:
        raise ValueError(f"nothing to plot: no run with the seed and the steps of one of {lengths.control}")
    figure, (axes,) = new_figure(WIDTH, 5.6)
    axes.set_xscale("log", base=2)
    styles, ends = line_styles(list(drawn)), []
    shifts = np.linspace(-1, 1, len(drawn)) if len(drawn) > 1 else [0.0]
    for (name, values), shift in zip(drawn.items(), shifts, strict=True):
        colour, style = styles[name]
        steps = [count * 2 ** (0.05 * shift) for count in values]  # so that error bars do not hide each other
        means = [statistics.fmean(found) for found in values.values()]
        deviations = [statistics.stdev(found) if len(found) > 1 else 0.0 for found in values.values()]
        axes.errorbar(
            steps,
            means,
            yerr=deviations,
            color=colour,
            linestyle=style,
            marker="o",
            markersize=4,
            linewidth=1.5,
            elinewidth=1,
        )
        ends.append((steps[-1], means[-1]))
    axes.plot([lengths.steps[0], lengths.steps[-1]], [0, 0], color="black", linewidth=1.2)
    axes.set_xlim(lengths.steps[0] / 2**0.25, lengths.steps[-1] * 2**0.1)
    axes.xaxis.set_major_locator(FixedLocator(lengths.steps))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("optimizer steps of the run")
    axes.set_ylabel(f"{LOSS_NAMES[lengths.loss]} − that of {lengths.control}, nats")
    title = f"What length does: loss above {lengths.control} after as many steps, mean ± standard deviation over seeds"
    axes.set_title(title, fontsize=11, loc="left")
    names = [*drawn, lengths.control]
    colours = [*(styles[name][0] for name in drawn), "black"]
    label_ends(axes, names, [*ends, (lengths.steps[-1], 0.0)], colours)
    return figure


def curves_figure(curves: Sequence[Curves]) -> Figure:
    """Loss of training, smoothed, and of validation against steps: a line a row."""
    both = {
        "training, smoothed": {curve.name: smoothed(curve.train) for curve in curves if curve.train},
        "validation": {curve.name: curve.validation for curve in curves if curve.validation},
    }
    panels = {title: lines for title, lines in both.items() if lines}
    styles = line_styles([curve.name for curve in curves])
    figure, stacked = new_figure(WIDTH, 0.4 + 4.4 * len(panels), len(panels))
    last = 1 + max(max(line) for lines in panels.values() for line in lines.values())  # loggers count from 0
    for axes, (title, lines) in zip(stacked, panels.items(), strict=True):
        for name, line in lines.items():
            colour, style = styles[name]
            axes.plot(list(line), list(line.values()), color=colour, linestyle=style, linewidth=1.3)
        axes.set_xlim(0, last)
        axes.xaxis.set_major_locator(FixedLocator([tick for tick in MaxNLocator(6).tick_values(0, last) if tick <= last]))
        axes.set_xlabel("optimizer steps")
        axes.set_ylabel("loss, nats")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_title(title, fontsize=10, loc="left")
        # the fall of the first steps would flatten all that follows
        later = [loss for line in lines.values() for step, loss in line.items() if step >= 0.2 * max(line)]
        margin = 0.05 * (max(later) - min(later)) or 0.1
        axes.set_ylim(min(later) - margin, max(later) + margin)
    figure.suptitle(
        "Loss over training, first logged seed of each row; a distilled row trains on another loss",
        fontsize=11,
        x=0.01,
        ha="left",
    )
    for axes, lines in zip(stacked, panels.values(), strict=True):
        ends = [(max(line), line[max(line)]) for line in lines.values()]
        label_ends(axes, list(lines), ends, [styles[name][0] for name in lines])
    return figure
