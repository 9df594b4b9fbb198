"""Tables of runs: the newest version of each, in numbers that the runs recorded, and nothing invented."""

import json
from pathlib import Path

import pytest
from rich.console import Console

import report


def write_run(root: Path, experiment: str, version: int, **summary: object) -> Path:
    run = root / experiment / f"version_{version}"
    run.mkdir(parents=True)
    (run / "summary.json").write_text(json.dumps({"experiment": experiment, "status": "finished"} | summary))
    return run


def test_newest_version_of_each_experiment(tmp_path: Path) -> None:
    *_, newest = (write_run(tmp_path, "a", version) for version in (0, 2, 10))
    wanted = [newest, write_run(tmp_path, "b", 0)]
    assert report.find_runs([tmp_path]) == wanted
    assert report.find_runs([tmp_path / "b", tmp_path / "a"]) == wanted[::-1]


def test_absent_figures_stay_empty(tmp_path: Path) -> None:
    sparsity = {"model": 0.25, "encoder": 0.8}
    whole = {"experiment": "whole", "sparsity": sparsity, "nonzeros": 1234567, "eval_loss": 3.14159, "perplexity": 23.1405}
    table = report.runs_table([whole, {"experiment": "begun", "status": "running"}])
    cells = {str(column.header): list(column.cells) for column in table.columns}
    assert cells["encoder\nzeros"] == ["0.8000", ""]
    assert cells["non-zeros"] == ["1,234,567", ""]
    assert cells["eval\nloss"] == ["3.1416", ""]
    assert cells["status"] == ["", "running"]


def test_printed_table_says_where_things_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path, "a", 0, eval_loss=2.5)
    (run / "export").mkdir()
    report.main([str(tmp_path)])
    printed = capsys.readouterr().out.replace("\n", "")
    assert "2.5" in printed
    assert "Hugging Face model in export/" in printed


def test_a_directory_without_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no summary\.json there or below"):
        report.find_runs([tmp_path])


def test_figures_are_whole_in_a_terminal() -> None:
    figures = {
        "nonzeros": 22_615_340,
        "eval_loss": 2.138,
        "perplexity": 8.48,
        "tokens_per_second": 31_000,
        "unigram_loss": 6.0976,
    }
    sparsity = {"encoder": 0.8, "model": 0.7958}
    console = Console(width=80, record=True)
    console.print(
        report.runs_table([{"experiment": "quickstart_teacher", "status": "finished", "sparsity": sparsity} | figures])
    )
    row = "quickstart_teacher 0.8000 0.7958 22,615,340 2.1380 8.48 6.0976 31,000"
    assert row.split() == console.export_text().split()[-8:]
