"""What a run says when it starts."""

import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import rich
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from transformers import PreTrainedModel

from callbacks import GMP, LinearWarmupDecay, RandomState, RigL, RunOverview, StaticSparsity
from callbacks.start import WARNINGS, is_news
from datamodules import GLUEDataModule, TextDataModule
from helpers import CONFIG, fit, tiny_bert, tiny_trainer
from internals import attention
from lightning_modules import MaskedLanguageModel, SequenceClassifier

Data = Callable[..., TextDataModule]


@pytest.fixture(autouse=True)
def at_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are shown from where one stands, and rich writes to what pytest reads."""
    monkeypatch.chdir(tmp_path)
    rich.reconfigure()


def block(out: str) -> dict[str, list[str]]:
    """What is said, by subject."""
    subjects: dict[str, list[str]] = {}
    subject = ""
    for line in out.splitlines():
        subject = line[:10].strip() or subject
        subjects.setdefault(subject, []).append(line[10:])
    return subjects


def test_every_line_of_a_sparse_run(tmp_path: Path, text_data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    data, logger = text_data(), TensorBoardLogger("runs", name="tiny", version=0)
    callbacks = [RigL(sparsity=0.8), RunOverview()]
    trainer = fit(Path("runs/tiny/version_0"), data, callbacks, 6, accumulate_grad_batches=2, logger=logger, seed=7)
    out = capsys.readouterr().out
    model, corpus = trainer.lightning_module.model, data.corpus
    size = 2 * (4 * 32 * 32 + 2 * 32 * 64)
    stay, whole = size - round(0.8 * size), model.num_parameters()
    said = block(out)
    assert said["model"] == [f"BertForMaskedLM, 2 layers × 32, {whole:,} parameters"]
    assert said["sparsity"] == [
        f"RigL, 80.00% of 12 tensors: {stay:,} of {size:,} weights stay",
        f"{(size - stay) / whole:.2%} of the whole model: {whole - size + stay:,} of {whole:,} weights stay",
    ]
    train, validation = (len(stream.tokens) for stream in corpus.splits.values())
    assert said["data"] == [
        f"{train:,} tokens to train on, {validation:,} to validate with, of 200 documents; vocabulary of {len(data.tokenizer)}"
    ]
    assert said["batch"] == ["8 × 1 device × 2 micro-batches = 16 sequences of 16 tokens"]
    assert said["steps"] == [f"6, {6 * 16 * 14 / train:.2f} epochs"]
    assert said["device"][0].startswith("cpu, 1 thread")
    assert said["device"][0].endswith("precision 32-true")
    assert said["run"] == ["runs/tiny/version_0, seed 7", "tensorboard --logdir runs"]
    assert "\x1b" not in out
    assert max(len(line) for line in out.splitlines()) <= 100
    assert len(out.splitlines()) <= 15


@pytest.mark.parametrize(
    ("gains", "precision", "said"),
    [
        ([3.0, 2.04], "32-true", True),
        ([3.0, 1.4], "32-true", False),  # a small model, of which products are the smaller part
        ([0.2], "32-true", False),  # whose encoder is not tried
        ([], "bf16-mixed", False),
    ],
)
def test_bf16_is_recommended_where_it_would_pay(
    tmp_path: Path,
    text_data: Data,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    gains: list[float],
    precision: str,
    said: bool,
) -> None:
    measured: list[float] = []

    def gain(work: Callable[[], object]) -> float:
        work()
        measured.append(gains[len(measured)])
        return measured[-1]

    monkeypatch.setattr("cpu.bf16_gain", gain)
    fit(tmp_path / "run", text_data(), [RunOverview()], max_steps=1, precision=precision)
    lines = ["the encoder is 2.0 times as fast in bf16 here: --trainer.precision bf16-mixed"]
    assert block(capsys.readouterr().out)["device"][1:] == lines * said
    assert measured == gains


@pytest.mark.parametrize("prepare", ["freeze", "checkpoint"])
def test_an_encoder_without_a_way_back_is_not_measured(
    tmp_path: Path, text_data: Data, monkeypatch: pytest.MonkeyPatch, prepare: str
) -> None:
    class Prepared(MaskedLanguageModel):
        def build(self) -> PreTrainedModel:
            model = super().build()
            if prepare == "freeze":
                model.base_model.requires_grad_(False)
            else:
                model.gradient_checkpointing_enable({"use_reentrant": True})
            return model

    monkeypatch.setattr("cpu.bf16_gain", lambda work: pytest.fail("measured"))
    fit(tmp_path / "run", text_data(), [RunOverview()], max_steps=1, module=Prepared(config=CONFIG))


def test_measuring_changes_nothing_of_the_run(tmp_path: Path, text_data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpu.bf16_attention", lambda chosen: "eager")
    autocast, weights = torch.autocast("cpu", torch.bfloat16), []
    for gains in ([0.2], [3.0, 3.0]):
        given = iter(gains)
        monkeypatch.setattr("cpu.bf16_gain", lambda work, given=given: [autocast(work)(), next(given)][1])
        module = tiny_bert(dropout=0.1)
        fit(tmp_path / "run", text_data(), [RunOverview()], max_steps=2, module=module)
        assert attention(module.model) == "sdpa"
        weights.append(torch.nn.utils.parameters_to_vector(module.parameters()))
    assert torch.equal(*weights)


def test_a_test_split_is_said(tmp_path: Path, text_data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    data = text_data(test_share=0.1)
    fit(tmp_path / "run", data, [RunOverview()], max_steps=1)
    train, validation, test = (len(stream.tokens) for stream in data.splits.values())
    assert block(capsys.readouterr().out)["data"] == [
        f"{train:,} tokens to train on, {validation:,} to validate with, {test:,} to test with, of 200 documents; "
        f"vocabulary of {len(data.tokenizer)}"
    ]


def test_a_dense_run_has_no_sparsity_and_no_figures_to_show(
    tmp_path: Path, text_data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path / "run", text_data(), [RunOverview()], max_steps=2)
    said = block(capsys.readouterr().out)
    assert said["sparsity"] == ["none"]
    assert said["run"] == ["run, seed 0"]


def test_pruning_says_where_it_goes_and_where_it_is(
    tmp_path: Path, text_data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path, text_data(), [GMP(sparsity=0.9), RunOverview()], max_steps=2)
    (line, _) = block(capsys.readouterr().out)["sparsity"]
    assert line.startswith("GMP, 90.00% of 12 tensors: ")
    assert line.endswith(" weights stay; 0.00% now")


def test_a_resumed_run_says_from_where(tmp_path: Path, text_data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    def callbacks() -> list[object]:
        return [StaticSparsity(), RandomState(), RunOverview()]

    fit(tmp_path, text_data(), callbacks(), 4, limit_train_batches=3, max_epochs=1).save_checkpoint("half.ckpt")
    capsys.readouterr()
    fit(tmp_path, text_data(), callbacks(), 4, ckpt_path="half.ckpt").save_checkpoint("end.ckpt")
    assert block(capsys.readouterr().out)["steps"][1:] == ["from 3 on: half.ckpt"]
    fit(tmp_path, text_data(), callbacks(), 4, ckpt_path="end.ckpt")
    assert block(capsys.readouterr().out)["steps"][1:] == ["all taken: end.ckpt"]


def test_a_trial_of_a_step_says_that_it_keeps_nothing(
    tmp_path: Path, text_data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path, text_data(), [RunOverview()], max_steps=6, fast_dev_run=2)
    said = block(capsys.readouterr().out)
    assert said["run"] == ["fast_dev_run: nothing is kept"]
    assert said["steps"][0].startswith("2, ")


def test_a_finetuning_run_names_task_and_rows(
    tmp_path: Path, glue_data: Callable[..., GLUEDataModule], encoder_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = glue_data("MNLI")
    trainer = tiny_trainer(tmp_path, [LinearWarmupDecay(), RunOverview()], max_steps=-1, max_epochs=2)
    trainer.fit(SequenceClassifier(str(encoder_dir)), data)
    said = block(capsys.readouterr().out)
    rows = len(data.train)
    assert said["model"][0].startswith("BertForSequenceClassification, 2 layers × 32, ")
    assert said["data"] == [
        f"MNLI, {rows} rows to train on, {' + '.join(str(len(rows)) for rows in data.dev.values())} to validate with"
    ]
    assert said["batch"] == ["8 × 1 device × 1 micro-batch = 8 sequences of up to 24 tokens"]
    steps = 2 * -(-rows // 8)
    assert said["steps"] == [f"{steps}, {steps * 8 / rows:.2f} epochs"]


def test_other_ranks_say_nothing(
    tmp_path: Path, text_data: Data, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "is_global_zero", False)
    fit(tmp_path, text_data(), [RunOverview()], max_steps=1)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("message", "news"),
    [
        ("GPU available: False, used: False", False),
        ("💡 Tip: For seamless cloud logging, try …", False),
        ("`Trainer.fit` stopped: `max_steps=4` reached.", False),
        ("`Trainer.fit` stopped: No training batches.", True),
        ("Monitored metric val/loss did not improve in the last 3 records.", True),
    ],
)
def test_only_chatter_is_no_news(message: str, news: bool) -> None:
    name = "pytorch_lightning.utilities.rank_zero"
    assert is_news(logging.LogRecord(name, logging.INFO, "", 0, message, (), None)) == news


def test_a_rank_before_a_message_makes_it_no_news() -> None:
    record = logging.LogRecord("lightning_fabric.utilities.seed", logging.INFO, "", 0, "[rank: 1] Seed set to 0", (), None)
    assert not is_news(record)


@pytest.mark.parametrize(
    ("message", "silent"),
    [
        (
            "It is recommended to use `self.log('val/loss', ..., sync_dist=True)` when logging on epoch level in distributed",
            True,
        ),
        ("torch.distributed.nn.functional.all_gather is deprecated, use torch.distributed._functional_collectives", True),
        ("step 3: the loss is not finite; the step is skipped", False),
    ],
)
def test_what_lightning_warns_of_on_several_ranks_is_silent(message: str, silent: bool) -> None:
    assert any(re.match(pattern, message) for pattern in WARNINGS) == silent


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from callbacks import RunOverview, quiet_lightning
quiet_lightning()
import cpu
cpu.bf16_gain = lambda work: 1.0  # which a machine may say or not
from datamodules import TextDataModule
from helpers import fit
data = TextDataModule(sys.argv[1], tokenizer=sys.argv[2], cache_dir=sys.argv[3], length=16)
for options in ({}, {"ckpt_path": Path(sys.argv[3], "last.ckpt")}):
    trainer = fit(Path(sys.argv[3]), data, [RunOverview()], max_steps=2, **options)
    trainer.save_checkpoint(Path(sys.argv[3], "last.ckpt"), weights_only=False)
"""


def test_a_quiet_run_says_what_it_does_and_nothing_else(tmp_path: Path, corpus: Path, tokenizer_dir: Path) -> None:
    program = [sys.executable, "-c", PROGRAM, str(corpus), str(tokenizer_dir), str(tmp_path)]
    ended = subprocess.run(program, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert ended.stderr.strip() == ""
    assert len(ended.stdout.splitlines()) == 7 + 8
    assert list(block(ended.stdout)) == ["model", "sparsity", "data", "batch", "steps", "device", "run"]
