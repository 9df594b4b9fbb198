"""Pictures for TensorBoard. They are drawn without pyplot, so that a notebook's or a program's own figures are as they were."""

import re
from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from sparsity.statistics import block_density, dead_columns, dead_rows, line_density

PIXELS = 192
"""Most blocks of a mask's picture in each direction."""


def tensorboards(trainer: Trainer) -> list[TensorBoardLogger]:
    """The TensorBoard logs of a run."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def add_figure(trainer: Trainer, tag: str, figure: Figure) -> None:
    """A figure in every TensorBoard log of the run, at the present step."""
    for logger in tensorboards(trainer):
        logger.experiment.add_figure(tag, figure, trainer.global_step)


def layer_and_kind(name: str) -> tuple[str, str]:
    """The number of a tensor's layer, empty outside the layers, and what it is there: ``("11", "attention.self.query")``."""
    parts = name.removesuffix(".weight").split(".")
    number = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    return ("", parts[-1]) if number is None else (parts[number], ".".join(parts[number + 1 :]))


def layer_grid(
    values: Mapping[str, float], texts: Mapping[str, str], title: str, colours: str = "Blues", signed: bool = False
) -> Figure:
    """A cell a tensor with its text: a row a layer, a column a kind of tensor.

    Args:
        values: what the colour of a cell says, from 0, or from minus to plus the largest where they are ``signed``.
        texts: what is written into it.
        colours: a colour map of matplotlib.
    """
    cells = {name: layer_and_kind(name) for name in values}
    layers = list(dict.fromkeys(layer for layer, _ in cells.values()))
    kinds = list(dict.fromkeys(kind for _, kind in cells.values()))
    grid = np.full((len(layers), len(kinds)), np.nan)
    places = {name: (layers.index(layer), kinds.index(kind)) for name, (layer, kind) in cells.items()}
    for name, place in places.items():
        grid[place] = values[name]
    largest = max(abs(value) for value in values.values()) or 1.0

    figure = Figure(figsize=(0.9 * (1 + len(kinds)), 1.2 + 0.36 * len(layers)), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(grid, cmap=colours, norm=Normalize(-largest if signed else 0.0, largest), aspect="auto")
    for name, (row, column) in places.items():
        dark = abs(values[name]) > 0.6 * largest
        axes.text(column, row, texts[name], ha="center", va="center", color="white" if dark else "black")
    axes.set_xticks(range(len(kinds)), [re.sub("[._]", "\n", kind) for kind in kinds])
    axes.set_yticks(range(len(layers)), [layer or "–" for layer in layers])
    axes.set_ylabel("layer")
    axes.set_title(title, fontsize=11)
    axes.tick_params(length=0)
    picture.axes.spines[:].set_visible(False)
    return figure


def density_figure(masks: Mapping[str, Tensor]) -> Figure:
    """Share of each tensor's weights that is on."""
    density = {name: float(mask.float().mean()) for name, mask in masks.items()}
    return layer_grid(density, {name: f"{share:.3f}" for name, share in density.items()}, "share of weights that are on")


def change_figure(masks: Mapping[str, Tensor], initial_nnz: Mapping[str, int]) -> Figure | None:
    """How many weights each tensor has won or lost since the start; None where none has."""
    change = {name: int(mask.sum()) - initial_nnz[name] for name, mask in masks.items()}
    texts = {name: f"{count:+,}" for name, count in change.items()}
    title = "change of on-parameters since the start"
    return layer_grid(change, texts, title, colours="RdBu", signed=True) if any(change.values()) else None


def replaced_figure(came: Mapping[str, float], since: int) -> Figure | None:
    """Share of each tensor's active weights that was off at optimizer step ``since``; None where none was."""
    texts = {name: f"{share:.1%}" for name, share in came.items()}
    title = f"share of active weights that were off at step {since:,}"
    return layer_grid(came, texts, title, colours="Oranges") if any(came.values()) else None


def dead_figure(masks: Mapping[str, Tensor]) -> Figure | None:
    """Outputs and inputs of each linear layer that have no weight on; None where all have one."""
    dead = {name: (dead_rows(mask), dead_columns(mask)) for name, mask in masks.items()}
    shares = {name: sum(dead[name]) / sum(mask.flatten(1).shape) for name, mask in masks.items()}
    texts = {name: f"{outputs:,} | {inputs:,}" for name, (outputs, inputs) in dead.items()}
    title = "outputs | inputs without an active weight"
    return layer_grid(shares, texts, title, colours="Purples") if any(shares.values()) else None


def mask_picture(mask: Tensor, name: str) -> Figure:
    """A mask (outputs, inputs) as it lies, averaged over blocks where it is large, and the density of its rows and columns.

    The densities stand beside the mask in place, and sorted, against those of a mask drawn at random.
    """
    outputs, inputs = mask.flatten(1).shape
    density = float(mask.float().mean())
    blocks, rows, columns = block_density(mask, PIXELS), line_density(mask, 0), line_density(mask, 1)
    figure = Figure(figsize=(5, 7.5), layout="constrained")
    figure.suptitle(f"{name}\n{density:.1%} on", fontsize=11)
    (top,), (bottom,) = figure.subfigures(2, 1, squeeze=False, height_ratios=(8, 5))
    above, corner, picture, beside = top.subplots(2, 2, width_ratios=(4, 1), height_ratios=(1, 4)).flat
    corner.remove()

    everything, darkest = (0, inputs, outputs, 0), float(blocks.max()) or 1.0
    picture.imshow(blocks.numpy(), "Blues", aspect="auto", extent=everything, vmin=0, vmax=darkest, interpolation="nearest")
    picture.set(xlabel=f"{inputs:,} inputs", ylabel=f"{outputs:,} outputs")
    above.plot(np.arange(inputs) + 0.5, columns.numpy(), ".", markersize=_dot(inputs), color="C1")
    above.set(xlim=(0, inputs), ylim=(0, None), xticks=[], ylabel="share on")
    beside.plot(rows.numpy(), np.arange(outputs) + 0.5, ".", markersize=_dot(outputs), color="C0")
    beside.set(ylim=(outputs, 0), xlim=(0, None), yticks=[], xlabel="share on")

    axes = bottom.subplots()
    _sorted(axes, rows, density, inputs, "C0", f"outputs, {dead_rows(mask):,} dead")
    _sorted(axes, columns, density, outputs, "C1", f"inputs, {dead_columns(mask):,} dead")
    axes.plot([], [], "--", color="gray", label="of a random mask")
    axes.set(xlabel="outputs and inputs, sorted", ylabel="share on", xlim=(0, 1), ylim=(0, None))
    axes.legend(frameon=False, loc="upper left")
    return figure


def _dot(points: int) -> float:
    """Size of a point that leaves so many points distinct."""
    return min(max(300 / points, 1.5), 6.0)


def _sorted(axes: Axes, lines: Tensor, density: float, weights: int, colour: str, label: str) -> None:
    """Densities of rows or columns of ``weights`` weights in rising order, and dashed those of a random mask."""
    position = (torch.arange(len(lines)) + 0.5) / len(lines)
    chance = density + (density * (1 - density) / weights) ** 0.5 * torch.special.ndtri(position)
    axes.plot(position.numpy(), lines.sort().values.numpy(), color=colour, label=label, drawstyle="steps-mid")
    axes.plot(position.numpy(), chance.clamp(0, 1).numpy(), "--", color=colour, linewidth=1, alpha=0.6)


def range_test_figure(
    rates: list[float], losses: list[float], smoothed: list[float], suggestion: float, scale: str
) -> Figure:
    """Loss by learning rate, and the rate that is suggested.

    Args:
        scale: of the learning rate, ``log`` or ``linear``.
    """
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(rates, losses, alpha=0.3, label="loss")
    axes.plot(rates, smoothed, label="smoothed")
    axes.axvline(suggestion, linestyle="--", color="gray", label=f"suggested max_lr {suggestion:.3g}")
    axes.set(xlabel="learning rate", ylabel="training loss", xscale=scale)
    axes.legend()
    return figure
