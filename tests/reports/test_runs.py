"""Which runs are found, what they are called, and that broken summaries are named and left out."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from reports.runs import find_summaries, read_runs

WriteRun = Callable[..., Path]
COLA = {"task": "CoLA", "metrics": {"matthews": 0.5}, "degenerate": False}


def test_versions_come_in_the_order_of_their_numbers(tmp_path: Path, write_run: WriteRun) -> None:
    wanted = [write_run("a", version) for version in (0, 2, 10)]
    other = write_run("b")
    assert [file.parent for file in find_summaries([tmp_path])] == [*wanted, other]
    assert [file.parent for file in find_summaries([tmp_path / "b", tmp_path / "a"])] == [other, *wanted]
    assert [run.directory for run in read_runs([tmp_path])[0]] == [*wanted, other]


def test_a_run_that_is_named_twice_counts_once(tmp_path: Path, write_run: WriteRun) -> None:
    run = write_run("a")
    assert find_summaries([tmp_path, run, tmp_path / "a", tmp_path / "a" / ".." / "a"]) == [run / "summary.json"]


@pytest.mark.parametrize("missing", [".", "nowhere"])
def test_a_directory_without_runs_is_an_error(tmp_path: Path, missing: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"no summary\.json there or below"):
        find_summaries([tmp_path / missing])


@pytest.mark.parametrize(
    ("here", "path", "found"),
    [
        ("sweep/a/version_2", ".", [2]),
        ("sweep/a/version_2", "..", [0, 2, 10]),
        ("sweep", "a/", [0, 2, 10]),
        (".", "link", [2]),
    ],
)
def test_paths_may_be_relative_and_links(
    tmp_path: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch, here: str, path: str, found: list[int]
) -> None:
    """Order and names are those of the directories that they lead to."""
    runs = {version: write_run("sweep/a", version, **COLA) for version in (10, 2, 0)}
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({"model": "sparse_80"}))
    (tmp_path / "link").symlink_to(runs[2], target_is_directory=True)
    monkeypatch.chdir(tmp_path / here)
    read, complaints = read_runs([Path(path), Path(path).absolute()])
    assert [run.directory.resolve() for run in read] == [runs[version] for version in found]
    assert ({run.model for run in read}, complaints) == ({"sparse_80"}, [])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"experiment": "a", "sta', "not JSON"),
        ("\xff\xfe{}".encode("latin-1"), "not JSON"),
        ('{"loss": 1}', "an experiment and a status"),
        ('{"experiment": "a", "status": "finished", "eval_loss": "low"}', "eval_loss: a number expected, not 'low'"),
        ('{"experiment": "a", "status": "finished", "task": "COLD"}', "no task 'COLD'"),
        (
            '{"experiment": "a", "status": "finished", "task": "CoLA"}',
            "metrics of a finished run of CoLA expected, matthews among them",
        ),
        (
            '{"experiment": "a", "status": "finished", "task": "MRPC", "metrics": {"accuracy": 0.5}}',
            "expected, f1 among them",
        ),
        ('{"experiment": "a", "status": "running", "task": "CoLA", "metrics": [0.5]}', "metrics: an object expected"),
    ],
)
def test_broken_summaries_are_one_line_each(
    tmp_path: Path, write_run: WriteRun, content: str | bytes, complaint: str
) -> None:
    good, broken = write_run("good"), tmp_path / "broken" / "version_0"
    broken.mkdir(parents=True)
    (broken / "summary.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    runs, complaints = read_runs([tmp_path])
    assert [run.directory for run in runs] == [good]
    (line,) = complaints
    assert line.startswith(f"{broken / 'summary.json'} skipped: ")
    assert "\n" not in line
    assert complaint in line


def test_a_finetuning_run_is_named_by_what_it_started_from_and_pretraining_by_its_experiment(
    tmp_path: Path, write_run: WriteRun
) -> None:
    write_run("a", **COLA, pretrained="runs/sparse_80/version_3/export")
    write_run("b", **COLA, pretrained="/somewhere/base/export")
    write_run("c", **COLA)
    write_run("d", pretrained="runs/dense/version_0/export")
    assert [run.model for run in read_runs([tmp_path])[0]] == ["sparse_80", "base", "c", "d"]


def test_pretraining_runs_of_a_sweep_are_seeds_of_its_points(tmp_path: Path, write_run: WriteRun) -> None:
    for point in ("", "000_max_lr=0.01_"):
        for seed in (0, 1):
            write_run(f"sweep/{point}seed={seed}", seed=seed)
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({"name": "sweep", "model": "tiny"}))
    assert [run.model for run in read_runs([tmp_path])[0]] == ["tiny 000_max_lr=0.01"] * 2 + ["tiny"] * 2


def test_runs_of_a_sweep_have_its_model(tmp_path: Path, write_run: WriteRun) -> None:
    write_run("sweep/cola_0", **COLA, pretrained="runs/dense/version_0/export")
    write_run("alone", **COLA, pretrained="runs/dense/version_0/export")
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({"name": "sweep", "model": "sparse_80"}))
    assert [run.model for run in read_runs([tmp_path])[0]] == ["dense", "sparse_80"]
    assert [run.model for run in read_runs([tmp_path / "sweep" / "cola_0"])[0]] == ["sparse_80"]


def test_a_broken_record_of_a_sweep_is_named_once(tmp_path: Path, write_run: WriteRun) -> None:
    for seed in range(3):
        write_run(f"sweep/cola_{seed}", **COLA, pretrained="runs/dense/version_0/export")
    (tmp_path / "sweep" / "sweep.json").write_text('{"name": "sw')
    runs, complaints = read_runs([tmp_path])
    assert [run.model for run in runs] == ["dense"] * 3
    assert [line.partition(" skipped")[0] for line in complaints] == [str(tmp_path / "sweep" / "sweep.json")]


def test_a_model_of_mnli_without_all_of_its_sets_or_meant_for_ax_is_one_of_mnli(tmp_path: Path, write_run: WriteRun) -> None:
    write_run("matched", task="MNLI", metrics={"accuracy": 0.8})
    write_run("ax", task="AX", metrics={"accuracy": 0.8, "accuracy_mismatched": 0.7})
    runs, complaints = read_runs([tmp_path])
    assert [(run.task, len(run.metrics)) for run in runs] == [("MNLI", 2), ("MNLI", 1)]
    assert complaints == []


def test_what_is_not_a_number_is_no_metric(tmp_path: Path, write_run: WriteRun) -> None:
    """Pearson's correlation of a model that always says the same."""
    write_run("a", task="stsb", metrics={"pearson": float("nan"), "spearman": None}, degenerate=True)
    ((run,), complaints) = read_runs([tmp_path])
    assert (run.task, run.metrics, run.degenerate, complaints) == ("STS-B", {}, True, [])


