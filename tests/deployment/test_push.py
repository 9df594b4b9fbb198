"""A model goes to the hub over HTTP: privately, whole, and only when it is asked for; what goes wrong is one line."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

import deploy
from callbacks import ExportPretrained
from datamodules import TextDataModule
from deployment import files_to_push, push
from fake_hub import FakeHub, checksum
from helpers import fit

CARD = "---\nlicense: mit\ntags: [sparse]\n---\n\n# little\n"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """The only hub there is; whoever asks may write, and a public repository is there."""
    fake = FakeHub(public=("ann/public",))
    monkeypatch.setattr(constants, "ENDPOINT", fake.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet"))
    yield fake
    fake.close()


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """What a push takes for a model, and a file that is nobody else's business."""
    directory = tmp_path / "export"
    directory.mkdir()
    save_file({"weight": torch.rand(300, 300)}, directory / "model.safetensors")
    save_file({"weight": torch.ones(9, dtype=torch.uint8)}, directory / "sparsity_masks.safetensors")
    (directory / "config.json").write_text("{}")
    (directory / "README.md").write_text(CARD)
    (directory / "notes.pkl").write_bytes(b"mine")
    return directory


def checksums(directory: Path) -> dict[str, str]:
    return {name: checksum((directory / name).read_bytes()) for name in files_to_push(directory)}


def refusal(*arguments: str) -> str:
    """The one line that ``deploy.py push`` ends with."""
    with pytest.raises(SystemExit) as end:
        deploy.run(["push", *arguments])
    assert isinstance(end.value.code, str)
    assert "\n" not in end.value.code
    return end.value.code


def writes(hub: FakeHub) -> list[str]:
    return [request for request in hub.asked if not request.startswith("GET") and not request.endswith("/validate-yaml")]


