"""The command line: what overrides what, how a run goes on, and one clear line for every mistake."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import train
from helpers import CONFIG, complaint, tiny_experiment

pytestmark = [
    pytest.mark.usefixtures("command_line"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*is not empty", "ignore:.*max_epochs"),
]

QUIET = ("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory, corpus: Path, tokenizer_dir: Path) -> dict[str, Any]:
    """A complete experiment of four steps, as a YAML file would hold it."""
    trainer = {"max_steps": 4, "limit_val_batches": 3, "callbacks": [{"class_path": "OneCycleLR"}]}
    cache = tmp_path_factory.mktemp("cache")
    return tiny_experiment(corpus, tokenizer_dir, cache, trainer, checkpoint={"every_n_train_steps": 2})


@pytest.fixture
def config(tmp_path: Path, experiment: dict[str, Any]) -> str:
    return write(tmp_path / "experiment.yaml", experiment)


def write(file: Path, content: dict[str, Any]) -> str:
    """A YAML file's path."""
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(file)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """What ``--print_config`` shows."""
    with pytest.raises(SystemExit) as stop:
        train.run(["fit", *arguments, "--print_config"])
    assert not stop.value.code
    return yaml.safe_load(capsys.readouterr().out)


def names(callbacks: list[dict[str, Any]]) -> list[str]:
    return [callback["class_path"].rsplit(".", 1)[-1] for callback in callbacks]


def test_print_config_shows_overrides(capsys: pytest.CaptureFixture[str], config: str) -> None:
    overrides = ("--trainer.max_steps=7", "--model.lr=0.5", "--model.config.hidden_size=64", "--data.masking.rate=0.3")
    shown = printed(capsys, "--config", config, *overrides)
    model, data = shown["model"]["init_args"], shown["data"]["init_args"]
    assert shown["trainer"]["max_steps"] == 7
    assert (model["lr"], model["config"]) == (0.5, CONFIG | {"hidden_size": 64})
    assert (data["masking"]["rate"], data["masking"]["mask_share"], data["length"]) == (0.3, 0.8, 16)
    assert (shown["trainer"]["gradient_clip_val"], shown["seed_everything"]) == (1.0, 0)  # the project's defaults


def test_configs_overlay_in_order(capsys: pytest.CaptureFixture[str], tmp_path: Path, config: str) -> None:
    size = {"model": {"init_args": {"config": {"num_hidden_layers": 1}, "lr": 0.2}}, "trainer": {"max_steps": 9}}
    length = {"data": {"init_args": {"length": 32}}, "trainer": {"max_steps": 11}}
    files = [config, write(tmp_path / "size.yaml", size), write(tmp_path / "length.yaml", length)]
    shown = printed(capsys, *(f"--config={file}" for file in files))
    assert shown["trainer"]["max_steps"] == 11
    assert shown["model"]["init_args"]["lr"] == 0.2
    assert (shown["data"]["init_args"]["length"], shown["data"]["init_args"]["batch_size"]) == (32, 8)
    assert shown["experiment"] == "tiny"


def test_callbacks_are_appended(capsys: pytest.CaptureFixture[str], tmp_path: Path, config: str) -> None:
    shown = printed(capsys, "--config", config, "--trainer.callbacks+=RigL", "--trainer.callbacks.sparsity=0.5")
    assert names(shown["trainer"]["callbacks"]) == ["OneCycleLR", "RigL"]
    assert shown["trainer"]["callbacks"][1]["init_args"]["sparsity"] == 0.5
    more = write(tmp_path / "more.yaml", {"trainer": {"callbacks+": [{"class_path": "StaticSparsity"}]}})
    assert names(printed(capsys, "--config", config, "--config", more)["trainer"]["callbacks"]) == [
        "OneCycleLR",
        "StaticSparsity",
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, experiment: dict[str, Any]) -> Path:
    """The runs directory after one run of four steps."""
    root = tmp_path_factory.mktemp("finished")
    file = write(root / "experiment.yaml", experiment)
    train.main(["fit", "--config", file, *QUIET, "--runs", str(root / "runs"), "--trainer.callbacks+=RigL"])
    return root / "runs"


