"""The pictures of the concepts page: ``python docs/pictures.py`` draws them anew with the code they explain."""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

sys.path.insert(0, str(Path(__file__).parent.parent))

from sparsity import RigL, Static, erdos_renyi, parse_structure, schedules, uniform

IMAGES = Path(__file__).parent / "images"
BLUE, RED, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "0.55"
WIDTH = 5.0
"""Inches: on a phone the picture is about as wide as its text of 10 points needs."""


def grid(axes: Axes, weights: np.ndarray, on: np.ndarray, colours: dict[tuple[int, int], str], title: str) -> None:
    """A matrix with its values; what is off is white, and some cells have colours of their own."""
    rows, columns = weights.shape
    for row in range(rows):
        for column in range(columns):
            colour = colours.get((row, column), "#cfe3f1" if on[row, column] else "white")
            axes.add_patch(Rectangle((column, rows - 1 - row), 1, 1, facecolor=colour, edgecolor="0.7", linewidth=0.8))
            text = f"{weights[row, column]:.1f}".replace("-0.0", "0.0") if on[row, column] else "0"
            axes.text(column + 0.5, rows - 0.5 - row, text, ha="center", va="center", fontsize=9)
    axes.set(xlim=(-0.05, columns + 0.05), ylim=(-0.05, rows + 0.05), aspect="equal")
    axes.set_title(title, fontsize=10)
    axes.axis("off")


def step_figure() -> Figure:
    """The mask around an optimizer step: gradients are masked, the step is taken, and at an update weights go and come."""
    torch.manual_seed(3)
    weight = torch.nn.Parameter(torch.randn(4, 4))
    method = RigL(sparsity=0.5, every=10, drop_fraction=0.5, stop=1.0)
    mask = method.initial_masks({"w": weight}, 16)["w"]
    gradient = torch.randn(4, 4)
    updated = method.update_mask(method.view("w", weight * mask, mask, gradient, 10), 10, 100)
    values, on, after = (weight * mask).detach().numpy(), mask.numpy(), updated.numpy()
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    axes = figure.subplots(2, 2).flat
    went = {(int(r), int(c)): "#f6c9b0" for r, c in np.argwhere(on & ~after)}
    came = {(int(r), int(c)): "#b5e2d2" for r, c in np.argwhere(after & ~on)}
    everything = np.ones((4, 4), dtype=bool)
    grid(axes[0], values, on, {}, "weights: what is off is 0")
    grid(axes[1], gradient.numpy(), everything, {}, "dense gradient: read, then masked")
    grid(axes[2], values, on, went, "smallest weights go")
    grid(axes[3], values, after, came, "as many come, at 0.0,\nwhere |gradient| is largest")
    return figure


def structures_figure() -> Figure:
    """The structures: the same number of weights, where they may lie."""
    torch.manual_seed(0)
    weight = {"w": torch.randn(16, 16)}
    figure = Figure(figsize=(WIDTH, 1.9), layout="constrained")
    for one, structure in zip(figure.subplots(1, 4), ("unstructured", "rows", "2:4", "4x4"), strict=True):
        method = Static(sparsity=0.5, structure=structure, initialization="magnitude")
        one.imshow(method.initial_masks(weight, 256)["w"].numpy(), cmap="Blues", vmin=-0.1, vmax=1.3)
        one.set(xticks=[], yticks=[])
        one.set_title(str(parse_structure(structure)), fontsize=10)
    return figure


def axes_figure() -> Figure:
    """Four axes of which one value each makes a method."""
    choices = {
        ("distribution", "how many each\ntensor keeps"): ["uniform", "erdos_renyi", "global"],
        ("criterion", "which go\nand come"): ["magnitude", "gradient", "random", "movement"],
        ("schedule", "when, and\nhow much"): ["constant", "cosine", "cubic"],
        ("structure", "where they\nmay lie"): ["unstructured", "rows", "2:4", "16x16"],
    }
    chosen = {"erdos_renyi": 1, "gradient": 1, "cosine": 1, "unstructured": 0}
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    axes = figure.add_subplot()
    for column, ((title, meaning), names) in enumerate(choices.items()):
        axes.text(column, 1.5, title, ha="center", va="bottom", fontsize=10, fontweight="bold")
        axes.text(column, 1.4, meaning, ha="center", va="top", fontsize=9, color="0.35")
        for row, name in enumerate(names):
            here = name in chosen
            box = {"boxstyle": "round,pad=0.3", "facecolor": BLUE if here else "0.93", "edgecolor": "none"}
            axes.text(column, -row, name, ha="center", va="center", fontsize=9, color="white" if here else "0.2", bbox=box)
    axes.plot(range(4), [-row for row in chosen.values()], color=BLUE, alpha=0.4, linewidth=2, zorder=0)
    axes.set(xlim=(-0.55, 3.6), ylim=(-3.5, 1.9))
    axes.axis("off")
    return figure


def budget_figure() -> Figure:
    """The same budget over the tensors of a layer of BERT-base, uniform and Erdős–Rényi."""
    shapes = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]
    names = ["query", "key", "value", "attention\noutput", "inter-\nmediate", "output"]
    size = sum(rows * columns for rows, columns in shapes)
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    axes = figure.add_subplot()
    for offset, (label, spread, colour) in enumerate((("uniform", uniform, GREY), ("erdos_renyi", erdos_renyi, BLUE))):
        counts = spread(shapes, round(0.2 * size), [1] * 6)
        density = [count / (rows * columns) for count, (rows, columns) in zip(counts, shapes, strict=True)]
        axes.bar(np.arange(6) + 0.4 * offset - 0.2, density, 0.38, color=colour, label=label)
    axes.axhline(0.2, color="0.3", linewidth=0.8, linestyle="--")
    axes.set_xticks(range(6), names, fontsize=9)
    axes.set(ylabel="density", ylim=(0, 0.37))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, title="80 % of a layer is zero", title_fontsize=9)
    return figure


def schedule_figure() -> Figure:
    """What changes over a run of 1,000 steps."""
    steps = np.arange(1000)
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    rigl = [schedules.cosine_drop_fraction(step, 750, 0.3) if step < 750 else 0.0 for step in steps]
    above.plot(steps, rigl, color=RED)
    above.vlines(range(100, 750, 100), 0, [rigl[step] for step in range(100, 750, 100)], color=RED, alpha=0.4)
    above.set(ylabel="share replaced", ylim=(0, None), title="RigL and SET: an update every 100 steps")
    below.plot(steps, [0.8 * schedules.cubic(step, 250, 750) for step in steps], color=BLUE, label="GMP")
    below.plot(steps, [0.8] * 1000, color=GREEN, label="Static, SET, RigL, STE")
    below.step(steps, np.where(steps < 500, 0.0, 0.8), color=GREY, label="OneShot at 0.5", linestyle="--")
    below.set(xlabel="optimizer step", ylabel="sparsity", ylim=(-0.02, 0.9))
    below.legend(frameon=False, fontsize=9, loc="lower right")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_size(10)
    return figure


FIGURES = {
    "step": step_figure,
    "axes": axes_figure,
    "structures": structures_figure,
    "budgets": budget_figure,
    "schedules": schedule_figure,
}


def main() -> None:
    """Draw all."""
    IMAGES.mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        draw().savefig(IMAGES / f"{name}.png", dpi=160, facecolor="white")


if __name__ == "__main__":
    main()
