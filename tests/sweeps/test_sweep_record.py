"""What came out of a sweep: no maximum without its spread, undefined figures are not numbers, and nothing is mixed."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweeps.record import Record, results_table, spread
from sweeps.trials import Need, Trial

HEADER = {"name": "s", "model": "m", "protocol": "p", "pretrained": "d", "data.path": "t", "extra": []}


def trial(task: str, seed: int, **settings: Any) -> Trial:
    return Trial(f"{task}_seed={seed}", task, seed, Path("fit.yaml"), settings)


def finish(record: Record, name: str, **results: Any) -> None:
    run = record.directory / record.trials[name]["run"]
    run.mkdir(parents=True, exist_ok=True)
    (run / "summary.json").write_text(json.dumps({"experiment": name, "status": "finished"} | results))
    record.end(name)


def test_spread_by_hand() -> None:
    figures = spread([0.1, 0.4, 0.7, 0.4], degenerate=1)
    assert figures == {
        "runs": 4,
        "degenerate": 1,
        "max": 0.7,
        "median": 0.4,
        "mean": 0.4,
        "std": pytest.approx(0.06**0.5),
        "min": 0.1,
    }


def test_spread_of_one_run_has_no_deviation() -> None:
    assert spread([0.5]) == {"runs": 1, "degenerate": 0, "max": 0.5, "median": 0.5, "mean": 0.5, "min": 0.5}


def test_an_undefined_figure_does_not_count() -> None:
    for values in ([math.nan, 0.2, 0.4], [0.2, math.nan, 0.4], [0.2, 0.4, math.nan]):
        figures = spread(values, degenerate=1)
        assert (figures["runs"], figures["max"], figures["mean"]) == (2, 0.4, pytest.approx(0.3))
    assert spread([math.nan], degenerate=1) == {"runs": 0, "degenerate": 1}


def test_the_best_is_ranked_by_the_metric_of_its_task(tmp_path: Path) -> None:
    record = Record.open(tmp_path, HEADER, [trial("QQP", seed) for seed in range(3)])
    finish(record, "QQP_seed=0", metrics={"accuracy": 0.9, "f1": 0.5}, degenerate=False)
    finish(record, "QQP_seed=1", metrics={"accuracy": 0.8, "f1": 0.7}, degenerate=False)
    finish(record, "QQP_seed=2", metrics={"accuracy": 0.7, "f1": math.nan}, degenerate=True)
    written = json.loads((tmp_path / "sweep.json").read_text())["tasks"]["QQP"]
    assert written["best"] == "QQP_seed=1"
    assert list(written["metrics"]) == ["accuracy", "f1"]
    assert (written["metrics"]["accuracy"]["max"], written["metrics"]["f1"]["max"]) == (0.9, 0.7)
    assert [written["metrics"][metric]["runs"] for metric in ("accuracy", "f1")] == [3, 2]
    assert written["metrics"]["f1"]["degenerate"] == 1
    assert record.best(record.trials) == "QQP_seed=1"
    assert record.export("QQP_seed=1") == tmp_path / "QQP_seed=1" / "version_0" / "export"
    assert record.best(["QQP_seed=2", "QQP_seed=0"]) == "QQP_seed=0"
    assert record.best([]) is None


def test_pretraining_ranks_by_the_smallest_perplexity(tmp_path: Path) -> None:
    trials = [Trial(f"{number}", "", 0, Path("fit.yaml"), {}) for number in range(3)]
    record = Record.open(tmp_path, HEADER, trials)
    for number, perplexity in enumerate([30.0, 20.0, math.nan]):
        finish(record, str(number), perplexity=perplexity, eval_loss=1.0)
    assert record.content["tasks"]["pretraining"]["best"] == "1"
    assert record.content["tasks"]["pretraining"]["metrics"]["perplexity"]["min"] == 20.0


def test_what_a_run_says_is_what_counts(tmp_path: Path) -> None:
    record = Record.open(tmp_path, HEADER, [trial("CoLA", seed) for seed in range(4)])
    finish(record, "CoLA_seed=0", metrics={"matthews": 0.5})
    record.end("CoLA_seed=1", "the loss is\nnot finite")
    record.end("CoLA_seed=2")
    record.set("CoLA_seed=3", "running")
    finish(record, "CoLA_seed=0", metrics={"matthews": 0.5})
    assert [entry["status"] for entry in record.trials.values()] == ["finished", "failed", "pruned", "running"]
    assert record.trials["CoLA_seed=1"]["error"] == "the loss is not finite"
    again = Record.open(tmp_path, HEADER, [trial("CoLA", seed) for seed in range(4)])
    assert [entry["status"] for entry in again.trials.values()] == ["finished", "waiting", "pruned", "waiting"]


def test_a_run_that_is_gone_is_run_again(tmp_path: Path) -> None:
    record = Record.open(tmp_path, HEADER, [trial("CoLA", 0)])
    finish(record, "CoLA_seed=0", metrics={"matthews": 0.5})
    (tmp_path / "CoLA_seed=0" / "version_0" / "summary.json").unlink()
    assert Record.open(tmp_path, HEADER, [trial("CoLA", 0)]).names("waiting") == ["CoLA_seed=0"]


def test_tasks_of_an_earlier_start_stay(tmp_path: Path) -> None:
    finish(Record.open(tmp_path, HEADER, [trial("CoLA", 0)]), "CoLA_seed=0", metrics={"matthews": 0.5})
    record = Record.open(tmp_path, HEADER, [trial("RTE", 0)])
    record.save()
    assert list(record.content["tasks"]) == ["CoLA"]
    assert (record.names("finished"), record.names("waiting")) == (["CoLA_seed=0"], ["RTE_seed=0"])


def test_sweeps_are_not_mixed(tmp_path: Path) -> None:
    begun = dataclasses.replace(trial("CoLA", 0, rate=1.0), needs=(Need(("a",), "distillation.teachers"),), given="m")
    record = Record.open(tmp_path, HEADER, [begun])
    record.save()
    Record.open(tmp_path, HEADER, [trial("CoLA", 0, rate=2.0)])  # as nothing has begun
    record.begin(begun.name, {})
    Record.open(tmp_path, HEADER, [begun])
    for key in ("protocol", "pretrained", "data.path"):
        with pytest.raises(ValueError, match=rf"is of a sweep with {key} '{HEADER[key]}', not 'e'; give another --name"):
            Record.open(tmp_path, HEADER | {key: "e"}, [])
    others: dict[str, dict[str, Any]] = {
        "settings {'rate': 1.0}, not {'rate': 2.0}": {"settings": {"rate": 2.0}},
        "config 'fit.yaml', not 'other.yaml'": {"config": Path("other.yaml")},
        "teachers ['a'], not []": {"needs": ()},
        "given 'm', not ''": {"given": ""},
    }
    for what, change in others.items():
        with pytest.raises(ValueError, match=re.escape(f"has a trial CoLA_seed=0 with {what}; give another --name")):
            Record.open(tmp_path, HEADER, [dataclasses.replace(begun, **change)])
    for key in ("config", "given", "teachers"):  # of a record of before these were noted
        del record.trials[begun.name][key]
    record.save()
    Record.open(tmp_path, HEADER, [trial("CoLA", 0, rate=1.0)])


def test_glue_may_be_named_when_it_is_needed(tmp_path: Path) -> None:
    """The stages before read nothing of it."""
    pretraining, task = (Trial(f"{task}_0", task, 0, Path("fit.yaml"), {}, stage="s") for task in ("", "CoLA"))
    header = HEADER | {"glue.path": ""}
    finish(Record.open(tmp_path, header, [pretraining]), pretraining.name, eval_loss=1.0)
    record = Record.open(tmp_path, header | {"glue.path": "g"}, [pretraining, task])
    assert record.content["glue.path"] == "g"
    record.begin(task.name, {})
    with pytest.raises(ValueError, match="is of a sweep with glue.path 'g', not ''"):
        Record.open(tmp_path, header, [pretraining])


def test_table_shows_the_spread_beside_the_maximum(tmp_path: Path) -> None:
    record = Record.open(tmp_path, HEADER, [trial("CoLA", 0), trial("CoLA", 1), trial("CoLA", 2), trial("RTE", 0)])
    finish(record, "CoLA_seed=0", metrics={"matthews": 0.5653}, degenerate=False)
    finish(record, "CoLA_seed=1", metrics={"matthews": 0.0}, degenerate=True)
    record.end("CoLA_seed=2", "broken")
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(results_table(record))
    _, header, cola, rte = [line.split() for line in console.export_text().splitlines()]
    assert header == ["task", "metric", "done", "failed", "degenerate", "max", "median", "mean", "std"]
    assert cola == ["CoLA", "matthews", "2/3", "1", "1", "56.53", "28.27", "28.27", "39.97"]
    assert rte == ["RTE", "0/1", "0"]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"trials": [], "name": "s"}', '{"trials": {"a": {}}}', '{"trials": {"a"']
)
def test_a_broken_record_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(ValueError, match=r"sweep\.json: not the record of a sweep"):
        Record.open(tmp_path, HEADER, [trial("CoLA", 0)])


@pytest.mark.parametrize("content", ["", '{"status": "fin', "[]", "\udcff"])
def test_a_broken_summary_is_that_of_a_run_that_has_not_finished(tmp_path: Path, content: str) -> None:
    record = Record.open(tmp_path, HEADER, [trial("CoLA", 0)])
    finish(record, "CoLA_seed=0", metrics={"matthews": 0.5})
    summary = tmp_path / "CoLA_seed=0" / "version_0" / "summary.json"
    summary.write_text(content, errors="surrogateescape")
    assert Record.open(tmp_path, HEADER, [trial("CoLA", 0)]).names("waiting") == ["CoLA_seed=0"]


def test_a_task_without_figures_still_has_its_line(tmp_path: Path) -> None:
    record = Record.open(tmp_path, HEADER, [trial("CoLA", 0)])
    finish(record, "CoLA_seed=0", task="CoLA")
    assert results_table(record).row_count == 1