def test_a_run_leaves_what_it_promises(finished: Path) -> None:
    run = finished / "tiny" / "version_0"
    events = [path.name for path in run.iterdir() if path.name.startswith("events.out.tfevents")]
    others = {path.name for path in run.iterdir()} - set(events)
    assert len(events) == 1
    assert others - {"hparams.yaml"} == {"checkpoints", "config.yaml", "export", "heartbeat.json", "summary.json"}
    assert {path.name for path in (run / "checkpoints").iterdir()} >= {"last.ckpt", "step=4.ckpt"}
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["steps"], summary["experiment"]) == ("finished", 4, "tiny")
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_steps"] == 4


def test_validate_gives_the_loss_of_the_run(finished: Path) -> None:
    """The model's own tokenizer is taken where none is given."""
    run = finished / "tiny" / "version_0"
    saved = yaml.safe_load((run / "config.yaml").read_text())
    data = saved["data"]["init_args"]
    data_options = [f"--data.{key}={data[key]}" for key in ("path", "length", "batch_size", "cache_dir")]
    model_options = ["--model=MaskedLanguageModel", f"--model.pretrained={run / 'export'}"]
    options = ["--data=TextDataModule", *data_options, *model_options, *QUIET, "--trainer.limit_val_batches=3"]
    cli = train.main(["validate", *options])
    expected = json.loads((run / "summary.json").read_text())["eval_loss"]
    assert float(cli.trainer.callback_metrics["val/loss"]) == pytest.approx(expected, abs=1e-5)


def test_a_run_is_tested_in_the_end_and_again_from_its_export_and_its_checkpoint(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, config: str, documents: list[str]
) -> None:
    """On a share of the documents, and on a text of its own; no other text is read for that."""
    runs = f"--runs={tmp_path / 'runs'}"
    run = tmp_path / "runs" / "tiny" / "version_0"
    train.main(["fit", "--config", config, *QUIET, runs, "--data.test_share=0.1"])
    found = json.loads((run / "summary.json").read_text())
    cli = train.main(["test", "--config", config, *QUIET, runs, "--data.test_share=0.1", "--ckpt_path=last"])
    metrics = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    for name in ("loss", "perplexity", "loss_per_word", "loss_per_character"):
        assert metrics[f"test/{name}"] == pytest.approx(found[f"test_{name}"], rel=1e-6)
    assert found["test_loss"] != found["eval_loss"]

    (own := tmp_path / "own.txt").write_text("\n\n".join(documents[:3]))
    model = [
        "--model=MaskedLanguageModel",
        f"--model.pretrained={run / 'export'}",
        "--data=TextDataModule",
        "--data.length=16",
    ]
    model += [f"--data.cache_dir={tmp_path / 'cache'}", *QUIET]
    losses = []
    for subcommand, split, metric in (("test", "test", "test/loss"), ("validate", "validation", "val/loss")):
        cli = train.main([subcommand, *model, f"--data.{split}_path={own}"])
        losses.append(float(cli.trainer.callback_metrics[metric]))
    assert losses[0] == losses[1]
    assert len([path for path in (tmp_path / "cache").glob("tokens-*") if path.is_dir()]) == 1
    assert list((tmp_path / "cache").glob("docstrings-*")) == []
    capsys.readouterr()
    line = complaint(capsys, "test", *model)
    assert line == "error: there is no test split: give --data.test_share (of the documents) or --data.test_path (a text)"


def test_a_run_goes_on_in_its_own_version(tmp_path: Path, experiment: dict[str, Any]) -> None:
    """With other settings on the command line, which those in the checkpoint must not replace."""
    trainer = experiment["trainer"] | {"callbacks": [{"class_path": "LinearWarmupDecay"}]}
    file = write(tmp_path / "experiment.yaml", experiment | {"trainer": trainer})
    command = ["fit", "--config", file, *QUIET, "--runs", str(tmp_path / "runs")]
    run = tmp_path / "runs" / "tiny" / "version_0"
    train.main(command)
    for steps, lr, checkpoint in ((6, 0.5, "last"), (8, 0.25, run / "checkpoints" / "last.ckpt")):
        allowed = "--resume.allow=[trainer.max_steps, model.lr]"
        cli = train.main(
            [*command, f"--ckpt_path={checkpoint}", f"--trainer.max_steps={steps}", f"--model.lr={lr}", allowed]
        )
        assert list(run.parent.iterdir()) == [run]
        summary = json.loads((run / "summary.json").read_text())
        assert (summary["steps"], summary["tokens"]) == (steps, steps * 8 * 16)
        assert cli.model.hparams.lr == lr
        saved = yaml.safe_load((run / "config.yaml").read_text())
        assert (saved["model"]["init_args"]["lr"], saved["trainer"]["max_steps"]) == (lr, steps)

    train.main(command)
    assert {path.name for path in run.parent.iterdir()} == {"version_0", "version_1"}


