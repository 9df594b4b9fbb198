"""What a run says when it starts; and what Lightning need not say."""

import logging
import os
import re
import shlex
import warnings
from pathlib import Path
from typing import cast

import rich
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from rich.text import Text
from torch.nn import functional as F
from transformers import PreTrainedModel

import cpu
from callbacks.figures import tensorboards
from callbacks.sparse_training import sparse_training
from datamodules import FinetuningDataModule, TextDataModule
from internals import attention, begin_and_end_always
from sparsity import SparseStepping

Data = TextDataModule | FinetuningDataModule

CHATTER = {
    "lightning_fabric.utilities.seed": ("Seed set to",),
    "pytorch_lightning.accelerators.cuda": ("LOCAL_RANK: ",),
    "pytorch_lightning.utilities.rank_zero": (
        *("GPU available: ", "TPU available: ", "💡 Tip: ", "Using 16bit Auto", "Using bfloat16 Auto", "-" * 100),
        *("Restoring states from the checkpoint", "Restored all states from the checkpoint"),
        *("`Trainer.fit` stopped: `max_steps", "`Trainer.fit` stopped: `max_epochs"),
    ),
}
"""What messages begin with that :class:`RunOverview` says better, or that are advertisements, by the logger they come from."""

WARNINGS = (
    ".*does not have many workers.*",  # batches are made in milliseconds
    ".*infer the batch indices.*",  # the rows of a submission carry their own
    ".*LeafSpec.*is deprecated.*",  # Lightning on a newer torch
    ".*all_gather is deprecated.*",  # the same
    ".*It is recommended to use `self.log.*sync_dist=True.*",  # what is logged of a whole split is of all ranks already
)
WORTH_A_LINE = 1.5  # times as fast in bf16
MEASURED_ROWS = 512  # of a single product: enough to tell that bf16 is slow here, before seconds are spent on a model
MEASURED_FLOPS = 1e10  # of forward and backward pass of a model: a tenth of a second, but for large ones
OF_A_RESUME = ".*Checkpoint directory .* exists and is not empty.*"


def is_news(record: logging.LogRecord) -> bool:
    """Whether a message of Lightning is none of the :data:`CHATTER`."""
    message = re.sub(r"^\[rank: \d+\] ", "", record.getMessage())
    return not message.startswith(CHATTER[record.name])


def quiet_lightning(resumes: bool = False) -> None:
    """Silence, in this process, what Lightning says at every start and nobody needs; all else it says stays.

    Its table of modules is left out by ``Trainer(enable_model_summary=False)``.

    Args:
        resumes: the run goes on from a checkpoint in its own directory, so that it is no news that one is there.
    """
    for name in CHATTER:
        logging.getLogger(name).addFilter(is_news)
    for pattern in (*WARNINGS, *([OF_A_RESUME] if resumes else [])):
        warnings.filterwarnings("ignore", pattern)


