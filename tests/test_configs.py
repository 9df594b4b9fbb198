"""Every shipped YAML: short, parsed, of the published size, and run for a moment at tiny size by overrides alone."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast

import sparsity
import train
from callbacks import KnowledgeDistillation, LinearWarmupDecay, OneCycleLR, RigL, StaticSparsity
from datamodules.tokenizers import load_tokenizer
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
    rigl = sparsity.RigL(**settings(file)["trainer"]["callbacks"][-1]["init_args"])
    weights, scope_size = sparse_weights(rigl, model)
    counts = rigl.allocate(weights, scope_size)
    assert scope_size == model.num_parameters()
    assert sum(weights[name].numel() - counts[name] for name in weights) == zeros
    for name, expected in (("encoder.layer.5.output.dense", encoder), ("embeddings.word_embeddings", embeddings)):
        weight = f"bert.{name}.weight"
        assert 1 - counts[weight] / weights[weight].numel() == pytest.approx(expected, abs=1e-4)


@pytest.fixture(scope="module")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory, tokenizer_dir: Path) -> Path:
    """A masked LM with the tests' tokenizer, to stand where an experiment looks for its teacher."""
    directory = tmp_path_factory.mktemp("teacher")
    tokenizer: PreTrainedTokenizerFast = load_tokenizer(str(tokenizer_dir))
    fields = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    config = AutoConfig.for_model("bert", **fields, vocab_size=len(tokenizer))
    AutoModelForMaskedLM.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_experiment_runs_at_tiny_size_on_local_text(
    file: Path, tiny_teacher: Path, corpus: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    for callback in settings(file)["trainer"]["callbacks"]:
        if callback["class_path"] == "KnowledgeDistillation":
            shutil.copytree(tiny_teacher, callback["init_args"]["teachers"])
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    data = {
        "path": corpus,
        "tokenizer": tokenizer_dir,
        "length": 16,
        "batch_size": 4,
        "cache_dir": "cache",
        "num_workers": 0,
    }
    options = [f"--model.config.{name}={value}" for name, value in size.items()]
    options += [f"--data.{name}={value}" for name, value in data.items()]
    if (sparse := settings(file)["trainer"]["callbacks"][-1].get("init_args", {})) and "nonzeros" in sparse:
        options += ["--trainer.callbacks.nonzeros=14000"]
    elif sparse.get("scope") == "model":
        options += ["--trainer.callbacks.sparsity=0.2"]  # most of a model this small is positions, which stay dense
    options += ["--trainer.devices=1", "--trainer.strategy=auto", "--trainer.precision=32", "--trainer.accelerator=cpu"]
    cli = train.main(
        ["fit", f"--config={file}", *options, "--trainer.fast_dev_run=2", "--trainer.enable_progress_bar=false"]
    )

    trainer = cli.trainer
    assert trainer.global_step == 2
    assert cli.config.fit.experiment in {file.stem, "lr_range_test"}
    assert len(trainer.lr_scheduler_configs) == 1
    name = file.stem
    kinds = [type(callback) for callback in trainer.callbacks]
    assert (KnowledgeDistillation in kinds) == (
        any(word in name for word in ("kd", "exact", "wide")) or name == "quickstart"
    )
    assert (LinearWarmupDecay in kinds) == (name in {"bert_100k", "bert_1mi", "sparse_80"})
    assert (OneCycleLR in kinds) == (LinearWarmupDecay not in kinds and name != "lr_range_test")
    dynamic = any(word in name for word in ("rigl", "exact", "wide")) or name == "quickstart"
    assert (RigL in kinds) == dynamic
    assert (StaticSparsity in kinds) == ("sparse" in name and not dynamic)
    if "sparse" in name:
        (sparse,) = (callback for callback in trainer.callbacks if isinstance(callback, RigL | StaticSparsity))
        model = trainer.lightning_module.model
        zeros = sum(int((model.get_parameter(name) == 0).sum()) for name in sparse.masks)
        size = sum(mask.numel() for mask in sparse.masks.values())
        in_scope = size if sparse.method.scope == "tensors" else model.num_parameters()
        wanted = model.num_parameters() - sparse.nonzeros if sparse.nonzeros else round(sparse.sparsity * in_scope)
        assert zeros >= wanted == size - sum(sparse.masks.nnz().values())


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
    assert shown["model"]["init_args"]["lr"] == 1e-3
    assert shown["data"]["init_args"].items() >= settings(CONFIGS / "data" / f"{data}.yaml")["init_args"].items()
    assert (shown["data"]["init_args"]["tokenizer"], shown["data"]["init_args"]["num_workers"]) == (None, 0)
