"""Help, and a mistake that an option alone shows, do not wait for torch."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import deploy
import train
from deployment import FILES

ROOT = Path(__file__).parents[1]
SLOW = ("torch", "transformers", "datasets", "pytorch_lightning", "torchmetrics", "matplotlib", "ray", "pandas")


@pytest.mark.parametrize(
    ("entry", "arguments"),
    [
        ("train", ["--help"]),
        ("train", ["fit", "--help"]),
        ("train", ["fit", "--config", "nowhere.yaml"]),
        ("train", ["fitt", "--config", "cpu_bench"]),
        ("train", ["fit", "--config", "cpu_bench", "--trainr.max_steps", "3"]),
        ("train", ["validate", "--chekpoint=last"]),
        ("sweep", ["--help"]),
        ("sweep", ["--config", "cpu_bench", "--concurency", "2"]),
        ("report", ["--help"]),
        ("report", ["page", "--help"]),
        ("report", ["masks", "--help"]),
        ("report", ["frontier", "--plots", "x.png"]),
        ("deploy", ["--help"]),
        ("deploy", ["latency", "--help"]),
        ("deploy", ["export", "model", "--format", "tflite"]),
        ("trifecta", ["--help"]),
        ("trifecta", ["fit", "--help"]),
    ],
)
def test_help_and_a_mistake_import_nothing_that_takes_seconds(entry: str, arguments: list[str]) -> None:
    program = f"""
import sys
sys.argv = ["{entry}.py", *{arguments!r}]
import {entry}
try:
    {entry}.run()
except SystemExit:
    pass
print(sorted(set({SLOW!r}) & sys.modules.keys()))
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout.splitlines()[-1] == "[]", ended.stderr


def test_formats_are_those_of_exports() -> None:
    assert list(deploy.FORMATS) == list(FILES)


@pytest.mark.parametrize("subcommand", train.SUBCOMMANDS)
def test_options_that_are_known_before_the_parser_are_the_parsers(subcommand: str) -> None:
    command = [sys.executable, "train.py", subcommand, "--help", "all"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    there = set(re.findall(r"^ +(?:-\w(?: \w+)?, )?--(\w+)", shown, re.MULTILINE))
    assert there - {"config"} <= train.OPTIONS
    of_one = {"verbose", "return_predictions"}
    assert train.OPTIONS - of_one - {"config"} == there - of_one - {"config"}


def test_a_misspelt_option_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unrecognized arguments: --trainr.max_steps; is it --trainer\?"):
        train.check_options(["fit", "--trainr.max_steps", "3"])
    with pytest.raises(ValueError, match="unrecognized arguments: --zzz=1; train.py fit --help all lists all there are"):
        train.check_options(["fit", "--zzz=1"])
    with pytest.raises(ValueError, match=r"unrecognized arguments: --trainer.max_stpes=3; is it --trainer.max_steps\?"):
        train.check_options(["fit", "--trainer.max_stpes=3"])
    train.check_options(["fit", "--trainer.max_ste=3"])  # as argparse takes it
    train.check_options(
        ["fit", "--trainer", "one_gpu", "--trainer.strategy.timeout=1", "--trainer.logger+=x", "--trainer.help"]
    )
    train.check_options(["fit", "--trainer.callbacks+=RigL", "--data.path", "x", "--exp=a", "-c", "x.yaml"])


def test_the_trainers_settings_are_read_from_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """And where there is no source, nothing is refused."""
    from pytorch_lightning import Trainer

    assert train.trainer_settings() == set(inspect.signature(Trainer.__init__).parameters)
    monkeypatch.setattr(train.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(train, "trainer_settings", train.trainer_settings.__wrapped__)  # which remembers
    assert train.trainer_settings() == set()
    train.check_options(["fit", "--trainer.max_stpes=3"])
