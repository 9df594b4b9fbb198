"""Submission files: official names, a header, every row once in its order, label strings."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from callbacks import GlueSubmission
from callbacks.submission import submission_lines
from datamodules import GLUEDataModule, SequenceBatch
from helpers import fit, tiny_trainer
from lightning_modules import SequenceClassifier
from objectives.glue import GLUE, SUBMISSION


@pytest.mark.parametrize(
    ("task", "answers", "expected"),
    [
        ("CoLA", [1, 0, 1], ["0\t0", "1\t1", "2\t1"]),
        ("RTE", [1, 0, 1], ["0\tentailment", "1\tnot_entailment", "2\tnot_entailment"]),
        ("MNLI", [2, 0, 1], ["0\tentailment", "1\tneutral", "2\tcontradiction"]),
        ("STS-B", [5.7, -0.2, 3.14159], ["0\t0.000", "1\t3.142", "2\t5.000"]),
    ],
)
def test_lines_are_in_the_order_of_the_index(task: str, answers: list[float], expected: list[str]) -> None:
    lines = submission_lines(GLUE[task], torch.tensor([2, 0, 1]), torch.tensor(answers))
    assert lines == ["index\tprediction", *expected]


def test_the_zip_holds_what_there_is(tmp_path: Path) -> None:
    submission = GlueSubmission(str(tmp_path / "below" / "submission"))
    submission.write({"RTE": ["index\tprediction", "0\tentailment"]})
    submission.write({"AX": ["index\tprediction", "0\tneutral"]})
    (tmp_path / "below" / "submission" / "notes.txt").write_text("mine")
    submission.write({"RTE": ["index\tprediction", "0\tnot_entailment"]})
    with zipfile.ZipFile(tmp_path / "below" / "submission" / "submission.zip") as archive:
        assert archive.namelist() == [f"{name}.tsv" for name in SUBMISSION if name in ("RTE", "AX")]
        assert archive.read("RTE.tsv") == b"index\tprediction\n0\tnot_entailment\n"
    left = {file.name for file in (tmp_path / "below" / "submission").iterdir()}
    assert left == {"RTE.tsv", "AX.tsv", "submission.zip", "notes.txt"}


class Diverging(SequenceClassifier):
    """Some logits of rows 12 and 14 are not numbers: of MNLI's three test sets only AX has so many rows."""

    wrong = torch.nan

    def predict_logits(self, model: PreTrainedModel, batch: SequenceBatch) -> Tensor:
        logits = super().predict_logits(model, batch)
        if "index" in batch:
            logits[(batch["index"] == 12) | (batch["index"] == 14), -1] = self.wrong
        return logits


@pytest.mark.filterwarnings("ignore:.*infer the batch indices")
@pytest.mark.parametrize(("task", "name", "rows"), [("MNLI", "AX", "2 of 15"), ("RTE", "RTE", "1 of 13")])
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_answers_that_are_not_numbers_are_no_submission(
    tmp_path: Path,
    glue_data: Callable[..., GLUEDataModule],
    encoder_dir: Path,
    task: str,
    name: str,
    rows: str,
    wrong: float,
) -> None:
    trainer = fit(tmp_path, glue_data(task), [], 1, module=SequenceClassifier(str(encoder_dir)))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    submission = GlueSubmission(str(tmp_path / "submission"))
    module = Diverging(str(encoder_dir))
    module.wrong = wrong
    with pytest.raises(ValueError, match=f"^{name}: {rows} answers are not finite numbers") as error:
        tiny_trainer(tmp_path, [submission], 1).predict(
            module, glue_data(task, eval_batch_size=4), return_predictions=False, ckpt_path=tmp_path / "run.ckpt"
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "submission").exists()


@pytest.mark.filterwarnings("ignore:.*infer the batch indices")
def test_a_score_that_is_not_a_number_is_no_submission(
    tmp_path: Path, glue_data: Callable[..., GLUEDataModule], encoder_dir: Path
) -> None:
    trainer = fit(tmp_path, glue_data("STS-B"), [], 1, module=SequenceClassifier(str(encoder_dir)))
    trainer.lightning_module.model.classifier.bias.data[:] = torch.nan
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    submission = GlueSubmission(str(tmp_path / "submission"))
    with pytest.raises(ValueError, match="^STS-B: 8 of 8 answers are not finite numbers"):
        tiny_trainer(tmp_path, [submission], 1).predict(
            SequenceClassifier(str(encoder_dir)),
            glue_data("STS-B"),
            return_predictions=False,
            ckpt_path=tmp_path / "run.ckpt",
        )
    assert not (tmp_path / "submission").exists()
