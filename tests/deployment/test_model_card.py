"""The card of an export is read by the hub's own classes, counts what is there, and tells nothing of the machine."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import ModelCard
from transformers import AutoModelForMaskedLM

from callbacks import ExportPretrained, FinalValidation, RigL, RunSummary
from datamodules import TextDataModule
from deployment.model_card import class_of, public_command, scores, sparsity_by_class, with_spread, write_card
from deployment.push import files_to_push, push
from helpers import fit, parameters
from run_record import RunRecord, model_name


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, text_data: Callable[..., TextDataModule]) -> Path:
    """The directory of a run with an export called ``little``; the corpus and the tokenizer have absolute paths."""
    root = tmp_path_factory.mktemp("runs") / "sparse" / "version_0"
    export = ExportPretrained(at_steps={1: "early"}, name="little", license="mit")
    trainer = fit(root, text_data(), [RigL(), FinalValidation(), export, RunSummary()], 2, limit_val_batches=1)
    assert trainer.global_step == 2
    return root


def test_a_card_is_what_the_hub_reads(run: Path) -> None:
    card = ModelCard.load(run / "export" / "README.md")
    record = RunRecord.read(run / "summary.json")
    assert (card.data.model_name, card.data.library_name, card.data.license) == ("little", "transformers", "mit")
    assert card.data.pipeline_tag == "fill-mask"
    assert card.data.tags == ["trifecta", "sparse", "rigl"]
    assert card.data.datasets == ["corpus.txt"]
    results = {result.metric_name: result for result in card.data.eval_results}
    assert results["eval_loss"].metric_value == pytest.approx(record.eval_loss, abs=1e-6)
    assert results["perplexity"].metric_value == pytest.approx(record.perplexity, abs=1e-6)
    assert results["eval_loss"].dataset_split == "validation"
    assert f"of which {record.nonzeros:,} are not zero" in card.text
    assert "AutoModelForMaskedLM.from_pretrained" in card.text
    assert "Masks by RigL: step 2, sparsity 0.8" in card.text


def test_nothing_in_an_export_tells_where_it_was_made(run: Path) -> None:
    for file in (run / "export").iterdir():
        assert str(run.parents[2]).encode() not in file.read_bytes(), file.name


def test_a_model_is_called_by_the_name_it_carries_wherever_it_lies(run: Path, tmp_path: Path) -> None:
    (run / "export").rename(run / "moved")
    try:
        assert model_name(str(run / "moved")) == "little"
        assert model_name(str(run / "early")) == "early"
        text = (run / "moved" / "README.md").read_text()
        (tmp_path / "README.md").write_text("---\nmodel_name: [\n---\n")
        assert model_name(str(tmp_path)) == tmp_path.name  # somebody's broken card
        (tmp_path / "README.md").write_text(text.split("---\n", 2)[2])
        assert model_name(str(tmp_path)) == tmp_path.name  # a card without metadata
    finally:
        (run / "moved").rename(run / "export")


def test_a_card_of_several_seeds_has_their_spread(run: Path, tmp_path: Path) -> None:
    record = RunRecord.read(run / "summary.json")
    others = [dataclasses.replace(record, seed=seed, eval_loss=loss) for seed, loss in ((1, 2.0), (2, 4.0))]
    (tmp_path / "export").symlink_to(run / "export")
    before = (run / "export" / "README.md").read_text()
    write_card(tmp_path / "export", "three", others)
    card = ModelCard.load(run / "export" / "README.md")
    (run / "export" / "README.md").write_text(before)
    assert "- eval_loss: 3.0000 ± 1.4142 (2 seeds)" in card.text
    result = next(result for result in card.data.eval_results if result.metric_name == "eval_loss")
    assert (result.metric_value, result.metric_args) == (3.0, {"seeds": 2, "std": 1.414214})
    assert card.data.model_name == "three"


def test_scores_are_of_the_final_weights_and_finite() -> None:
    record = RunRecord(experiment="a", status="finished", steps=4, eval_step=2, eval_loss=1.0, test_loss=2.0)
    assert scores([record]) == {"test_loss": [2.0]}
    task = RunRecord(
        experiment="a", status="finished", task="CoLA", steps=4, eval_step=4, metrics={"matthews": 0.5, "f1": float("nan")}
    )
    assert scores([task]) == {"matthews": [0.5]}
    assert with_spread([0.5]) == "0.5000"


def test_tensors_are_counted_by_class() -> None:
    shapes = {"bert.embeddings.word.weight": (10, 4), "bert.layer.0.attention.q.weight": (4, 4)}
    shapes |= {"bert.layer.0.attention.q.bias": (4,), "model.layers.0.mlp.Wi.weight": (4, 4), "decoder.weight": (3, 4)}
    assert sparsity_by_class(shapes, {"bert.layer.0.attention.q.weight": 5}) == {
        "embeddings": (40, 40),
        "head": (12, 12),
        "attention": (16, 5),
        "feed-forward": (16, 16),
        "other": (4, 4),
        "model": (88, 77),
    }


def test_every_matrix_of_a_bert_has_a_class(encoder_dir: Path) -> None:
    model = AutoModelForMaskedLM.from_pretrained(encoder_dir)
    assert {class_of(name) for name, weight in model.named_parameters() if weight.ndim > 1} == {
        *("embeddings", "head", "attention", "feed-forward")
    }


@pytest.mark.parametrize(
    ("command", "public"),
    [
        ("/home/ann/trifecta/train.py fit --config configs/a.yaml", "train.py fit --config configs/a.yaml"),
        ("train.py --data.path=/home/ann/text/wiki.txt", "train.py --data.path=wiki.txt"),
        ("train.py '--data.path=[/home/ann/a.txt, /srv/b.txt]'", "train.py '--data.path=[a.txt, b.txt]'"),
        ("train.py '/home/Ann Lee/a b.txt'", "train.py 'a b.txt'"),
        ('train.py --data \'{"path":"/home/ann/x/"}\'', 'train.py --data \'{"path":"x"}\''),
        ("train.py path:/home/ann/x", "train.py path:x"),
        ("train.py ~/x/y ~ann/y", "train.py y y"),
        (r"train.py 'C:\Users\ann\x'", "train.py x"),
        ("train.py runs/a/export ../b google/bert https://a.b/c", "train.py runs/a/export ../b google/bert https://a.b/c"),
    ],
)
def test_commands_have_no_absolute_paths(command: str, public: str) -> None:
    assert public_command(command) == public


class FakeHub:
    """The hub's API as far as a push asks it; remembers what it was sent."""

    def __init__(self, public: tuple[str, ...] = ()) -> None:
        self.private = dict.fromkeys(public, False)
        self.sent: dict[str, Any] = {}

    def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        self.private.setdefault(repository, private)

    def model_info(self, repository: str, *, expand: list[str]) -> SimpleNamespace:
        return SimpleNamespace(private=self.private[repository])

    def upload_folder(
        self, *, folder_path: Path, repo_id: str, allow_patterns: list[str], commit_message: str
    ) -> SimpleNamespace:
        self.sent[repo_id] = {name: (folder_path / name).stat().st_size for name in allow_patterns}
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(public=("ann/public",))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    return fake


