"""What a resumed run may change: each fixed setting is refused with both its values, and what is free goes on."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import train
from callbacks.resume import RULES, changed_settings, flat_settings, rule_of
from helpers import complaint, tiny_experiment

pytestmark = [
    pytest.mark.usefixtures("command_line"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*is not empty", "ignore:.*max_epochs"),
]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, corpus: Path, tokenizer_dir: Path) -> tuple[Path, list[str]]:
    """A run of RigL, one cycle and distillation that has finished, with a checkpoint of its second step, and its command."""
    root = tmp_path_factory.mktemp("rules")
    trainer = {"max_steps": 4, "limit_val_batches": 1, "accelerator": "cpu", "enable_progress_bar": False}
    more = {
        "schedule": {"class_path": "OneCycleLR", "init_args": {"max_lr": 0.01}},
        "masks": {"class_path": "RigL", "init_args": {"sparsity": 0.8, "every": 2}},
        "checkpoint": {"every_n_train_steps": 2, "save_top_k": -1},
    }
    experiment = tiny_experiment(corpus, tokenizer_dir, root / "cache", trainer, **more)
    file = root / "experiment.yaml"
    teacher = ["fit", "--config", str(file), f"--runs={root}/runs", "--experiment=teacher"]
    file.write_text(yaml.safe_dump({**experiment, "masks": None}))
    train.run(teacher)
    distillation = {"teachers": [str(root / "runs" / "teacher" / "version_0" / "export")], "factor": 0.5}
    file.write_text(yaml.safe_dump({**experiment, "distillation": distillation}))
    command = ["fit", "--config", str(file), f"--runs={root}/runs"]
    train.run(command)
    checkpoint = root / "runs" / "tiny" / "version_0" / "checkpoints" / "step=2.ckpt"
    return checkpoint, [*command, f"--ckpt_path={checkpoint}"]


@pytest.mark.parametrize(
    ("option", "name", "before", "now"),
    [
        ("--seed_everything=1", "seed_everything", 0, 1),
        ("--data.batch_size=4", "batch", 8, 4),
        ("--data.length=32", "data.length", 16, 32),
        ("--data.masking.rate=0.3", "data.masking.rate", 0.15, 0.3),
        ("--data.seed=3", "data.seed", None, 3),
        ("--model.weight_decay=0.5", "model.weight_decay", 0.01, 0.5),
        ("--model.lr=0.5", "model.lr", None, 0.5),
        ("--masks.sparsity=0.9", "masks.sparsity", 0.8, 0.9),
        ("--masks.distribution=erdos_renyi", "masks.distribution", "uniform", "erdos_renyi"),
        ("--masks.structure=rows", "masks.structure", "unstructured", "rows"),
        ('--masks.structure={"*": "2:4"}', "masks.structure", "unstructured", "{'*': '2:4'}"),
        ("--model.config.hidden_act=relu", "model.config.hidden_act", None, "relu"),
        ("--masks.growth=balanced_gradient", "masks.growth", "gradient", "balanced_gradient"),
        ("--masks=SET", "masks", "RigL", "SET"),
        ("--masks=null", "masks", "RigL", None),
        ("--schedule.max_lr=0.5", "schedule.max_lr", 0.01, 0.5),
        ("--schedule=LinearWarmupDecay", "schedule", "OneCycleLR", "LinearWarmupDecay"),
        ("--distillation.factor=0.1", "distillation.factor", 0.5, 0.1),
        ("--distillation.temperature=3.5", "distillation.temperature", 2.0, 3.5),
        ("--distillation.cache=teachers", "distillation.cache", None, "a directory"),
        ("--trainer.max_steps=8", "trainer.max_steps", 4, 8),
        ("--trainer.gradient_clip_val=9.5", "trainer.gradient_clip_val", 1.0, 9.5),
        ("--trainer.precision=bf16-mixed", "trainer.precision", "32-true", "bf16-mixed"),
    ],
)
def test_a_fixed_setting_is_refused_with_both_values(
    begun: tuple[Path, list[str]],
    capsys: pytest.CaptureFixture[str],
    option: str,
    name: str,
    before: Any,
    now: Any,
) -> None:
    checkpoint, command = begun
    run = checkpoint.parents[1]
    there = {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file()}
    line = complaint(capsys, *command, option)
    assert f"{name} was {before!r} when the checkpoint was written and is {now!r} now" in line
    made = name in ("masks.sparsity", "masks.distribution")
    assert ("give what it was, or start a new run" if made else f"--resume.allow {name}") in line
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file()} == there


def test_other_text_is_refused_whatever_it_is_called(
    begun: tuple[Path, list[str]], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, command = begun
    (tmp_path / corpus.name).write_text(corpus.read_text() + "\n\nOne more document of other words.\n")
    line = complaint(capsys, *command, f"--data.path={tmp_path / corpus.name}")
    assert line.startswith("error: text was 'tokens-")
    (tmp_path / corpus.name).write_text(corpus.read_text())
    train.run([*command, f"--data.path={tmp_path / corpus.name}"])  # moved


def test_what_is_free_goes_on(begun: tuple[Path, list[str]]) -> None:
    checkpoint, command = begun
    free = (
        "--data.batch_size=4",
        "--trainer.accumulate_grad_batches=2",
        "--data.num_workers=1",
        "--trainer.log_every_n_steps=1",
    )
    train.run([*command, *free, "--data.eval_sequences=8", "--checkpoint.every_n_train_steps=1"])
    summary = json.loads((checkpoint.parents[1] / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("finished", 4)


def test_what_is_allowed_goes_on_and_says_so(begun: tuple[Path, list[str]]) -> None:
    _, command = begun
    with pytest.warns(UserWarning, match="goes on with data.seed 3, until here None"):
        train.run([*command, "--data.seed=3", "--resume.allow=data.seed"])


def test_what_made_the_masks_cannot_be_allowed(begun: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    """The masks of the checkpoint go on, and the record would say what they are not."""
    _, command = begun
    line = complaint(capsys, *command, "--masks.sparsity=0.9", "--resume.allow=[masks.sparsity, masks.growth]")
    assert "masks.sparsity made the masks, which are in the checkpoint, and would change nothing" in line


def test_to_allow_what_may_change_is_a_mistake(begun: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    _, command = begun
    assert "data.num_workers may change anyway" in complaint(capsys, *command, "--resume.allow=data.num_workers")


def test_settings_are_called_as_on_the_command_line() -> None:
    masks = {"class_path": "sparsity.methods.RigL", "init_args": {"sparsity": 0.8, "targets": ["a", "b"]}}
    data = {"class_path": "datamodules.TextDataModule", "init_args": {"masking": {"rate": 0.15}}}
    assert flat_settings({"masks": masks, "data": data, "runs": Path("runs"), "schedule": None}) == {
        "masks": "RigL",
        "masks.sparsity": 0.8,
        "masks.targets": ["a", "b"],
        "data": "TextDataModule",
        "data.masking.rate": 0.15,
        "runs": "runs",
        "schedule": None,
    }


def test_a_setting_that_only_a_newer_version_knows_is_no_change() -> None:
    before = {"masks": "RigL", "masks.sparsity": 0.8}
    assert not changed_settings(before, before | {"masks.novelty": 1})
    assert changed_settings(before, {}) == ["masks"]
    assert changed_settings({}, before) == ["masks"]


def test_every_rule_can_be_the_first_that_matches() -> None:
    for rule in RULES:
        name = rule.pattern.replace("*", "x")
        assert rule_of(name) is rule, rule.pattern


def test_the_documentation_has_the_table() -> None:
    page = (Path(__file__).parents[1] / "docs" / "resuming.md").read_text(encoding="utf-8")
    for rule in RULES:
        assert f"| `{rule.pattern}` | {rule.kind} | {rule.why} |" in page
