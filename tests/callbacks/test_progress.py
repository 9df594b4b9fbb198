"""What the progress bar shows, and that it fits."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import rich
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks.progress.rich_progress import MetricsTextColumn
from rich.console import Console
from rich.progress import Progress

from callbacks import GMP, RigL, SparsityMonitor, StaticSparsity, StepMonitor, StepProgressBar
from callbacks.progress import short_metrics
from datamodules import TextDataModule
from helpers import fit

Data = Callable[..., TextDataModule]


@pytest.fixture(autouse=True)
def eighty_columns() -> Iterator[None]:
    """Rich's own console is as wide as a common terminal."""
    rich.reconfigure(width=80)
    yield
    rich.reconfigure()


def with_bar(root: Path, data: TextDataModule, *callbacks: object, **options: object) -> tuple[Trainer, StepProgressBar]:
    """A run of a few steps with the bar."""
    bar = StepProgressBar()
    steps = {"max_steps": 3, "enable_progress_bar": True, "limit_val_batches": 2} | options
    return fit(root, data, [*callbacks, StepMonitor(), bar], **steps), bar


def test_short_names(tmp_path: Path, text_data: Data) -> None:
    trainer, bar = with_bar(tmp_path, text_data(), RigL(sparsity=0.8))
    shown = bar.get_metrics(trainer, trainer.lightning_module)
    assert shown.keys() == {"loss", "val", "tok/s", "sparse"}
    assert shown["val"] == f"{float(trainer.callback_metrics['val/loss']):.3f}"
    assert shown["sparse"] == "80.0%"


def test_sparsity_is_that_of_what_was_asked_for_and_follows_it(tmp_path: Path, text_data: Data) -> None:
    """The whole model is sparser or denser than the tensors that were to become sparse, and pruning goes on."""
    one = StaticSparsity(sparsity=0.5, targets=("*.1.attention.self.query.weight",))
    for sparse, shown in ((one, "50.0%"), (GMP(sparsity=0.9, start=0.0, end=0.5, every=1), "90.0%")):
        trainer, bar = with_bar(tmp_path, text_data(), sparse, SparsityMonitor())
        assert bar.get_metrics(trainer, trainer.lightning_module)["sparse"] == shown


def test_numbers_stay_short() -> None:
    metrics = {"train/loss": 10.3312, "val/loss": 2.15449, "throughput/tokens_per_sec": 249_871.3, "lr": 1.0}
    assert short_metrics(metrics, 0.2042) == {"loss": "10.33", "val": "2.154", "tok/s": "250k", "sparse": "79.6%"}
    assert short_metrics({"throughput/tokens_per_sec": 9_871.3}, None) == {"tok/s": "9,871"}


@pytest.mark.parametrize("options", [{"accumulate_grad_batches": 2}, {"max_epochs": 2, "limit_train_batches": 2}])
def test_the_bar_counts_optimizer_steps_of_the_whole_run(tmp_path: Path, text_data: Data, options: dict[str, int]) -> None:
    _, bar = with_bar(tmp_path, text_data(), max_steps=4, **options)
    assert (bar.train_progress_bar.completed, bar.train_progress_bar.total) == (4, 4)


def test_a_resumed_run_goes_on_where_it_was(tmp_path: Path, text_data: Data) -> None:
    trainer, _ = with_bar(tmp_path, text_data(), limit_train_batches=2, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    _, bar = with_bar(tmp_path, text_data(), ckpt_path=tmp_path / "half.ckpt")
    assert (bar.train_progress_bar.completed, bar.train_progress_bar.total) == (3, 3)


@pytest.mark.parametrize(
    ("steps", "done", "a_second", "left"),
    [(1_000_000, 123_456, 2, "121:44:32"), (1_000, 500, 20, "00:25"), (100_000, 100_000, 5, "00:10")],
)
def test_one_line_of_eighty_columns(
    tmp_path: Path, text_data: Data, steps: int, done: int, a_second: int, left: str
) -> None:
    trainer, bar = with_bar(tmp_path, text_data())
    trainer.fit_loop.epoch_loop.max_steps = steps
    metrics = MetricsTextColumn(trainer, "", bar.theme.metrics_text_delimiter, bar.theme.metrics_format)
    metrics.update(short_metrics({"train/loss": 10.33, "val/loss": 10.29, "throughput/tokens_per_sec": 250_000}, 0.2))
    time, out = [0.0], io.StringIO()
    progress = Progress(*bar.configure_columns(trainer), metrics, get_time=lambda: time[0])
    bar.train_progress_bar_id = progress.add_task("", total=steps)
    for seconds in range(11):
        time[0] = seconds
        progress.update(bar.train_progress_bar_id, completed=done - (10 - seconds) * a_second)
    Console(file=out, width=80).print(progress.get_renderable())
    (line,) = out.getvalue().splitlines()
    assert line.split()[0] == f"{done}/{steps}"
    assert line.rstrip().endswith(f"{left} loss: 10.33 val: 10.29 tok/s: 250k sparse: 80.0%")
