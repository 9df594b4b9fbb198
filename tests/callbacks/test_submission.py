"""Submission files: official names, a header, every row once in its order, label strings."""

import zipfile
from pathlib import Path

import pytest
import torch

from callbacks import GlueSubmission
from callbacks.submission import submission_lines
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
