"""Configs by name, modules beside a YAML, and the package as one installs it."""

import os
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import deploy
import report
import sweep
import train
import trifecta
from arguments import VERSION
from shipped import CONFIGS, OF_SWEEPS, find_modules_beside, with_shipped_configs

ROOT = Path(__file__).parent.parent
SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def test_shipped_configs_are_found_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["fit", "--config", "cpu_bench", "--config=configs/glue/finetune.yaml", "--trainer", "one_gpu", "--model=tiny"]
    assert with_shipped_configs(given) == [
        *("fit", "--config", f"{CONFIGS}/experiments/cpu_bench.yaml", f"--config={CONFIGS}/glue/finetune.yaml"),
        *("--trainer", f"{CONFIGS}/trainer/one_gpu.yaml", f"--model={CONFIGS}/model/tiny.yaml"),
    ]
    assert with_shipped_configs(["--config", "bert_hf"]) == ["--config", "bert_hf"]
    assert with_shipped_configs(["--config", "bert_hf"], OF_SWEEPS) == ["--config", f"{CONFIGS}/protocols/bert_hf.yaml"]


def test_what_is_no_name_of_a_config_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cpu_bench").write_text("experiment: mine")
    given = ["--config", "cpu_bench", "--config", "../cpu_bench", "--model", "SequenceClassifier", "--experiment", "tiny"]
    assert with_shipped_configs(given) == given


def test_modules_beside_a_config_are_found_after_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    monkeypatch.setattr(sys, "path", list(before))
    find_modules_beside(["fit", "--config", "a/one.yaml", f"--config={tmp_path}/a/two.yaml"])
    assert sys.path == [*before, str(tmp_path), str(tmp_path / "a")]
    find_modules_beside([])
    assert sys.path == [*before, str(tmp_path), str(tmp_path / "a")]


@pytest.mark.parametrize("program", [train, sweep, report, deploy, trifecta], ids=lambda module: module.__name__)
def test_every_program_knows_its_version(program: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        program.run(["--version"])  # type: ignore[attr-defined]
    assert (end.value.code, capsys.readouterr().out) == (None, f"trifecta {VERSION}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["fit", "--help"]])
def test_help_is_a_screen_of_examples(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.run(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("  python train.py") for line in lines) == 5
    assert len(lines) <= 30
    assert any("--help all" in line for line in lines)


def test_trifecta_alone_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    trifecta.run([])
    shown = capsys.readouterr().out
    assert all(f"trifecta {command}" in shown for command in ("fit", "sweep", "report", "deploy"))


@pytest.fixture(scope="module")
def without_python_path() -> Iterator[None]:
    """Which sweeps set for their workers, and which would lead to this checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        yield


@pytest.fixture(scope="module")
def installed(without_python_path: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script of the built wheel, in an environment of its own beside the packages of this one."""
    root = tmp_path_factory.mktemp("installed")
    source, environment = root / "source", root / "venv"
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in tracked.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(root), str(source)]
    subprocess.run(build, check=True, stderr=subprocess.DEVNULL)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    (wheel,) = root.glob("*.whl")
    assert wheel.name.startswith(f"trifecta-{VERSION}-")
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", str(wheel)], check=True)
    (site,) = (environment / "lib").glob("python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    return environment / "bin" / "trifecta"


@pytest.mark.slow
def test_the_installed_package_fits_a_shipped_recipe_from_anywhere(
    installed: Path, tmp_path: Path, corpus: Path, tokenizer_dir: Path
) -> None:
    """By name, with a callback of the user's own beside their YAML."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "counting.py").write_text(
        "from pytorch_lightning import Callback\n\n\n"
        "class Counting(Callback):\n"
        "    def on_train_end(self, trainer, pl_module):\n"
        "        print(f'counted {trainer.global_step}')\n"
    )
    (tmp_path / "mine" / "mine.yaml").write_text("trainer: {callbacks+: {class_path: counting.Counting}}\n")
    options = {f"model.config.{name}": value for name, value in SIZE.items()}
    options |= {
        "data.path": corpus,
        "data.tokenizer": tokenizer_dir,
        "data.length": 16,
        "data.cache_dir": tmp_path / "cache",
    }
    options |= {"trainer.max_steps": 2, "trainer.limit_val_batches": 1, "trainer.enable_progress_bar": "false"}
    command = [installed, "fit", "--config", "cpu_bench", "--config", "mine/mine.yaml", "--masks=RigL", "--trainer=cpu"]
    command += [f"--{name}={value}" for name, value in options.items()]
    there = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PL_GLOBAL_SEED")}
    done = subprocess.run(command, cwd=tmp_path, env=there, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "counted 2" in done.stdout
    assert (tmp_path / "runs" / "cpu_bench" / "version_0" / "export" / "sparsity.json").is_file()


@pytest.mark.slow
def test_every_config_and_every_module_is_in_the_package(installed: Path) -> None:
    (site,) = (installed.parent.parent / "lib").glob("python*/site-packages")
    shipped = {file.relative_to(ROOT) for file in CONFIGS.rglob("*.yaml")}
    assert {file.relative_to(site) for file in (site / "configs").rglob("*.yaml")} == shipped
    first_party = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]["isort"]["known-first-party"]
    for name in {file.stem for file in ROOT.glob("*.py")} | set(first_party) - {
        "fake_fit",
        "fake_glue",
        "fake_hub",
        "fake_tasks",
        "helpers",
        "kernels",
    }:
        assert (site / f"{name}.py").is_file() or (site / name / "__init__.py").is_file(), name
