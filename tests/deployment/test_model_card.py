"""The card of an export is read by the hub's own classes, counts what is there, and tells nothing of the machine."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard, constants
from huggingface_hub.repocard import metadata_load
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

import deploy
from callbacks import ExportPretrained, FinalValidation, RigL, RunSummary
from datamodules import TextDataModule
from deployment.model_card import (
    class_of,
    is_hub_id,
    public_command,
    recipe,
    scores,
    sparsity_by_class,
    with_spread,
    write_card,
)
from fake_hub import FakeHub, complaint_about
from helpers import fit
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
    assert card.data.datasets is None  # a text of this machine is none of the hub's
    assert "- text: corpus.txt" in card.text
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


HOME, SERVER = "/".join(["", "home", "ann"]), "/".join(["", "srv"])  # as somebody's machine has them
DRIVE = "\\".join(["C:", "Users", "ann"])


@pytest.mark.parametrize(
    ("command", "public"),
    [
        (f"{HOME}/trifecta/train.py fit --config configs/a.yaml", "train.py fit --config configs/a.yaml"),
        (f"train.py --data.path={HOME}/text/wiki.txt", "train.py --data.path=wiki.txt"),
        (f"train.py '--data.path=[{HOME}/a.txt, {SERVER}/b.txt]'", "train.py '--data.path=[a.txt, b.txt]'"),
        (f"train.py '{HOME} Lee/a b.txt'", "train.py 'a b.txt'"),
        (f'train.py --data \'{{"path":"{HOME}/x/"}}\'', 'train.py --data \'{"path":"x"}\''),
        (f"train.py path:{HOME}/x", "train.py path:x"),
        ("train.py ~/x/y ~ann/y", "train.py y y"),
        (f"train.py '{DRIVE}\\x'", "train.py x"),
        ("train.py runs/a/export ../b google/bert https://a.b/c", "train.py runs/a/export ../b google/bert https://a.b/c"),
    ],
)
def test_commands_have_no_absolute_paths(command: str, public: str) -> None:
    assert public_command(command) == public


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The one that cards are validated by."""
    fake = FakeHub()
    monkeypatch.setattr(constants, "ENDPOINT", fake.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def glue_run(tmp_path_factory: pytest.TempPathFactory, encoder_dir: Path) -> Path:
    """A finetuned model in ``export`` and a run of it, as ``deploy.py card`` finds them."""
    root = tmp_path_factory.mktemp("glue") / "version_0"
    AutoModelForSequenceClassification.from_pretrained(encoder_dir).save_pretrained(root / "export")
    scores = {"pearson": 0.5, "spearman": 0.25}
    RunRecord(experiment="glue", status="finished", task="STS-B", steps=4, eval_step=4, metrics=scores).write(root)
    return root


def test_the_hub_validates_both_kinds_of_card(run: Path, glue_run: Path, hub: FakeHub) -> None:
    write_card(glue_run / "export", "tuned", [RunRecord.read(glue_run / "summary.json")], license="mit")
    for directory in (run / "export", run / "early", glue_run / "export"):
        ModelCard.load(directory / "README.md").validate()
    assert hub.asked.count("POST /api/validate-yaml") == 3
    broken = ModelCard.load(run / "export" / "README.md")
    broken.data.tags = "sparse"
    with pytest.raises(ValueError, match='"tags" must be an array of strings'):
        broken.validate()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"license": ["mit"]}, '"license" must be a string'),
        ({"datasets": ["my texts/wiki"]}, '"datasets" with value "my texts/wiki" is not valid'),
        ({"model-index": [{"name": "a", "results": [{"task": {}}]}]}, '"model-index" must be a list of results'),
    ],
)
def test_what_the_hub_refuses_is_no_card(run: Path, change: dict[str, object], complaint: str) -> None:
    data = metadata_load(run / "export" / "README.md")
    assert complaint_about(f"---\n{yaml.safe_dump(data)}---\n") is None
    assert complaint_about(f"---\n{yaml.safe_dump(data | change)}---\n") == complaint


