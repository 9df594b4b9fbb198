"""The tables say what was published and what runs recorded: averages computed, best with spread, nothing invented."""

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from reports.results import (
    TASKS,
    WITHOUT_WNLI,
    own_results,
    published_results,
    results_table,
    spread_table,
    unfinished_table,
)
from reports.runs import Run, read_runs
from reports.tables import Table

WriteRun = Callable[..., Path]


def column(table: Table, title: str) -> list[str]:
    return [row[list(table.columns).index(title)] for row in table.rows]


def row(table: Table, model: str) -> dict[str, str]:
    (found,) = (cells for cells in table.rows if cells[0] == model)
    return dict(zip(table.columns, found, strict=True))


def runs_below(root: Path) -> list[Run]:
    runs, complaints = read_runs([root])
    assert not complaints
    return runs


def test_published_cells_and_their_averages() -> None:
    table = results_table(published_results())
    assert column(table, "model") == [
        *(
            "bert_HF",
            "bert_paper",
            "bert_paper_dev",
        ),
        *("oBERT_teacher", "oBERT_80%", "oBERT_upstream_90%", "prune_ofa_85%", "bert_1mi", "bert_700k", "bert_100k"),
        *(f"sparse_{share}%_kd_onecycle_lr_rigl" for share in (80, 85, 90)),
        "sparse_80%_kd_onecycle_lr",
    ]
    assert row(table, "bert_HF") == {
        "model": "bert_HF",
        "average_bert": "81.67",
        "average_glue": "78.85",
        "CoLA": "56.53",
        "SST-2": "92.32",
        "MRPC": "88.85/84.07",
        "STS-B": "88.64/88.48",
        "QQP": "90.71/87.49",
        "MNLI": "83.91/84.10",
        "QNLI": "90.66",
        "RTE": "65.70",
        "WNLI": "56.34",
        **dict.fromkeys(("SQuAD", "SQuAD2", "SWAG", "CoNLL"), ""),
        "perplexity": "",
        "eval loss": "",
        "source": "Hugging Face",
    }
    paper = row(table, "bert_paper")
    assert (paper["average_bert"], paper["average_glue"], paper["WNLI"]) == ("79.05", "", "")  # 632.4 / 8
    assert (paper["MRPC"], paper["STS-B"], paper["QQP"]) == ("88.90 (f1)", "85.80 (spearman)", "71.20 (f1)")
    beyond = {model: [row(table, model)[task] for task in ("SQuAD", "SWAG", "CoNLL")] for model in column(table, "model")}
    assert beyond["bert_paper"] == ["", "", "92.40 (f1)"]
    assert beyond["bert_paper_dev"] == ["80.80/88.50", "81.60", "96.40 (f1)"]
    assert (beyond["oBERT_80%"][0], row(table, "oBERT_80%")["MNLI"]) == ("89.04 (f1)", "84.32 (accuracy)")
    losses = {"bert_1mi": "1.612", "bert_100k": "2.154", "sparse_80%_kd_onecycle_lr": "2.280"}
    losses |= {f"sparse_{share}%_kd_onecycle_lr_rigl": loss for share, loss in ((80, "2.138"), (85, "2.211"), (90, "2.326"))}
    for model, loss in losses.items():
        cells = row(table, model)
        assert (cells["eval loss"], cells["perplexity"]) == (loss, f"{math.exp(float(loss)):.3f}")
    assert row(table, "bert_700k")["eval loss"] == row(table, "bert_700k")["perplexity"] == ""
    averages = {  # as Numenta printed them
        "bert_1mi": (80.13, 77.17),
        "bert_700k": (79.77, 75.25),
        "bert_100k": (75.36, 71.68),
        "sparse_80%_kd_onecycle_lr_rigl": (75.30, 72.57),
        "sparse_80%_kd_onecycle_lr": (74.17, 72.18),
    }
    for model, printed in averages.items():
        cells = row(table, model)
        computed = [float(cells[key]) for key in ("average_bert", "average_glue")]
        assert computed == pytest.approx(printed, abs=0.03), model  # which averaged cells before rounding


def test_a_published_metric_that_glue_does_not_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.yaml").write_text("a: {source: me, tasks: {CoLA: {accuracy: 80.0}}}")
    with pytest.raises(ValueError, match="a has CoLA with accuracy, which is no task of the table"):
        published_results(tmp_path / "rows.yaml")


