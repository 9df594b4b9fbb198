"""The spread of runs as a picture."""

from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure

from objectives.glue import GLUE
from reports.results import TASKS, by_row_and_task
from reports.runs import Run


def spread_figure(runs: Iterable[Run]) -> Figure:
    """A column a task: for each model a box over its finished runs, and a point a run (a cross where it is degenerate).

    Raises:
        ValueError: no run to show.
    """
    groups = by_row_and_task(runs)
    if not groups:
        raise ValueError("nothing to plot: no finished run of a GLUE task")
    models = list(dict.fromkeys(row for row, _ in groups))
    tasks = [task for task in TASKS if any(task == name for _, name in groups)]
    figure = Figure(figsize=(2.5 + len(tasks) * max(1.0, 0.5 * len(models)), 4.5), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(models)
    for (model, task), group in groups.items():
        metric, colour = GLUE[task].rank_by, f"C{models.index(model)}"
        center = tasks.index(task) + (models.index(model) - (len(models) - 1) / 2) * width
        points = [(100 * run.metrics[metric], run.degenerate) for run in group if metric in run.metrics]
        if len(points) > 2:
            values = [value for value, _ in points]
            box = axes.boxplot(values, positions=[center], widths=0.7 * width, showfliers=False, patch_artist=True)
            for part in (*box["boxes"], *box["whiskers"], *box["caps"], *box["medians"]):
                part.set(color=colour, alpha=0.4)
        for index, (value, degenerate) in enumerate(points):
            shift = 0.4 * width * ((index + 0.5) / len(points) - 0.5)  # so that equal values do not hide each other
            axes.plot(center + shift, value, "x" if degenerate else "o", color=colour, markersize=5)
    for index, model in enumerate(models):
        axes.plot([], [], "o", color=f"C{index}", label=model)
    axes.set_xticks(range(len(tasks)), [f"{task}\n{GLUE[task].rank_by}" for task in tasks])
    axes.set_xlim(-0.5, len(tasks) - 0.5)
    axes.set_ylabel("score, %")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(title="o run, x degenerate run", loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return figure


def save_spread(runs: Iterable[Run], file: Path) -> None:
    """Write :func:`spread_figure` to ``file``, whose suffix says the format (``.png``, ``.pdf``, ``.svg``).

    Raises:
        ValueError: no run to show, or an unknown suffix.
    """
    spread_figure(runs).savefig(file, dpi=150)