class RunOverview(Callback):
    """Says on rank zero, when a fit starts, what is about to happen: a line or two a subject, plain where no terminal reads."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            begin_and_end_always(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for label, line in overview(trainer, pl_module) if trainer.is_global_zero else ():
            rich.get_console().print(Text.assemble((f"{label:<10}", "bold"), line), soft_wrap=True)


def overview(trainer: Trainer, pl_module: LightningModule) -> list[tuple[str, str]]:
    """Label and text of every line; the label is empty where a line goes on with the subject of the one before."""
    model, data = cast(PreTrainedModel, pl_module.model), trainer.datamodule  # type: ignore[attr-defined]
    subjects = {
        "model": [describe_model(model)],
        "sparsity": describe_sparsity(model, sparse_training(trainer)),
        "data": [describe_data(data)],
        "batch": [describe_batch(trainer, data)],
        "steps": describe_steps(trainer, data),
        "device": [describe_device(trainer), *recommend_bf16(trainer, model, data)],
        "run": describe_run(trainer),
    }
    return [("" if number else label, line) for label, lines in subjects.items() for number, line in enumerate(lines)]


def describe_model(model: PreTrainedModel) -> str:
    """Family, size and number of parameters."""
    layers, width = model.config.num_hidden_layers, model.config.hidden_size
    return f"{type(model).__name__}, {counted(layers, 'layer')} × {width:,}, {model.num_parameters():,} parameters"


def describe_sparsity(model: PreTrainedModel, sparse: SparseStepping | None) -> list[str]:
    """How many weights stay in the end, of the sparse tensors and of the whole model, and how many are off already."""
    if sparse is None:
        return ["none"]
    size, stay, whole = (
        sum(m.numel() for m in sparse.masks.values()),
        sum(sparse.method.nnz.values()),
        model.num_parameters(),
    )
    now = "" if sum(sparse.masks.nnz().values()) == stay else f"; {1 - sparse.density:.2%} now"
    tensors, method = counted(len(sparse.masks), "tensor"), type(sparse.method).__name__
    return [
        f"{method}, {1 - stay / size:.2%} of {tensors}: {stay:,} of {size:,} weights stay{now}",
        f"{(size - stay) / whole:.2%} of the whole model: {whole - size + stay:,} of {whole:,} weights stay",
    ]


def describe_data(data: Data) -> str:
    """How much there is to train on and to validate with."""
    if isinstance(data, FinetuningDataModule):
        validation = " + ".join(f"{len(rows):,}" for rows in data.dev.values())
        task, rows = data.task.trained_on or data.task.name, len(data.train or [])
        return f"{task}, {rows:,} rows to train on, {validation} to validate with"
    tokens = {split: f"{len(stream.tokens):,}" for split, stream in data.splits.items()}
    documents = sum(stream.size.documents for stream in data.splits.values())
    test = f", {tokens['test']} to test with" if "test" in tokens else ""
    return (
        f"{tokens['train']} tokens to train on, {tokens['validation']} to validate with{test}, of "
        f"{counted(documents, 'document')}; vocabulary of {len(data.corpus.train_counts):,}"
    )


def sequences_a_step(trainer: Trainer, data: Data) -> int:
    """Sequences of an optimizer step, of all devices and micro-batches."""
    return data.batch_size * trainer.world_size * trainer.accumulate_grad_batches


def describe_batch(trainer: Trainer, data: Data) -> str:
    """What an optimizer step sees."""
    micro_batches = counted(trainer.accumulate_grad_batches, "micro-batch", "es")
    sequences, up_to = sequences_a_step(trainer, data), "up to " if isinstance(data, FinetuningDataModule) else ""
    return (
        f"{data.batch_size} × {counted(trainer.world_size, 'device')} × {micro_batches} = {counted(sequences, 'sequence')} "
        f"of {up_to}{data.length} tokens"
    )


def describe_steps(trainer: Trainer, data: Data) -> list[str]:
    """Optimizer steps, how often they go through the data, and where a resumed run goes on."""
    sequences = trainer.max_steps * sequences_a_step(trainer, data)
    if isinstance(data, FinetuningDataModule):
        epochs = sequences / len(data.train or [])
    else:
        epochs = sequences * (data.length - 2) / len(data.corpus.train.tokens)  # two of a sequence are special tokens
    lines, step = [f"{trainer.max_steps:,}, {epochs:,.2f} epochs"], trainer.global_step
    if trainer.ckpt_path:
        where = f"from {step:,} on" if step < trainer.max_steps else "all taken"
        lines.append(f"{where}: {relative(trainer.ckpt_path)}")
    return lines


def describe_device(trainer: Trainer) -> str:
    """What computes, and how precisely."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        name = f"{trainer.world_size} × {torch.cuda.get_device_name(device)}"
    else:
        library = cpu.matmul_library()
        name = ", ".join(filter(None, [device.type, counted(torch.get_num_threads(), "thread"), library]))
    return f"{name}, precision {trainer.precision}"


def recommend_bf16(trainer: Trainer, model: PreTrainedModel, data: Data) -> list[str]:
    """A line where a CPU that computes in fp32 would take this model through its encoder and back faster in bf16.

    Nothing of the run changes: gradients are not kept, and random numbers are given back.
    """
    if trainer.strategy.root_device.type != "cpu" or trainer.precision != "32-true":
        return []
    encoder = model.base_model
    weights = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    if not weights or any(getattr(module, "gradient_checkpointing", False) for module in encoder.modules()):
        return []  # nothing to come back to, or not by torch.autograd.grad
    width = model.config.hidden_size
    rows, weight = torch.ones(MEASURED_ROWS, width), torch.ones(4 * width, width)
    if cpu.bf16_gain(lambda: F.linear(rows, weight)) < WORTH_A_LINE:
        return []
    affordable = int(MEASURED_FLOPS / (6 * data.length * sum(map(torch.numel, weights))))
    tokens = torch.zeros(min(data.batch_size, max(1, affordable)), data.length, dtype=torch.long)
    before = attention(model)

    def step() -> None:
        if torch.is_autocast_enabled("cpu"):  # as a run in bf16 would attend
            model.set_attn_implementation(cpu.bf16_attention(before))
        # as it is, even where it is to be compiled
        hidden = encoder.forward(input_ids=tokens, attention_mask=torch.ones_like(tokens))[0]
        torch.autograd.grad(hidden.sum(), weights, allow_unused=True)

    with torch.random.fork_rng(devices=()), torch.enable_grad():
        try:
            gain = cpu.bf16_gain(step)
        finally:
            model.set_attn_implementation(before)
    if gain < WORTH_A_LINE:
        return []
    return [f"the encoder is {gain:.1f} times as fast in bf16 here: --trainer.precision bf16-mixed"]


def describe_run(trainer: Trainer) -> list[str]:
    """Where the run is kept, and how to see its curves."""
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return ["fast_dev_run: nothing is kept"]
    seed = os.environ.get("PL_GLOBAL_SEED")
    lines = [relative(trainer.default_root_dir) + (f", seed {seed}" if seed else "")]
    return lines + [
        f"tensorboard --logdir {shlex.quote(str(relative(logger.save_dir)))}" for logger in tensorboards(trainer)
    ]


def counted(number: int, noun: str, plural: str = "s") -> str:
    """``1 device``, ``2 devices``."""
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def relative(path: str | Path) -> str:
    """A path as one would type it: relative, where it is below the working directory."""
    path = Path(path).absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
