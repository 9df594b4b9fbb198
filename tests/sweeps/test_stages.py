"""Stages: what each fit needs of others, when its turn comes, what it takes from them, and mistakes in a file with stages."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeps.agenda import mark, outlooks, taken
from sweeps.protocol import load_protocol
from sweeps.record import Record
from sweeps.trials import Trial, make_trials

PROTOCOLS = Path(__file__).parents[2] / "configs" / "protocols"
HEADER = {"name": "s", "model": "m", "protocol": "p", "pretrained": "", "data.path": "t", "glue.path": "g", "extra": []}
STAGES: dict[str, Any] = {
    "tune": {"config": "fit.yaml", "settings": {"trainer.max_steps": 5}, "grid": {"schedule.max_lr": [0.1, 0.2]}},
    "pretrain": {"config": "fit.yaml", "seeds": 2, "best_of": "tune", "distillation": {"factor": 0.5}},
    "finetune": {"config": "fit.yaml", "start": "pretrain", "tasks": {"CoLA": {}}},
}
ROWS: dict[str, Any] = {
    "dense": {},
    "RigL": {"settings": {"masks": "RigL"}},
    "RigL + KD": {"settings": {"masks": "RigL"}, "teacher": "dense", "tuned": "RigL"},
}


def write(directory: Path, stages: dict[str, Any] = STAGES, rows: dict[str, Any] = ROWS, **content: Any) -> Path:
    """A protocol with stages beside its config."""
    (directory / "fit.yaml").touch()
    file = directory / "protocol.yaml"
    file.write_text(yaml.safe_dump({"rows": rows, "stages": stages} | content, sort_keys=False))
    return file


def by_name(trials: list[Trial]) -> dict[str, Trial]:
    return {trial.name: trial for trial in trials}


@pytest.fixture
def trials(tmp_path: Path) -> list[Trial]:
    """Two rows tuned at two points, three pretrained with two seeds each, and all of these finetuned on one task."""
    return make_trials(load_protocol(write(tmp_path)))


@pytest.fixture
def record(tmp_path: Path, trials: list[Trial]) -> Record:
    return Record.open(tmp_path / "sweep", HEADER, trials)


def finish(record: Record, name: str, **summary: Any) -> None:
    run = record.directory / record.trials[name]["run"]
    run.mkdir(parents=True, exist_ok=True)
    (run / "summary.json").write_text(json.dumps({"experiment": name, "status": "finished"} | summary))
    record.end(name)


def finish_tuning(record: Record, **best: int) -> None:
    """The tuning of rows, so that point number ``best`` has the lowest loss."""
    for row, number in best.items():
        for other, rate in enumerate((0.1, 0.2)):
            finish(record, f"tune_{row}_max_lr={rate}_seed=0", eval_loss=3.0 if other == number else 4.0)


def needs_of(trial: Trial) -> list[tuple[str, ...]]:
    return [(need.option, *need.trials) for need in trial.needs]


def test_trials_of_stages(trials: list[Trial]) -> None:
    assert Counter(trial.stage for trial in trials) == {"tune": 4, "pretrain": 6, "finetune": 6}
    found = by_name(trials)
    distilled = found["pretrain_rigl-kd_seed=1"]
    assert distilled.settings == {"distillation.factor": 0.5, "masks": "RigL"}
    assert needs_of(distilled) == [
        ("distillation.teachers", "pretrain_dense_seed=1"),
        ("", "tune_rigl_max_lr=0.1_seed=0", "tune_rigl_max_lr=0.2_seed=0"),
    ]
    finetuned = found["finetune_rigl-kd_CoLA_seed=1"]
    assert (finetuned.settings, finetuned.seed) == ({}, 1)  # its masks come with the model
    assert needs_of(finetuned) == [("model.pretrained", "pretrain_rigl-kd_seed=1")]
    assert not found["tune_dense_max_lr=0.1_seed=0"].needs


def test_a_task_that_starts_from_another_keeps_to_its_own_pretrained_model(tmp_path: Path) -> None:
    pretrain = {"config": "fit.yaml", "seeds": 2, "grid": {"trainer.max_steps": [5, 9]}}
    finetune = STAGES["finetune"] | {"tasks": {"MNLI": {}, "RTE": {"start": "MNLI"}}}
    trials = make_trials(load_protocol(write(tmp_path, {"pretrain": pretrain, "finetune": finetune}, {"dense": {}})))
    second = [trial for trial in trials if trial.task == "RTE"]
    assert len(second) == 4
    for trial in second:
        assert needs_of(trial) == [("model.pretrained", trial.name.replace("RTE", "MNLI"))]


def test_a_row_brings_what_it_needs(tmp_path: Path) -> None:
    protocol = load_protocol(write(tmp_path))
    names = {trial.name for trial in make_trials(protocol, stages=["pretrain"], rows=["rigl-kd"], seeds=1)}
    tuned = {f"tune_{row}_max_lr={rate}_seed=0" for row in ("dense", "rigl") for rate in (0.1, 0.2)}
    assert names == tuned | {"pretrain_dense_seed=0", "pretrain_rigl-kd_seed=0"}
    with pytest.raises(ValueError, match="GMP is no row of this protocol; it has dense, RigL, RigL \\+ KD"):
        make_trials(protocol, rows=["GMP"])


def test_the_page_of_results_has_its_controls() -> None:
    """Each row of the page over three seeds, distilled rows with the rate of the row that they are a copy of."""
    protocol = load_protocol(PROTOCOLS / "results.yaml")
    trials = make_trials(protocol)
    tuned = [row for row in protocol.rows if not protocol.rows[row].tuned]
    assert protocol.tuning == ["tune"]
    assert Counter(trial.stage for trial in trials) == {
        "tune": 4 * len(tuned),
        "pretrain": 3 * len(protocol.rows),
        "finetune": 3 * 4 * len(protocol.rows),
    }
    for row, plan in protocol.rows.items():
        if plan.teacher:
            assert plan.teacher == "dense"
            own, base = dict(plan.settings), protocol.rows[plan.tuned].settings
            own.pop("masks.sparsity", None)
            assert own == base, row
    wide = protocol.rows["twice as wide"].settings
    assert (wide["masks"], wide["masks.every"], wide["masks.nonzeros"]) == ("RigL", 80, 611072)


def test_a_fit_waits_for_what_it_needs(trials: list[Trial], record: Record) -> None:
    outlook = outlooks(trials, record)
    assert {name for name, what in outlook.items() if what == "now"} == {t.name for t in trials if t.stage == "tune"}
    assert set(outlook.values()) == {"now", "later"}
    finish_tuning(record, dense=0)
    outlook = outlooks(trials, record)
    assert outlook["pretrain_dense_seed=0"] == "now"
    assert outlook["pretrain_rigl_seed=0"] == outlook["pretrain_rigl-kd_seed=0"] == "later"
    finish_tuning(record, rigl=1)
    finish(record, "pretrain_dense_seed=0", eval_loss=2.0)
    outlook = outlooks(trials, record)
    assert outlook["pretrain_rigl-kd_seed=0"] == "now"
    assert outlook["pretrain_rigl-kd_seed=1"] == "later"  # its teacher is the dense model of its own seed
    assert outlook["finetune_dense_CoLA_seed=0"] == "now"


def test_a_fit_does_not_begin_without_one_that_was_stopped(trials: list[Trial], record: Record) -> None:
    """Neither with a rate that is the best of the others, nor without its teacher; both may come another day."""
    finish_tuning(record, dense=0, rigl=1)
    (record.directory / record.trials["tune_dense_max_lr=0.2_seed=0"]["run"] / "summary.json").unlink()
    record.end("tune_dense_max_lr=0.2_seed=0", stopped=True)
    outlook = outlooks(trials, record)
    assert outlook["tune_dense_max_lr=0.2_seed=0"] == "stopped"
    assert outlook["pretrain_dense_seed=0"] == outlook["pretrain_rigl-kd_seed=0"] == "stopped"
    assert outlook["pretrain_rigl_seed=0"] == "now"
    again = Record.open(record.directory, HEADER, trials)
    assert again.trials["tune_dense_max_lr=0.2_seed=0"]["status"] == "waiting"


def test_what_a_fit_takes(trials: list[Trial], record: Record) -> None:
    finish_tuning(record, dense=0, rigl=1)
    for seed in (0, 1):
        finish(record, f"pretrain_dense_seed={seed}", eval_loss=2.0 - seed)
    models, point = taken(by_name(trials)["pretrain_rigl-kd_seed=0"], record)
    export = record.directory / "pretrain_dense_seed=0" / "version_0" / "export"
    assert models == {"distillation.teachers": str(export)}  # although the other seed is better
    assert point == {"schedule.max_lr": 0.2}


def test_all_seeds_of_a_row_have_the_same_point(tmp_path: Path, trials: list[Trial], record: Record) -> None:
    """Also where a tuning run was made again and came out otherwise after the first of them had begun."""
    finish_tuning(record, dense=0, rigl=1)
    record.begin("pretrain_rigl_seed=0", {"schedule.max_lr": 0.2})
    finish_tuning(record, rigl=0)
    assert taken(by_name(trials)["pretrain_rigl_seed=1"], record)[1] == {"schedule.max_lr": 0.2}
    again = Record.open(record.directory, HEADER, trials)
    assert again.trials["pretrain_rigl_seed=0"]["settings"] == {"masks": "RigL", "schedule.max_lr": 0.2}
    assert taken(by_name(trials)["pretrain_rigl_seed=1"], again)[1] == {"schedule.max_lr": 0.2}


def test_what_can_never_begin_has_failed_and_says_why(trials: list[Trial], record: Record) -> None:
    """One point that failed is only one that is not chosen; a teacher that failed takes its students with it."""
    finish_tuning(record, dense=0, rigl=1)
    record.end("tune_dense_max_lr=0.2_seed=0", "the loss is not finite")
    (record.directory / "tune_dense_max_lr=0.2_seed=0" / "version_0" / "summary.json").unlink()
    assert outlooks(trials, record)["pretrain_dense_seed=0"] == "now"
    record.set("pretrain_dense_seed=0", "failed", "out of memory")
    mark(trials, record)
    failed = {name: record.trials[name]["error"] for name in record.names("failed")}
    assert failed["pretrain_rigl-kd_seed=0"] == "it needs pretrain_dense_seed=0 to come to a good end"
    assert failed["finetune_rigl-kd_CoLA_seed=0"] == "it needs pretrain_rigl-kd_seed=0 to come to a good end"
    assert set(failed) == {
        *("pretrain_dense_seed=0", "finetune_dense_CoLA_seed=0"),
        *("pretrain_rigl-kd_seed=0", "finetune_rigl-kd_CoLA_seed=0"),
    }


def test_no_point_is_chosen_where_none_has_a_loss(trials: list[Trial], record: Record) -> None:
    for rate in (0.1, 0.2):
        finish(record, f"tune_dense_max_lr={rate}_seed=0", eval_loss=None)
    assert record.best_point(["tune_dense_max_lr=0.1_seed=0", "tune_dense_max_lr=0.2_seed=0"]) is None
    mark(trials, record)
    expected = "it needs tune_dense_max_lr=0.1_seed=0, or another of 2, to come to a good end"
    assert record.trials["pretrain_dense_seed=0"]["error"] == expected


def test_the_best_point_is_that_of_the_mean_over_seeds(tmp_path: Path) -> None:
    stages = {"tune": STAGES["tune"] | {"seeds": 2}, "pretrain": STAGES["pretrain"]}
    trials = make_trials(load_protocol(write(tmp_path, stages)))
    record = Record.open(tmp_path / "sweep", HEADER, trials)
    for rate, losses in {0.1: (1.0, 4.0), 0.2: (2.0, 2.5)}.items():
        for seed, loss in enumerate(losses):
            finish(record, f"tune_dense_max_lr={rate}_seed={seed}", eval_loss=loss)
    assert taken(by_name(trials)["pretrain_dense_seed=0"], record)[1] == {"schedule.max_lr": 0.2}


def test_quick_is_laid_over_key_by_key(tmp_path: Path) -> None:
    quick = {"rows": {"RigL": {"settings": {"masks.every": 2}}}, "stages": {"pretrain": {"seeds": 1}}}
    file = write(tmp_path, quick=quick)
    assert load_protocol(file).stages["pretrain"].seeds == 2
    protocol = load_protocol(file, quick=True)
    assert protocol.rows["RigL"].settings == {"masks": "RigL", "masks.every": 2}
    assert (protocol.stages["pretrain"].seeds, protocol.stages["pretrain"].best_of) == (1, "tune")
    with pytest.raises(ValueError, match="says no toy size"):
        load_protocol(write(tmp_path), quick=True)


@pytest.mark.parametrize("name", ["results", "lengths", "cpu_bench"])
def test_shipped_stages_have_a_toy_size_of_the_same_rows(name: str) -> None:
    file = PROTOCOLS / f"{name}.yaml"
    whole, toy = load_protocol(file), load_protocol(file, quick=True)
    assert list(toy.rows) == list(whole.rows)
    assert list(toy.stages) == list(whole.stages)
    fits = make_trials(toy)
    assert all(trial.settings["trainer.max_steps"] <= 40 for trial in fits if not trial.task)
    assert len(fits) <= 60


@pytest.mark.parametrize(
    ("stages", "rows", "message"),
    [
        ({"pretrain": {"best_of": "later"}}, {}, "best_of is 'later', expected a stage before it"),
        ({"finetune": {"start": "finetune"}}, {}, "start is 'finetune', expected a stage before it"),
        ({"finetune": {"seeds": 2}}, {}, "models, seeds and distillation are those of pretrain"),
        ({"tune": {"grid": {}}}, {}, "the grid is empty"),
        ({"tune": {"search": {"trials": 2}, "grid": None}}, {}, "grid is None, expected dict"),
        ({"pretrain": {"rows": ["GMP"]}}, {}, "'GMP' is no row; there are dense, RigL, RigL \\+ KD"),
        ({"pretrain": {"rows": ["RigL + KD"]}}, {}, "has the teacher 'dense', expected a row here"),
        ({}, {"dense": {"teacher": "RigL + KD", "tuned": "RigL"}}, "is taught by .* one has to come first"),
        ({}, {"RigL + KD": {"tuned": "GMP"}}, "takes the point of 'GMP', expected a row of tune"),
        ({}, {"rigl!": {}}, "rows 'RigL' and 'rigl!' would both be called rigl in directories"),
        ({}, {"++": {}}, "row '\\+\\+' has no name that a directory can have"),
        ({"pretrain": {"masks": "RigL"}}, {}, "unknown key 'masks'"),
        ({}, {"RigL": {"sparsity": 0.9}}, "RigL: unknown key 'sparsity'; there are settings, teacher, tuned"),
    ],
)
def test_mistakes_have_a_name(tmp_path: Path, stages: dict[str, Any], rows: dict[str, Any], message: str) -> None:
    laid = {name: stage | stages.get(name, {}) for name, stage in STAGES.items()}
    with pytest.raises(ValueError, match=message):
        load_protocol(write(tmp_path, laid, {name: ROWS.get(name, {}) | rows.get(name, {}) for name in {**ROWS, **rows}}))


def test_a_loss_that_is_not_a_number_is_not_the_best(trials: list[Trial], record: Record) -> None:
    finish(record, "tune_dense_max_lr=0.1_seed=0", eval_loss=math.nan)
    finish(record, "tune_dense_max_lr=0.2_seed=0", eval_loss=9.0)
    assert record.best_point([trial.name for trial in trials[:2]]) == {"schedule.max_lr": 0.2}
