"""A head is used only where its classes mean what the task's mean; finetuning may start from any."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification

from callbacks import ExportPretrained, KnowledgeDistillation
from datamodules import GLUEDataModule
from helpers import CONFIG, fit, tiny_trainer
from lightning_modules import SequenceClassifier
from lightning_modules.heads import load_with_head, misfit
from objectives.glue import GLUE, glue_task

Data = Callable[..., GLUEDataModule]
Names = dict[str, object]


def named(*names: object) -> Names:
    """The lists of a config in which classes have these names, as JSON gives them."""
    return {
        "id2label": {str(label): name for label, name in enumerate(names)},
        "label2id": {str(name): label for label, name in enumerate(names)},
    }


@pytest.fixture
def classifier(tmp_path: Path, tokenizer_dir: Path) -> Callable[..., str]:
    """Saves a classifier whose ``config.json`` says this of its classes."""

    def save(fields: Names, outputs: int = 2) -> str:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
        torch.manual_seed(1)
        config = AutoConfig.for_model(**CONFIG, vocab_size=len(tokenizer), num_labels=outputs)
        BertForSequenceClassification(config).save_pretrained(tmp_path / "head")
        tokenizer.save_pretrained(tmp_path / "head")
        file = tmp_path / "head" / "config.json"
        saved = {key: value for key, value in json.loads(file.read_text()).items() if key not in ("id2label", "label2id")}
        file.write_text(json.dumps(saved | fields))
        return str(tmp_path / "head")

    return save


@pytest.mark.parametrize("task", [task for task in GLUE if task != "AX"])
def test_the_names_of_a_task_and_names_that_say_nothing_are_its_own(task: str) -> None:
    names = GLUE[task].class_names or ("score",)
    for spelling in (names, [name.upper() for name in names], [name.replace("_", "-").title() for name in names]):
        assert misfit(named(*spelling), GLUE[task]) is None
    for nothing in (named(*range(len(names))), named(*(f"LABEL_{label}" for label in range(len(names)))), {}):
        assert misfit(nothing, GLUE[task]) is None
        assert misfit(nothing | {"finetuning_task": task.lower()}, GLUE[task]) is None
    assert misfit({"id2label": None, "label2id": None}, GLUE[task]) is None


SST2 = "those of SST-2 negative, positive, in this order"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (named("positive", "negative"), f"its classes are positive, negative, {SST2}"),
        (named("POSITIVE", "Negative"), f"its classes are positive, negative, {SST2}"),
        ({"id2label": {"1": "negative", "0": "positive"}}, f"its classes are positive, negative, {SST2}"),
        ({"id2label": {1: "negative", 0: "positive"}}, f"its classes are positive, negative, {SST2}"),
        ({"label2id": {"negative": 1, "positive": 0}}, f"its classes are positive, negative, {SST2}"),
        ({"label2id": {"negative": "1", "positive": "0"}}, f"its classes are positive, negative, {SST2}"),
        (
            named("LABEL_0", "LABEL_1") | {"label2id": {"negative": 1, "positive": 0}},
            f"its classes are positive, negative, {SST2}",
        ),
        (
            named("negative", "positive") | {"label2id": {"negative": 1, "positive": 0}},
            f"its classes are positive, negative, {SST2}",
        ),
        (named("negative", "neutral", "positive"), f"its classes are negative, neutral, positive, {SST2}"),
        (named("negative"), f"its classes are negative, {SST2}"),
        (named("negative", "negative"), f"its classes are negative, negative, {SST2}"),
        (named("unacceptable", "acceptable"), f"its classes are unacceptable, acceptable, {SST2}"),
        (named("1", "0"), f"its classes are 1, 0, {SST2}"),
        (named("LABEL_1", "LABEL_0"), f"its classes are label_1, label_0, {SST2}"),
        ({"id2label": {"0": "negative", "2": "positive"}}, f"its classes are negative, ?, {SST2}"),
        ({"finetuning_task": "cola"}, "its head has learnt cola, not SST-2: finetune it first"),
    ],
)
def test_other_names_or_another_order_are_refused(
    tmp_path: Path, glue_data: Data, classifier: Callable[..., str], fields: Names, message: str
) -> None:
    assert message in misfit(fields, GLUE["SST-2"])
    path = classifier(fields)
    for stage in ("predict", "validate", "test"):
        trainer = tiny_trainer(tmp_path, [], max_steps=-1, limit_val_batches=1.0)
        with pytest.raises(ValueError, match="head: its ") as error:
            getattr(trainer, stage)(SequenceClassifier(path), glue_data("SST-2"))
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="head: its "):
        fit(tmp_path, glue_data("SST-2"), [KnowledgeDistillation(path)], 1, module=SequenceClassifier(path))


def test_a_regression_takes_one_output_of_any_name(tmp_path: Path, glue_data: Data, classifier: Callable[..., str]) -> None:
    path = classifier(named("similarity"), outputs=1)
    tiny_trainer(tmp_path, [], max_steps=-1).predict(SequenceClassifier(path), glue_data("STS-B"))


@pytest.mark.parametrize("task", ["CoLA", "MNLI"])
def test_a_finetuning_keeps_no_head_of_another_order(
    tmp_path: Path, glue_data: Data, classifier: Callable[..., str], task: str
) -> None:
    names = GLUE[task].class_names
    path = classifier(named(*reversed(names)), outputs=len(names))
    before = AutoModelForSequenceClassification.from_pretrained(path)
    with pytest.warns(UserWarning, match=f"head: the head has the classes of {task} in another order, and starts anew"):
        model, _ = load_with_head(AutoModelForSequenceClassification, path, GLUE[task], None, fitting=True)
    assert not torch.isclose(model.classifier.weight, before.classifier.weight).any()
    assert float(model.classifier.weight.std()) == pytest.approx(0.02, rel=0.5)
    torch.testing.assert_close(model.bert.state_dict(), before.bert.state_dict(), rtol=0, atol=0)
    fit(tmp_path, glue_data(task), [ExportPretrained()], -1, module=SequenceClassifier(path), max_epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exported, unfit = load_with_head(
            AutoModelForSequenceClassification, str(tmp_path / "export"), GLUE[task], None, fitting=True
        )
    assert unfit is None
    assert exported.config.label2id == {name: label for label, name in enumerate(names)}
    tiny_trainer(tmp_path, [], max_steps=-1).predict(SequenceClassifier(str(tmp_path / "export")), glue_data(task))


def test_a_head_that_is_the_tasks_is_where_finetuning_starts(classifier: Callable[..., str]) -> None:
    for names in (named("negative", "positive"), named("LABEL_0", "LABEL_1"), named("unacceptable", "acceptable")):
        path = classifier(names)
        model, _ = load_with_head(AutoModelForSequenceClassification, path, GLUE["SST-2"], None, fitting=True)
        before = AutoModelForSequenceClassification.from_pretrained(path)
        torch.testing.assert_close(model.state_dict(), before.state_dict(), rtol=0, atol=0)


def test_the_checkpoint_of_another_task_answers_nothing(tmp_path: Path, glue_data: Data, encoder_dir: Path) -> None:
    trainer = fit(tmp_path, glue_data("CoLA"), [], 1, module=SequenceClassifier(str(encoder_dir)))
    trainer.save_checkpoint(tmp_path / "cola.ckpt")
    trainer = tiny_trainer(tmp_path, [], max_steps=-1)
    with pytest.raises(ValueError, match="the checkpoint: its head has learnt CoLA, not SST-2"):
        trainer.predict(SequenceClassifier(str(encoder_dir)), glue_data("SST-2"), ckpt_path=tmp_path / "cola.ckpt")


def test_what_has_been_finetuned_can_be_scored_at_once(tmp_path: Path, glue_data: Data, encoder_dir: Path) -> None:
    module, data = SequenceClassifier(str(encoder_dir)), glue_data("RTE")
    trainer = fit(tmp_path, data, [], -1, module=module, max_epochs=1, limit_val_batches=1.0, num_sanity_val_steps=1)
    expected = float(trainer.callback_metrics["val/loss"])
    (metrics,) = trainer.validate(module, data, verbose=False)
    assert metrics["val/loss"] == pytest.approx(expected)


def test_an_export_can_be_read_whatever_the_head_was_before(
    tmp_path: Path, glue_data: Data, classifier: Callable[..., str]
) -> None:
    """A config with the problem of a classification and one output would be refused by transformers."""
    path = classifier(named("negative", "positive") | {"problem_type": "single_label_classification"})
    module = SequenceClassifier(path)
    fit(tmp_path, glue_data("STS-B"), [ExportPretrained()], 1, module=module)
    exported, unfit = load_with_head(AutoModelForSequenceClassification, str(tmp_path / "export"), glue_task("STS-B"), None)
    assert (exported.config.id2label, unfit) == ({0: "score"}, None)


@pytest.mark.parametrize(
    "fields",
    [
        {"id2label": ["negative", "positive"]},
        {"id2label": {"zero": "negative"}},
        {"hidden_size": "wide"},
    ],
)
def test_a_broken_config_is_one_line(classifier: Callable[..., str], fields: Names) -> None:
    with pytest.raises(ValueError, match="head: no encoder there: ") as error:
        load_with_head(AutoModelForSequenceClassification, classifier(fields), GLUE["SST-2"], None)
    assert "\n" not in str(error.value)
