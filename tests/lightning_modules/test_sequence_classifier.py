"""Any encoder with a head for the task; what is learned, and how fast in which layer; exact metrics."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import BasePredictionWriter
from torch.optim import Optimizer
from transformers import (
    AlbertConfig,
    AlbertModel,
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertModel,
    PreTrainedModel,
)

from callbacks import (
    ExportPretrained,
    FinalValidation,
    KnowledgeDistillation,
    LinearWarmupDecay,
    OneCycleLR,
    RunSummary,
)
from datamodules import GLUEDataModule, TextDataModule
from helpers import Recorder, assert_identical, copies, fit, parameters, tiny_bert, tiny_trainer
from lightning_modules import SequenceClassifier
from objectives.glue import GLUE
from objectives.glue_scores import predictions, task_scores
from reports.runs import read_runs
from sweeps.record import results

Data = Callable[..., GLUEDataModule]
Saved = Callable[..., str]

FAMILIES = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
}
FAMILIES["roberta"] = FAMILIES["bert"] | {"type_vocab_size": 1, "pad_token_id": 0}
FAMILIES["modernbert"] = FAMILIES["bert"] | {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3}
FAMILIES["modernbert"] |= {"bos_token_id": 2, "eos_token_id": 3}


@pytest.fixture
def saved(tmp_path: Path, tokenizer_dir: Path) -> Saved:
    """Saves a new model of a class and family, with the tests' tokenizer, and gives its directory."""

    def save(auto: type = AutoModelForMaskedLM, family: str = "bert", name: str = "saved", **fields: object) -> str:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
        sizes = FAMILIES[family] | {"max_position_embeddings": 32, "vocab_size": len(tokenizer)}
        torch.manual_seed(1)
        model: PreTrainedModel = auto.from_config(AutoConfig.for_model(family, **sizes | fields))
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save


def finetune(
    root: Path, data: GLUEDataModule, module: SequenceClassifier, *callbacks: Callback, **options: object
) -> Trainer:
    """One epoch unless told otherwise, validated."""
    return fit(root, data, callbacks, -1, module=module, **{"max_epochs": 1, "limit_val_batches": 1.0} | options)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("auto", [AutoModelForMaskedLM, AutoModel])
