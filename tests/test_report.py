"""The command line of reports: which tables it prints, and one clear line for every mistake."""

import json
from pathlib import Path
from typing import Any

import pytest

import report
from reports.results import published_results

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
    assert results.splitlines()[-1] == "sparse" + 10 * "," + "70.00,,,,,,8.482,2.138,these runs"
    assert len(results.splitlines()) == 1 + len(published_results()) + 1
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


def write_rows(root: Path) -> None:
    """Two rows of two lengths as a sweep leaves them, one finetuned, one run of it twice, and one that did not finish."""
    trials = {}

    def write(name: str, row: str, stage: str, **summary: Any) -> None:
        trials[name] = {"row": row, "stage": stage, "settings": {"schedule.max_lr": summary.pop("lr", 0.01)}}
        trials[name] |= {"point": trials[name]["settings"] if stage == "tune" else {}}
        write_run(root / "sweep", name, **summary)

    for row, shift in (("dense", 0.0), ("static", 0.2), ("RigL", 0.1)):
        for steps in (1000, 2000):
            for seed in (0, 1):
                figures = {"eval_loss": 3 + shift + seed / 10, "nonzeros": 1000 - 800 * bool(shift), "parameters": 1000}
                cost = {"flops_per_step": 1000, "average_density": 0.2, "sparse_flops_per_step": 500}
                write(f"{row}_{steps}_{seed}", row, "pretrain", seed=seed, steps=steps, **figures, **cost)
        for rate in (0.01, 0.1):
            write(f"{row}_{rate}", row, "tune", lr=rate, seed=0, steps=100, eval_loss=4 + rate)
    scores = {"task": "RTE", "metrics": {"accuracy": 0.6}, "pretrained": "elsewhere/export"}
    write("rte", "dense", "finetune", seed=0, **scores)
    write("broken", "RigL", "pretrain", seed=2, steps=1, status="failed", error="ValueError: no")
    record = {"name": "sweep", "model": "tiny", "protocol": "rows", "trials": trials}
    (root / "sweep" / "sweep.json").write_text(json.dumps(record))
    write_run(root, "RigL", seed=0, steps=2000, eval_loss=1.0)


def test_the_page_of_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(tmp_path)
    report.run(["page", str(tmp_path / "sweep"), str(tmp_path / "RigL"), "--format", "csv"])
    captured = capsys.readouterr()
    results, published, tuned, unfinished = captured.out.split("\n\n")
    assert results.splitlines()[0] == (
        "model,seeds,eval loss,eval loss − dense,perplexity,RTE accuracy,GLUE mean,on-params,average density,tokens,"
        "FLOPs dense,FLOPs sparse"
    )
    assert [line.split(",")[:4] for line in results.splitlines()[1:]] == [
        ["dense", "2", "3.0500 ± 0.0707", "control"],
        ["static", "2", "3.2500 ± 0.0707", "+0.2000 ± 0.0000"],
        ["RigL", "2", "3.1500 ± 0.0707", "+0.1000 ± 0.0000"],
    ]
    assert results.splitlines()[3].endswith(",200,0.200,,2.00e6,1.20e6")
    assert "bert_100k" in published
    assert tuned.splitlines() == [
        "model,schedule.max_lr=0.01,schedule.max_lr=0.1",
        *(f"{row},4.0100*,4.1000" for row in ("dense", "static", "RigL")),
    ]
    assert unfinished.splitlines()[1].endswith("broken/version_0,RigL,,failed,ValueError: no")
    assert captured.err.splitlines() == [
        f"{tmp_path / 'RigL' / 'version_0'} left out: RigL has seed 0 already in "
        f"{tmp_path / 'sweep' / 'RigL_2000_0' / 'version_0'}",
        *(
            f"{row}: runs of fewer than 2,000 steps left out (2); report.py lengths has them"
            for row in ("dense", "static", "RigL")
        ),
    ]
    report.run(["page", str(tmp_path / "sweep"), "--control", "static", "--format", "markdown"])
    printed = capsys.readouterr().out
    assert "| eval loss − static |" in printed
    assert "| RigL | 2 | 3.1500 ± 0.0707 | -0.1000 ± 0.0000 |" in printed
    report.run(["page", str(tmp_path / "sweep")])
    assert "RigL       2 3.1500 ± 0.0707 +0.1000 ± 0.0000" in capsys.readouterr().out


def test_what_rows_cost_and_what_length_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(tmp_path)
    sweep = str(tmp_path / "sweep")
    report.run(["frontier", sweep, "--format", "csv", "--plot", str(tmp_path / "frontier.png")])
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1:] == [
        'dense,3.0500 ± 0.0707 (2),"1,000",1.20e6,"non-zeros, FLOPs"',
        "static,3.2500 ± 0.0707 (2),200,1.20e6,",
        "RigL,3.1500 ± 0.0707 (2),200,1.20e6,non-zeros",
    ]
    assert len(captured.err.splitlines()) == 3
    report.run(["lengths", sweep, "--format", "csv", "--plot", str(tmp_path / "lengths.svg")])
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        'model,"1,000 steps","2,000 steps",below static from',
        'dense,3.0500 ± 0.0707 (2),3.0500 ± 0.0707 (2),"1,000"',
        "static,+0.2000 ± 0.0000 (2),+0.2000 ± 0.0000 (2),baseline",
        'RigL,+0.1000 ± 0.0000 (2),+0.1000 ± 0.0000 (2),"1,000"',
    ]
    assert not captured.err
    report.run(["lengths", sweep, "--control", "static", "--baseline", "dense", "--format", "csv"])
    assert "RigL,-0.1000 ± 0.0000 (2),-0.1000 ± 0.0000 (2),never" in capsys.readouterr().out.splitlines()
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "lengths.svg").exists()


def test_curves_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, without = write_run(tmp_path, "a", seed=0), write_run(tmp_path, "b", seed=0)
    (run / "csv" / "version_0").mkdir(parents=True)
    (run / "csv" / "version_0" / "metrics.csv").write_text("step,train/loss,val/loss\n10,5.0,\n20,4.0,4.5\n")
    report.run(["curves", str(tmp_path), "--plot", str(tmp_path / "curves.png")])
    assert capsys.readouterr().err.startswith(f"{without} left out: no TensorBoard events")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