def test_an_interrupted_cache_build_is_built_again(tmp_path: Path, config: str) -> None:
    command = ["fit", "--config", config, *QUIET, f"--runs={tmp_path / 'runs'}", f"--data.cache_dir={tmp_path / 'cache'}"]
    losses = []
    for _ in range(2):
        train.main(command)
        (run,) = (tmp_path / "runs" / "tiny").iterdir()
        losses.append(json.loads((run / "summary.json").read_text())["eval_loss"])
        run.rename(tmp_path / f"run{len(losses)}")
        (tokens,) = (path for path in (tmp_path / "cache").glob("tokens-*") if path.is_dir())
        assert not list(tokens.glob("leftover"))
        partial = tokens.with_name(f"{tokens.name}.partial")
        tokens.rename(partial)  # as if the process had been killed while it wrote
        (partial / "train.bin").write_bytes(b"half")
        (partial / "leftover").write_bytes(b"half")
    assert losses[0] == losses[1]


FLAGSHIP = f"--config={Path(train.__file__).parent / 'configs' / 'experiments' / 'sparse_80_kd_onecycle_lr_rigl.yaml'}"


def test_each_setting_of_a_published_recipe_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    """And nothing else of the recipe changes with it, or 75 % would become 23 %."""
    before = printed(capsys, FLAGSHIP)
    options = ("--schedule.max_lr=2e-3", "--masks.sparsity=0.9", "--distillation.factor=0.5")
    after = printed(capsys, FLAGSHIP, *options)
    assert before["masks"]["init_args"]["targets"] == ["*.encoder.*.weight", "*word_embeddings.weight"]
    before["schedule"]["init_args"]["max_lr"] = 2e-3
    before["masks"]["init_args"]["sparsity"] = 0.9
    before["distillation"]["init_args"]["factor"] = 0.5
    assert after == before


