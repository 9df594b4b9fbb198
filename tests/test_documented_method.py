"""The method that the documentation adds, and its loop, by their own words and commands."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

import train
from callbacks import SparseTraining
from helpers import assert_identical, tiny_trainer
from sparsity import RigL

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*max_epochs")


def blocks(page: str) -> dict[str, str]:
    """The first code block of a page in each language."""
    found = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    return dict(reversed(found))


def test_the_method_that_is_added_works_as_it_says(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = blocks("methods/add.md")
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
    arguments += ["--masks.every=2", "--trainer.max_steps=9", "--trainer.limit_val_batches=1"]
    arguments += ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
    monkeypatch.setattr(sys, "argv", ["train.py"])
    trainer = train.main(arguments).trainer

    (sparse,) = (callback for callback in trainer.callbacks if isinstance(callback, SparseTraining))
    assert (type(sparse.method).__name__, sparse.method.sparsity, sparse.method.smoothing) == ("SmoothRigL", 0.8, 0.95)
    assert trainer.global_step == 9
    weights = dict(trainer.lightning_module.model.named_parameters())
    assert sparse.masks.nnz() == sparse.stepping.initial_nnz
    assert sum(sparse.stepping.explored.nnz().values()) > sum(sparse.stepping.initial_nnz.values())  # masks have moved
    for name, mask in sparse.masks.items():
        assert not weights[name][~mask].any()
        assert int(mask.sum(1).max() - mask.sum(1).min()) <= 1  # rows
    saved = torch.load(trainer.checkpoint_callback.last_model_path, weights_only=True)["callbacks"]
    (state,) = (state for name, state in saved.items() if name == "SparseTraining[SmoothRigL]")
    assert state["memory"]["gradient"].keys() == sparse.masks.keys()


class Loop(LightningModule):
    """The loop of the API page as a module."""

    def __init__(self, model: torch.nn.Module, inputs: Tensor) -> None:
        super().__init__()
        self.model, self.inputs = model, inputs

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return mse_loss(self.model(batch), batch.prod(1, keepdim=True))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.model.parameters(), lr=1e-2)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.inputs, batch_size=None, generator=torch.Generator())


def test_the_loop_gives_the_masks_of_a_trainer_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = blocks("api.md")["py"]
    assert len(code.split("torch.manual_seed(0)\n")[1].splitlines()) <= 12
    names: dict[str, Any] = {}
    exec(code, names)
    sparse, weights = names["sparse"], names["weights"]
    assert sparse.masks.nnz() == {"0.weight": 205, "2.weight": 13}  # of 1,024 and 64
    assert all(bool((sparse.explored[name] & ~mask).any()) for name, mask in sparse.masks.items())  # they have moved

    torch.manual_seed(0)
    layers = torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1)
    module = Loop(torch.nn.Sequential(*layers), torch.stack([torch.randn(32, 16) for _ in range(200)]))
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    callback = SparseTraining(RigL(sparsity=0.8, every=10, targets=("*.weight",)))
    tiny_trainer(tmp_path, [callback], max_steps=200).fit(module)
    assert_identical(dict(callback.masks), dict(sparse.masks))
    assert_identical(dict(callback.stepping.explored), dict(sparse.explored))
    assert_identical(
        {name: module.model.get_parameter(name).data for name in weights}, {n: w.data for n, w in weights.items()}
    )
