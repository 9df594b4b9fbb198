"""The command line of reports: which tables it prints, and one clear line for every mistake."""

import json
from pathlib import Path
from typing import Any

import pytest

import report

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CONFIGS = Path(__file__).parent.parent / "configs"


def write_run(root: Path, experiment: str, version: int = 0, **summary: object) -> Path:
    run = root / experiment / f"version_{version}"
    run.mkdir(parents=True)
    (run / "summary.json").write_text(json.dumps({"experiment": experiment, "status": "finished"} | summary))
    return run


def write_finetuning(root: Path, version: int, **summary: Any) -> Path:
    scores = {"task": "RTE", "metrics": {"accuracy": 0.6}, "pretrained": "runs/sparse/version_0/export"}
    return write_run(root, "rte", version, **scores | summary)


def complaint(*arguments: str | Path) -> str:
    """The line a mistaken command ends with."""
    with pytest.raises(SystemExit) as stop:
        report.run([str(argument) for argument in arguments])
    assert isinstance(stop.value.code, str)  # which Python prints on stderr, and exits with 1
    assert "\n" not in stop.value.code
    assert len(stop.value.code) < 400
    return stop.value.code


def test_pretraining_runs_have_the_table_of_pretraining_and_where_things_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path, "a", 0, eval_loss=2.5)
    worse = write_run(tmp_path, "a", 1, eval_loss=3.5)
    (run / "export").mkdir()
    report.run([str(tmp_path)])
    printed = capsys.readouterr().out
    assert "2.5000 3.0000 3.0000 0.7071" in printed
    assert f"{run}: summary.json, Hugging Face model in export/\n" in printed
    assert str(worse) not in printed
    assert "bert_HF" not in printed
    report.run([str(tmp_path), "--runs", "--format", "csv"])
    assert f"{worse},a,,finished,,,3.5000,\n" in capsys.readouterr().out


@pytest.mark.parametrize("here", [".", "./", "..", "../version_0"])
def test_where_one_stands_does_not_matter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, here: str
) -> None:
    monkeypatch.chdir(write_run(tmp_path, "a", eval_loss=2.5))
    report.run([here, "--format", "csv"])
    assert capsys.readouterr().out.splitlines()[1:] == ["a,,,,2.5000,,,"]


def test_a_traceback_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIFECTA_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        report.run([str(tmp_path)])


def test_a_directory_of_mixed_runs_half_of_them_unfinished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, "sparse", eval_loss=2.138)
    for version, accuracy in enumerate((0.6, 0.7)):
        write_finetuning(tmp_path, version, metrics={"accuracy": accuracy})
    failed = write_finetuning(tmp_path, 2, status="failed", metrics={}, error="ValueError: no")
    (write_finetuning(tmp_path, 3) / "summary.json").write_text('{"experiment": "rte", "status"')
    (tmp_path / "rte" / "version_3" / "notes.json").write_text("[]")
    report.run([str(tmp_path), "--format", "csv", "--plot", str(tmp_path / "spread.png")])
    captured = capsys.readouterr()
    results, spread, unfinished, pretraining = captured.out.split("\n\n")
    assert results.splitlines()[-1] == "sparse" + 10 * "," + "70.00,,8.482,2.138,these runs"
    assert len(results.splitlines()) == 1 + 7 + 1
    assert spread.splitlines()[1:] == ["sparse,RTE,accuracy,2,70.00,65.00,65.00,7.07,0"]
    assert unfinished.splitlines()[1:] == [f"{failed},sparse,RTE,failed,ValueError: no"]
    assert pretraining.splitlines()[1:] == ["sparse,,,,2.1380,,,"]
    (line,) = captured.err.splitlines()
    assert line.startswith(f"{tmp_path / 'rte' / 'version_3' / 'summary.json'} skipped: not JSON")
    assert (tmp_path / "spread.png").exists()


def test_markdown_of_runs_without_a_finished_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_finetuning(tmp_path, 0, status="running", metrics={})
    report.run([str(tmp_path), "--format", "markdown"])
    assert capsys.readouterr().out == (
        "**Not counted**\n\n| run | model | task | status | error |\n| --- | --- | --- | --- | --- |\n"
        f"| {run} | sparse | RTE | running |  |\n"
    )


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    assert "arguments are required: runs" in complaint()
    assert "no summary.json there or below" in complaint(tmp_path)
    assert "no summary.json there or below" in complaint(tmp_path / "nowhere")
    run = write_run(tmp_path, "a")
    assert "unrecognized arguments: --frmat" in complaint(run, "--frmat=csv")
    assert "invalid choice: 'html'" in complaint(run, "--format", "html")
    assert "nothing to plot" in complaint(run, "--plot", tmp_path / "a.png")
    write_finetuning(tmp_path, 0)
    assert "No such file or directory" in complaint(tmp_path, "--plot", tmp_path / "nowhere" / "a.png")
    assert "not supported" in complaint(tmp_path, "--plot", tmp_path / "a.table")
    (run / "summary.json").write_text("{")
    assert "no summary.json there that can be read" in complaint(run)


def test_mistakes_about_masks_and_budgets_are_one_line(tmp_path: Path) -> None:
    assert "no sparsity_masks.safetensors there" in complaint("masks", tmp_path)
    assert "arguments are required: run" in complaint("masks")
    assert "options of a fit" in complaint("budget")
    assert "no exported model there" in complaint("budget", tmp_path)
    assert "one directory of an exported model expected" in complaint("budget", tmp_path, tmp_path)
    assert "File does not exist" in complaint("budget", "--config", "nowhere.yaml")
    config = str(CONFIGS / "experiments" / "quickstart.yaml")
    assert "sparsity must be in [0, 1), got 2.0" in complaint("budget", "--config", config, "--masks.sparsity=2")
    message = complaint("budget", "--config", config, "--masks.sparsity=abc")
    assert message.endswith("Expected a <class 'float'> Given value type: <class 'str'> Given value: abc")
    assert "matches no parameter" in complaint("budget", "--config", config, "--masks.targets=[no.such]")
