"""What a bit-exact resume needs beside weights, optimizer, schedule, masks and the position in the data."""

import random
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from internals import mark_as_saved


def get_random_state() -> dict[str, Any]:
    """State of the global generators of Python, NumPy and torch (CPU and every CUDA device), safe to load weights-only."""
    version, python, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)
    keys = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    return {
        "python": [version, list(python), gauss],
        "numpy": [keys, numpy["state"]["pos"], numpy["has_gauss"], numpy["gauss"]],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what :func:`get_random_state` returned."""
    version, python, gauss = state["python"]
    random.setstate((version, tuple(python), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


class RandomState(Callback):
    """Keeps the random state of every rank in the checkpoint, so that dropout goes on as if nothing had happened."""

    def __init__(self) -> None:
        self._restored: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        states: list[Any] = [get_random_state()]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            own, states = states[0], [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(states, own)
        return {"ranks": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict["ranks"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if len(self._restored) == trainer.world_size:
            set_random_state(self._restored[trainer.global_rank])
        elif trainer.global_rank:  # all ranks start from one seed, but should not drop the same units
            torch.manual_seed(torch.initial_seed() + trainer.global_rank)
        self._restored = []
        for checkpoint in trainer.checkpoint_callbacks:
            if isinstance(checkpoint, ModelCheckpoint):
                # or a resumed run would save the step it starts from once more, in the middle of accumulating the next
                mark_as_saved(checkpoint, trainer.global_step)
