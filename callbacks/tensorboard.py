"""TensorBoard as a run shows itself there: one page of what matters, and the settings that tell runs apart."""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from callbacks.resume import flat_settings

HEADLINES = ("val/loss", "val/perplexity", "sparsity/model", "throughput/tokens_per_sec")
"""Scalars that stand beside the hyper-parameters; TensorBoard takes their last values."""

RUN = {
    "loss": ["train/loss", "val/loss", "val/unigram_loss", "kd/loss"],
    "perplexity": ["val/perplexity"],
    "tokens a second": ["throughput/tokens_per_sec"],
    "learning rate": ["lr"],
}
MASKS = {
    "share of zeros": ["sparsity/model", "sparsity/encoder", "sparsity/embeddings"],
    "neurons and embedding rows without a weight": ["sparsity/dead_neurons", "sparsity/dead_embedding_rows"],
    "replaced, explored, drop fraction": [".*/churn", ".*/explored", ".*/drop_fraction", ".*/pruned"],
    "growth: concentration and survival": [".*/growth_concentration.*", ".*/survival"],
}


def whole(patterns: list[str]) -> list[str]:
    """The patterns as TensorBoard needs them to match whole tags: not ``val/loss_per_word`` with ``val/loss``."""
    return [f"^{pattern}$" for pattern in patterns]


def page(sparse: bool) -> dict[str, dict[str, list[Any]]]:
    """The layout of the page *Custom scalars*: category → chart → its kind and patterns of the scalars in it."""
    categories = {"run": RUN, **({"masks": MASKS} if sparse else {})}
    return {
        name: {chart: ["Multiline", whole(tags)] for chart, tags in charts.items()} for name, charts in categories.items()
    }


def plain_settings(settings: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Settings by name (:func:`~callbacks.resume.flat_settings`), but for what is empty or a list."""
    return {name: value for name, value in flat_settings(settings).items() if isinstance(value, bool | int | float | str)}


class RunTensorBoard(TensorBoardLogger):
    """Lightning's logger with hyper-parameters beside the headlines of a run, and without the epoch, which is no result."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write scalars."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, metrics: dict[str, Any] | None = None, step: int | None = None
    ) -> None:
        """Write hyper-parameters, and the page that shows the run: with its masks where there is a setting ``masks``."""
        super().log_hyperparams(params, metrics, step)
        given = plain_settings(params if isinstance(params, dict) else vars(params))
        for summary in hparams(given, dict.fromkeys(HEADLINES, 0.0)):  # of these, their names alone
            self.experiment.file_writer.add_summary(summary)
        self.experiment.add_custom_scalars(page(sparse="masks" in given))
