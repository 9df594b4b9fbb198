"""Protocols as data: the published numbers of fits and settings, stages, searches that can be repeated, and mistakes."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeps.protocol import load_protocol
from sweeps.search import draw, search_of
from sweeps.trials import Trial, make_trials

PROTOCOLS = Path(__file__).parents[2] / "configs" / "protocols"


def trials_of(name: str, *tasks: str) -> list[Trial]:
    return make_trials(load_protocol(PROTOCOLS / f"{name}.yaml"), tasks)


def write(directory: Path, **content: Any) -> Path:
    """A protocol file beside its config."""
    (directory / "fit.yaml").touch()
    file = directory / "protocol.yaml"
    file.write_text(yaml.safe_dump({"config": "fit.yaml"} | content))
    return file


def test_bert_hf_has_more_seeds_where_the_task_is_small() -> None:
    trials = trials_of("bert_hf")
    runs = {"CoLA": 10, "RTE": 10, "WNLI": 10, "STS-B": 3, "MRPC": 3, "SST-2": 1, "QQP": 1, "MNLI": 1, "QNLI": 1}
    assert Counter(trial.task for trial in trials) == runs
    assert [trial.seed for trial in trials if trial.task == "RTE"] == list(range(10))
    for trial in trials:
        settings = {"data.batch_size": 32, "model.lr": 2e-5, "data.length": 128, "trainer.max_epochs": 3}
        assert trial.settings == settings | ({"trainer.max_epochs": 5} if trial.task in ("MRPC", "WNLI") else {})
    assert len({trial.name for trial in trials}) == 40


def test_bert_paper_is_the_grid_of_18() -> None:
    trials = trials_of("bert_paper", "rte")
    points = {
        tuple(trial.settings[key] for key in ("data.batch_size", "model.lr", "trainer.max_epochs")) for trial in trials
    }
    assert points == {(size, rate, epochs) for size in (16, 32) for rate in (5e-5, 3e-5, 2e-5) for epochs in (2, 3, 4)}
    assert len(trials) == 18
    assert trials[0].name == "RTE_batch_size=16_lr=5e-05_max_epochs=2_seed=0"


def test_mnli_is_fitted_for_the_tasks_that_start_from_it() -> None:
    assert {trial.task: trial.start for trial in trials_of("mnli_transfer", "STS-B")} == {"MNLI": "", "STS-B": "MNLI"}


def test_minilm_caps_sst2() -> None:
    trials = trials_of("minilm")
    assert Counter(trial.task for trial in trials) == dict.fromkeys(["CoLA", "SST-2", "MRPC", "STS-B"], 3)
    caps = {trial.task: trial.settings.get("data.train_examples") for trial in trials}
    assert caps == {"CoLA": None, "SST-2": 10_000, "MRPC": None, "STS-B": None}
    assert {trial.settings["model.lr"] for trial in trials} == {5e-5}


def test_search_draws_the_same_points_again_and_within_bounds() -> None:
    search = search_of(load_protocol(PROTOCOLS / "search_pretraining.yaml"))
    points = draw(search)
    assert points == draw(search)
    assert len({tuple(point.values()) for point in points}) == search.trials == 24
    assert all(1e-3 <= point["schedule.max_lr"] <= 2e-2 for point in points)
    below = sum(point["schedule.max_lr"] < 4.5e-3 for point in points)  # the middle of a logarithmic scale
    assert 6 <= below <= 18
    assert [trial.name[:4] for trial in trials_of("search_pretraining")] == [f"{number:03}_" for number in range(24)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"grids": {}}, "unknown key 'grids'; there are config, settings, seeds, tasks, grid, search"),
        ({"tasks": {"CoLA": {"sedes": 3}}}, "CoLA: unknown key 'sedes'"),
        ({"tasks": {"CoLA": {"seeds": 0}}}, "seeds is 0, expected 1 or more"),
        ({"tasks": {"CoLA": {"seeds": "x"}}}, "seeds is 'x', expected 1 or more"),
        ({"tasks": ["CoLA"]}, r"tasks is \['CoLA'\], expected dict"),
        ({"tasks": {"COLLA": None}}, "no task 'COLLA'"),
        ({"tasks": {"RTE": {"start": "MNLI"}}}, "RTE starts from 'MNLI', expected a task here"),
        ({"grid": {}}, "the grid is empty"),
        ({"grid": {"model.lr": []}}, "the grid is empty"),
        ({"config": "no.yaml"}, "no.yaml is no file"),
        ({"search": {"trials": 3}}, "space is missing"),
        ({"search": {"trials": 3, "space": {}}}, "the space is empty"),
        ({"search": {"trials": 3, "space": {"model.lr": {"gauss": [0, 1]}}}}, "expected one distribution as in"),
        ({"search": {"trials": 3, "space": {"model.lr": {"loguniform": [1]}}}}, "expected one distribution as in"),
        ({"search": {"trials": 3, "space": {"model.lr": {"uniform": [0, 1]}}, "first_cut": 9}}, "first_cut is 9"),
        (
            {"search": {"trials": 3, "space": {"model.lr": {"uniform": [0, 1]}}, "minimise": "loss"}},
            "minimise is 'loss', expected perplexity or eval_loss",
        ),
        ({"search": {"trials": 3, "space": {"a": {"uniform": [0, 1]}}}, "settings": {}}, r"trainer\.max_steps is None"),
    ],
)
def test_mistakes_have_a_name(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    if "search" in content:
        content = {"settings": {"trainer.max_steps": 9}, **content}
        content["search"] = {"first_cut": 1, **content["search"]}
    with pytest.raises(ValueError, match=message):
        make_trials(load_protocol(write(tmp_path, **content)))


def test_tasks_must_be_of_the_protocol() -> None:
    with pytest.raises(ValueError, match="QQP is no task of this protocol; it has CoLA, SST-2, MRPC, STS-B"):
        trials_of("minilm", "QQP")
