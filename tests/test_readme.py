"""What the README says can be done is done: the method it adds, by its own words and commands."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

import train
from callbacks import SparseTraining

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*max_epochs")


def blocks(heading: str) -> dict[str, str]:
    """Code blocks of a section of the README by their language."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"```(\w+)\n(.*?)```", section, flags=re.DOTALL))


def test_the_method_of_the_readme_works_as_it_says(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = blocks("Add a method")
    assert code["python"].count("\n") < 40
    (tmp_path / "my_method.py").write_text(code["python"])
    (tmp_path / "my_method.yaml").write_text(code["yaml"])
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    python, script, *arguments = shlex.split(code["sh"])
    assert (python, script) == ("python", "train.py")
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    data = {"path": corpus, "tokenizer": tokenizer_dir, "length": 16, "batch_size": 4, "cache_dir": "cache"}
    arguments += [f"--model.config.{name}={value}" for name, value in size.items()]
    arguments += [f"--data.{name}={value}" for name, value in data.items()]
    arguments += ["--trainer.callbacks.every=2", "--trainer.max_steps=9", "--trainer.limit_val_batches=1"]
    arguments += ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
    monkeypatch.setattr(sys, "argv", ["train.py"])
    trainer = train.main(arguments).trainer

    (sparse,) = (callback for callback in trainer.callbacks if isinstance(callback, SparseTraining))
    assert (type(sparse).__name__, sparse.sparsity, sparse.smoothing) == ("SmoothRigL", 0.8, 0.95)
    assert trainer.global_step == 9
    weights = dict(trainer.lightning_module.model.named_parameters())
    assert sparse.masks.nnz() == sparse.stepping.initial_nnz
    assert sum(sparse.stepping.explored.nnz().values()) > sum(sparse.stepping.initial_nnz.values())  # masks have moved
    for name, mask in sparse.masks.items():
        assert not weights[name][~mask].any()
        assert int(mask.sum(1).max() - mask.sum(1).min()) <= 1  # rows
    saved = torch.load(trainer.checkpoint_callback.last_model_path, weights_only=True)["callbacks"]
    (state,) = (state for name, state in saved.items() if name.startswith("SmoothRigL"))
    assert state["memory"]["gradient"].keys() == sparse.masks.keys()
