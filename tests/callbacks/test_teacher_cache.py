"""What teachers said is read as it was written, or asked for again."""

import errno
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from callbacks import ExportPretrained, KnowledgeDistillation, ResumeRules
from callbacks.teacher_cache import SoftTargets, TeacherCache, batch_digest, pack, unpack
from datamodules import TextDataModule
from helpers import assert_identical, copies, fit, parameters, tiny_bert
from lightning_modules import SequenceClassifier
from objectives.distillation import top_k_probabilities

Data = Callable[..., TextDataModule]
ROWS, CLASSES, K, STEPS = 20, 50, 4, 4


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, text_data: Data) -> str:
    root = tmp_path_factory.mktemp("teacher")
    fit(root, text_data(), [ExportPretrained()], max_steps=3, seed=10)
    return str(root / "export")


class Counted(KnowledgeDistillation):
    """Counts what the teachers are asked, and what the cache is."""

    forwards = hits = asked = 0
    shown = -1.0

    def taught(self, *arguments: object) -> list[Tensor]:
        self.forwards += 1
        return super().taught(*arguments)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        self.hits, self.asked = self.cache.hits, self.cache.asked
        self.shown = float(trainer.callback_metrics["kd/cache_hits"])


def run(root: Path, data: TextDataModule, teacher: str, **options: object) -> tuple[dict[str, Tensor], Counted]:
    """Weights after four steps with dropout, and the callback; the cache is below ``root``."""
    distillation = Counted(teacher, **{"cache": str(root / "cache"), "cached_tokens": K, "temperature": 2.0} | options)
    trainer = fit(root, data, [distillation], max_steps=STEPS, module=tiny_bert(0.1))
    return copies(parameters(trainer)), distillation


def records(root: Path) -> list[Path]:
    return sorted(file for file in (root / "cache").glob("*/*/*"))


def target(seed: int = 0, classes: int = CLASSES) -> Tensor:
    return torch.randn(ROWS, classes, generator=torch.Generator().manual_seed(seed)).mul(3).softmax(1)


def batch(seed: int = 0) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(9, (2, 5), generator=torch.Generator().manual_seed(seed)), "labels": torch.zeros(2)}


def answer(cache: TeacherCache, number: int = 0, said: Tensor | None = None) -> SoftTargets:
    """What a cache answers about one of the batches; asking the teachers is an error unless they have something to say."""

    def ask() -> Tensor:
        assert said is not None, "the teachers are asked"
        return said

    return cache.answer(batch(number), torch.zeros(ROWS, CLASSES), ask)


def test_a_second_student_asks_no_teacher_and_is_the_first_to_the_bit(tmp_path: Path, text_data: Data, teacher: str) -> None:
    first, wrote = run(tmp_path, text_data(), teacher)
    second, read = run(tmp_path, text_data(), teacher)
    assert (wrote.forwards, wrote.hits, read.forwards, read.hits, read.asked) == (STEPS, 0, 0, STEPS, STEPS)
    assert (wrote.shown, read.shown) == (0.0, 1.0)
    assert_identical(second, first)
    assert len(records(tmp_path)) == STEPS


def test_with_the_whole_vocabulary_it_is_what_it_is_without(tmp_path: Path, text_data: Data, teacher: str) -> None:
    losses = []
    for options in ({}, {"cache": str(tmp_path), "cached_tokens": 1000}):
        distillation = KnowledgeDistillation(teacher, factor=1.0, **options)
        trainer = fit(tmp_path, text_data(), [distillation], max_steps=STEPS)
        losses.append(float(trainer.callback_metrics["train/loss"]))
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)  # half precision
    assert losses[1] != losses[0]


