"""TensorBoard's own pages: one that shows a run, and hyper-parameters beside its headlines."""

import ast
import inspect
from pathlib import Path

import pytorch_lightning.loggers as loggers
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import callbacks
from callbacks import RunTensorBoard, plain_settings
from callbacks.tensorboard import HEADLINES

ROOT = Path(__file__).parents[2]
SETTINGS = {"masks": {"class_path": "sparsity.RigL", "init_args": {"sparsity": 0.8, "targets": ["*"], "seed": None}}}


def written(directory: Path, settings: dict) -> EventAccumulator:
    logger = RunTensorBoard(directory, name="", version="", default_hp_metric=False)
    logger.log_hyperparams(settings)
    logger.log_metrics({"val/loss": 2.0, "epoch": 0.0}, step=3)
    logger.finalize("success")
    log = EventAccumulator(str(directory))
    log.Reload()
    return log


def test_settings_are_flat_and_a_class_is_its_name() -> None:
    assert plain_settings(SETTINGS | {"trainer": {"max_steps": 5, "precision": None}}) == {
        "masks": "RigL",
        "masks.sparsity": 0.8,
        "trainer.max_steps": 5,
    }


def test_no_card_of_epochs_and_no_value_that_was_not_measured(tmp_path: Path) -> None:
    log = written(tmp_path, SETTINGS)
    assert log.Tags()["scalars"] == ["val/loss"]
    assert [(event.step, event.value) for event in log.Scalars("val/loss")] == [(3, 2.0)]


def test_hyper_parameters_stand_beside_headlines(tmp_path: Path) -> None:
    content = written(tmp_path, SETTINGS).summary_metadata
    plugin = {
        tag: HParamsPluginData.FromString(data.plugin_data.content) for tag, data in content.items() if "hparams" in tag
    }
    metrics = plugin["_hparams_/experiment"].experiment.metric_infos
    assert tuple(metric.name.tag for metric in metrics) == HEADLINES
    given = plugin["_hparams_/session_start_info"].session_start_info.hparams
    assert (given["masks"].string_value, given["masks.sparsity"].number_value) == ("RigL", 0.8)


def test_one_page_shows_a_run_and_its_masks_where_it_has_some(tmp_path: Path) -> None:
    for name, settings, categories in (("sparse", SETTINGS, ["run", "masks"]), ("dense", {"experiment": "e"}, ["run"])):
        (event,) = written(tmp_path / name, settings).Tensors("custom_scalars__config__")
        layout = Layout.FromString(event.tensor_proto.string_val[0])
        assert [category.title for category in layout.category] == categories
        charts = {chart.title: list(chart.multiline.tag) for chart in layout.category[0].chart}
        assert charts["loss"] == ["^train/loss$", "^val/loss$", "^val/unigram_loss$", "^kd/loss$"]


def test_every_logger_that_is_shipped_takes_its_settings() -> None:
    """Those of wandb and mlflow, which are not installed, by their signatures."""
    for file in sorted((ROOT / "configs" / "logger").glob("*.yaml")):
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        name = content["class_path"].removeprefix("callbacks.")
        kind = getattr(loggers, name, None) or getattr(callbacks, name)
        known = set(inspect.signature(kind).parameters) | set(inspect.signature(loggers.TensorBoardLogger).parameters)
        assert content["init_args"].keys() <= (
            known if name == "RunTensorBoard" else set(inspect.signature(kind).parameters)
        )


def test_nothing_chooses_a_backend_of_matplotlib() -> None:
    """So that the figures of a notebook are as they were: pictures are drawn without pyplot."""
    packages = ("callbacks", "reports", "deployment", "sparsity", "lightning_modules", "datamodules")
    for file in [*ROOT.glob("*.py"), *(file for package in packages for file in (ROOT / package).rglob("*.py"))]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            imported = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert "matplotlib.pyplot" not in imported, file
            assert not (isinstance(node, ast.Call) and ast.unparse(node.func) == "matplotlib.use"), file