def test_a_run_of_a_sweep_with_rows_is_one_of_its_row_in_the_order_of_the_sweep(
    tmp_path: Path, write_run: WriteRun, write_trial: WriteRun
) -> None:
    """A run that chose an option is one of no row: it keeps the name of its point."""
    write_trial("rigl_lr=0.1_seed=0", "RigL + KD", "tune", {"schedule.max_lr": 0.1}, seed=0)
    write_trial("z_seed=0", "RigL + KD", "pretrain", {"schedule.max_lr": 0.1}, seed=0)
    write_trial("cola_seed=0", "RigL + KD", "finetune", {"model.lr": 2e-5}, **COLA, pretrained="elsewhere/export")
    write_trial("a_seed=0", "dense", "pretrain", seed=0)
    write_run("alone")
    write_run("zero")
    runs, complaints = read_runs([tmp_path])
    assert complaints == []
    assert [(run.model, run.row, run.stage) for run in runs] == [
        ("alone", "", ""),
        ("tiny rigl_lr=0.1", "RigL + KD", "tune"),
        ("RigL + KD", "RigL + KD", "pretrain"),
        ("RigL + KD", "RigL + KD", "finetune"),
        ("dense", "dense", "pretrain"),
        ("zero", "", ""),
    ]
    assert [run.settings for run in runs[1:4]] == [{"schedule.max_lr": 0.1}, {"schedule.max_lr": 0.1}, {"model.lr": 2e-5}]
    (alone,), _ = read_runs([tmp_path / "sweep" / "z_seed=0" / "version_0"])
    assert (alone.model, alone.stage) == ("RigL + KD", "pretrain")