SCORES = {
    "CoLA": {"matthews": 0.50},
    "SST-2": {"accuracy": 0.90},
    "MRPC": {"f1": 0.88, "accuracy": 0.80},
    "STS-B": {"pearson": 0.86, "spearman": 0.82},
    "QQP": {"accuracy": 0.90, "f1": 0.86},
    "MNLI": {"accuracy": 0.80, "accuracy_mismatched": 0.82},
    "QNLI": {"accuracy": 0.87},
    "RTE": {"accuracy": 0.61},
    "WNLI": {"accuracy": 0.56},
}
EXPORT = "runs/sparse_80/version_0/export"


def test_averages_need_every_task(tmp_path: Path, write_run: WriteRun) -> None:
    """Of the eight tasks: 50, 90, 84, 84, 88, 81, 87, 61, which are 625, on average 78.125; with WNLI's 56 they are 681."""
    write_run("rte", 0, task="RTE", status="running", pretrained=EXPORT)
    for task in TASKS[:-1]:
        if task != "RTE":
            write_run(task, task=task, metrics=SCORES[task], pretrained=EXPORT)
    table = results_table(own_results(runs_below(tmp_path)))
    assert row(table, "sparse_80") | {"average_bert": "", "average_glue": "", "RTE": "", "WNLI": ""} == row(
        table, "sparse_80"
    )
    write_run("rte", 1, task="RTE", metrics=SCORES["RTE"], pretrained=EXPORT)
    cells = row(results_table(own_results(runs_below(tmp_path))), "sparse_80")
    assert (cells["average_bert"], cells["average_glue"]) == ("78.13", "")
    write_run("wnli", task="WNLI", metrics=SCORES["WNLI"], pretrained=EXPORT)
    cells = row(results_table(own_results(runs_below(tmp_path))), "sparse_80")
    assert (cells["average_bert"], cells["average_glue"]) == ("78.13", "75.67")
    assert (cells["MRPC"], cells["QQP"], cells["MNLI"]) == ("88.00/80.00", "90.00/86.00", "80.00/82.00")
    assert set(TASKS) - set(WITHOUT_WNLI) == {"WNLI"}


def test_the_cell_is_the_best_run_and_the_spread_is_beside_it(tmp_path: Path, write_run: WriteRun) -> None:
    """QQP is ranked by F1, its second metric; the run that is best in accuracy is another."""
    scores = [{"accuracy": 0.92, "f1": 0.80}, {"accuracy": 0.88, "f1": 0.86}, {"accuracy": 0.87, "f1": 0.84}]
    for version, metrics in enumerate(scores):
        write_run("qqp", version, task="QQP", metrics=metrics, seed=version, pretrained=EXPORT)
    write_run("qqp", 3, task="QQP", metrics={"accuracy": 0.99, "f1": 0.99}, status="stopped", pretrained=EXPORT)
    write_run("qqp", 4, task="QQP", status="failed", error="RuntimeError: out\nof memory", pretrained=EXPORT)
    runs = runs_below(tmp_path)
    assert row(results_table(own_results(runs)), "sparse_80")["QQP"] == "88.00/86.00"
    std = statistics.stdev([80, 86, 84])
    assert spread_table(runs).rows == [
        ["sparse_80", "QQP", "accuracy", "3", "92.00", "88.00", "89.00", "2.65", "0"],
        ["sparse_80", "QQP", "f1", "3", "86.00", "84.00", "83.33", f"{std:.2f}", "0"],
    ]
    assert [cells[1:] for cells in unfinished_table(runs).rows] == [
        ["sparse_80", "QQP", "stopped", ""],
        ["sparse_80", "QQP", "failed", "RuntimeError: out of memory"],
    ]


def test_degenerate_runs_are_counted_and_marked(tmp_path: Path, write_run: WriteRun) -> None:
    write_run("cola", 0, task="CoLA", metrics={"matthews": 0.0}, degenerate=True)
    runs = runs_below(tmp_path)
    assert row(results_table(own_results(runs)), "cola")["CoLA"] == "0.00†"
    assert any("†" in note for note in results_table(own_results(runs)).notes)
    assert spread_table(runs).rows == [["cola", "CoLA", "matthews", "1", "0.00", "0.00", "0.00", "", "1"]]
    write_run("cola", 1, task="CoLA", metrics={"matthews": 0.4}, degenerate=False)
    runs = runs_below(tmp_path)
    assert row(results_table(own_results(runs)), "cola")["CoLA"] == "40.00"
    assert not any("†" in note for note in results_table(own_results(runs)).notes)
    assert spread_table(runs).rows == [["cola", "CoLA", "matthews", "2", "40.00", "20.00", "20.00", "28.28", "1"]]


