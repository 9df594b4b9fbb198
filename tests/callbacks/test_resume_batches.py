"""A run that goes on with other devices or another accumulation sees the same examples, step by step, and comes to its end."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from callbacks import FinalValidation, OneCycleLR, RandomState, ResumeRules, RigL
from datamodules import GLUEDataModule, TextDataModule
from helpers import fit, parameters, tiny_bert

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:.*")

Data = Callable[..., TextDataModule]
STEPS, SAVED, BATCH = 12, 5, 8


class Seen(Callback):
    """The examples of each optimizer step of this rank, sorted, and what the run ends with; into a file of each rank."""

    def __init__(self, root: Path) -> None:
        self.root, self.steps = root, dict[int, list[list[int]]]()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: dict[str, Tensor], _: int) -> None:
        self.steps.setdefault(trainer.global_step, []).extend(batch["input_ids"].tolist())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        content = {"steps": self.steps, "step": trainer.global_step, "weights": parameters(trainer)}
        torch.save(content, self.root / f"rank{trainer.global_rank}.pt")


def run(
    root: Path, data: Data, split: tuple[int, int, int], ckpt_path: Path | None = None, every: int = SAVED, **options: Any
) -> dict[str, Any]:
    """Examples by step, of all ranks together, and the weights in the end.

    Args:
        split: sequences a micro-batch, ranks, micro-batches; their product is the batch.
    """
    size, ranks, micro_batches = split
    root.mkdir()
    saving = ModelCheckpoint(root, filename="{step}", every_n_train_steps=every, save_top_k=-1)
    rigl = RigL(sparsity=0.8, every=2, stop=1.0)
    callbacks = [ResumeRules(), rigl, OneCycleLR(), RandomState(), FinalValidation(), Seen(root), saving]
    options |= {"strategy": "ddp_fork", "devices": ranks} if ranks > 1 else {}
    options |= {"accumulate_grad_batches": micro_batches, "limit_val_batches": 1, "enable_checkpointing": True}
    fit(root, data(batch_size=size), callbacks, STEPS, tiny_bert(), ckpt_path, **options)
    ranks_saw = [torch.load(root / f"rank{rank}.pt") for rank in range(ranks)]
    steps = {step: sorted(row for saw in ranks_saw for row in saw["steps"][step]) for step in ranks_saw[0]["steps"]}
    return {"steps": steps, "step": ranks_saw[0]["step"], "weights": ranks_saw[0]["weights"]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, text_data: Data) -> tuple[Path, dict[str, Any]]:
    """An uninterrupted run of one process."""
    root = tmp_path_factory.mktemp("resume") / "whole"
    return root, run(root, text_data, (BATCH, 1, 1))


def assert_goes_on_like(resumed: dict[str, Any], whole: dict[str, Any], first: int) -> None:
    """The same examples in every step, and the same weights but for rounding."""
    assert resumed["step"] == STEPS
    assert list(resumed["steps"]) == list(range(first, STEPS))
    for step, examples in resumed["steps"].items():
        assert examples == whole["steps"][step], step  # masked tokens included
    for name, weight in whole["weights"].items():
        torch.testing.assert_close(resumed["weights"][name], weight, rtol=0, atol=2e-3)


@pytest.mark.parametrize("split", [(4, 1, 2), (2, 1, 4)], ids=str)
def test_more_micro_batches(tmp_path: Path, text_data: Data, whole: tuple[Path, dict[str, Any]], split: Any) -> None:
    root, complete = whole
    assert_goes_on_like(run(tmp_path / "on", text_data, split, root / f"step={SAVED}.ckpt"), complete, SAVED)


def test_fewer_micro_batches(tmp_path: Path, text_data: Data, whole: tuple[Path, dict[str, Any]]) -> None:
    """Once a run without end: what its loader had left was counted in micro-batches of before."""
    _, complete = whole
    run(tmp_path / "four", text_data, (2, 1, 4))
    resumed = run(tmp_path / "one", text_data, (8, 1, 1), tmp_path / "four" / f"step={SAVED}.ckpt")
    assert_goes_on_like(resumed, complete, SAVED)


@pytest.mark.slow
def test_two_ranks_one_and_four(tmp_path: Path, text_data: Data, whole: tuple[Path, dict[str, Any]]) -> None:
    """2 × 4 until step 3, one process with two micro-batches until 6, four ranks of 2 to the end."""
    _, complete = whole
    two = run(tmp_path / "two", text_data, (4, 2, 1), every=3)
    assert_goes_on_like(two, complete, 0)
    one = run(tmp_path / "one", text_data, (4, 1, 2), tmp_path / "two" / "step=3.ckpt", every=3)
    assert_goes_on_like(one, complete, 3)
    assert_goes_on_like(run(tmp_path / "four", text_data, (2, 4, 1), tmp_path / "one" / "step=6.ckpt"), complete, 6)


@pytest.mark.parametrize("split", [(4, 1, 1), (8, 1, 2)], ids=str)
def test_another_batch_is_refused(
    tmp_path: Path, text_data: Data, whole: tuple[Path, dict[str, Any]], split: tuple[int, int, int]
) -> None:
    root, _ = whole
    product = split[0] * split[2]
    with pytest.raises(
        ValueError, match=rf"batch was 8 when the checkpoint was written and is {product} now: .*resume.allow"
    ):
        run(tmp_path / "on", text_data, split, root / f"step={SAVED}.ckpt")


def test_a_finetuning_goes_on_with_its_micro_batches(
    tmp_path: Path, glue_data: Callable[..., GLUEDataModule], encoder_dir: Path
) -> None:
    from lightning_modules import SequenceClassifier

    def finetune(name: str, size: int, micro_batches: int, ckpt_path: Path | None = None) -> None:
        data = glue_data("MRPC")
        data.batch_size = size
        saving = ModelCheckpoint(tmp_path / name, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        callbacks: Sequence[Callback] = [ResumeRules(), RandomState(), saving]
        options = {"accumulate_grad_batches": micro_batches, "enable_checkpointing": True}
        fit(tmp_path, data, callbacks, 2, SequenceClassifier(str(encoder_dir)), ckpt_path, **options)

    finetune("first", 8, 1)
    with pytest.raises(ValueError, match="accumulate_grad_batches was 1 and is 2 now"):
        finetune("second", 4, 2, tmp_path / "first" / "step=1.ckpt")
