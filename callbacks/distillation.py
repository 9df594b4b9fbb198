"""Teacher–student distillation as a callback."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from callbacks.teacher_cache import TeacherCache, teachers_digest
from hub import local_or_hub
from objectives.distillation import (
    distillation_loss,
    regression_distillation_loss,
    teacher_probabilities,
    top_k_distillation_loss,
)
from objectives.masked_lm import IGNORE_INDEX
from pretrained import read_tokenizer
from sparsity.schedules import linear

Batch = dict[str, Tensor]


class Student(Protocol):
    """What a module must have to be taught."""

    device: torch.device
    objective: Callable[[Tensor, Batch], Tensor]

    def task_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The loss that validation keeps."""

    def load_pretrained(self, path: str) -> PreTrainedModel:
        """A teacher for this task."""

    def predict_logits(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """Logits of a student or a teacher where the task has labels."""


class KnowledgeDistillation(Callback):
    """Trains on (1 - factor) · task loss + factor · T² · KL(teacher ‖ student) (Hinton et al. 2015).

    Teachers are frozen and stay outside the module: not in its parameters, its checkpoints or DDP. Validation keeps the
    plain task loss. Logits are computed where the task loss has labels: for masked LM, at the masked positions only.

    With ``cache`` what the teachers say is kept on disk, and a later student of the same teachers that sees the same
    micro-batches pays for no teacher's forward. Batches and masks are functions of the seed: the same seed, data and batch size
    find all of it, another seed nothing. Of each position the ``cached_tokens`` likeliest tokens are kept, and the objective is
    the divergence over these and "any other token", also where a record is written: a run that writes and one that reads are
    equal to the bit. A position takes 4 · ``cached_tokens`` + 2 bytes, 258 by default: 0.5 GB for 6,000 steps of 32 × 64
    tokens, 15 % of them masked, 125 GB for 100,000 of 256 × 128.

    Args:
        teachers: ``save_pretrained`` directories or hub ids.
        weights: one a teacher; equal by default.
        factor: weight of the distillation term, in [0, 1].
        final_factor: reached linearly at the end of the run; null keeps ``factor``.
        temperature: T > 0.
        final_temperature: reached linearly at the end of the run; null keeps ``temperature``.
        cache: directory that keeps what the teachers say; null asks them at every step. Needs a constant temperature.
        cached_tokens: tokens (or classes) kept of each position; the higher the temperature, the more are needed.
    """

    def __init__(
        self,
        teachers: str | list[str],
        weights: list[float] | None = None,
        factor: float = 0.9,
        final_factor: float | None = None,
        temperature: float = 2.0,
        final_temperature: float | None = None,
        cache: str | None = None,
        cached_tokens: int = 64,
    ) -> None:
        self.paths = [teachers] if isinstance(teachers, str) else teachers
        self.weights = weights if weights is not None else [1.0] * len(self.paths)
        self.factor, self.final_factor = factor, factor if final_factor is None else final_factor
        self.temperature = temperature
        self.final_temperature = temperature if final_temperature is None else final_temperature
        if not self.paths or len(self.weights) != len(self.paths) or min(self.weights) < 0 or not sum(self.weights):
            raise ValueError(f"one non-negative weight a teacher expected, got {self.weights} for {self.paths}")
        if not (0 <= self.factor <= 1 and 0 <= self.final_factor <= 1):
            raise ValueError(f"factor and final_factor in [0, 1] expected, got {self.factor} and {self.final_factor}")
        if min(self.temperature, self.final_temperature) <= 0:
            raise ValueError(f"temperatures must be positive, got {self.temperature} and {self.final_temperature}")
        if cache is not None and self.final_temperature != self.temperature:
            raise ValueError(
                f"what is cached is of one temperature, got {self.temperature} and final_temperature "
                f"{self.final_temperature}: leave final_temperature or cache out"
            )
        if cached_tokens < 1:
            raise ValueError(f"cached_tokens must be positive, got {cached_tokens}")
        self.cache_directory, self.cached_tokens = cache, cached_tokens
        self.teachers: list[PreTrainedModel] = []
        self.cache: TeacherCache | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            for path in self.paths:
                check_same_tokenizer(path, trainer.datamodule.tokenizer)  # type: ignore[attr-defined]
            student = cast(Student, pl_module)
            self.teachers = [student.load_pretrained(path).eval().requires_grad_(False) for path in self.paths]
            if self.cache_directory is not None:
                shares = [weight / sum(self.weights) for weight in self.weights]
                settings = (shares, float(self.temperature), self.cached_tokens, str(trainer.precision))
                directory = Path(self.cache_directory).expanduser() / teachers_digest(self.teachers, *settings)
                self.cache = TeacherCache(directory, self.cached_tokens)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        student = cast(Student, pl_module)

        def objective(logits: Tensor, batch: Batch) -> Tensor:
            step = trainer.global_step
            factor = linear(step, trainer.max_steps, self.factor, self.final_factor)
            loss = student.task_loss(logits, batch)
            if not factor:
                return loss
            temperature = linear(step, trainer.max_steps, self.temperature, self.final_temperature)
            distillation = self.loss(student, logits, batch, temperature)
            pl_module.log("kd/loss", distillation.detach(), sync_dist=True)
            if self.cache is not None:
                pl_module.log("kd/cache_hits", self.cache.hits / self.cache.asked, sync_dist=True)
            return (1 - factor) * loss + factor * distillation

        student.objective = objective

    def loss(self, student: Student, logits: Tensor, batch: Batch, temperature: float) -> Tensor:
        """T² · KL from the teachers' mixture to the student whose ``logits`` these are; of scores the squared distance."""
        if logits.size(1) == 1:
            if self.cache is not None:
                raise ValueError("distillation.cache keeps probabilities, and a regression has none: leave it out")
            return regression_distillation_loss(logits, self.taught(student, batch), self.weights)
        counted = (batch["labels"] != IGNORE_INDEX).flatten()
        if self.cache is not None:
            targets = self.cache.answer(batch, logits, lambda: self.mixture(student, logits, batch, temperature))
            return top_k_distillation_loss(
                logits[:, : targets.classes], targets.probabilities, targets.kept, temperature, counted
            )
        known, taught = known_to_all(logits, self.taught(student, batch))
        return distillation_loss(known, taught, self.weights, temperature, counted)

    @torch.no_grad()
    def taught(self, student: Student, batch: Batch) -> list[Tensor]:
        """Logits of each teacher, which comes to the student's device when it is first asked."""
        for teacher in self.teachers:
            if teacher.device != student.device:
                torch.nn.Module.to(teacher, student.device)
        return [student.predict_logits(teacher, batch) for teacher in self.teachers]

    @torch.no_grad()
    def mixture(self, student: Student, logits: Tensor, batch: Batch, temperature: float) -> Tensor:
        """Probabilities of the teachers' mixture over the classes that all of them and the student have."""
        _, taught = known_to_all(logits, self.taught(student, batch))
        return teacher_probabilities(taught, self.weights, temperature)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        student = cast(Student, pl_module)
        student.objective = student.task_loss
        self.teachers, self.cache = [], None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")  # which Lightning leaves out then


def known_to_all(logits: Tensor, taught: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Logits of a student and its teachers of the classes that all have: a vocabulary may be padded beyond the tokens."""
    size = min(z.size(1) for z in (logits, *taught))
    return logits[:, :size], [z[:, :size] for z in taught]


def check_same_tokenizer(teacher: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """Raise ValueError unless the teacher's tokenizer gives every token the id that ``tokenizer`` gives it."""
    path = local_or_hub(teacher, "teacher")
    vocabulary: dict[str, Any] = read_tokenizer(path, "teacher's tokenizer").get_vocab()
    if vocabulary != tokenizer.get_vocab():
        shared = len(vocabulary.items() & tokenizer.get_vocab().items())
        raise ValueError(
            f"teacher {teacher} has another tokenizer: {shared} of its {len(vocabulary)} tokens have the same id in the "
            f"student's {len(tokenizer)}; give data.tokenizer the teacher's directory"
        )