@pytest.mark.parametrize(
    ("trials", "complaint"),
    [
        ([1], "trials: an object expected, not [1]"),
        ({"a": 3}, "trials.a: an object with row, stage, settings and point expected, not 3"),
        ({"a": {"row": 7}}, "trials.a: an object with row, stage, settings and point expected, not {'row': 7}"),
    ],
)
def test_a_record_of_a_sweep_whose_trials_are_none_is_named(
    tmp_path: Path, write_run: WriteRun, trials: object, complaint: str
) -> None:
    write_run("sweep/a", **COLA, pretrained="runs/dense/version_0/export")
    file = tmp_path / "sweep" / "sweep.json"
    file.write_text(json.dumps({"name": "sweep", "model": "m", "trials": trials}))
    ((run,), (line,)) = read_runs([tmp_path])
    assert run.model == "dense"
    assert line.startswith(f"{file} skipped, so that rows have the names of what was finetuned: {complaint}")


@pytest.mark.parametrize(
    ("settings", "header", "names"),
    [
        ({"schedule.max_lr": 0.1, "trainer.max_steps": 9}, {}, ["static", "static", "static"]),  # as reports on lengths need
        ({"schedule.max_lr": 0.2}, {}, ["static (one)", "static (one)", "static (two)"]),
        (
            {"schedule.max_lr": 0.1},
            {"extra": ["--trainer.precision=bf16-mixed"]},
            ["static (one)", "static (one)", "static (two)"],
        ),
        ({"schedule.max_lr": 0.1}, {"data.path": "other"}, ["static (one)", "static (one)", "static (two)"]),
    ],
)
def test_rows_of_two_sweeps_are_one_only_if_they_are_the_same_fits(
    tmp_path: Path, write_run: WriteRun, settings: dict[str, object], header: dict[str, object], names: list[str]
) -> None:
    for sweep, given, own in (("one", {"schedule.max_lr": 0.1}, {}), ("two", settings, header)):
        pretraining = {"row": "static", "stage": "pretrain", "settings": given}
        trials = {"static_seed=0": pretraining, "cola_seed=0": {"row": "static", "stage": "finetune"}}
        for name in trials if sweep == "one" else ["static_seed=0"]:
            write_run(f"{sweep}/{name}", **(COLA if name.startswith("cola") else {}), seed=0)
        record = {"name": "s", "model": "tiny", "extra": [], "trials": trials} | own
        (tmp_path / sweep / "sweep.json").write_text(json.dumps(record))
    runs, complaints = read_runs([tmp_path])
    assert complaints == []
    assert [run.model for run in runs] == [run.row for run in runs] == names


def test_sweeps_of_the_same_name_are_told_apart_by_their_paths(tmp_path: Path, write_run: WriteRun) -> None:
    for place, rate in (("a", 0.1), ("b", 0.2)):
        write_run(f"{place}/results/x", seed=0)
        trials = {"x": {"row": "SET", "stage": "pretrain", "settings": {"schedule.max_lr": rate}}}
        (tmp_path / place / "results" / "sweep.json").write_text(json.dumps({"name": "results", "trials": trials}))
    assert [run.model for run in read_runs([tmp_path])[0]] == [f"SET ({tmp_path / place / 'results'})" for place in "ab"]


def test_methods_of_one_experiment_are_no_seeds_of_one_model(tmp_path: Path, write_run: WriteRun) -> None:
    for version, masks in enumerate(("SET", "RigL", "RigL(growth=balanced_gradient)", "SET", None)):
        write_run("cpu_bench", version, seed=version, masks=masks, parameters=10, nonzeros=2 if masks else 10)
    write_run("alone", seed=0, masks="SET")
    write_run("f", task="CoLA", metrics={"matthews": 0.4}, pretrained="runs/cpu_bench/version_0/export")
    runs, _ = read_runs([tmp_path])
    assert [run.model for run in runs] == [
        "alone",
        "cpu_bench, SET",
        "cpu_bench, RigL",
        "cpu_bench, RigL(growth=balanced_gradient)",
        "cpu_bench, SET",
        "cpu_bench, dense",
        "cpu_bench",
    ]


@pytest.mark.parametrize("extra", [["--trainer.max_steps=10"], ["--trainer.max_steps", "10"]])
def test_sweeps_that_differ_in_length_alone_have_the_same_rows(
    tmp_path: Path, write_run: WriteRun, extra: list[str]
) -> None:
    for name, options in (("long", ["--a=b"]), ("short", ["--a=b", *extra])):
        write_run(f"{name}/p", seed=0, steps=len(options))
        trials = {"p": {"row": "dense", "stage": "pretrain"}}
        (tmp_path / name / "sweep.json").write_text(json.dumps({"name": name, "extra": options, "trials": trials}))
    assert {run.model for run in read_runs([tmp_path])[0]} == {"dense"}
