"""Help, and a mistake that an option alone shows, do not wait for torch."""

import subprocess
import sys
from pathlib import Path

import pytest

import deploy
from deployment import FILES

ROOT = Path(__file__).parents[1]
SLOW = ("torch", "transformers", "datasets", "pytorch_lightning", "torchmetrics", "matplotlib", "ray", "pandas")


@pytest.mark.parametrize(
    ("entry", "arguments"),
    [
        ("train", ["--help"]),
        ("train", ["fit", "--help"]),
        ("train", ["fit", "--config", "nowhere.yaml"]),
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