def test_a_place_is_overlaid_changed_to_another_class_and_emptied(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rate = write(tmp_path / "rate.yaml", {"masks": {"init_args": {"every": 7}}})
    rigl = printed(capsys, FLAGSHIP, f"--config={rate}")["masks"]
    assert (rigl["class_path"], rigl["init_args"]["every"], rigl["init_args"]["sparsity"]) == ("sparsity.RigL", 7, 0.8)
    changed = printed(capsys, FLAGSHIP, "--masks=SET")["masks"]
    assert changed["class_path"] == "sparsity.SET"
    assert changed["init_args"]["targets"] == rigl["init_args"]["targets"]
    empty = printed(capsys, FLAGSHIP, "--masks=null", "--distillation=null")
    assert (empty["masks"], empty["distillation"]) == (None, None)


def test_callbacks_of_three_places_and_of_the_list_run_together(
    config: str, tmp_path: Path, finished: Path, tokenizer_dir: Path
) -> None:
    teacher = finished / "tiny" / "version_0" / "export"
    options = ["--masks=RigL", "--masks.sparsity=0.5", f"--distillation.teachers={teacher}", f"--runs={tmp_path / 'runs'}"]
    trainer = train.main(["fit", "--config", config, *QUIET, *options]).trainer
    kinds = [type(callback).__name__ for callback in trainer.callbacks]
    assert {"OneCycleLR", "SparseTraining", "KnowledgeDistillation"} < set(kinds)
    assert sum(kinds.count(name) for name in ("RunSummary", "FinalValidation", "FinalTest", "RunOverview")) == 4
    summary = json.loads((tmp_path / "runs" / "tiny" / "version_0" / "summary.json").read_text())
    assert summary["sparsity"]["encoder"] == 0.5


def test_two_methods_are_refused(capsys: pytest.CaptureFixture[str], config: str, tmp_path: Path) -> None:
    options = ["--masks=RigL", "--trainer.callbacks+=SET", f"--runs={tmp_path}"]
    assert "two sparse-training callbacks" in complaint(capsys, "fit", "--config", config, *QUIET, *options)


@pytest.mark.parametrize("logger", ["csv", "none", "both"])
def test_a_run_has_its_own_directory_whatever_logs_it(tmp_path: Path, experiment: dict[str, Any], logger: str) -> None:
    """Two runs beside each other, with all that a run leaves; the second does not touch the first."""
    csv = {"class_path": "CSVLogger", "init_args": {"save_dir": ".", "name": "csv"}}
    board = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": ".", "name": "board"}}
    trainer = experiment["trainer"] | {"logger": {"csv": csv, "none": False, "both": [csv, board]}[logger]}
    file = write(tmp_path / "experiment.yaml", experiment | {"trainer": trainer})
    runs = tmp_path / "runs"
    for _ in range(2):
        train.main(["fit", "--config", file, *QUIET, f"--runs={runs}", "--trainer.log_every_n_steps=1"])
    for run in (runs / "tiny" / "version_0", runs / "tiny" / "version_1"):
        assert {"checkpoints", "config.yaml", "export", "summary.json"} <= {path.name for path in run.iterdir()}
        assert json.loads((run / "summary.json").read_text())["experiment"] == "tiny"
        saved = yaml.safe_load((run / "config.yaml").read_text())
        assert saved["checkpoint"]["dirpath"] is None  # or a run from this file would go where this one went
        if logger != "none":
            metrics = (run / "csv" / "version_0" / "metrics.csv").read_text()
            assert metrics.count("\n") > 4
        assert bool(list(run.rglob("events*"))) == (logger == "both")
    assert not list(Path.cwd().glob("lightning_logs"))


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.max_steps=8"], "trainer.max_steps was 4 when the checkpoint was written and is 8 now"),
        (["--trainer.max_steps=8", "--resume.allow=trainer.max_steps"], "the checkpoint's cycle is of 4 steps"),
        (["--masks=RigL", "--resume.allow=masks"], "the checkpoint has no masks"),
        (["--data.length=33"], "the model has positions for 32 tokens only"),
        (["--trainer.callbacks+=LinearWarmupDecay"], "that of the run LinearWarmupDecay, OneCycleLR: keep it"),
        (
            [
                *("--model.lr=0.1", "--trainer.callbacks=null", "--schedule=OneCycleLR", "--schedule.max_lr=0.2"),
                "--resume.allow=[model.lr, schedule]",
            ],
            "both set the peak",
        ),
    ],
)
def test_a_resume_that_is_refused_changes_no_byte_of_a_finished_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, config: str, options: list[str], message: str
) -> None:
    command = ["fit", "--config", config, *QUIET, "--runs", str(tmp_path / "runs")]
    train.main(command)
    before = contents(tmp_path / "runs")
    assert message in complaint(capsys, *command, "--ckpt_path=last", *options)
    assert contents(tmp_path / "runs") == before


def test_a_finished_run_that_is_started_again_says_the_same(tmp_path: Path, config: str) -> None:
    command = ["fit", "--config", config, *QUIET, "--runs", str(tmp_path / "runs")]
    run = tmp_path / "runs" / "tiny" / "version_0"
    train.main(command)
    results = []
    for _ in range(3):
        summary = json.loads((run / "summary.json").read_text())
        results.append([summary[key] for key in ("status", "eval_loss", "eval_step", "unigram_loss", "steps", "tokens")])
        weights = (run / "export" / "model.safetensors").read_bytes()
        train.main([*command, "--ckpt_path=last"])
        assert (run / "export" / "model.safetensors").read_bytes() == weights
    assert results[0][0] == "finished"
    assert results[0] == results[1] == results[2]


def test_what_lightning_itself_refuses_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path, config: str) -> None:
    stopping = [
        "--trainer.callbacks+=EarlyStopping",
        "--trainer.callbacks.monitor=no/such",
        "--trainer.val_check_interval=2",
    ]
    line = complaint(capsys, "fit", "--config", config, *QUIET, f"--runs={tmp_path}", *stopping)
    assert "conditioned on metric `no/such` which is not available" in line


