"""Two processes (gloo, CPU) learn, score and answer the tasks beyond GLUE like one."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import seed_everything
from test_ddp_finetuning import PAIR, Harvest, NoDropout

from callbacks import LinearWarmupDecay, PredictionFiles
from datamodules import TaskDataModule
from helpers import assert_identical, fit, tiny_trainer
from lightning_modules import TaskModel
from objectives.beyond_glue import BEYOND_GLUE

Data = Callable[..., TaskDataModule]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed"),
    pytest.mark.filterwarnings("ignore:.*"),
]


def train(root: Path, data: TaskDataModule, encoder: Path, **options: Any) -> list[dict[str, Any]]:
    """What each rank has seen of an epoch without dropout."""
    root.mkdir()
    callbacks = [Harvest(root), LinearWarmupDecay(0.2), NoDropout()]
    module = TaskModel(str(encoder), lr=1e-3)
    fit(root, data, callbacks, -1, module=module, **{"max_epochs": 1, "limit_val_batches": 1.0} | options)
    return [torch.load(file) for file in sorted(root.glob("rank*.pt"))]


@pytest.mark.parametrize("task", BEYOND_GLUE)
def test_two_processes_score_like_one_to_the_last_digit(
    tmp_path: Path, task_data: Data, encoder_dir: Path, task: str
) -> None:
    """The same weights, in double precision, over sets that divide neither by two nor by the batch."""
    fit(tmp_path, task_data(task), [], -1, module=TaskModel(str(encoder_dir), lr=1e-3), max_epochs=2).save_checkpoint(
        tmp_path / "run.ckpt"
    )
    found = []
    for name, options in (("one", {"eval_batch_size": 5}), ("two", {"eval_batch_size": 2})):
        root = tmp_path / name
        root.mkdir()
        pair = PAIR if name == "two" else {}
        seed_everything(0)
        trainer = tiny_trainer(root, [Harvest(root)], -1, limit_val_batches=1.0, precision="64-true", **pair)
        trainer.validate(
            TaskModel(str(encoder_dir)), task_data(task, **options), ckpt_path=tmp_path / "run.ckpt", verbose=False
        )
        found.append([torch.load(file)["metrics"] for file in sorted(root.glob("rank*.pt"))])
    (single,), (first, second) = found
    assert first == second
    assert first == pytest.approx(single, abs=1e-12)
    assert {f"val/{name}" for name in BEYOND_GLUE[task].metrics} <= single.keys()


@pytest.mark.parametrize("task", ["SQuAD2", "SWAG", "CoNLL"])
def test_two_processes_learn_like_one_with_the_same_global_batch(
    tmp_path: Path, task_data: Data, encoder_dir: Path, task: str
) -> None:
    """Of words the mean is over those of a rank, so that curves of tags differ by how these are dealt out."""
    options, double = {"train_examples": 16}, {"precision": "64-true"}
    pair = train(tmp_path / "two", task_data(task, batch_size=4, **options), encoder_dir, **PAIR, **double)
    (single,) = train(tmp_path / "one", task_data(task, batch_size=8, **options), encoder_dir, **double)
    assert_identical(pair[0]["weights"], pair[1]["weights"])
    assert pair[0]["metrics"] == pair[1]["metrics"]
    curve = (torch.tensor(pair[0]["losses"]) + torch.tensor(pair[1]["losses"])) / 2
    tolerance = 0.05 if task == "CoNLL" else 1e-5
    torch.testing.assert_close(curve, torch.tensor(single["losses"]), rtol=tolerance, atol=tolerance)


def test_a_set_too_small_for_all_ranks(tmp_path: Path, task_data: Data, tasks_dir: Path, encoder_dir: Path) -> None:
    """One row to score, which the second rank has none of."""
    shutil.copytree(tasks_dir / "SWAG", tmp_path / "SWAG")
    lines = (tmp_path / "SWAG" / "val.csv").read_text().split("\n")
    (tmp_path / "SWAG" / "val.csv").write_text("\n".join(lines[:2]) + "\n")
    first, second = train(tmp_path / "two", task_data("SWAG", path=str(tmp_path)), encoder_dir, **PAIR)
    assert first["metrics"] == second["metrics"]
    assert first["metrics"]["val/accuracy"] in (0.0, 1.0)


@pytest.mark.parametrize("task", ["SQuAD2", "SWAG", "CoNLL"])
def test_answers_of_two_processes_are_those_of_one(tmp_path: Path, task_data: Data, encoder_dir: Path, task: str) -> None:
    fit(tmp_path, task_data(task), [], -1, module=TaskModel(str(encoder_dir), lr=1e-3), max_epochs=1).save_checkpoint(
        tmp_path / "run.ckpt"
    )
    files = []
    for name, options in (("one", {}), ("two", PAIR)):
        seed_everything(0)
        trainer = tiny_trainer(tmp_path, [PredictionFiles(str(tmp_path / name))], 1, precision="64-true", **options)
        data = task_data(task, eval_batch_size=3)
        trainer.predict(TaskModel(str(encoder_dir)), data, return_predictions=False, ckpt_path=tmp_path / "run.ckpt")
        files.append({file.name: file.read_text() for file in sorted((tmp_path / name).iterdir())})
    one, two = files
    assert one.keys() == two.keys()
    exact = [name for name in one if name not in ("null_odds.json", "nbest_predictions.json")]
    assert exact
    assert [one[name] for name in exact] == [two[name] for name in exact]
