"""Spans, choices and tags: any encoder learns them, stays as sparse as it was, and is scored by the official rules."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

from callbacks import (
    ExportPretrained,
    FinalValidation,
    InheritedSparsity,
    KnowledgeDistillation,
    LinearWarmupDecay,
    PredictionFiles,
    RandomState,
    ResumeRules,
    RunSummary,
    StaticSparsity,
)
from datamodules import OUTSIDE, GLUEDataModule, TaskDataModule
from helpers import Recorder, assert_identical, copies, fit, parameters, tiny_trainer
from lightning_modules import SequenceClassifier, TaskModel
from lightning_modules.task_model import HEADS
from objectives.beyond_glue import BEYOND_GLUE, TAGS, beyond_glue
from objectives.masked_lm import IGNORE_INDEX
from objectives.squad import squad2_scores, squad_scores
from objectives.tagging import entity_scores
from run_record import RunRecord

Data = Callable[..., TaskDataModule]
FAMILIES = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
}
FAMILIES["roberta"] = FAMILIES["bert"] | {"type_vocab_size": 1, "pad_token_id": 0, "max_position_embeddings": 34}
FAMILIES["modernbert"] = FAMILIES["bert"] | {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3}
FAMILIES["modernbert"] |= {"bos_token_id": 2, "eos_token_id": 3}
KINDS = {"SQuAD": "span", "SWAG": "choice", "CoNLL": "tag"}


@pytest.fixture
def saved(tmp_path: Path, tokenizer_dir: Path) -> Callable[..., str]:
    """Saves a new masked LM of a family, with the tests' tokenizer, and gives its directory."""

    def save(family: str = "bert", name: str = "saved", **fields: object) -> str:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
        sizes = {"max_position_embeddings": 32, "vocab_size": len(tokenizer)} | FAMILIES[family]
        torch.manual_seed(1)
        model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(family, **sizes | fields))
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save


def finetune(root: Path, data: TaskDataModule, module: TaskModel, *callbacks: Callback, **options: object) -> Trainer:
    """One epoch unless told otherwise, validated."""
    return fit(root, data, callbacks, -1, module=module, **{"max_epochs": 1, "limit_val_batches": 1.0} | options)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", KINDS)
