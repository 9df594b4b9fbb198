"""Distillation replaces the training objective, and nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from callbacks import ExportPretrained, KnowledgeDistillation
from datamodules import TextDataModule
from datamodules.tokenizers import train_tokenizer
from helpers import CONFIG, Recorder, assert_identical, copies, fit, parameters, tiny_bert
from objectives.distillation import distillation_loss

Data = Callable[..., TextDataModule]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory, text_data: Data) -> list[str]:
    """Two exported models of different weights."""
    roots = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    for seed, root in enumerate(roots):
        fit(root, text_data(), [ExportPretrained()], max_steps=3, seed=seed + 10)
    return [str(root / "export") for root in roots]


class Objectives(Callback):
    """At each step: the loss trained on, the logits and the batch it comes from, and what was logged."""

    def __init__(self) -> None:
        self.steps: list[tuple[Tensor, dict[str, Tensor]]] = []
        self.losses: list[float] = []
        self.logged: list[float] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        with torch.no_grad():
            self.steps.append((pl_module.predict_logits(pl_module.model, batch), batch))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, Tensor], batch: object, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))
        self.logged.append(float(trainer.callback_metrics.get("kd/loss", torch.nan)))


def run(root: Path, data: TextDataModule, *callbacks: Callback, **options: object) -> tuple[Trainer, Recorder]:
    recorder = Recorder()
    return fit(root, data, [*callbacks, recorder], max_steps=4, limit_val_batches=3, **options), recorder


def test_factor_zero_is_no_distillation(tmp_path: Path, text_data: Data, teachers: list[str]) -> None:
    plain, plain_losses = run(tmp_path, text_data())
    distilled, losses = run(tmp_path, text_data(), KnowledgeDistillation(teachers, factor=0.0))
    assert losses.losses == plain_losses.losses
    assert_identical(copies(parameters(distilled)), copies(parameters(plain)))


def test_objective_is_the_weighted_sum_at_every_step(tmp_path: Path, text_data: Data, teachers: list[str]) -> None:
    """Factor 0.8 → 0.2 and temperature 4 → 2 over four steps, and a mixture of 3 : 1 of two teachers."""
    distillation = KnowledgeDistillation(teachers, [3, 1], 0.8, 0.2, temperature=4.0, final_temperature=2.0)
    objectives = Objectives()
    trainer, _ = run(tmp_path, text_data(), distillation, objectives)
    module = trainer.lightning_module
    models = [module.load_pretrained(path).eval() for path in teachers]
    for step, (logits, batch) in enumerate(objectives.steps):
        factor, temperature = 0.8 - 0.15 * step, 4 - 0.5 * step
        taught = [torch.softmax(module.predict_logits(model, batch) / temperature, -1) for model in models]
        target = 0.75 * taught[0] + 0.25 * taught[1]
        divergence = (target * (target.log() - torch.log_softmax(logits / temperature, -1))).sum(-1).mean()
        distilled = temperature**2 * divergence.item()
        expected = (1 - factor) * module.task_loss(logits, batch).item() + factor * distilled
        assert objectives.losses[step] == pytest.approx(expected, abs=1e-5)
        assert objectives.logged[step] == pytest.approx(distilled, abs=1e-5)


@pytest.mark.parametrize("sizes", [(120, 128), (128, 120)])
def test_a_padded_vocabulary_distils_over_the_tokens_of_both(
    tmp_path: Path, text_data: Data, sizes: tuple[int, int]
) -> None:
    student, teacher = (tiny_bert(config=CONFIG | {"vocab_size": size}) for size in sizes)
    fit(tmp_path, text_data(), [ExportPretrained()], max_steps=1, module=teacher)
    objectives = Objectives()
    distillation = KnowledgeDistillation(str(tmp_path / "export"), factor=1.0, temperature=1.0)
    trainer, _ = run(tmp_path, text_data(), distillation, objectives, module=student)
    logits, batch = objectives.steps[0]
    taught = trainer.lightning_module.predict_logits(teacher.model.eval(), batch)[:, :120].softmax(-1)
    divergence = (taught * (taught.log() - logits[:, :120].log_softmax(-1))).sum(-1).mean()
    assert objectives.losses[0] == pytest.approx(divergence.item(), abs=1e-5)


def test_the_student_as_its_own_teacher_teaches_nothing() -> None:
    logits = torch.randn(8, 50, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = distillation_loss(logits, [logits.detach()], [1.0], 2.0)
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert float(logits.grad.abs().max()) < 1e-6


def test_teachers_are_frozen_and_outside_the_module(tmp_path: Path, text_data: Data, teachers: list[str]) -> None:
    class Teachers(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
            self.models = distillation.teachers
            assert all(not model.training for model in self.models)
            assert all(weight.grad is None and not weight.requires_grad for m in self.models for weight in m.parameters())

    distillation, seen = KnowledgeDistillation(teachers), Teachers()
    plain, _ = run(tmp_path, text_data())
    distilled, _ = run(tmp_path, text_data(), distillation, seen)
    assert len(seen.models) == 2
    assert distilled.lightning_module.state_dict().keys() == plain.lightning_module.state_dict().keys()
    assert len(list(distilled.lightning_module.parameters())) == len(list(plain.lightning_module.parameters()))
    sizes = []
    for name, trainer in (("plain", plain), ("distilled", distilled)):
        trainer.save_checkpoint(tmp_path / f"{name}.ckpt")
        sizes.append((tmp_path / f"{name}.ckpt").stat().st_size)
    teacher_bytes = 4 * sum(weight.numel() for weight in seen.models[0].parameters())
    assert abs(sizes[1] - sizes[0]) < teacher_bytes / 10


def test_validation_stays_plain_cross_entropy(tmp_path: Path, text_data: Data, teachers: list[str]) -> None:
    trainer, _ = run(tmp_path, text_data(), KnowledgeDistillation(teachers, factor=1.0))
    seen = float(trainer.callback_metrics["val/loss"])
    module = trainer.lightning_module.eval()
    with torch.no_grad():
        batches = [batch for batch, _ in zip(trainer.datamodule.val_dataloader(), range(3), strict=False)]
        losses = [module.task_loss(module.predict_logits(module.model, batch), batch) for batch in batches]
    assert seen == pytest.approx(float(torch.stack(losses).mean()), abs=1e-5)


class Crash(Callback):
    def on_train_batch_end(self, *_: object) -> None:
        raise RuntimeError("crash")


def test_the_objective_comes_back(tmp_path: Path, text_data: Data, teachers: list[str]) -> None:
    distillation = KnowledgeDistillation(teachers)
    trainer, _ = run(tmp_path, text_data(), distillation)
    assert trainer.lightning_module.objective == trainer.lightning_module.task_loss
    assert distillation.teachers == []


def test_the_objective_comes_back_after_an_exception(tmp_path: Path, text_data: Data, teachers: list[str]) -> None:
    module, distillation = tiny_bert(), KnowledgeDistillation(teachers)
    with pytest.raises(RuntimeError, match="crash"):
        run(tmp_path, text_data(), distillation, Crash(), module=module)
    assert module.objective == module.task_loss
    assert distillation.teachers == []


def test_another_tokenizer_is_a_clear_error(
    tmp_path: Path, text_data: Data, teachers: list[str], documents: list[str]
) -> None:
    train_tokenizer(lambda: iter(documents), vocabulary_size=90).save_pretrained(tmp_path / "other")
    data = text_data(tokenizer=str(tmp_path / "other"))
    with pytest.raises(
        ValueError, match=r"teacher .*export has another tokenizer: \d+ of its 120 .* the student's 90"
    ) as error:
        run(tmp_path, data, KnowledgeDistillation(teachers[0]))
    assert "\n" not in str(error.value)


def test_a_teacher_that_is_not_there_is_a_clear_error(tmp_path: Path, text_data: Data) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or directory, where a teacher is expected"):
        run(tmp_path, text_data(), KnowledgeDistillation(str(tmp_path / "nowhere")))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_position_embeddings": 12}, "data.length is 16, but .*small has positions for 12 tokens only"),
        ({"vocab_size": 119}, "the tokenizer has 120 tokens, .*small only 119"),
    ],
)
def test_a_teacher_too_small_for_the_data_is_a_clear_error(
    tmp_path: Path, text_data: Data, tokenizer_dir: Path, fields: dict[str, int], message: str
) -> None:
    config = {key: value for key, value in CONFIG.items() if key != "model_type"}
    BertForMaskedLM(BertConfig(**config | {"vocab_size": 120} | fields)).save_pretrained(tmp_path / "small")
    AutoTokenizer.from_pretrained(tokenizer_dir).save_pretrained(tmp_path / "small")
    with pytest.raises(ValueError, match=message):
        run(tmp_path, text_data(), KnowledgeDistillation(str(tmp_path / "small")))


@pytest.mark.parametrize(
    "options",
    [
        {"teachers": []},
        {"weights": [1.0, 2.0]},
        {"weights": [0.0]},
        {"weights": [-1.0]},
        {"factor": 1.1},
        {"final_factor": -0.1},
        {"temperature": 0.0},
        {"final_temperature": -1.0},
    ],
)
def test_bad_settings_are_errors(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected|positive"):
        KnowledgeDistillation(**{"teachers": "teacher"} | options)