def test_a_resumed_run_reads_and_may_do_so_elsewhere(tmp_path: Path, text_data: Data, teacher: str) -> None:
    def resumable(place: str) -> list[object]:
        distillation = KnowledgeDistillation(teacher, cache=str(tmp_path / place), cached_tokens=K)
        return [distillation, ResumeRules({"distillation.cache": place})]

    half = fit(tmp_path, text_data(), resumable("cache"), max_steps=STEPS // 2, module=tiny_bert())
    half.save_checkpoint(tmp_path / "half.ckpt")
    ends = [
        fit(tmp_path, text_data(), resumable(place), max_steps=STEPS, module=tiny_bert(), ckpt_path=tmp_path / "half.ckpt")
        for place in ("cache", "another")
    ]
    at_once = fit(tmp_path, text_data(), resumable("cache"), max_steps=STEPS, module=tiny_bert())
    for end in ends:
        assert_identical(copies(parameters(end)), copies(parameters(at_once)))


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda content: content[: len(content) // 2], id="cut off"),
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: content[:-7] + bytes([content[-7] ^ 1]) + content[-6:], id="a bit flipped"),
    ],
)
def test_what_is_damaged_is_asked_again(
    tmp_path: Path, text_data: Data, teacher: str, spoil: Callable[[bytes], bytes]
) -> None:
    first, _ = run(tmp_path, text_data(), teacher)
    whole = [file.read_bytes() for file in records(tmp_path)]
    spoilt, moved, missing, _ = records(tmp_path)
    spoilt.write_bytes(spoil(whole[0]))
    moved.write_bytes(whole[0])  # whole, and of another batch
    missing.unlink()
    (missing.parents[1] / "partial").write_bytes(b"what a kill left")
    second, asked = run(tmp_path, text_data(), teacher)
    assert (asked.forwards, asked.hits) == (3, 1)
    assert_identical(second, first)
    assert [file.read_bytes() for file in records(tmp_path)] == whole
    assert not (missing.parents[1] / "partial").exists()


def test_batches_that_are_padded_differently(tmp_path: Path, glue_data: Callable[..., object], encoder_dir: Path) -> None:
    """Three classes, all kept, over two epochs of other batches."""
    module = SequenceClassifier(str(encoder_dir), lr=1e-3)
    trainer = fit(tmp_path, glue_data("MNLI"), [], -1, module=module, max_epochs=1)
    trainer.lightning_module.model.save_pretrained(tmp_path / "teacher")
    trainer.datamodule.tokenizer.save_pretrained(tmp_path / "teacher")
    ends, callbacks = [], [Counted(str(tmp_path / "teacher"), cache=str(tmp_path / "cache")) for _ in range(2)]
    for callback in callbacks:
        module = SequenceClassifier(str(encoder_dir), lr=1e-3)
        ends.append(copies(parameters(fit(tmp_path, glue_data("MNLI"), [callback], -1, module=module, max_epochs=2))))
    wrote, read = callbacks
    assert wrote.forwards == wrote.asked == read.asked == read.hits > 0
    assert read.forwards == wrote.hits == 0
    assert len({file.stat().st_size for file in records(tmp_path)}) <= 2  # rows, whatever the length
    assert_identical(*ends)


def test_another_seed_finds_nothing(tmp_path: Path, text_data: Data, teacher: str) -> None:
    run(tmp_path, text_data(), teacher)
    _, other = run(tmp_path, text_data(seed=1), teacher)
    assert (other.forwards, other.hits) == (STEPS, 0)
    assert len(records(tmp_path)) == 2 * STEPS


def test_other_teachers_and_settings_have_other_directories(tmp_path: Path, text_data: Data, teacher: str) -> None:
    fit(tmp_path, text_data(), [ExportPretrained()], max_steps=1, seed=11)
    other = str(tmp_path / "export")
    run(tmp_path, text_data(), teacher)
    for number, options in enumerate(
        (
            {"teachers": other},
            {"teachers": [teacher, other]},
            {"teachers": [teacher, other], "weights": [2.0, 1.0]},
            {"temperature": 1.0},
            {"cached_tokens": K + 1},
        ),
        2,
    ):
        _, asked = run(tmp_path, text_data(), **{"teacher": options.pop("teachers", teacher)} | options)
        assert asked.forwards == STEPS
        assert len(list((tmp_path / "cache").iterdir())) == number
    _, moved = run(tmp_path, text_data(), [teacher, other], weights=[20.0, 10.0])
    assert moved.forwards == 0