def test_an_error_of_the_code_keeps_its_traceback(tmp_path: Path, config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("lightning_modules.MaskedLanguageModel.predict_logits", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        train.run(["fit", "--config", config, *QUIET, f"--runs={tmp_path}"])


@pytest.mark.parametrize("option", ["model", "data", "masks", "schedule", "trainer.callbacks"])
def test_help_without_a_class_lists_the_classes(capsys: pytest.CaptureFixture[str], option: str) -> None:
    with pytest.raises(SystemExit) as stop:
        train.run(["fit", f"--{option}.help"])
    assert not stop.value.code
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    wanted = {"model": "SequenceClassifier", "data": "GLUEDataModule", "masks": "Movement", "schedule": "LRRangeTest"}
    assert wanted.get(option, "SparsityMonitor") in listed
    assert not {"SparseMethod", "StepwiseSchedule", "KeepPrunedValues"} & set(listed)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (
            ["--masks=RigLL"],
            "masks: there is no class 'RigLL'; there are GMP, SET, STE, GlobalRigL, Movement, OneShot",
        ),
        (
            ["--schedule=OneCycle"],
            "schedule: there is no class 'OneCycle'; there are LRRangeTest, LinearWarmupDecay, OneCycleLR",
        ),
        (
            ["--trainer.callbacks+=RigLL"],
            "trainer.callbacks: there is no class 'RigLL'; there are GMP, SET, STE",
        ),
        (["--model=Masked"], "model: there is no class 'Masked'; there are MaskedLanguageModel, SequenceClassifier"),
    ],
)
def test_an_unknown_class_is_answered_with_those_there_are(
    capsys: pytest.CaptureFixture[str], config: str, options: list[str], names: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        train.run(["fit", "--config", config, *options])
    assert str(stop.value.code).startswith(f"error: {names}")


def test_a_sparse_run_does_not_go_on_dense(capsys: pytest.CaptureFixture[str], tmp_path: Path, config: str) -> None:
    command = ["fit", "--config", config, *QUIET, "--runs", str(tmp_path / "runs")]
    train.main([*command, "--masks=RigL"])
    before = contents(tmp_path / "runs")
    line = complaint(
        capsys, *command, "--ckpt_path=last", "--trainer.callbacks=null", "--schedule=null", "--resume.allow=masks"
    )
    assert "that of the run none: keep it" in line
    assert "masks was 'RigL' when the checkpoint" in complaint(capsys, *command, "--ckpt_path=last")
    line = complaint(capsys, *command, "--ckpt_path=last", "--resume.allow=masks")
    assert "the checkpoint has the masks of RigL, and the run would go on without" in line
    assert contents(tmp_path / "runs") == before


def test_last_is_the_last_whatever_the_interval_was(tmp_path: Path, config: str) -> None:
    command = ["fit", "--config", config, *QUIET, "--runs", str(tmp_path / "runs"), "--version=0"]
    for every in (2, 3, 2):
        options = [f"--checkpoint.every_n_train_steps={every}", "--ckpt_path=last", "--resume.allow=trainer.max_steps"]
        cli = train.main([*command, *options, "--trainer.callbacks=null", f"--trainer.max_steps={6 + every}"])
        files = sorted(path.name for path in (tmp_path / "runs" / "tiny" / "version_0" / "checkpoints").glob("last*"))
        assert files == ["last.ckpt"]
    assert torch.load(tmp_path / "runs" / "tiny" / "version_0" / "checkpoints" / "last.ckpt")["global_step"] >= 8
    assert cli.trainer.global_step >= 8


def test_the_config_of_a_run_makes_the_same_run_anew(finished: Path) -> None:
    """Also where it was continued, or had a version of its own."""
    run = finished / "tiny" / "version_0"
    train.main(["fit", "--config", str(run / "config.yaml"), *QUIET, "--version=7", "--experiment=named"])
    config = str(finished / "named" / "version_7" / "config.yaml")
    train.main(["fit", "--config", config, *QUIET])
    first, again = (json.loads((finished / "named" / f"version_{n}" / "summary.json").read_text()) for n in (7, 8))
    assert first["eval_loss"] == again["eval_loss"] == json.loads((run / "summary.json").read_text())["eval_loss"]


def test_fast_dev_run_leaves_nothing(tmp_path: Path, config: str) -> None:
    train.main(["fit", "--config", config, *QUIET, f"--runs={tmp_path / 'runs'}", "--trainer.fast_dev_run=true"])
    assert not (tmp_path / "runs").exists()