def test_any_family_of_encoders(tmp_path: Path, glue_data: Data, saved: Saved, family: str, auto: type) -> None:
    """A masked LM or a bare encoder: its weights are taken, the head is new, and everything learns."""
    path = saved(auto, family)
    encoder = AutoModel.from_pretrained(path).state_dict()

    class Before(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.weights = copies(parameters(trainer))
            loaded = pl_module.model.base_model.state_dict()
            assert_identical(
                {k: v for k, v in loaded.items() if "pooler" not in k}, {k: encoder[k] for k in loaded if "pooler" not in k}
            )

    before = Before()
    trainer = finetune(tmp_path, glue_data("RTE"), SequenceClassifier(path, lr=1e-3), before, ExportPretrained())
    still = [name for name, weight in parameters(trainer).items() if torch.equal(weight, before.weights[name])]
    assert still == (["roberta.embeddings.token_type_embeddings.weight"] if family == "none" else [])
    exported = AutoModelForSequenceClassification.from_pretrained(tmp_path / "export")
    assert exported.config.id2label == {0: "entailment", 1: "not_entailment"}
    assert_identical(dict(exported.named_parameters()), parameters(trainer))


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_does_not_change_an_answer(tmp_path: Path, glue_data: Data, saved: Saved, family: str) -> None:
    data = glue_data("MNLI")
    module = finetune(tmp_path, data, SequenceClassifier(saved(family=family))).lightning_module.eval()
    with torch.no_grad():
        batch = module.predict_logits(module.model, data.dev[""][range(13)])
        single = torch.cat([module.predict_logits(module.model, data.dev[""][[row]]) for row in range(13)])
    torch.testing.assert_close(batch, single, rtol=0, atol=1e-5)


def test_an_encoder_whose_layers_share_weights(tmp_path: Path, glue_data: Data, saved: Saved) -> None:
    """ALBERT has no list of its layers; only what needs one refuses it."""
    path = saved(name="albert")
    sizes = FAMILIES["bert"] | {"embedding_size": 16, "vocab_size": 120, "max_position_embeddings": 32}
    AlbertModel(AlbertConfig(**sizes)).save_pretrained(path)
    finetune(tmp_path, glue_data("CoLA"), SequenceClassifier(path))
    with pytest.raises(ValueError, match="AlbertForSequenceClassification has no list of its 2 layers"):
        finetune(tmp_path, glue_data("CoLA"), SequenceClassifier(path, layer_decay=0.9))


@pytest.mark.parametrize("task", GLUE)
def test_every_task_learns_and_is_scored(tmp_path: Path, glue_data: Data, encoder_dir: Path, task: str) -> None:
    data, recorder = glue_data(task, train_examples=8), Recorder()
    module = SequenceClassifier(str(encoder_dir), lr=1e-2, dropout=0.0)
    callbacks = (recorder, LinearWarmupDecay(0.2), RunSummary())
    trainer = finetune(tmp_path, data, module, *callbacks, max_epochs=30, check_val_every_n_epoch=30)
    assert sum(recorder.losses[-3:]) < 0.5 * sum(recorder.losses[:3])  # of eight rows by heart
    summary = json.loads((tmp_path / "summary.json").read_text())
    expected = {}
    module.eval()
    for suffix, rows in data.dev.items():
        with torch.no_grad():
            answers = predictions(module.predict_logits(module.model, rows[range(len(rows))]))
        scores = task_scores(GLUE[task], answers, rows[range(len(rows))]["labels"])
        expected |= {f"{name}{suffix}": score for name, score in scores.items()}
    assert summary["metrics"] == pytest.approx(expected, abs=1e-5)
    assert set(summary["metrics"]) == set(GLUE[task].metrics)
    learnt = GLUE[task].trained_on or task
    assert (summary["task"], summary["pretrained"], summary["status"]) == (learnt, str(encoder_dir), "finished")
    assert summary["eval_loss"] == pytest.approx(float(trainer.callback_metrics["val/loss"]))
    assert "perplexity" not in summary
    assert summary["degenerate"] in (False, True)


def test_a_run_that_says_the_same_of_everything_is_degenerate(tmp_path: Path, glue_data: Data, encoder_dir: Path) -> None:
    class Constant(Callback):
        def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            torch.nn.init.zeros_(pl_module.model.classifier.weight)
            pl_module.model.classifier.bias.data[:] = self.bias

    constant = Constant()
    for task, bias, metrics in (("SST-2", [0.0, 1.0], {"accuracy"}), ("STS-B", [2.0], set())):
        constant.bias = torch.tensor(bias)
        finetune(tmp_path, glue_data(task), SequenceClassifier(str(encoder_dir)), RunSummary(), constant)
        summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
        assert summary["degenerate"] is True
        assert {name for name, value in summary["metrics"].items() if value is not None} == metrics
        assert summary["metrics"].keys() == set(GLUE[task].metrics)  # a correlation with a constant is null


def test_a_diverged_regression_is_scored(tmp_path: Path, glue_data: Data, encoder_dir: Path) -> None:
    class Diverged(Callback):
        def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            pl_module.model.classifier.bias.data[:] = torch.nan

    finetune(tmp_path, glue_data("STS-B"), SequenceClassifier(str(encoder_dir)), RunSummary(), Diverged())
    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["degenerate"] is True
    assert "eval_loss" not in summary
    assert summary["metrics"] == {"pearson": None, "spearman": None}
    run = tmp_path / "sts" / "version_0"
    run.mkdir(parents=True)
    (run / "summary.json").write_text(json.dumps(summary | {"experiment": "sts"}))
    (read,), complaints = read_runs([run])
    assert (read.degenerate, read.metrics, complaints) == (True, {}, [])
    found = results(tmp_path, {"sts": {"status": "finished", "task": "STS-B", "run": "sts/version_0"}})
    assert found["STS-B"]["metrics"] == {name: {"runs": 0, "degenerate": 1} for name in ("pearson", "spearman")}


@pytest.mark.parametrize("task", ["MNLI", "STS-B"])
def test_answers_of_half_precision_are_kept_in_double(tmp_path: Path, glue_data: Data, encoder_dir: Path, task: str) -> None:
    class Kept(Callback):
        def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.answers = {name: metric.compute() for name, metric in pl_module.answers[0].items()}

    kept = Kept()
    options = {"precision": "bf16-true", "limit_val_batches": 1.0}
    module = finetune(tmp_path, glue_data(task), SequenceClassifier(str(encoder_dir)), kept, **options).lightning_module
    module.eval()
    assert {metric.dtype for metric in kept.answers.values()} == {torch.float64}
    losses = []
    with torch.no_grad():
        for batch in module.trainer.datamodule.val_dataloader()[0]:
            logits, labels = module.predict_logits(module.model, batch).double(), batch["labels"]
            if task == "STS-B":
                losses.append((logits[:, 0] - labels.bfloat16().double()).square())  # as Lightning gives it to a step
            else:
                losses.append(-logits.log_softmax(-1)[range(len(labels)), labels])
    torch.testing.assert_close(kept.answers["loss"], torch.cat(losses), rtol=1e-6, atol=1e-6)


def rates(trainer: Trainer, module: SequenceClassifier) -> dict[str, float]:
    """Learning rate of each parameter."""
    groups = [(parameter, group["lr"]) for group in trainer.optimizers[0].param_groups for parameter in group["params"]]
    by_id = {id(parameter): rate for parameter, rate in groups}
    assert len(groups) == len(by_id) == len(list(module.model.parameters()))
    return {name: by_id[id(parameter)] for name, parameter in module.model.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_decay_by_hand(tmp_path: Path, glue_data: Data, saved: Saved, family: str) -> None:
    """Two layers and a factor of one half: 1 for the head, ½ and ¼ for the layers, ⅛ for the embeddings."""
    module = SequenceClassifier(saved(family=family), lr=0.08, layer_decay=0.5)
    found = rates(finetune(tmp_path, glue_data("RTE"), module), module)
    for name, rate in found.items():
        parts = name.split(".")
        depth = next((int(part) for part in parts if part.isdecimal()), None)
        expected = {0: 0.02, 1: 0.04}[depth] if depth is not None else 0.01 if "embeddings" in parts else 0.08
        assert rate == pytest.approx(expected), name
    assert len(set(found.values())) == 4


def test_schedules_keep_the_ratios_of_layers(tmp_path: Path, glue_data: Data, encoder_dir: Path) -> None:
    class Ratios(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
            lowest, highest = (choose(group["lr"] for group in optimizer.param_groups) for choose in (min, max))
            assert lowest == pytest.approx(highest / 8)

    for schedule in (LinearWarmupDecay(0.2), OneCycleLR(max_lr=1e-3)):
        module = SequenceClassifier(str(encoder_dir), layer_decay=0.5)
        finetune(tmp_path, glue_data("RTE"), module, schedule, Ratios())


class Weights(Callback):
    """Weights and gradients before the first optimizer step."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if trainer.global_step == 0:
            self.before = copies(parameters(trainer))
            self.gradients = {name: weight.grad.clone() for name, weight in parameters(trainer).items()}


def test_the_first_step_is_bias_corrected(tmp_path: Path, glue_data: Data, encoder_dir: Path) -> None:
    """Then both moments are the gradient's own: the step is lr · g / (|g| + ε), and the decay lr · decay · w of matrices."""
    seen, lr, decay, eps = Weights(), 1e-3, 0.1, 1e-6
    module = SequenceClassifier(str(encoder_dir), lr=lr, weight_decay=decay, eps=eps)
    trainer = finetune(tmp_path, glue_data("CoLA"), module, seen, limit_train_batches=1, gradient_clip_val=None)
    for name, weight in parameters(trainer).items():
        before, gradient = seen.before[name], seen.gradients[name]
        decayed = before * (1 - lr * decay) if weight.dim() == 2 else before
        torch.testing.assert_close(weight, decayed - lr * gradient / (gradient.abs() + eps), rtol=0, atol=1e-6)


def test_reinitialised_layers(tmp_path: Path, glue_data: Data, encoder_dir: Path) -> None:
    seen = Weights()
    module = SequenceClassifier(str(encoder_dir), reinitialize_layers=1)
    finetune(tmp_path, glue_data("CoLA"), module, seen, limit_train_batches=1)
    for name, weight in BertModel.from_pretrained(encoder_dir, add_pooling_layer=False).named_parameters():
        now = seen.before[f"bert.{name}"]
        anew = ".layer.1." in name and weight.dim() == 2
        assert torch.equal(now, weight) is not anew, name
        if anew:
            assert float(now.std()) == pytest.approx(0.02, rel=0.15)
    with pytest.raises(ValueError, match="limit_train_batches 0.001 of 5 batches leaves none to train on"):
        finetune(tmp_path, glue_data("CoLA"), module, LinearWarmupDecay(0.25), limit_train_batches=0.001)
    with pytest.raises(ValueError, match="reinitialize_layers from 0 to 2 expected, got 3"):
        finetune(tmp_path, glue_data("CoLA"), SequenceClassifier(str(encoder_dir), reinitialize_layers=3))


def test_longer_training_with_warm_up_ends_at_zero(tmp_path: Path, glue_data: Data, encoder_dir: Path) -> None:
    """4 epochs of ⌈5 / 2⌉ steps: 3 of warm-up, then down in a straight line that is 0 after the twelfth step."""
    recorder = Recorder()
    module = SequenceClassifier(str(encoder_dir), lr=9e-3)
    options = {"max_epochs": 4, "accumulate_grad_batches": 2}
    trainer = finetune(tmp_path, glue_data("CoLA"), module, recorder, LinearWarmupDecay(0.25), **options)
    assert trainer.global_step == trainer.max_steps == 12
    assert recorder.rates == pytest.approx([0.0, 3e-3, 6e-3, *(9e-3 - 1e-3 * step for step in range(9))], abs=1e-9)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.0


@pytest.mark.parametrize(
    ("family", "path"),
    [("bert", "dropout"), ("distilbert", "dropout"), ("roberta", "classifier.dropout"), ("modernbert", "drop")],
)
def test_dropout_before_the_head(tmp_path: Path, glue_data: Data, saved: Saved, family: str, path: str) -> None:
    module = SequenceClassifier(saved(family=family), dropout=0.37)
    finetune(tmp_path, glue_data("CoLA"), module, limit_train_batches=1)
    assert module.model.get_submodule(path).p == 0.37


@pytest.fixture
def teacher(tmp_path: Path, glue_data: Data, encoder_dir: Path) -> Callable[[str], str]:
    """Finetunes for a moment and gives the export."""

    def train(task: str) -> str:
        module = SequenceClassifier(str(encoder_dir), lr=1e-3)
        finetune(tmp_path / f"teacher{task}", glue_data(task), module, ExportPretrained())
        return str(tmp_path / f"teacher{task}" / "export")

    return train


@pytest.mark.parametrize("task", ["MNLI", "STS-B"])
def test_distillation_from_a_finetuned_teacher(
    tmp_path: Path, glue_data: Data, saved: Saved, teacher: Callable[[str], str], task: str
) -> None:
    """Of another family, and with segments where the student has none."""
    path = teacher(task)
    distillation = KnowledgeDistillation(path, factor=0.75, temperature=2.0)
    module, losses = SequenceClassifier(saved(family="distilbert", dropout=0.0, seq_classif_dropout=0.0)), []

    class Expected(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: dict, batch_idx: int) -> None:
            teacher = AutoModelForSequenceClassification.from_pretrained(path).eval()
            with torch.no_grad():
                mine, taught = (
                    pl_module.predict_logits(pl_module.model, batch),
                    teacher(**{k: v for k, v in batch.items() if k != "labels"}).logits,
                )
            if task == "STS-B":
                plain, distilled = (mine[:, 0] - batch["labels"]).square().mean(), (mine - taught).square().mean()
            else:
                plain = -mine.log_softmax(-1)[range(len(mine)), batch["labels"]].mean()
                target = (taught / 2).softmax(-1)
                distilled = 4 * (target * (target.log() - (mine / 2).log_softmax(-1))).sum(-1).mean()
            losses.append(float(0.25 * plain + 0.75 * distilled))

    recorder = Recorder()
    finetune(tmp_path, glue_data(task), module, distillation, Expected(), recorder)
    assert recorder.losses == pytest.approx(losses, rel=1e-5)
    assert len(losses) == 5


def test_a_teacher_whose_classes_are_in_another_order(tmp_path: Path, glue_data: Data, saved: Saved) -> None:
    """As those of many models of MNLI on the hub."""
    order = {0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"}
    path = saved(AutoModelForSequenceClassification, id2label=order, label2id={name: label for label, name in order.items()})
    with pytest.raises(
        ValueError, match="its classes are contradiction, neutral, entailment, those of MNLI entailment, neu"
    ):
        finetune(tmp_path, glue_data("MNLI"), SequenceClassifier(path), KnowledgeDistillation(path))


class Answers(BasePredictionWriter):
    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: list, batch_indices: list
    ) -> None:
        self.predictions = predictions


def test_predictions_of_an_export_and_of_a_checkpoint_are_those_of_the_run(
    tmp_path: Path, glue_data: Data, encoder_dir: Path
) -> None:
    module = SequenceClassifier(str(encoder_dir), lr=1e-3)
    trainer = finetune(tmp_path, glue_data("QQP"), module, ExportPretrained())
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    found = []
    for path, checkpoint in ((tmp_path / "export", None), (encoder_dir, tmp_path / "run.ckpt")):
        data = glue_data("QQP")
        answers = tiny_trainer(tmp_path, [], 1).predict(SequenceClassifier(str(path)), data, ckpt_path=checkpoint)
        found.append({key: torch.cat([batch[key] for batch in answers]) for key in ("index", "prediction")})
    rows = data.test["QQP"][range(9)]
    with torch.no_grad():
        expected = predictions(module.eval().predict_logits(module.model, rows))
    for answer in found:
        assert sorted(answer["index"].tolist()) == list(range(9))
        assert answer["prediction"][answer["index"].argsort()].tolist() == expected.tolist()


def test_a_checkpoint_is_loaded_outside_a_trainer(tmp_path: Path, glue_data: Data, encoder_dir: Path) -> None:
    trainer = finetune(tmp_path, glue_data("MNLI"), SequenceClassifier(str(encoder_dir)))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    loaded = SequenceClassifier.load_from_checkpoint(tmp_path / "run.ckpt")
    assert_identical(dict(loaded.model.named_parameters()), parameters(trainer))
    assert loaded.model.config.id2label[2] == "contradiction"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr > 0"),
        ({"weight_decay": -1.0}, "weight_decay >= 0"),
        ({"layer_decay": 0.0}, "layer_decay in"),
        ({"layer_decay": 1.1}, "layer_decay in"),
        ({"dropout": 1.0}, r"dropout in \[0, 1\) expected, got 1.0"),
    ],
)
def test_bad_settings_are_errors(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SequenceClassifier("somewhere", **options)


def test_data_of_another_objective_is_an_error(
    tmp_path: Path, glue_data: Data, text_data: Callable[..., TextDataModule], encoder_dir: Path
) -> None:
    with pytest.raises(ValueError, match="SequenceClassifier needs the data of a GLUEDataModule, not of TextDataModule"):
        fit(tmp_path, text_data(), [], 1, module=SequenceClassifier(str(encoder_dir)))
    with pytest.raises(ValueError, match="MaskedLanguageModel needs the data of a TextDataModule, not of GLUEDataModule"):
        fit(tmp_path, glue_data("CoLA"), [], 1, module=tiny_bert())


def test_damaged_models_are_errors(tmp_path: Path, glue_data: Data, saved: Saved, encoder_dir: Path) -> None:
    path = saved(name="damaged")
    (Path(path) / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(ValueError, match="damaged: no model there"):
        finetune(tmp_path, glue_data("CoLA"), SequenceClassifier(path))
    with pytest.raises(ValueError, match="damaged: no encoder there"):
        finetune(tmp_path, glue_data("CoLA"), SequenceClassifier(path, keep_sparsity=False))
    other = saved(AutoModel, name="other")
    config = json.loads((Path(other) / "config.json").read_text()) | {"num_hidden_layers": 3}
    (Path(other) / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"other: 16 tensors of the encoder are missing .* bert.encoder.layer.2"):
        finetune(tmp_path, glue_data("CoLA"), SequenceClassifier(other))


def test_a_run_that_ends_within_an_epoch_is_scored(tmp_path: Path, glue_data: Data, encoder_dir: Path) -> None:
    module, options = SequenceClassifier(str(encoder_dir)), {"max_epochs": 3, "limit_val_batches": 1.0}
    trainer = fit(tmp_path, glue_data("RTE"), [FinalValidation(), RunSummary()], 7, module=module, **options)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (trainer.global_step, summary["status"], summary["eval_step"]) == (7, "finished", 7)
    assert summary["metrics"].keys() == {"accuracy"}
    fit(
        tmp_path,
        glue_data("RTE"),
        [FinalValidation(), RunSummary()],
        -1,
        module=SequenceClassifier(str(encoder_dir)),
        check_val_every_n_epoch=2,
        **options,
    )
    assert json.loads((tmp_path / "summary.json").read_text())["eval_step"] == 15


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_file_of_half_precision_is_finetuned_in_single(
    tmp_path: Path, glue_data: Data, saved: Saved, dtype: torch.dtype
) -> None:
    path = saved()
    AutoModelForMaskedLM.from_pretrained(path).to(dtype).save_pretrained(path)
    trainer = finetune(tmp_path, glue_data("CoLA"), SequenceClassifier(path), ExportPretrained())
    assert {weight.dtype for weight in parameters(trainer).values()} == {torch.float32}
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "export").dtype == torch.float32


def test_the_head_of_another_task_answers_nothing(tmp_path: Path, glue_data: Data, teacher: Callable[[str], str]) -> None:
    """CoLA and SST-2 have the same classes by name; a new finetuning may start from the other's head."""
    path = teacher("CoLA")
    for stage in ("validate", "predict"):
        trainer = tiny_trainer(tmp_path, [], max_steps=-1, limit_val_batches=1.0)
        with pytest.raises(ValueError, match="its head has learnt CoLA, not SST-2: finetune it first"):
            getattr(trainer, stage)(SequenceClassifier(path), glue_data("SST-2"))
    config = json.loads((Path(path) / "config.json").read_text())
    for learnt in ("text-classification", None):  # what else there is on the hub
        (Path(path) / "config.json").write_text(json.dumps(config | {"finetuning_task": learnt}))
        tiny_trainer(tmp_path, [], max_steps=-1).validate(SequenceClassifier(path), glue_data("SST-2"))
    finetune(tmp_path, glue_data("SST-2"), SequenceClassifier(path), ExportPretrained())
    trainer = tiny_trainer(tmp_path, [], max_steps=-1, limit_val_batches=1.0)
    trainer.validate(SequenceClassifier(str(tmp_path / "export")), glue_data("SST-2"))