def test_any_family_of_encoders(tmp_path: Path, task_data: Data, saved: Callable[..., str], family: str, task: str) -> None:
    """Everything learns but what no input reaches, and the export is an ordinary model of transformers."""
    path, seen = saved(family), {}

    class Before(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            seen.update(copies(parameters(trainer)))

    trainer = finetune(tmp_path, task_data(task), TaskModel(path, lr=1e-3), Before(), ExportPretrained())
    assert [name for name, weight in parameters(trainer).items() if torch.equal(weight, seen[name])] == []
    exported = HEADS[beyond_glue(task).kind].auto.from_pretrained(tmp_path / "export")
    assert_identical(dict(exported.named_parameters()), parameters(trainer))
    names = beyond_glue(task).class_names or ("score",)
    assert exported.config.id2label == dict(enumerate(names))


def plain_scores(module: TaskModel, task: str) -> dict[str, float]:
    """Scores of the development set row by row, nothing padded, and every answer looked for in a loop."""
    dev = module.data.dev[""]
    with torch.no_grad():
        logits = [module.predict_logits(module.model, dev[[row]]).double() for row in range(len(dev))]
    if task == "SWAG":
        right = [int(each.argmax()) == choice for each, choice in zip(logits, dev.examples["choice"], strict=True)]
        return {"accuracy": sum(right) / len(right)}
    if task == "CoNLL":
        own = [["O"] * len(tags) for tags in dev.examples["tags"]]
        places = [(sentence, word) for sentence, tags in enumerate(own) for word in range(len(tags))]
        for row, each in enumerate(logits):
            for word, tag in zip(dev[[row]]["word"][0].tolist(), each.argmax(-1).tolist(), strict=True):
                if word != OUTSIDE:
                    own[places[word][0]][places[word][1]] = TAGS[tag]
        return entity_scores(own, [[TAGS[tag] for tag in tags] for tags in dev.examples["tags"]])
    best: dict[str, tuple[float, str]] = {}
    null: dict[str, float] = {}
    for row, (start, end) in enumerate(logits):
        batch = dev[[row]]
        example = dev.examples[int(batch["question"][0])]
        first, last = batch["char_starts"][0].tolist(), batch["char_ends"][0].tolist()
        null[example["id"]] = min(null.get(example["id"], 1e9), float(start[0] + end[0]))
        for i in range(len(first)):
            for j in range(i, min(i + 30, len(first))):
                if first[i] != OUTSIDE and last[j] != OUTSIDE:
                    candidate = (float(start[i] + end[j]), example["context"][first[i] : last[j]])
                    best[example["id"]] = max(best.get(example["id"], candidate), candidate)
    texts = {name: text for name, (_, text) in best.items()}
    golds = dict(zip(dev.examples["id"], dev.examples["answers"], strict=True))
    if task == "SQuAD":
        return squad_scores(texts, golds)
    return squad2_scores(texts, {name: null[name] - best[name][0] for name in golds}, golds)


@pytest.mark.parametrize("task", BEYOND_GLUE)
def test_every_task_learns_and_is_scored(tmp_path: Path, task_data: Data, saved: Callable[..., str], task: str) -> None:
    data, recorder = task_data(task, train_examples=6), Recorder()
    module = TaskModel(saved(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), lr=1e-2)
    callbacks = (recorder, LinearWarmupDecay(0.2), RunSummary())
    trainer = finetune(tmp_path, data, module, *callbacks, max_epochs=30, check_val_every_n_epoch=30)
    assert sum(recorder.losses[-3:]) < 0.6 * sum(recorder.losses[:3])
    summary = json.loads((tmp_path / "summary.json").read_text())
    module.eval()
    expected = {name: score for name, score in plain_scores(module, task).items() if not name.endswith("_threshold")}
    assert summary["metrics"] == pytest.approx(expected, abs=1e-12)
    assert set(beyond_glue(task).metrics) <= summary["metrics"].keys()
    assert (summary["task"], summary["status"], "perplexity" in summary) == (task, "finished", False)
    assert summary["eval_loss"] == pytest.approx(float(trainer.callback_metrics["val/loss"]))
    assert summary["degenerate"] in (False, True)


@pytest.mark.parametrize("task", BEYOND_GLUE)
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_neither_answer_nor_loss(
    tmp_path: Path, task_data: Data, saved: Callable[..., str], family: str, task: str
) -> None:
    data = task_data(task)
    module = finetune(tmp_path, data, TaskModel(saved(family), lr=1e-3), limit_train_batches=1).lightning_module.eval()
    dev = data.dev[""]
    rows = range(len(dev))
    with torch.no_grad():
        batch = dev[rows]
        losses = module.family.loss(module.predict_logits(module.model, batch), batch["labels"], reduction="none")
        single = [(dev[[row]], module.predict_logits(module.model, dev[[row]])) for row in rows]
        alone = torch.cat([module.family.loss(logits, batch["labels"], reduction="none") for batch, logits in single])
    assert "attention_mask" in batch
    torch.testing.assert_close(losses, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("task", BEYOND_GLUE)
def test_a_sparse_encoder_keeps_exactly_its_zeros(
    tmp_path: Path, task_data: Data, saved: Callable[..., str], task: str
) -> None:
    """50 % of every matrix of the encoder, found by its zeros."""
    dense, half = saved(), tmp_path / "half"
    masks = StaticSparsity(sparsity=0.5, initialization="magnitude")
    sparse = finetune(tmp_path, task_data(task), TaskModel(dense, lr=1e-3), masks)
    encoder = sparse.lightning_module.model.base_model
    encoder.save_pretrained(half)
    sparse.datamodule.tokenizer.save_pretrained(half)
    zeros = {name: weight == 0 for name, weight in copies(dict(encoder.named_parameters())).items() if ".weight" in name}
    zeros = {name: mask for name, mask in zeros.items() if name.startswith("encoder.") and mask.dim() == 2}
    assert sum(int(mask.sum()) for mask in zeros.values()) == sum(mask.numel() for mask in zeros.values()) // 2
    trainer = finetune(tmp_path, task_data(task), TaskModel(str(half), lr=1e-2), max_epochs=3)
    assert any(isinstance(callback, InheritedSparsity) for callback in trainer.callbacks)
    for name, was_zero in zeros.items():
        assert_identical(parameters(trainer)[f"bert.{name}"] == 0, was_zero)


def teacher(root: Path, data: TaskDataModule, path: str) -> str:
    finetune(root / "teacher", data, TaskModel(path, lr=1e-3), ExportPretrained())
    return str(root / "teacher" / "export")


@pytest.mark.parametrize("task", BEYOND_GLUE)
def test_distillation_from_a_finetuned_teacher(
    tmp_path: Path, task_data: Data, saved: Callable[..., str], task: str
) -> None:
    """Start and end, every word, and the choices each have a divergence of their own, of which the loss has the mean."""
    path, losses = teacher(tmp_path, task_data(task), saved("roberta")), []
    kind = beyond_glue(task).kind

    class Expected(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: dict, batch_idx: int) -> None:
            taught = HEADS[kind].auto.from_pretrained(path).eval()
            mask = batch.get("attention_mask")
            with torch.no_grad():
                sides = [model(batch["input_ids"], attention_mask=mask) for model in (pl_module.model, taught)]
            labels = batch["labels"]
            if kind == "span":
                own, right = (torch.stack([side.start_logits, side.end_logits], 1).flatten(0, 1) for side in sides)
                if mask is not None:
                    padded = mask.repeat_interleave(2, 0) == 0
                    own, right = (logits.masked_fill(padded, -torch.inf) for logits in (own, right))
            else:
                own, right = (side.logits.flatten(0, -2) for side in sides)
            counted = labels.flatten() != IGNORE_INDEX
            own, right, labels = own[counted], right[counted], labels.flatten()[counted]
            plain = -own.log_softmax(-1)[range(len(own)), labels].mean()
            target = (right / 2).softmax(-1)
            terms = torch.where(target > 0, target * (target.log() - (own / 2).log_softmax(-1)), 0.0)
            losses.append(float(0.25 * plain + 0.75 * 4 * terms.sum(-1).mean()))

    recorder, distillation = Recorder(), KnowledgeDistillation(path, factor=0.75, temperature=2.0)
    student = saved("distilbert", "student", dropout=0.0, attention_dropout=0.0, qa_dropout=0.0, seq_classif_dropout=0.0)
    finetune(tmp_path, task_data(task, length=30), TaskModel(student), distillation, Expected(), recorder)
    assert recorder.losses == pytest.approx(losses, rel=1e-4)
    assert len(losses) >= 5


def test_layer_decay_reaches_every_head(tmp_path: Path, task_data: Data, encoder_dir: Path) -> None:
    for task in KINDS:
        module = TaskModel(str(encoder_dir), lr=0.08, layer_decay=0.5)
        trainer = finetune(tmp_path, task_data(task), module, limit_train_batches=1)
        groups = trainer.optimizers[0].param_groups
        rates = {id(weight): group["lr"] for group in groups for weight in group["params"]}
        found = {name: rates[id(weight)] for name, weight in module.model.named_parameters()}
        for name, rate in found.items():
            depth = next((int(part) for part in name.split(".") if part.isdecimal()), None)
            assert rate == ({0: 0.02, 1: 0.04}[depth] if depth is not None else 0.01 if "embeddings" in name else 0.08), name


def test_a_model_that_says_nothing_is_degenerate(tmp_path: Path, task_data: Data, encoder_dir: Path) -> None:
    """No span but the class token's, always the first choice, no entity."""

    class Constant(Callback):
        def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            for name, weight in pl_module.model.named_parameters():
                if name.startswith(("classifier.", "qa_outputs.")):
                    torch.nn.init.zeros_(weight)
            if "classifier.bias" in parameters(trainer) and trainer.datamodule.task.kind == "tag":
                parameters(trainer)["classifier.bias"].data[0] = 1.0

    for task in ("SQuAD2", "SWAG", "CoNLL"):
        finetune(tmp_path, task_data(task), TaskModel(str(encoder_dir)), RunSummary(), Constant())
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert summary["degenerate"] is True, (task, summary["metrics"])


def test_a_summary_says_at_which_odds_the_scores_of_version_2_are_best(
    tmp_path: Path, task_data: Data, encoder_dir: Path
) -> None:
    """And the file of answers leaves out those above."""
    trainer = finetune(tmp_path, task_data("SQuAD2"), TaskModel(str(encoder_dir), lr=1e-3), RunSummary())
    record = RunRecord.read(tmp_path / "summary.json")
    assert record.metrics.keys() == {"exact_match", "f1", "exact_match_at_0", "f1_at_0"}
    assert record.thresholds.keys() == {"exact_match", "f1"}
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    files = PredictionFiles(str(tmp_path / "answers"))
    tiny_trainer(tmp_path, [files], 1).predict(
        TaskModel(str(encoder_dir)), task_data("SQuAD2"), return_predictions=False, ckpt_path=tmp_path / "run.ckpt"
    )
    odds, texts = (json.loads((tmp_path / "answers" / name).read_text()) for name in ("null_odds.json", "predictions.json"))
    assert {name for name, value in odds.items() if value > record.thresholds["f1"]} <= {
        n for n, t in texts.items() if not t
    }
    golds = {row["id"]: row["answers"] for row in trainer.datamodule.dev[""].examples}
    assert squad2_scores(texts, dict.fromkeys(texts, -1.0), golds)["f1_at_0"] == pytest.approx(
        record.metrics["f1"], abs=1e-12
    )


@pytest.mark.parametrize("task", KINDS)
def test_answers_of_half_precision_are_kept_in_double(tmp_path: Path, task_data: Data, encoder_dir: Path, task: str) -> None:
    class Kept(Callback):
        def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.index = pl_module.answers[0]["index"].compute()

    kept, data = Kept(), task_data(task)
    trainer = finetune(tmp_path, data, TaskModel(str(encoder_dir)), kept, precision="bf16-true")
    assert kept.index.dtype == torch.float64
    assert len(set(kept.index.tolist())) == len(kept.index) > 10
    assert torch.isfinite(trainer.callback_metrics["val/loss"])


@pytest.mark.parametrize("task", BEYOND_GLUE)
def test_an_export_and_a_checkpoint_answer_alike(tmp_path: Path, task_data: Data, encoder_dir: Path, task: str) -> None:
    """And in files that say so in the official formats."""
    trainer = finetune(tmp_path, task_data(task), TaskModel(str(encoder_dir), lr=1e-3), ExportPretrained())
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    for name, path, checkpoint in (("a", tmp_path / "export", None), ("b", encoder_dir, tmp_path / "run.ckpt")):
        writer = PredictionFiles(str(tmp_path / name))
        tiny_trainer(tmp_path, [writer], 1).predict(
            TaskModel(str(path)), task_data(task), return_predictions=False, ckpt_path=checkpoint
        )
    first, second = ({file.name: file.read_text() for file in sorted((tmp_path / name).iterdir())} for name in ("a", "b"))
    assert first == second
    expected = {
        "SQuAD": ["nbest_predictions.json", "predictions.json"],
        "SQuAD2": ["nbest_predictions.json", "null_odds.json", "predictions.json"],
        "SWAG": ["predictions.csv"],
        "CoNLL": ["predictions.txt"],
    }
    assert list(first) == expected[task]
    loaded = TaskModel.load_from_checkpoint(tmp_path / "run.ckpt")
    assert_identical(dict(loaded.model.named_parameters()), parameters(trainer))


def test_the_head_of_another_task_answers_nothing(tmp_path: Path, task_data: Data, encoder_dir: Path) -> None:
    path = teacher(tmp_path, task_data("SQuAD"), str(encoder_dir))
    for stage in ("validate", "predict"):
        trainer = tiny_trainer(tmp_path, [], max_steps=-1, limit_val_batches=1.0)
        with pytest.raises(ValueError, match="its head has learnt SQuAD, not SQuAD2: finetune it first"):
            getattr(trainer, stage)(TaskModel(path), task_data("SQuAD2"))
        with pytest.raises(ValueError, match=r"no head of SWAG there \(bert.pooler.dense.bias is missing"):
            getattr(trainer, stage)(TaskModel(path), task_data("SWAG"))
    finetune(tmp_path, task_data("SQuAD2"), TaskModel(path))  # which may begin with any


def test_tags_in_another_order_start_anew(tmp_path: Path, task_data: Data, encoder_dir: Path) -> None:
    """As on the hub, where many models have them sorted."""
    path = Path(teacher(tmp_path, task_data("CoNLL"), str(encoder_dir)))
    config = json.loads((path / "config.json").read_text())
    order = sorted(TAGS)
    config |= {"id2label": dict(enumerate(order)), "label2id": {name: n for n, name in enumerate(order)}}
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"its classes are b_loc, b_misc, .*, those of CoNLL O, B-PER, I-PER"):
        tiny_trainer(tmp_path, [], -1, limit_val_batches=1.0).validate(TaskModel(str(path)), task_data("CoNLL"))
    with pytest.warns(UserWarning, match="the head has the classes of CoNLL in another order, and starts anew"):
        finetune(tmp_path, task_data("CoNLL"), TaskModel(str(path)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", ["SWAG", "CoNLL"])
def test_dropout_before_any_head(tmp_path: Path, task_data: Data, saved: Callable[..., str], family: str, task: str) -> None:
    """Whichever field of its config that head reads."""
    module = TaskModel(saved(family), dropout=0.37)
    finetune(tmp_path, task_data(task), module, limit_train_batches=1)
    encoder = set(module.model.base_model.modules())
    rates = {m.p for m in module.model.modules() if isinstance(m, torch.nn.Dropout) and m not in encoder}
    assert rates == {0.37}


def test_mistakes_are_one_line(
    tmp_path: Path, task_data: Data, glue_data: Callable[..., GLUEDataModule], encoder_dir: Path
) -> None:
    with pytest.raises(ValueError, match="a head for spans has no dropout before it"):
        finetune(tmp_path, task_data("SQuAD"), TaskModel(str(encoder_dir), dropout=0.1))
    with pytest.raises(ValueError, match="TaskModel needs the data of a TaskDataModule, not of GLUEDataModule"):
        fit(tmp_path, glue_data("CoLA"), [], -1, module=TaskModel(str(encoder_dir)), max_epochs=1)
    with pytest.raises(ValueError, match="SequenceClassifier needs the data of a GLUEDataModule, not of TaskDataModule"):
        fit(tmp_path, task_data("SWAG"), [], -1, module=SequenceClassifier(str(encoder_dir)), max_epochs=1)
    with pytest.raises(ValueError, match="data.length is 33, but .* has positions for 32 tokens only"):
        finetune(tmp_path, task_data("SQuAD", length=33), TaskModel(str(encoder_dir)))


@pytest.mark.parametrize("task", BEYOND_GLUE)
def test_a_part_of_a_set_is_scored_as_if_the_rest_were_wrong(
    tmp_path: Path, task_data: Data, encoder_dir: Path, task: str
) -> None:
    trainer = tiny_trainer(tmp_path, [], -1, max_epochs=1, fast_dev_run=True)
    trainer.fit(TaskModel(str(encoder_dir)), task_data(task, eval_batch_size=1))
    score = float(trainer.callback_metrics[f"val/{beyond_glue(task).rank_by}"])
    assert 0 <= score <= (1 / 13 if task in ("SWAG",) else 1.0)


class Killed(Exception):
    """What ends a fit in its middle."""


@pytest.mark.parametrize("task", BEYOND_GLUE)
def test_a_killed_fit_goes_on_bit_for_bit(tmp_path: Path, task_data: Data, encoder_dir: Path, task: str) -> None:
    """With dropout, masks and a schedule, from the middle of the second epoch."""

    class KillAt(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
            if trainer.global_step == 7:
                trainer.save_checkpoint(tmp_path / "killed.ckpt")
                raise Killed

    def run(*callbacks: Callback, **options: object) -> tuple[list[float], Trainer]:
        recorder = Recorder()
        masks = StaticSparsity(sparsity=0.5)
        kept = (RandomState(), ResumeRules(), LinearWarmupDecay(0.1), masks, FinalValidation(), recorder, *callbacks)
        trainer = finetune(
            tmp_path,
            task_data(task, train_examples=30),
            TaskModel(str(encoder_dir), lr=1e-3),
            *kept,
            max_epochs=3,
            **options,
        )
        return recorder.losses, trainer

    whole, expected = run()
    with pytest.raises(Killed):
        run(KillAt())
    rest, trainer = run(ckpt_path=tmp_path / "killed.ckpt")
    assert rest == whole[7:]
    assert trainer.global_step == len(whole) > 9
    assert_identical(parameters(trainer), parameters(expected))
    metrics = [{name: float(value) for name, value in each.callback_metrics.items()} for each in (expected, trainer)]
    assert metrics[0] == metrics[1]