@pytest.mark.parametrize("store", ["lfs", "xet"])
def test_a_model_arrives_whole_in_a_private_repository(
    export: Path, hub: FakeHub, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if store == "xet":
        pytest.importorskip("hf_xet")
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    assert push(export, "ann/little") == f"{hub.url}/ann/little/commit/1"
    assert hub.private["ann/little"]
    assert hub.sent == {"ann/little": checksums(export)}
    assert hub.sent["ann/little"].keys() == {path.name for path in export.iterdir()} - {"notes.pkl"}
    assert (len(hub.large) == 2) == (store == "lfs")
    assert (hub.in_store > 300_000) == (store == "xet")
    assert hub.asked.index("POST /api/validate-yaml") < hub.asked.index("POST /api/models/ann/little/preupload/main")


def test_a_second_push_sends_only_the_weights_that_have_changed(export: Path, hub: FakeHub) -> None:
    push(export, "ann/little")
    save_file({"weight": torch.zeros(300, 300)}, export / "model.safetensors")
    before = len(hub.asked)
    push(export, "ann/little")
    assert [each for each in hub.asked[before:] if each.startswith("PUT")] == [
        f"PUT /large/{checksums(export)['model.safetensors']}"
    ]
    assert hub.sent["ann/little"] == checksums(export)


def test_nothing_is_published_by_accident(export: Path, hub: FakeHub) -> None:
    assert refusal(str(export), "ann/public").startswith(
        "error: ann/public is public already; say that it need not be private"
    )
    assert hub.sent == {}
    deploy.main(["push", str(export), "ann/public", "--public"])
    deploy.main(["push", str(export), "ann/shown", "--public"])
    assert hub.sent.keys() == {"ann/public", "ann/shown"}
    assert not hub.private["ann/shown"]


def test_a_dry_run_says_what_would_be_sent_and_asks_nobody(
    export: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    deploy.main(["push", str(export), "ann/little", "--dry-run"])
    sizes = {path.name: path.stat().st_size for path in export.iterdir() if path.name != "notes.pkl"}
    lines = [f"would be sent: {name}, {size:,} bytes" for name, size in sorted(sizes.items())]
    assert capsys.readouterr().out.splitlines() == [*lines, "to the private repository ann/little; nothing was sent"]
    assert hub.asked == []


@pytest.mark.parametrize(
    ("token", "line"),
    [
        ("hf_nobody", "401, Invalid username or password.; log in first: hf auth login"),
        ("hf_reader", "403, You don't have the rights to create a model under this namespace; take a name of your own, or"),
    ],
)
def test_who_may_not_write_is_told_what_to_do(
    export: Path, hub: FakeHub, token: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    assert refusal(str(export), "ann/little").startswith(f"error: ann/little was not pushed: {line}")
    assert hub.private == {"ann/public": False}


def test_a_hub_that_is_not_reached_is_named(export: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.close()
    line = refusal(str(export), "ann/little")
    assert line.startswith(f"error: ann/little was not pushed: {hub.url} was not reached, or not to the end (")
    assert "refused" in line
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refusal(str(export), "ann/little")


def test_an_upload_that_breaks_off_commits_nothing(export: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "large_status", 403)
    assert refusal(str(export), "ann/little").startswith(
        f"error: ann/little was not pushed: {hub.url} was not reached, or not"
    )
    assert hub.sent == {}


def test_a_card_that_the_hub_would_not_take_is_refused_before_any_weight_is_sent(export: Path, hub: FakeHub) -> None:
    (export / "README.md").write_text(CARD.replace("[sparse]", "sparse"))
    assert refusal(str(export), "ann/little") == 'error: Invalid metadata in README.md. - "tags" must be an array of strings'
    assert writes(hub) == ["POST /api/repos/create"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("{export}/..", "ann/little"), "no model.safetensors there; expected the directory of an exported model"),
        (("{export}", "a/b/c"), "'a/b/c' is no repository of the hub; expected OWNER/NAME"),
        (("{export}", "a/b/c", "--dry-run"), "'a/b/c' is no repository of the hub; expected OWNER/NAME"),
        (("{export}",), "the following arguments are required: repository"),
    ],
)
def test_mistakes_are_one_line_and_nobody_is_asked(
    export: Path, hub: FakeHub, arguments: tuple[str, ...], line: str
) -> None:
    assert line in refusal(*(each.format(export=export) for each in arguments))
    assert hub.asked == []


def test_the_command_sends_to_the_hub_that_the_environment_names(export: Path, hub: FakeHub) -> None:
    """In a process of its own, where nothing is patched."""
    there = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, deploy.__file__, "push", "export", "ann/little"]
    done = subprocess.run(command, cwd=export.parent, env=os.environ | there, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{hub.url}/ann/little/commit/1\n"), done.stderr[-2000:]
    assert hub.sent == {"ann/little": checksums(export)}


def test_a_run_sends_its_export_when_it_has_ended(
    tmp_path: Path, text_data: Callable[..., TextDataModule], hub: FakeHub
) -> None:
    said: list[str] = []
    for options in ({"dry_run": True}, {}):
        fit(tmp_path, text_data(), [ExportPretrained(push_to_hub="ann/little", **options)], max_steps=1)
        said.append(", ".join(hub.sent))
    assert said == ["", "ann/little"]
    assert hub.private["ann/little"]
    assert hub.sent["ann/little"] == checksums(tmp_path / "export")
    assert hub.sent["ann/little"].keys() == {path.name for path in (tmp_path / "export").iterdir()}
    card = (tmp_path / "export" / "README.md").read_text()
    assert 'AutoModelForMaskedLM.from_pretrained("ann/little")' in card


def test_a_run_whose_export_is_refused_has_it_on_the_disk(
    tmp_path: Path, text_data: Callable[..., TextDataModule], hub: FakeHub
) -> None:
    with pytest.warns(UserWarning, match=r"ann/public is public already.*later: python deploy.py push .*export ann/public"):
        fit(tmp_path, text_data(), [ExportPretrained(push_to_hub="ann/public")], max_steps=1)
    hub.close()
    with pytest.warns(UserWarning, match=r"was not reached.*later: python deploy.py push .*export ann/little"):
        fit(tmp_path, text_data(), [ExportPretrained(push_to_hub="ann/little")], max_steps=1)
    assert (tmp_path / "export" / "README.md").is_file()
    with pytest.raises(ValueError, match="is no repository of the hub; expected OWNER/NAME"):
        ExportPretrained(push_to_hub="a/b/c")


def test_a_link_that_leads_out_is_refused(export: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("mine")
    (export / "notes.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(ValueError, match="notes.txt is a link out of"):
        files_to_push(export)
