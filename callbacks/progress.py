"""The progress bar of a run that is measured in steps."""

from pytorch_lightning import LightningModule, Trainer

from internals import NamedProgressBar

LABELS = {
    "train/loss": "loss",
    "val/loss": "val",
    "throughput/tokens_per_sec": "tokens/s",
    "sparsity": "sparsity",
}


class StepProgressBar(NamedProgressBar):
    """Lightning's rich bar with loss, validation loss, tokens a second and sparsity under short names."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, str]:
        metrics = super().get_metrics(trainer, pl_module)
        shown = {LABELS[name]: value for name, value in metrics.items() if name in LABELS}
        return {name: f"{value:,.0f}" if name == "tokens/s" else f"{value:.3f}" for name, value in shown.items()}

    @property
    def train_description(self) -> str | None:  # type: ignore[override]
        """The bar counts steps where the run is measured in them."""
        return "Steps" if self.trainer.max_steps > 0 else None