def test_a_copy_of_the_teacher_is_the_same(tmp_path: Path, text_data: Data, teacher: str) -> None:
    run(tmp_path, text_data(), teacher)
    _, read = run(tmp_path, text_data(), str(shutil.copytree(teacher, tmp_path / "copy")))
    assert read.forwards == 0


def test_a_full_disk_is_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = TeacherCache(tmp_path / "of", K)
    before = answer(cache, 0, target())

    def full(file: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.warns(UserWarning, match="no longer kept .*No space left") as warned:
        unkept = [answer(cache, number, target()) for number in (1, 2, 1)]
    assert len(warned) == 1
    assert_identical(unkept, [before] * 3)
    assert_identical(answer(cache), before)  # is still read
    assert (cache.asked, cache.hits) == (5, 1)


def test_of_two_that_write_at_once_the_first_is_what_both_train_from(tmp_path: Path) -> None:
    """Two students side by side, whose teachers' answers differ, as those of two machines may."""

    def student(seed: int) -> list[SoftTargets]:
        cache = TeacherCache(tmp_path, K)
        return [answer(cache, number, target(seed)) for number in range(50)]

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(student, (0, 1))
    assert_identical(first, second)
    cache = TeacherCache(tmp_path, K)
    assert_identical([answer(cache, number) for number in range(50)], first)


@pytest.mark.parametrize(
    ("classes", "row_bytes"), [(3, 4 * 3 + 2), (CLASSES, 4 * K + 2), (1 << 16, 4 * K + 2), (70_000, 6 * K + 2)]
)
def test_a_record_holds_the_likeliest_in_half_precision(classes: int, row_bytes: int) -> None:
    said = target(classes=classes)
    content = pack(said, K, "name")
    read = unpack(content, "name")
    probabilities, kept = top_k_probabilities(said, K)
    assert torch.equal(read.kept, kept)
    assert read.classes == classes
    torch.testing.assert_close(read.probabilities, probabilities, atol=1e-7, rtol=2**-10)
    torch.testing.assert_close(read.probabilities.sum(1), torch.ones(ROWS))
    exact, stored = (p.double() / p.double().sum(1, keepdim=True) for p in (probabilities, read.probabilities))
    divergence = torch.special.xlogy(stored, stored / exact).nan_to_num(0).sum(1)
    assert -1e-12 < divergence.min() <= divergence.max() < 1e-7
    assert len(content) <= ROWS * row_bytes + 16 + 300
    assert unpack(content, "another") is None


def test_all_of_a_batch_counts_and_so_do_the_classes_of_the_student() -> None:
    ids, labels = batch()["input_ids"], batch()["labels"]
    others = [
        {"input_ids": ids, "labels": labels + 1},
        {"input_ids": ids.T, "labels": labels},
        {"input_ids": ids, "labels": labels, "positions": labels},
        {"input_ids": labels, "labels": ids},
    ]
    digests = {batch_digest(other, CLASSES) for other in (batch(), *others)} | {batch_digest(batch(), CLASSES + 1)}
    assert len(digests) == 6
    assert batch_digest({"labels": labels, "input_ids": ids}, CLASSES) in digests


def test_scores_are_not_kept(tmp_path: Path, text_data: Data, teacher: str) -> None:
    distillation = KnowledgeDistillation(teacher, cache=str(tmp_path))
    distillation.cache = TeacherCache(tmp_path, K)
    with pytest.raises(ValueError, match="a regression has none: leave it out"):
        distillation.loss(None, torch.zeros(4, 1), {}, 2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 4.0, "final_temperature": 2.0}, "of one temperature, got 4.0 and final_temperature 2.0"),
        ({"cached_tokens": 0}, "cached_tokens must be positive, got 0"),
    ],
)
def test_bad_settings_are_errors(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KnowledgeDistillation("teacher", cache="there", **options)
    KnowledgeDistillation("teacher", cache="there", temperature=4.0, final_temperature=4.0)