def test_a_push_sends_the_model_to_a_private_repository(run: Path, hub: FakeHub) -> None:
    (run / "export" / "notes.pkl").write_bytes(b"mine")
    assert push(run / "export", "ann/little") == "https://hub/ann/little/commit/1"
    (run / "export" / "notes.pkl").unlink()
    assert hub.private["ann/little"]
    assert hub.sent["ann/little"] == files_to_push(run / "export")
    assert hub.sent["ann/little"].keys() == {path.name for path in (run / "export").iterdir()}
    assert {"README.md", "model.safetensors", "sparsity.json", "tokenizer.json"} <= hub.sent["ann/little"].keys()


def test_nothing_is_published_by_accident(run: Path, hub: FakeHub) -> None:
    with pytest.raises(ValueError, match="ann/public is public already"):
        push(run / "export", "ann/public")
    assert hub.sent == {}
    push(run / "export", "ann/public", private=False)
    assert hub.sent.keys() == {"ann/public"}


def test_what_is_no_model_and_no_repository_is_refused(run: Path, tmp_path: Path, hub: FakeHub) -> None:
    with pytest.raises(ValueError, match=r"no model\.safetensors there"):
        push(tmp_path, "ann/little")
    with pytest.raises(ValueError, match="is no repository of the hub; expected OWNER/NAME"):
        ExportPretrained(push_to_hub="a/b/c")
    assert hub.private.keys() == {"ann/public"}


def test_a_run_sends_its_export_when_it_has_ended(
    tmp_path: Path, text_data: Callable[..., TextDataModule], hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    for options in ({"dry_run": True}, {}):
        trainer = fit(tmp_path, text_data(), [ExportPretrained(push_to_hub="ann/little", **options)], max_steps=1)
        said.append(", ".join(hub.sent))
    assert said == ["", "ann/little"]
    assert parameters(trainer)
    with pytest.warns(UserWarning, match=r"ann/public is public already.*later: python deploy.py push .*export ann/public"):
        fit(tmp_path, text_data(), [ExportPretrained(push_to_hub="ann/public")], max_steps=1)
    assert (tmp_path / "export" / "README.md").exists()
