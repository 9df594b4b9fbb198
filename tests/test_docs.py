"""What README and documentation say can be done is done: shell lines parse, Python runs, everything public is described.

What is done with a finished model (``deploy.py``, ``examples/``, Python that loads one) is done with a tiny one, but nothing is
timed. A line that needs hardware or data stands in a block whose title says so (```` ```sh title="needs 8 GPUs" ````); of these,
too, the options of this project's own programs are parsed.
"""

import ast
import contextlib
import importlib
import inspect
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.models.auto.configuration_auto import AutoConfig

import cli
import deploy
import report
import sweep
import train
from command_help import CHOICES
from deployment import pack
from fake_hub import FakeHub
from helpers import CONFIG
from run_record import RunRecord
from shipped import CONFIGS, OF_SWEEPS, with_shipped_configs
from sparsity import MaskSet, save_masks

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]*)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
MAKE = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
EXTRAS = (ROOT / "setup.cfg").read_text(encoding="utf-8")
MISUNDERSTOOD = r"unrecognized arguments|invalid choice|are required|expected (one|at least one) argument|invalid .* value"
FINISHED = ("needs an exported model", "needs the quickstart's student")  # which there is, for the tests
PACKAGES = ("sparsity", "callbacks", "datamodules", "deployment", "lightning_modules")


@dataclass(frozen=True)
class Block:
    page: Path
    language: str
    needs: str
    text: str


def blocks(*languages: str) -> list[Block]:
    found = ((page, match) for page in PAGES for match in FENCE.findall(page.read_text(encoding="utf-8")))
    return [Block(page, kind, title, text) for page, (kind, title, text) in found if kind in languages]


def commands() -> Iterator[tuple[Block, list[str]]]:
    """Every line of shell as its words, without environment, comments and the beginning that only says who starts it."""
    for block in blocks("sh", "bash"):
        for line in re.sub(r"^\w+=\$\(.*\n", "", block.text.replace("\\\n", " "), flags=re.MULTILINE).splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"export|[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                yield block, words


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory, tokenizer_dir: Path) -> Path:
    """What the pages take for granted: runs with exports, tiny and of 2:4 masks, and a packed file."""
    root, tokenizer = tmp_path_factory.mktemp("finished"), AutoTokenizer.from_pretrained(tokenizer_dir)
    torch.manual_seed(0)
    config = AutoConfig.for_model(**CONFIG | {"hidden_size": 64, "max_position_embeddings": 130}, vocab_size=len(tokenizer))
    kinds = {
        "quickstart": AutoModelForMaskedLM,
        "two_of_four": AutoModelForMaskedLM,
        "glue": AutoModelForSequenceClassification,
    }
    for name, kind in kinds.items():
        model, export = kind.from_config(config), root / "runs" / name / "version_0" / "export"
        parameters = {name: weight for name, weight in model.named_parameters() if "encoder" in name and weight.ndim == 2}
        masks = MaskSet({name: two_of_four(weight) for name, weight in parameters.items()})
        masks.zero_weights_(parameters)
        for each in (model, tokenizer):
            each.save_pretrained(export)
        save_masks(export, masks, parameters, {"method": "Static"})
    for seed in range(3):
        record = RunRecord(experiment="glue", status="finished", task="CoLA", seed=seed, metrics={"matthews": seed / 4})
        record.write(root / "runs" / "glue" / f"version_{seed}")
    (root / "runs" / "…").symlink_to("quickstart/version_0")
    pack(root / "runs" / "quickstart" / "version_0" / "export", root / "model.packed")
    return root


def two_of_four(weight: torch.Tensor) -> torch.Tensor:
    """Every second weight of a row."""
    return torch.arange(weight.shape[1]).expand_as(weight) % 2 == 0


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy for one page, and a hub to push to."""
    hub = FakeHub()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    yield shutil.copytree(finished_once, tmp_path / "finished", symlinks=True)
    hub.close()


def parse_fit(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As train.py parses it; the classes are found, their settings known, and nothing is made."""
    monkeypatch.setattr(sys, "argv", ["train.py"])
    if any(word.endswith("help") for word in arguments):
        with pytest.raises(SystemExit):
            train.run(arguments)
        capsys.readouterr()
        return
    with pytest.raises(SystemExit) as end:
        train.run([*arguments, "--print_config"])
    assert end.value.code in (0, None), end.value.code
    assert yaml.safe_load(capsys.readouterr().out)