def test_a_score_that_is_no_number_is_no_zero(tmp_path: Path, write_run: WriteRun) -> None:
    nothing = {"pearson": float("nan"), "spearman": float("nan")}
    write_run("stsb", 0, task="STS-B", metrics=nothing, degenerate=True)
    runs = runs_below(tmp_path)
    assert row(results_table(own_results(runs)), "stsb")["STS-B"] == "†"
    assert spread_table(runs).rows[0] == ["stsb", "STS-B", "pearson", "1", "", "", "", "", "1"]
    write_run("stsb", 1, task="STS-B", metrics={"pearson": -0.1, "spearman": -0.2}, degenerate=True)
    runs = runs_below(tmp_path)
    assert row(results_table(own_results(runs)), "stsb")["STS-B"] == "-10.00/-20.00†"
    assert spread_table(runs).rows[1] == ["stsb", "STS-B", "spearman", "2", "-20.00", "-20.00", "-20.00", "", "2"]
    assert "counted, and in none of its task's figures" in spread_table(runs).notes[0]


def test_eval_loss_is_that_of_the_best_finished_pretraining(tmp_path: Path, write_run: WriteRun) -> None:
    for version, (loss, status) in enumerate([(3.5, "finished"), (3.0, "finished"), (3.2, "finished"), (2.0, "running")]):
        write_run("sparse_80", version, eval_loss=loss, status=status)
    write_run("cola", task="CoLA", metrics={"matthews": 0.4}, eval_loss=0.7, pretrained=EXPORT)
    write_run("other", task="CoLA", metrics={"matthews": 0.4}, eval_loss=0.7, pretrained="bert-base-cased")
    table = results_table(own_results(runs_below(tmp_path)))
    assert (row(table, "sparse_80")["eval loss"], row(table, "sparse_80")["perplexity"]) == ("3.000", "20.086")
    assert (row(table, "bert-base-cased")["eval loss"], row(table, "bert-base-cased")["perplexity"]) == ("", "")
    assert "eval loss are those of the best pretraining run of the model" in table.notes[0]


def test_tables_are_whole_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    wide = results_table(published_results()).render("terminal").splitlines()
    assert wide[2].split()[:4] == ["bert_HF", "81.67", "78.85", "56.53"]


def test_markdown_and_csv() -> None:
    table = Table("Title", ["model", "eval\nloss"], [["a|b", "1,234"], ["c", ""]], ["A note."])
    assert table.render("markdown") == (
        "**Title**\n\n| model | eval loss |\n| --- | ---: |\n| a\\|b | 1,234 |\n| c |  |\n\nA note.\n"
    )
    assert table.render("csv") == 'model,eval loss\na|b,"1,234"\nc,\n'


def test_protocols_of_a_model_are_rows_of_their_own(tmp_path: Path, write_run: WriteRun) -> None:
    """The best point of a grid is not the best of three seeds, nor is what started from another task's model."""
    for protocol, score in (("bert_hf", 0.60), ("bert_paper", 0.66), ("mnli_transfer", 0.75)):
        write_run(f"{protocol}_m/RTE_seed=0", task="RTE", metrics={"accuracy": score}, pretrained=EXPORT)
        record = {"name": protocol, "model": "m", "protocol": protocol}
        (tmp_path / f"{protocol}_m" / "sweep.json").write_text(json.dumps(record))
    write_run("alone", task="RTE", metrics={"accuracy": 0.5}, pretrained="runs/m/version_0/export")
    runs = runs_below(tmp_path)
    assert {result.model: result.cell("RTE") for result in own_results(runs)} == {
        "m": "50.00",
        "m (bert_hf)": "60.00",
        "m (bert_paper)": "66.00",
        "m (mnli_transfer)": "75.00",
    }
    of_one = runs_below(tmp_path / "bert_hf_m")
    assert [row[0] for row in spread_table(of_one).rows] == ["m"]
