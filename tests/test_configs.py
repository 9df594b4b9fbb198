"""Every shipped YAML: short, parsed, of the published size, and run for a moment at tiny size by overrides alone."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel

import sparsity
import train
from callbacks import LinearWarmupDecay, OneCycleLR
from objectives.parameter_groups import sparse_weights

CONFIGS = Path(__file__).parent.parent / "configs"
EXPERIMENTS = sorted((CONFIGS / "experiments").glob("*.yaml"))
SCHEDULES = (OneCycleLR, LinearWarmupDecay)
# 12H²+13H a layer, (V+P+2)H of embeddings, H² of head transform, and 5H+V of biases and LayerNorms (V=30522, P=512).
PARAMETERS = {
    "tiny": 4_416_698,
    "mini": 11_201_594,
    "small": 28_795_194,
    "base": 109_514_298,
    "base_2x_wide": 390_047_034,
    "base_4x_wide": 1_464_259_386,
}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*is not empty", "ignore:.*max_epochs")


def settings(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda file: file.stem)
def test_fits_a_screen(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 40


@pytest.mark.parametrize("size", PARAMETERS)
def test_model_has_the_published_number_of_parameters(size: str) -> None:
    assert without_weights(CONFIGS / "model" / f"{size}.yaml").num_parameters() == PARAMETERS[size]


def without_weights(file: Path) -> PreTrainedModel:
    """The model of a configuration with BERT's vocabulary, on the meta device."""
    with torch.device("meta"):
        config = AutoConfig.for_model(**settings(file)["init_args"]["config"], vocab_size=30522)
        return AutoModelForMaskedLM.from_config(config)


@pytest.mark.parametrize(
    ("name", "zeros", "encoder", "embeddings"),
    [
        ("sparse_80_exact_embeddings", round(0.8 * PARAMETERS["base"]), 0.8084, 0.8084),
        ("sparse_80_exact_encoder", round(0.8 * PARAMETERS["base"]), 0.8935, 0.5),
        ("sparse_2x_wide", PARAMETERS["base_2x_wide"] - 16_600_000, 0.9601, 0.9601),
        ("sparse_4x_wide", PARAMETERS["base_4x_wide"] - 11_400_000, 0.9936, 0.9936),
    ],
)
def test_zeros_of_the_whole_model_are_exact_at_full_size(name: str, zeros: int, encoder: float, embeddings: float) -> None:
    file = CONFIGS / "experiments" / f"{name}.yaml"
    model = without_weights(file.parent / settings(file)["model"])
    rigl = sparsity.RigL(**settings(file)["masks"]["init_args"])
    weights, scope_size = sparse_weights(rigl, model)
    counts = rigl.allocate(weights, scope_size)
    assert scope_size == model.num_parameters()
    assert sum(weights[name].numel() - counts[name] for name in weights) == zeros
    for name, expected in (("encoder.layer.5.output.dense", encoder), ("embeddings.word_embeddings", embeddings)):
        weight = f"bert.{name}.weight"
        assert 1 - counts[weight] / weights[weight].numel() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_an_experiment_says_what_is_trained_and_not_on_what(file: Path) -> None:
    content = settings(file)
    assert content["experiment"] == file.stem
    assert not content["trainer"].keys() & {"devices", "num_nodes", "accelerator", "strategy", "precision", "callbacks"}


@pytest.mark.parametrize("file", sorted((CONFIGS / "trainer").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_machine_makes_the_published_batch(file: Path) -> None:
    trainer, data = settings(file), settings(CONFIGS / "data" / "wikipedia_books.yaml")["init_args"]
    devices = trainer["devices"] * trainer.get("num_nodes", 1)
    assert devices * trainer["accumulate_grad_batches"] * data["batch_size"] == 256


@pytest.mark.parametrize("model", ["tiny", "modern_tiny"])
@pytest.mark.parametrize("data", ["local", "docstrings"])
def test_smaller_model_and_data_leave_nothing_of_the_larger(
    model: str, data: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files overlay key by key, so a file names every key that another sets."""
    monkeypatch.setattr(sys, "argv", ["train.py"])
    files = [f"--model={CONFIGS}/model/{model}.yaml", f"--data={CONFIGS}/data/{data}.yaml"]
    with pytest.raises(SystemExit):
        train.main(["fit", f"--config={CONFIGS}/experiments/sparse_80_onecycle_lr.yaml", *files, "--print_config"])
    shown = yaml.safe_load(capsys.readouterr().out)
    alone = settings(CONFIGS / "model" / f"{model}.yaml")["init_args"]
    assert shown["model"]["init_args"]["config"] == alone["config"]
    assert shown["model"]["init_args"]["lr"] is None
    assert shown["data"]["init_args"].items() >= settings(CONFIGS / "data" / f"{data}.yaml")["init_args"].items()
    assert (shown["data"]["init_args"]["tokenizer"], shown["data"]["init_args"]["num_workers"]) == (None, 0)
