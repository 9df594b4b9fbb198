"""Run by two processes at once: experiments at tiny size in the precision and strategy of a trainer file, whole and resumed.

``python -m torch.distributed.run --nproc_per_node=2 recipes_on_two_ranks.py OUTPUT EXPERIMENT,TRAINER,OPTION… …`` writes, for
each, what came out to ``OUTPUT/EXPERIMENT-TRAINER.json``.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer

import train
from callbacks.sparse_training import sparse_training


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in trainer.lightning_module.model.named_parameters()}


def all_equal(own: list[torch.Tensor]) -> bool:
    """Whether all ranks have these tensors."""
    if not torch.distributed.is_initialized():
        return True
    ranks: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(ranks, own)
    return all(torch.equal(one, other) for one, other in zip(ranks[0], ranks[-1], strict=True))


def outcome(whole: Trainer, resumed: Trainer) -> dict[str, Any]:
    """What a test wants to know of a run and of the one that went on from its middle."""
    sparse = sparse_training(whole)
    masks = {} if sparse is None else dict(sparse.masks)
    own, other = weights(whole), weights(resumed)
    moments = [state["exp_avg"] for state in whole.optimizers[0].state.values()]
    return {
        "steps": [whole.global_step, resumed.global_step],
        "precision": whole.precision,
        "strategy": type(whole.strategy).__name__,
        "world_size": whole.world_size,
        "micro_batches": whole.accumulate_grad_batches,
        "callbacks": [type(callback).__name__ for callback in whole.callbacks],
        "method": None if sparse is None else type(sparse.method).__name__,
        "updated": sparse is not None and bool(sparse.last_update),
        "loss": float(whole.callback_metrics.get("val/loss", whole.callback_metrics["train/loss"])),
        "types": sorted({str(tensor.dtype) for tensor in [*own.values(), *moments]}),
        "equal_on_ranks": all_equal([*own.values(), *masks.values()]),
        "resumed_to_the_bit": all(torch.equal(own[name], other[name]) for name in own),
        "off_and_not_zero": sum(int(own[name][~mask].count_nonzero()) for name, mask in masks.items()),
        "zeros": sum(int((~mask).sum()) for mask in masks.values()),
        "sizes": [sum(mask.numel() for mask in masks.values()), sum(weight.numel() for weight in own.values())],
    }


def whole_and_resumed(name: str, command: list[str]) -> dict[str, Any]:
    """The outcome of a run and of a second one from its checkpoint of step 5."""
    whole = train.main([*command, "--version=0", f"--experiment={name}"]).trainer
    middle = Path("runs", name, "version_0", "checkpoints", "step=5.ckpt")
    resumed = train.main([*command, "--version=0", f"--experiment={name}_resumed", f"--ckpt_path={middle}"]).trainer
    return outcome(whole, resumed)


def main(output: Path, jobs: list[str]) -> None:
    """Every job, one after the other."""
    for job in jobs:
        experiment, trainer, *options = job.split("|")
        name = f"{Path(experiment).stem}-{Path(trainer).stem}"
        result = whole_and_resumed(name, ["fit", "--config", experiment, "--trainer", trainer, *options])
        if torch.distributed.get_rank() == 0:
            (output / f"{name}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    torch.set_num_threads(1)
    directory, *rest = sys.argv[1:]
    sys.argv = ["train.py"]
    main(Path(directory), rest)
