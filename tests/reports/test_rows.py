"""Which runs make a row, how losses are paired, and what a run costs where zeros are free."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from reports.rows import Row, common_loss, counted_runs, find_row, rows_of, scientific, spread, training_flops
from reports.runs import Run, read_runs
from run_record import RunRecord

WriteRun = Callable[..., Path]


def runs_below(root: Path) -> list[Run]:
    runs, complaints = read_runs([root])
    assert not complaints
    return runs


def row(name: str, losses: dict[int | None, float | None]) -> Row:
    records = [RunRecord(experiment=name, status="finished", seed=seed, eval_loss=loss) for seed, loss in losses.items()]
    return Row(name, [Run(Path(), record, name) for record in records], {})


def test_differences_are_those_of_equal_seeds() -> None:
    control = row("dense", {0: 3.0, 1: 3.2, 2: None, None: 9.0})
    model = row("rigl", {1: 3.25, 0: 3.1, 2: 3.3, 3: 3.4, None: 1.0})
    assert model.differences(control, "eval_loss") == pytest.approx([0.05, 0.1])
    assert model.losses("eval_loss") == [3.25, 3.1, 3.3, 3.4, 1.0]
    assert control.losses("eval_loss") == [3.0, 3.2, 9.0]
    assert control.losses("test_loss") == []


def test_the_test_loss_is_compared_where_any_run_has_one(tmp_path: Path, write_run: WriteRun) -> None:
    write_run("a", eval_loss=3.0)
    assert common_loss(runs_below(tmp_path)) == "eval_loss"
    write_run("b", eval_loss=3.0, test_loss=3.1)
    assert common_loss(runs_below(tmp_path)) == "test_loss"


def test_a_seed_counts_once_and_the_second_is_named(tmp_path: Path, write_run: WriteRun) -> None:
    first = write_run("one/a", seed=0, steps=10, eval_loss=3.0)
    second = write_run("two/a", seed=0, steps=10, eval_loss=2.0)
    write_run("two/a", 1, seed=1, steps=10, eval_loss=2.5)
    write_run("two/a", 2, seed=2, steps=10, status="running")
    for version in (3, 4):  # nobody knows whether these are the same
        write_run("two/a", version, steps=10, eval_loss=2.6)
    (found,), complaints = rows_of(runs_below(tmp_path))
    assert found.losses("eval_loss") == [3.0, 2.5, 2.6, 2.6]
    assert complaints == [f"{second} left out: a has seed 0 already in {first}"]


def test_finetuning_of_the_same_seed_by_other_options_or_from_another_model_counts(
    tmp_path: Path, write_trial: WriteRun
) -> None:
    cola = {"task": "CoLA", "metrics": {"matthews": 0.3}, "seed": 0}
    write_trial("a", "dense", "finetune", {"model.lr": 1}, **cola, pretrained="x/export")
    write_trial("b", "dense", "finetune", {"model.lr": 2}, **cola, pretrained="x/export")
    write_trial("c", "dense", "finetune", {"model.lr": 2}, **cola, pretrained="y/export")
    again = write_trial("d", "dense", "finetune", {"model.lr": 2}, **cola, pretrained="y/export")
    counted, (complaint,) = counted_runs(runs_below(tmp_path))
    assert [run.directory.parent.name for run in counted] == ["a", "b", "c"]
    assert complaint.startswith(f"{again} left out: dense, CoLA has seed 0 already in ")


def test_models_of_different_sizes_in_one_row_are_named(tmp_path: Path, write_run: WriteRun) -> None:
    for seed, nonzeros in enumerate((1000, 200, None)):
        write_run("a", seed, seed=seed, steps=10, eval_loss=3.0, nonzeros=nonzeros)
    _, complaints = rows_of(runs_below(tmp_path))
    expected = (
        "a: runs of different models, of 200, 1,000 non-zeros, are averaged; an --experiment for each keeps them apart"
    )
    assert complaints == [expected]


def test_what_chose_an_option_is_in_no_row_whatever_its_stage_is_called(tmp_path: Path, write_trial: WriteRun) -> None:
    write_trial("a", "RigL", "grid", {"schedule.max_lr": 0.1}, seed=0, steps=9, eval_loss=1.0)
    write_trial("b", "RigL", "pretrain", {"schedule.max_lr": 0.1}, seed=0, steps=9, eval_loss=3.0)
    file = tmp_path / "sweep" / "sweep.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tuning": ["grid"]}))
    (found,), complaints = rows_of(runs_below(tmp_path))
    assert (found.losses("eval_loss"), complaints) == ([3.0], [])


def test_what_chose_an_option_is_in_no_row(tmp_path: Path, write_trial: WriteRun) -> None:
    write_trial("a", "RigL", "tune", {"schedule.max_lr": 0.1}, seed=0, eval_loss=1.0)
    write_trial("b", "RigL", "pretrain", {"schedule.max_lr": 0.1}, seed=0, eval_loss=3.0)
    ((found,), complaints) = rows_of(runs_below(tmp_path))
    assert (found.name, found.losses("eval_loss"), complaints) == ("RigL", [3.0], [])


def test_the_longest_runs_of_a_model_are_its_row_and_so_are_tasks_that_started_from_them(
    tmp_path: Path, write_trial: WriteRun
) -> None:
    exports = [write_trial(f"p{steps}", "dense", "pretrain", seed=0, steps=steps, eval_loss=3.0) for steps in (10, 1000)]
    for steps, export, score in zip((10, 1000), exports, (0.1, 0.4), strict=True):
        cola = {"task": "CoLA", "metrics": {"matthews": score}, "seed": 0, "pretrained": str(export / "export")}
        write_trial(f"f{steps}", "dense", "finetune", **cola)
    ((found,), complaints) = rows_of(runs_below(tmp_path))
    assert [run.record.steps for run in found.runs] == [1000]
    assert [run.metrics["matthews"] for run in found.tasks["CoLA"]] == [0.4]
    assert complaints == ["dense: runs of fewer than 1,000 steps left out (1); report.py lengths has them"]


def test_protocols_are_not_mixed(tmp_path: Path, write_run: WriteRun) -> None:
    for protocol, score in (("bert_hf", 0.6), ("minilm", 0.7)):
        scores = {"task": "RTE", "metrics": {"accuracy": score}, "seed": 0}
        write_run(f"{protocol}/rte", **scores, pretrained="m")
        (tmp_path / protocol / "sweep.json").write_text(f'{{"model": "m", "protocol": "{protocol}"}}')
    ((found,), complaints) = rows_of(runs_below(tmp_path))
    assert [run.protocol for run in found.tasks["RTE"]] == ["bert_hf"]
    assert complaints == ["m, RTE: only runs of bert_hf counted, those of minilm left out"]


def test_a_row_is_found_by_name_or_by_default() -> None:
    rows = [row("dense", {}), row("RigL", {})]
    assert find_row(rows, "RigL", ("dense",), "--control") is rows[1]
    assert find_row(rows, None, ("dense + KD", "dense"), "--control") is rows[0]
    assert find_row(rows, None, ("static",), "--baseline") is None
    with pytest.raises(ValueError, match="--control: no row 'Dense'; there are dense, RigL"):
        find_row(rows, "Dense", (), "--control")


SPARSE = {"flops_per_step": 1000, "steps": 10, "average_density": 0.25, "parameters": 100, "nonzeros": 60}


@pytest.mark.parametrize(
    ("figures", "dense", "sparse"),
    [
        ({}, None, None),
        ({"flops_per_step": 1000, "steps": 10, "parameters": 100, "nonzeros": 100}, 10_000, 10_000),
        ({"flops_per_step": 1000, "steps": 10, "parameters": 100, "nonzeros": 50}, 10_000, None),  # masks, but since when
        (SPARSE | {"sparse_flops_per_step": 800}, 10_000, 10_000 - 0.75 * 8000),
        (SPARSE | {"sparse_flops_per_step": 800, "saved_flops": 1000}, 10_000, 9000),
        # 40 zeros are half of the encoder's 80 weights, each of 6 operations a token
        (SPARSE | {"sparsity": {"encoder": 0.5, "embeddings": 0.0}, "tokens": 20}, 10_000, 10_000 - 0.75 * 6 * 80 * 20),
        (SPARSE | {"sparsity": {"encoder": 0.5, "embeddings": 0.1}, "tokens": 20}, 10_000, None),
        (SPARSE | {"sparsity": {"encoder": 0.0, "embeddings": 0.0}, "tokens": 20}, 10_000, None),
    ],
)
def test_only_products_with_sparse_tensors_get_cheaper(
    figures: dict[str, object], dense: float | None, sparse: float | None
) -> None:
    assert training_flops(RunRecord(experiment="a", status="finished", **figures)) == (dense, sparse)


def test_cells() -> None:
    assert spread([], ".2f") == ""
    assert spread([1.5], ".2f", 1) == "1.50"
    assert spread([1.5], ".2f") == "1.50 (1)"
    assert spread([0.1, 0.2], "+.3f", 3) == f"+0.150 ± {statistics.stdev([0.1, 0.2]):.3f} (2)"
    assert [scientific(value) for value in (None, 12_345_678.0)] == ["", "1.23e7"]
