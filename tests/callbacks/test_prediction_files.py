"""Files of answers: the official formats, to the letter."""

import csv
import io
import json
import math
from pathlib import Path

import datasets
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from callbacks import PredictionFiles
from callbacks.prediction_files import conll_files, squad_files, swag_files
from datamodules import TaskFiles
from helpers import tiny_trainer
from lightning_modules import TaskModel
from objectives.beyond_glue import TAGS, beyond_glue
from objectives.squad import Answer, Candidate

ANSWERS = [
    Answer([Candidate("Bonn", 3.0, 2.0), Candidate("in Bonn", 1.0, 2.0)], Candidate("", 1.0, 1.0)),
    Answer([Candidate("1990", 0.0, 0.5)], Candidate("", 2.0, 1.5)),
]
EXAMPLES = {"id": ["a", "ü"]}


def test_version_1_answers_every_question() -> None:
    files = {name: json.loads(text) for name, text in squad_files(ANSWERS, EXAMPLES, None).items()}
    assert files.keys() == {"predictions.json", "nbest_predictions.json"}
    assert files["predictions.json"] == {"a": "Bonn", "ü": "1990"}
    best, other = files["nbest_predictions.json"]["a"]
    assert (best["text"], best["start_logit"], best["end_logit"]) == ("Bonn", 3.0, 2.0)
    assert best["probability"] == pytest.approx(1 / (1 + math.exp(-2)))
    assert best["probability"] + other["probability"] == pytest.approx(1)


@pytest.mark.parametrize(("threshold", "texts"), [(0.0, ["Bonn", ""]), (3.5, ["Bonn", "1990"]), (-3.5, ["", ""])])
def test_version_2_leaves_out_what_is_too_unlikely(threshold: float, texts: list[str]) -> None:
    files = {name: json.loads(text) for name, text in squad_files(ANSWERS, EXAMPLES, threshold).items()}
    assert list(files["predictions.json"].values()) == texts
    assert files["null_odds.json"] == {"a": 2.0 - 5.0, "ü": 3.5 - 0.5}
    assert [each["text"] for each in files["nbest_predictions.json"]["ü"]] == ["", "1990"]
    assert [each["text"] for each in files["nbest_predictions.json"]["a"]] == ["Bonn", "in Bonn", ""]


def test_a_context_without_a_token_has_no_answer() -> None:
    nothing = Answer([], Candidate("", 0.0, 0.0))
    files = squad_files([nothing], {"id": ["q"]}, None)
    assert json.loads(files["predictions.json"]) == {"q": ""}


def test_choices_are_the_official_file_with_their_labels(tasks_dir: Path, tmp_path: Path) -> None:
    examples = TaskFiles(beyond_glue("SWAG"), str(tasks_dir)).read("test")
    (text,) = swag_files([3, 0, 1, 2, 0], examples).values()
    official = (tasks_dir / "SWAG" / "test.csv").read_text(encoding="utf-8").splitlines()
    assert text.splitlines()[0] == f"{official[0]},label"
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["label"] for row in rows] == list("30120")
    (tmp_path / "train.csv").write_text(text, encoding="utf-8")
    again = TaskFiles(beyond_glue("SWAG"), str(tmp_path)).read("train")
    assert again["choice"] == [3, 0, 1, 2, 0]
    assert again["ending2"] == examples["ending2"]


def test_tags_are_the_official_file_with_the_tags_replaced(tasks_dir: Path) -> None:
    examples = TaskFiles(beyond_glue("CoNLL"), str(tasks_dir)).read("test")
    official = (tasks_dir / "CoNLL-2003" / "eng.testb").read_text(encoding="utf-8")
    (text,) = conll_files([[TAGS[tag] for tag in tags] for tags in examples["tags"]], examples).values()
    own, right = ([line.split() for line in content.rstrip().split("\n")] for content in (text, official))
    assert [line[:-1] for line in own] == [line[:-1] for line in right]
    assert [line[-1].replace("B-", "I-") for line in own if line] == [line[-1].replace("B-", "I-") for line in right if line]
    two = datasets.Dataset.from_dict({"words": [["Bonn"]], "others": [[""]], "document": [""]})
    assert conll_files([["B-LOC"]], two)["predictions.txt"] == "Bonn B-LOC\n"


class Diverged(Callback):
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for weight in pl_module.model.parameters():
            torch.nn.init.constant_(weight, math.nan)


def test_a_model_that_has_diverged_writes_nothing(tmp_path: Path, task_data, encoder_dir: Path) -> None:  # type: ignore[no-untyped-def]
    model = TaskModel(str(encoder_dir))
    trainer = tiny_trainer(tmp_path, [], 1, max_epochs=1)
    trainer.fit(model, task_data("SWAG"))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    trainer = tiny_trainer(tmp_path, [Diverged(), PredictionFiles(str(tmp_path / "answers"))], 1)
    with pytest.raises(ValueError, match="test: 5 answers are not finite numbers, so nothing is written"):
        trainer.predict(model, task_data("SWAG"), return_predictions=False, ckpt_path=tmp_path / "run.ckpt")
    assert not (tmp_path / "answers").exists()


def test_mistakes(tmp_path: Path, task_data, encoder_dir: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="predictions.null_threshold is nan; a finite number expected"):
        PredictionFiles(null_threshold=math.nan)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"predictions.directory: .*file is a file; name a directory"):
        tiny_trainer(tmp_path, [PredictionFiles(str(tmp_path / "file"))], 1).predict(
            TaskModel(str(encoder_dir)), task_data("SWAG")
        )
