"""Runs as pictures. They are drawn without pyplot, so that a notebook's or a program's own figures are as they were."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from objectives.beyond_glue import FINETUNING
from reports.pretraining import by_model_and_length
from reports.results import COLUMNS, by_row_and_task
from reports.rows import loss_of, spread
from reports.runs import TUNE, Run

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito's colours, which differ for colour-blind eyes, without black and the yellow that is pale on white."""
FRONT, BEHIND = PALETTE[0], "0.55"
WIDTH = 8.5
"""Of a figure in inches: text of 9 points is then as large as that of a page that shows it at its width."""
LEAST_RANGE = 10.0  # of an axis of scores, so that the noise of a few points does not fill a picture


@dataclass(frozen=True)
class Panel:
    """One figure of merit.

    Attributes:
        title: what is measured, with its unit.
        values: model → a value a run, and whether the run has learnt nothing.
        form: of a value in text.
        better: 1 where more is better, else -1.
    """

    title: str
    values: dict[str, list[tuple[float, bool]]]
    form: str
    better: int

    def mean(self, model: str) -> float:
        """Of a model's runs; NaN without any."""
        values = [value for value, _ in self.values.get(model, [])]
        return statistics.fmean(values) if values else math.nan


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, share: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of so many inches, its axes, which may share the vertical one, with a light grid and without a frame."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(rows, columns, sharey=share, squeeze=False).flat)
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color="0.9", linewidth=0.6)
        one.set_axisbelow(True)
        one.tick_params(labelsize=9, length=3)
    return figure, axes


def panels_of(runs: Sequence[Run]) -> list[Panel]:
    """The eval loss of pretraining, then the tasks, as far as there are finished runs."""
    losses = {
        model: [(loss, False) for run in group if (loss := loss_of(run, "eval_loss")) is not None]
        for model, group in by_model_and_length(runs).items()
    }
    panels = [Panel("eval loss, nats", losses, ".3f", -1)]
    groups = by_row_and_task(runs)
    for task in COLUMNS:
        metric = FINETUNING[task].rank_by
        scores = {
            row: [(100 * run.metrics[metric], run.degenerate) for run in group if metric in run.metrics]
            for (row, name), group in groups.items()
            if name == task
        }
        panels.append(Panel(f"{task}, {metric}, %", scores, ".1f", 1))
    return [panel for panel in panels if any(panel.values.values())]


def runs_figure(runs: Sequence[Run]) -> Figure:
    """A panel for the eval loss and for each task: a line a model, a dot a run, a bar for their mean.

    A run that has learnt nothing is a cross, and what was fitted to choose an option is left out, where there is more. Models
    are in the order of the first panel, the best at the top. A loss that is alone is shown beside what word frequencies alone
    would reach.

    Raises:
        ValueError: no run to show.
    """
    runs = [run for run in runs if run.stage != TUNE] or runs
    panels = panels_of(runs)
    if not panels:
        raise ValueError("nothing to plot: no finished run of a task, and none of pretraining with an eval loss")
    known = dict.fromkeys(model for panel in panels for model, values in panel.values.items() if values)
    first = {model: panels[0].better * panels[0].mean(model) for model in known}
    models = sorted(known, key=lambda model: -math.inf if math.isnan(first[model]) else first[model])
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = new_figure(WIDTH, 0.5 + rows * (0.8 + 0.3 * len(models)), rows, columns, share=True)
    for panel, one in zip(panels, axes, strict=False):
        draw_panel(one, panel, models)
    for unused in axes[len(panels) :]:
        unused.remove()
    axes[0].set_yticks(range(len(models)), models)
    axes[0].set_ylim(-0.6, len(models) - 0.4)
    if len(panels) == 1:
        write_values(axes[0], panels[0], models)
    floors = [run.record.unigram_loss for run in runs if run.record.unigram_loss and run.record.finished]
    if len(models) == len(panels) == 1 and panels[0].better < 0 and floors:
        draw_floor(axes[0], floors[0])
    several = any(len(values) > 1 for panel in panels for values in panel.values.values())
    crosses = any(degenerate for panel in panels for values in panel.values.values() for _, degenerate in values)
    title = "Every finished run" + (" (×: has learnt nothing)" if crosses else "")
    figure.suptitle(title + (", and the mean of each model (|)" if several else ""), fontsize=11, x=0.01, ha="left")
    return figure


def draw_panel(axes: Axes, panel: Panel, models: Sequence[str]) -> None:
    """Dots, crosses and the means of some models, from below."""
    for place, model in enumerate(models):
        values = panel.values.get(model, [])
        for value, degenerate in values:
            axes.plot(value, place, "x" if degenerate else "o", color=FRONT, alpha=0.6, markersize=6)
        if len(values) > 1:
            axes.plot(panel.mean(model), place, "|", color="black", markersize=13, markeredgewidth=1.4)
    axes.margins(x=0.08)
    if panel.better > 0:
        low, high = axes.get_xlim()
        room = max(0.0, LEAST_RANGE - (high - low)) / 2
        axes.set_xlim(low - room, high + room)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(panel.title)


def write_values(axes: Axes, panel: Panel, models: Sequence[str]) -> None:
    """Mean and standard deviation of each model at the right."""
    for place, model in enumerate(models):
        values = [value for value, _ in panel.values[model]]
        axes.annotate(
            spread(values, panel.form, len(values)),
            (1, place),
            xycoords=axes.get_yaxis_transform(),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )


def draw_floor(axes: Axes, loss: float) -> None:
    """The loss of word frequencies alone, as a line, and its name on the side that has more room."""
    axes.axvline(loss, color=BEHIND, linestyle="--", linewidth=1)
    to_the_left = loss > sum(axes.get_xlim()) / 2
    axes.annotate(
        f"word frequencies alone: {loss:.3f}",
        (loss, 1),
        xycoords=axes.get_xaxis_transform(),
        xytext=(-4 if to_the_left else 4, -2),
        textcoords="offset points",
        ha="right" if to_the_left else "left",
        va="top",
        fontsize=9,
        color="0.35",
    )


def save(figure: Figure, file: Path) -> None:
    """Write a figure, whose format the suffix says (``.png``, ``.pdf``, ``.svg``).

    Raises:
        ValueError: an unknown suffix, or none.
    """
    if not file.suffix:  # matplotlib would append one
        raise ValueError(f"{file}: no suffix says the format of the figure; give .png, .pdf or .svg")
    figure.savefig(file, dpi=150)