def check_command(
    words: list[str], needs: str, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Raise where a line cannot be as it stands."""
    if words[:2] == ["python", "-m"] and words[2] == "datamodules.glue_download":
        names = set(re.findall(r'"--(\w+)"', (ROOT / "datamodules/glue_download.py").read_text(encoding="utf-8")))
        assert {word[2:] for word in words if word.startswith("--")} <= names
        return
    if words[0] == "trifecta":
        scripted = words[1] in ("sweep", "report", "deploy")
        words = ["python", f"{words[1]}.py", *words[2:]] if scripted else ["python", "train.py", *words[1:]]
    script = next((word for word in words if word.endswith(".py")), "")
    rest = words[words.index(script) + 1 :] if script else []
    if script == "train.py":
        parse_fit(rest, monkeypatch, capsys)
    elif script == "sweep.py":
        assert sweep.parse(rest).config.is_file()
    elif script == "deploy.py" and rest[0] != "latency":
        with contextlib.chdir(finished):
            deploy.main(rest)
        capsys.readouterr()
    elif script.startswith("examples/"):
        monkeypatch.setattr(sys, "argv", [script, *rest])
        with contextlib.chdir(finished):
            runpy.run_path(str(ROOT / script), run_name="__main__")
    elif script in ("report.py", "deploy.py"):
        if "budget" in rest and "--config" in rest:
            cli.planned_fit(rest[1:])
        else:  # which finds nothing there, after it has understood what was asked for
            with pytest.raises((ValueError, OSError)) as found:
                (report if script == "report.py" else deploy).main(rest)
            assert not re.search(MISUNDERSTOOD, str(found.value)), found.value
    elif script:
        source = (ROOT / script).read_text(encoding="utf-8")
        assert not (
            unknown := [word for word in rest if word.startswith("--") and "." not in word and f'"{word}"' not in source]
        ), unknown
    elif words[0] == "make":
        assert {word for word in words[1:] if "=" not in word} <= MAKE
    elif words[0] == "pip":
        assert all(f"{extra} =" in EXTRAS for extra in re.findall(r"\[(\w+)\]", " ".join(words)))
    elif words[0] in ("source", ".venv/bin/pre-commit"):
        pass
    else:
        assert needs.startswith("needs"), f"nobody tests {shlex.join(words)!r}: say what the block needs in its title"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_shell_line_can_be_as_it_stands(
    page: Path, tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "configs").symlink_to(CONFIGS)
    (tmp_path / "empty" / "my_method.yaml").write_text("masks: {class_path: RigL}\n")
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setattr(sys, "path", list(sys.path))
    for block, words in commands():
        if block.page == page:
            try:
                check_command(words, block.needs, finished, monkeypatch, capsys)
            except (Exception, SystemExit) as error:
                pytest.fail(f"{shlex.join(words)}: {type(error).__name__}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_python_block_runs(page: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the page, in one namespace; ``python`` blocks are files of the reader's own, and ``py`` what is run."""
    monkeypatch.chdir(finished)
    names: dict[str, object] = {"__name__": "documentation"}
    for block in blocks("py", "python"):
        if block.page == page:
            code = compile(block.text, str(page), "exec")
            if block.language == "py" and block.needs in ("", *FINISHED):
                exec(code, names)


def test_every_config_that_is_named_is_there() -> None:
    for page in PAGES:
        for name in re.findall(r"configs/\w+/\w+\.yaml", page.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), f"{page.name} names {name}"


def test_every_recipe_method_and_protocol_is_described() -> None:
    recipes, methods, sweeps = (
        (ROOT / "docs" / name).read_text() for name in ("recipes.md", "methods/index.md", "sweeps.md")
    )
    for folder, text in (("experiments", recipes), ("protocols", sweeps)):
        missing = [file.stem for file in (CONFIGS / folder).glob("*.yaml") if f"`{file.stem}`" not in text]
        assert not missing, f"{folder}: {missing}"
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for name in CHOICES["masks"]:
        assert f"[`{name}`]" in methods
        page = re.search(rf"- {name}: (methods/\w+\.md)", nav)
        assert page, f"{name} has no page"
        assert f"{{{{ options {name} }}}}" in (ROOT / "docs" / page[1]).read_text(encoding="utf-8"), name


def documented_strings() -> str:
    """All text of the product's string literals, what is filled in as NUL."""
    found = []
    for file in [
        *ROOT.glob("*.py"),
        *(file for name in (*PACKAGES, "sweeps", "reports") for file in (ROOT / name).rglob("*.py")),
    ]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_every_error_of_the_troubleshooting_page_is_one_of_ours() -> None:
    text = documented_strings()
    messages = re.findall(r"^\| `([^`]+)`", (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(messages) > 30
    for message in messages:
        missing = [part for part in message.split("…") if part.strip(" ,:") and part.strip() not in text]
        assert not missing, f"{message!r}: nobody says {missing}"


@pytest.mark.parametrize("package", PACKAGES)
def test_everything_public_is_documented(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isroutine(thing) or inspect.ismodule(thing):
            assert inspect.getdoc(thing), f"{package}.{name} has no docstring"


def test_every_public_name_of_sparsity_is_in_the_api_reference() -> None:
    import sparsity

    shown = set(re.findall(r"^::: sparsity\.(?:methods\.)?(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE))
    constants = {name for name in sparsity.__all__ if name.isupper() and name not in CHOICES["masks"]}
    assert set(sparsity.__all__) - constants - {"methods"} - shown == set()


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 150
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", readme):
        assert (ROOT / target).is_file(), target


def test_sweeps_are_named_like_recipes() -> None:
    assert with_shipped_configs(["--config", "results"], OF_SWEEPS)[1].endswith("protocols/results.yaml")


def test_what_stands_behind_two_dashes_is_for_another_command() -> None:
    given = ["--config", "results", "--", "--config", "results"]
    assert with_shipped_configs(given, OF_SWEEPS)[2:] == given[2:]
