"""Every shipped YAML: short, parsed, of the published size, and run for a moment at tiny size by overrides alone."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedTokenizerFast

import train
from callbacks import KnowledgeDistillation, LinearWarmupDecay, OneCycleLR, RigL, StaticSparsity
from datamodules.tokenizers import load_tokenizer

CONFIGS = Path(__file__).parent.parent / "configs"
EXPERIMENTS = sorted((CONFIGS / "experiments").glob("*.yaml"))
SCHEDULES = (OneCycleLR, LinearWarmupDecay)
# 12H²+13H a layer, (V+P+2)H of embeddings, H² of head transform, and 5H+V of biases and LayerNorms (V=30522, P=512).
PARAMETERS = {"tiny": 4_416_698, "mini": 11_201_594, "small": 28_795_194, "base": 109_514_298}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*is not empty", "ignore:.*max_epochs")


def settings(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda file: file.stem)
def test_fits_a_screen(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 40


@pytest.mark.parametrize("size", PARAMETERS)
def test_model_has_the_published_number_of_parameters(size: str) -> None:
    fields = settings(CONFIGS / "model" / f"{size}.yaml")["init_args"]["config"]
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(**fields, vocab_size=30522))
    assert model.num_parameters() == PARAMETERS[size]


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
    assert (KnowledgeDistillation in kinds) == ("kd" in name or name == "quickstart")
    assert (OneCycleLR in kinds) == ("onecycle" in name or name in {"quickstart", "quickstart_teacher", "cpu_bench"})
    assert (RigL in kinds) == ("rigl" in name or name == "quickstart")
    assert (StaticSparsity in kinds) == ("sparse" in name and "rigl" not in name)
    if "sparse" in name:
        (sparse,) = (callback for callback in trainer.callbacks if isinstance(callback, RigL | StaticSparsity))
        zeros = sum(int((trainer.lightning_module.model.get_parameter(name) == 0).sum()) for name in sparse.masks)
        size = sum(mask.numel() for mask in sparse.masks.values())
        assert zeros >= round(sparse.sparsity * size) == size - sum(sparse.masks.nnz().values())


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
