"""Two processes (gloo, CPU) finetune, score and answer like one."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything

from callbacks import GlueSubmission, KnowledgeDistillation, LinearWarmupDecay
from datamodules import GLUEDataModule
from fake_glue import SUBMISSION_ROWS
from helpers import Recorder, assert_identical, copies, fit, parameters, tiny_trainer
from lightning_modules import SequenceClassifier
from objectives.glue import GLUE

Data = Callable[..., GLUEDataModule]
PAIR = {"strategy": "ddp_fork", "devices": 2}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed"),
    pytest.mark.filterwarnings("ignore:.*"),
]


class Harvest(Recorder):
    """Writes, at every validation, what a rank has seen: with its fork everything else goes."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root, self.labels = root, {}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for suffix, answers in zip(trainer.datamodule.dev, pl_module.answers, strict=False):
            if "labels" in answers:
                self.labels[suffix] = sorted(answers["labels"].compute().reshape(-1).tolist())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        harvest = {"losses": self.losses, "weights": copies(parameters(trainer)), "metrics": metrics, "labels": self.labels}
        torch.save(harvest | {"steps": trainer.global_step}, self.root / f"rank{trainer.global_rank}.pt")


def train(root: Path, data: GLUEDataModule, encoder: Path, *callbacks: Callback, **options: Any) -> list[dict[str, Any]]:
    """What each rank has seen of two epochs without dropout."""
    root.mkdir()
    module = SequenceClassifier(str(encoder), lr=1e-3, dropout=0.0)
    harvest = [Harvest(root), LinearWarmupDecay(0.2), NoDropout(), *callbacks]
    fit(root, data, harvest, -1, module=module, max_epochs=2, limit_val_batches=1.0, **options)
    return [torch.load(file) for file in sorted(root.glob("rank*.pt"))]


class NoDropout(Callback):
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for module in pl_module.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            elif isinstance(getattr(module, "dropout_prob", None), float):
                module.dropout_prob = 0.0


@pytest.mark.parametrize("task", ["MNLI", "STS-B"])
def test_two_processes_are_one_with_the_same_global_batch(
    tmp_path: Path, glue_data: Data, encoder_dir: Path, task: str
) -> None:
    """36 rows, so that the last batch of four divides by two, and development sets of 13 and 11."""
    options, double = {"train_examples": 36}, {"precision": "64-true"}  # a correlation of 13 rows enlarges rounding
    pair = train(
        tmp_path / "two", glue_data(task, batch_size=4, eval_batch_size=3, **options), encoder_dir, **PAIR, **double
    )
    (single,) = train(tmp_path / "one", glue_data(task, batch_size=8, eval_batch_size=5, **options), encoder_dir, **double)
    assert_identical(pair[0]["weights"], pair[1]["weights"])
    assert pair[0]["metrics"] == pair[1]["metrics"]
    assert pair[0]["labels"] == pair[1]["labels"] == single["labels"]
    assert {suffix: len(labels) for suffix, labels in single["labels"].items()} == (
        {"": 13, "_mismatched": 11} if task == "MNLI" else {"": 13}
    )
    assert pair[0]["steps"] == single["steps"] == 10
    curve = (torch.tensor(pair[0]["losses"]) + torch.tensor(pair[1]["losses"])) / 2
    torch.testing.assert_close(curve, torch.tensor(single["losses"]), rtol=1e-4, atol=1e-5)
    assert pair[0]["metrics"] == pytest.approx(single["metrics"], abs=1e-4)
    assert {f"val/{name}" for name in GLUE[task].metrics} <= single["metrics"].keys()


def test_a_set_too_small_for_all_ranks(tmp_path: Path, glue_data: Data, glue_dir: Path, encoder_dir: Path) -> None:
    """One row to score and 17 to learn, of which the second rank's last batch has a repeated one."""
    shutil.copytree(glue_dir / "RTE", tmp_path / "RTE")
    lines = (glue_dir / "RTE" / "dev.tsv").read_text().split("\n")
    (tmp_path / "RTE" / "dev.tsv").write_text("\n".join(lines[:2]) + "\n")
    data = glue_data("RTE", path=str(tmp_path), batch_size=4, train_examples=17)
    first, second = train(tmp_path / "two", data, encoder_dir, **PAIR)
    assert first["steps"] == 2 * 3
    assert first["labels"] == second["labels"]
    assert len(first["labels"][""]) == 1
    assert first["metrics"] == second["metrics"]
    assert first["metrics"]["val/accuracy"] in (0.0, 1.0)


def test_distillation_on_two_processes(tmp_path: Path, glue_data: Data, encoder_dir: Path) -> None:
    trainer = fit(tmp_path, glue_data("RTE"), [], -1, module=SequenceClassifier(str(encoder_dir), lr=1e-3), max_epochs=1)
    trainer.lightning_module.model.save_pretrained(tmp_path / "teacher")
    trainer.datamodule.tokenizer.save_pretrained(tmp_path / "teacher")
    first, second = train(
        tmp_path / "two", glue_data("RTE"), encoder_dir, KnowledgeDistillation(str(tmp_path / "teacher")), **PAIR
    )
    assert_identical(first["weights"], second["weights"])


def test_a_submission_of_two_processes_is_that_of_one(tmp_path: Path, glue_data: Data, encoder_dir: Path) -> None:
    """The fifteen rows of AX among them, in threes."""
    module = SequenceClassifier(str(encoder_dir), lr=1e-3)
    trainer = fit(tmp_path, glue_data("MNLI"), [], -1, module=module, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    for name, options in (("one", {}), ("two", PAIR)):
        seed_everything(0)
        callbacks = [GlueSubmission(str(tmp_path / name))]
        data = glue_data("MNLI", eval_batch_size=3)
        tiny_trainer(tmp_path, callbacks, 1, **options).predict(
            SequenceClassifier(str(encoder_dir)), data, return_predictions=False, ckpt_path=tmp_path / "run.ckpt"
        )
    for file in ("MNLI-m", "MNLI-mm", "AX"):
        one, two = ((tmp_path / name / f"{file}.tsv").read_text() for name in ("one", "two"))
        assert one == two
        assert len(one.split("\n")) == SUBMISSION_ROWS[file] + 2
