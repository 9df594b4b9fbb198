"""The recipes as they are shipped, in their own precision and strategy; size, data, devices and steps alone are others."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from recipes_on_two_ranks import whole_and_resumed
from transformers import AutoConfig, AutoModelForMaskedLM

from datamodules import load_tokenizer

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
EXPERIMENTS = sorted((CONFIGS / "experiments").glob("*.yaml"))
TRAINERS = {file.stem: yaml.safe_load(file.read_text()) for file in sorted((CONFIGS / "trainer").glob("*.yaml"))}
SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
STEPS = 10
FLAGSHIP = "sparse_80_kd_onecycle_lr_rigl"

pytestmark = pytest.mark.filterwarnings("ignore:.*")


def settings(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def is_published(file: Path) -> bool:
    return settings(file)["data"].endswith("wikipedia_books.yaml")


PUBLISHED = [file for file in EXPERIMENTS if is_published(file)]
OWN = [file for file in EXPERIMENTS if not is_published(file)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tokenizer_dir: Path) -> Path:
    """A working directory with a tiny masked LM wherever an experiment looks for its teacher."""
    directory = tmp_path_factory.mktemp("recipes")
    tokenizer = load_tokenizer(str(tokenizer_dir))
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert", **SIZE, vocab_size=len(tokenizer)))
    for teacher in {settings(file)["distillation"]["teachers"] for file in EXPERIMENTS if "distillation" in settings(file)}:
        model.save_pretrained(directory / teacher)
        tokenizer.save_pretrained(directory / teacher)
    return directory


def options(file: Path, corpus: Path, tokenizer_dir: Path) -> list[str]:
    """Size, data and steps; and where a run of ten steps has no update, or so small a model no budget, those.

    A tenth of ten steps would be a validation a step, and most of the test the drawing of figures.
    """
    data = {"path": corpus, "tokenizer": tokenizer_dir, "length": 16, "batch_size": 4, "eval_sequences": 8, "num_workers": 0}
    given = [f"--model.config.{name}={value}" for name, value in SIZE.items()]
    given += [f"--data.{name}={value}" for name, value in (data | {"cache_dir": "cache"}).items()]
    given += [f"--trainer.max_steps={STEPS}", "--checkpoint.every_n_train_steps=5", "--checkpoint.save_top_k=-1"]
    given += ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1"]
    given.append("--trainer.val_check_interval=0.5")
    masks = settings(file).get("masks", {}).get("init_args", {})
    if "every" in masks:
        given.append("--masks.every=3")
    if "nonzeros" in masks:
        given.append("--masks.nonzeros=14000")
    elif masks.get("scope") == "model":
        given.append("--masks.sparsity=0.2")  # most of a model this small is positions, which stay dense
    if "at_steps" in settings(file).get("export", {}):
        given.append("--export.at_steps={4: bert_four}")
    return given


@pytest.fixture(scope="module")
def on_two_ranks(place: Path, corpus: Path, tokenizer_dir: Path) -> Path:
    """The outcomes of all published experiments on eight GPUs, which are two processes here, and of the flagship under SLURM."""
    jobs = [(file, "eight_gpus", "--trainer.devices=2") for file in PUBLISHED]
    jobs += [(CONFIGS / "experiments" / f"{FLAGSHIP}.yaml", "slurm", "--trainer.devices=2", "--trainer.num_nodes=1")]
    arguments = [
        "|".join([str(file), str(CONFIGS / "trainer" / f"{trainer}.yaml"), *devices, *options(file, corpus, tokenizer_dir)])
        for file, trainer, *devices in jobs
    ]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command += [str(Path(__file__).with_name("recipes_on_two_ranks.py")), str(place), *arguments]
    environment = {"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=place, capture_output=True, text=True, env=os.environ | environment, timeout=840)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return place


def check(result: dict[str, Any], file: Path, trainer: dict[str, Any]) -> None:
    """What holds of every recipe."""
    name, masks = file.stem, settings(file).get("masks")
    assert result["steps"] == [STEPS, STEPS]
    assert result["precision"] == trainer["precision"]
    assert result["micro_batches"] == trainer["accumulate_grad_batches"]
    assert result["types"] == ["torch.float32"]  # weights and moments, also under bf16-mixed
    assert result["resumed_to_the_bit"]
    assert result["off_and_not_zero"] == 0
    assert 3.0 < result["loss"] < 6.0  # ten steps of a model of 120 tokens: ln 120 is 4.8
    assert ("KnowledgeDistillation" in result["callbacks"]) == (
        any(word in name for word in ("kd", "exact", "wide")) or name == "quickstart"
    )
    assert ("LinearWarmupDecay" in result["callbacks"]) == (name in {"bert_100k", "bert_1mi", "sparse_80"})
    assert ("OneCycleLR" in result["callbacks"]) == (
        "LinearWarmupDecay" not in result["callbacks"] and name != "lr_range_test"
    )
    assert result["method"] == (masks["class_path"] if masks else None)
    assert result["updated"] == (result["method"] == "RigL")
    if masks:
        in_tensors, in_model = result["sizes"]
        given = masks["init_args"]
        by_scope = round(0.2 * in_model) if given.get("scope") == "model" else round(given.get("sparsity", 0) * in_tensors)
        assert result["zeros"] == (in_model - 14_000 if "nonzeros" in given else by_scope)


@pytest.mark.slow
@pytest.mark.timeout(900)  # two runs of each of them, in the one process of a rank that the first test waits for
@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.stem)
def test_published_recipe_on_two_ranks(file: Path, on_two_ranks: Path) -> None:
    result = json.loads((on_two_ranks / f"{file.stem}-eight_gpus.json").read_text())
    check(result, file, TRAINERS["eight_gpus"])
    assert (result["strategy"], result["world_size"], result["equal_on_ranks"]) == ("DDPStrategy", 2, True)
    exported = on_two_ranks / "runs" / f"{file.stem}-eight_gpus" / "version_0"
    assert (exported / "export" / "model.safetensors").is_file()
    assert (exported / "bert_four").is_dir() == (file.stem == "bert_1mi")


@pytest.mark.slow
def test_the_flagship_under_slurm(on_two_ranks: Path) -> None:
    result = json.loads((on_two_ranks / f"{FLAGSHIP}-slurm.json").read_text())
    check(result, CONFIGS / "experiments" / f"{FLAGSHIP}.yaml", TRAINERS["slurm"])
    assert (result["strategy"], result["world_size"], result["equal_on_ranks"]) == ("DDPStrategy", 2, True)


@pytest.mark.parametrize("file", OWN, ids=lambda file: file.stem)
def test_own_recipe(file: Path, place: Path, corpus: Path, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its trainer says nothing of precision or devices: fp32 on what there is."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    result = whole_and_resumed(file.stem, ["fit", "--config", str(file), *options(file, corpus, tokenizer_dir)])
    check(result, file, {"precision": "32-true", "accumulate_grad_batches": 1})


@pytest.mark.parametrize("trainer", ["cpu", "one_gpu"])
def test_the_flagship_in_one_process(
    trainer: str, place: Path, corpus: Path, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    file = CONFIGS / "experiments" / f"{FLAGSHIP}.yaml"
    command = ["fit", "--config", str(file), "--trainer", str(CONFIGS / "trainer" / f"{trainer}.yaml")]
    result = whole_and_resumed(f"{FLAGSHIP}-{trainer}", [*command, *options(file, corpus, tokenizer_dir)])
    check(result, file, TRAINERS[trainer])
    assert (result["strategy"], result["world_size"]) == ("SingleDeviceStrategy", 1)