def test_the_model_index_is_the_results_that_it_was_made_of(glue_run: Path) -> None:
    write_card(glue_run / "export", "tuned", [RunRecord.read(glue_run / "summary.json")] * 2)
    index = metadata_load(glue_run / "export" / "README.md")["model-index"]
    name, results = model_index_to_eval_results(index)
    about = {"task_type": "text-classification", "dataset_type": "nyu-mll/glue", "dataset_name": "GLUE STS-B"}
    about |= {"dataset_config": "stsb", "dataset_split": "validation", "metric_args": {"seeds": 2, "std": 0.0}}
    assert name == "tuned"
    assert results == [
        EvalResult(**about, metric_type=metric, metric_name=metric, metric_value=value)
        for metric, value in (("pearson", 0.5), ("spearman", 0.25))
    ]
    assert eval_results_to_model_index(name, results) == index


def test_only_data_sets_of_the_hub_are_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("Salesforce/wikitext", "docstrings", "wiki.txt", "my texts/wiki", "../a", "a/b/c", "texts/wiki")
    assert [name for name in names if is_hub_id(name)] == ["Salesforce/wikitext", "texts/wiki"]
    (tmp_path / "texts" / "wiki").mkdir(parents=True)
    assert not is_hub_id("texts/wiki")


def test_the_card_command_writes_means_of_several_seeds(
    glue_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = RunRecord.read(glue_run / "summary.json")
    second = dataclasses.replace(record, seed=1, metrics={"pearson": 0.7, "spearman": 0.25})
    second.write(tmp_path)
    export = str(glue_run / "export")
    deploy.main(["card", export, str(glue_run), str(tmp_path), "--name", "pair", "--license", "apache-2.0"])
    assert capsys.readouterr().out == f"{export}/README.md\n"
    card = ModelCard.load(glue_run / "export" / "README.md")
    assert (card.data.model_name, card.data.license) == ("pair", "apache-2.0")
    assert card.data.datasets == ["nyu-mll/glue"]
    assert "- pearson: 0.6000 ± 0.1414 (2 seeds)" in card.text
    deploy.main(["card", export, str(glue_run)])
    assert "- pearson: 0.5000\n" in ModelCard.load(glue_run / "export" / "README.md").text
    assert model_name(export) == "pair"  # which the card said before


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("{run}/export",), "the following arguments are required: runs"),
        (("{run}/export", "{run}/missing"), "missing/summary.json"),
        (("{run}", "{run}"), "version_0: no config.json there; expected the directory of an exported model"),
        (("{run}/missing", "{run}"), "missing: no config.json there; expected the directory of an exported model"),
        (("{run}/export", "{run}", "--licence", "mit"), "--licence"),
    ],
)
def test_mistakes_with_cards_are_one_line(glue_run: Path, arguments: tuple[str, ...], line: str) -> None:
    (glue_run / "export" / "README.md").write_text("as it was")
    with pytest.raises(SystemExit) as end:
        deploy.run(["card", *(each.format(run=glue_run) for each in arguments)])
    assert str(end.value.code).startswith("error: ")
    assert line in str(end.value.code)
    assert "\n" not in str(end.value.code)
    assert (glue_run / "export" / "README.md").read_text() == "as it was"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1, "task": "MRPC"}, "its task is MRPC, not STS-B"),
        ({"seed": 1, "steps": 7}, "its steps is 7"),
        ({"seed": 1, "masks": "SET"}, "its masks is SET"),
        ({}, "has the seed of"),
    ],
)
def test_what_are_no_seeds_of_a_run_is_not_averaged(
    glue_run: Path, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    dataclasses.replace(RunRecord.read(glue_run / "summary.json"), **changed).write(tmp_path)
    with pytest.raises(ValueError, match=message):
        deploy.main(["card", str(glue_run / "export"), str(glue_run), str(tmp_path)])


def test_the_command_of_an_installed_package_is_no_script(tmp_path: Path) -> None:
    record = RunRecord(experiment="quick", status="finished", command=f"{tmp_path}/bin/trifecta fit --config quickstart")
    assert "```sh\ntrifecta fit --config quickstart\n```" in recipe(record)
    record = RunRecord(experiment="quick", status="finished", command=f"{tmp_path}/train.py fit --config quickstart")
    assert "```sh\npython train.py fit --config quickstart\n```" in recipe(record)
