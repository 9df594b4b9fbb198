"""Figures show the numbers they are given, and leave matplotlib as they found it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from callbacks.figures import (
    PIXELS,
    change_figure,
    dead_figure,
    density_figure,
    layer_and_kind,
    mask_picture,
    range_test_figure,
    replaced_figure,
)

QUERY, OUTPUT = "bert.encoder.layer.{}.attention.self.query.weight", "bert.encoder.layer.{}.output.dense.weight"


def texts(figure: Figure | None) -> list[str]:
    """What is written into the cells of a grid."""
    (axes,) = figure.axes
    return [text.get_text() for text in axes.texts]


def test_a_tensor_has_the_place_of_its_layer_and_kind() -> None:
    assert layer_and_kind(QUERY.format(11)) == ("11", "attention.self.query")
    assert layer_and_kind("model.layers.0.mlp.Wi.weight") == ("0", "mlp.Wi")
    assert layer_and_kind("distilbert.transformer.layer.5.ffn.lin1.weight") == ("5", "ffn.lin1")
    assert layer_and_kind("bert.embeddings.word_embeddings.weight") == ("", "word_embeddings")


def test_a_grid_has_a_row_a_layer_and_a_column_a_kind() -> None:
    masks = {QUERY.format(0): torch.eye(2), QUERY.format(1): torch.ones(2, 2), OUTPUT.format(1): torch.zeros(2, 2)}
    masks = {name: mask.bool() for name, mask in masks.items()}
    figure = density_figure(masks)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["attention\nself\nquery", "output\ndense"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1"]
    shown = axes.images[0].get_array()
    assert shown.filled(-1).tolist() == [[0.5, -1], [1.0, 0.0]]
    assert texts(figure) == ["0.500", "1.000", "0.000"]


def test_changes_replaced_weights_and_dead_neurons_are_drawn_where_there_are_any() -> None:
    on = torch.ones(3, 2, dtype=torch.bool)
    part = on.clone()
    part[0], part[:, 1] = False, False
    masks = {"layer.0.a.weight": part, "layer.1.a.weight": on}
    assert texts(change_figure(masks, {"layer.0.a.weight": 6, "layer.1.a.weight": 4})) == ["-4", "+2"]
    assert change_figure(masks, {"layer.0.a.weight": 2, "layer.1.a.weight": 6}) is None
    assert texts(replaced_figure({"layer.0.a.weight": 0.123, "layer.1.a.weight": 0.0}, since=500)) == ["12.3%", "0.0%"]
    assert replaced_figure({"layer.0.a.weight": 0.0}, since=500) is None
    assert texts(dead_figure(masks)) == ["1 | 1", "0 | 0"]
    assert dead_figure({"layer.1.a.weight": on}) is None


@pytest.mark.parametrize(("shape", "blocks"), [((12, 8), (12, 8)), ((3 * PIXELS, 100), (PIXELS, 100))])
def test_a_mask_is_drawn_in_place_and_in_a_bounded_number_of_blocks(shape: tuple[int, int], blocks: tuple[int, int]) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.2
    mask[2], mask[3:, 0], mask[:2, 1:] = False, True, True
    figure = mask_picture(mask, "some.weight")
    above, picture, beside, ordered = figure.axes
    shown = torch.as_tensor(picture.images[0].get_array())
    assert shown.shape == blocks
    assert float(shown.mean()) == pytest.approx(float(mask.float().mean()), abs=1e-6)
    assert beside.lines[0].get_xdata()[2] == 0
    assert above.lines[0].get_ydata() == pytest.approx(mask.float().mean(0).numpy())
    labels = [text.get_text() for text in ordered.get_legend().get_texts()]
    assert labels == ["outputs, 1 dead", "inputs, 0 dead", "of a random mask"]
    assert figure.get_suptitle() == f"some.weight\n{float(mask.float().mean()):.1%} on"


def test_the_sorted_densities_of_a_random_mask_are_those_by_chance() -> None:
    mask = torch.rand(512, 2048, generator=torch.Generator().manual_seed(0)) < 0.2
    rows, by_chance = mask_picture(mask, "random").axes[-1].lines[:2]
    assert torch.as_tensor(rows.get_ydata()).diff().min() >= 0
    assert rows.get_ydata()[16:-16] == pytest.approx(by_chance.get_ydata()[16:-16], abs=0.004)


@pytest.mark.parametrize("on", [False, True])
def test_masks_that_are_empty_or_full_are_drawn(on: bool) -> None:
    ordered = mask_picture(torch.full((4, 6), on), "some.weight").axes[-1]
    assert all(value == on for line in ordered.lines[:4] for value in line.get_ydata())


def test_the_figure_of_a_range_test_has_the_scale_of_its_rates() -> None:
    (axes,) = range_test_figure([1e-4, 1e-3], [3.0, 2.0], [3.0, 2.5], 5e-4, "log").axes
    assert axes.get_xscale() == "log"
    assert list(axes.lines[1].get_ydata()) == [3.0, 2.5]


PROGRAM = """
import sys
import torchmetrics  # loads matplotlib itself
loaded = {name for name in sys.modules if name.startswith("matplotlib")}
import callbacks
from reports.plot import runs_figure
more = {name for name in sys.modules if name.startswith("matplotlib")} - loaded
import matplotlib, torch
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from callbacks.figures import add_figure, mask_picture
before = matplotlib.get_backend()
trainer = Trainer(logger=TensorBoardLogger(sys.argv[1]), accelerator="cpu")
add_figure(trainer, "sparsity/mask", mask_picture(torch.eye(8) > 0, "some.weight"))
trainer.logger.experiment.flush()
print(before, matplotlib.get_backend(), sorted(more))
"""


def test_figures_reach_the_log_without_a_display_and_without_a_backend_of_their_own(tmp_path: Path) -> None:
    environment = {"MPLBACKEND": "svg", "PATH": "", "OMP_NUM_THREADS": "1"}  # a notebook sets one of its own
    program = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    ended = subprocess.run(
        program, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines()[-1] == "svg svg []"
    (log,) = tmp_path.rglob("events.out.tfevents.*")
    assert b"sparsity/mask" in log.read_bytes()
    assert b"\x89PNG" in log.read_bytes()
