"""Whether all ranks still train the same model."""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.sparse_training import need_whole_weights, sparse_training
from run_exit import RANKS_DIFFER, RunEnded

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
PIECE = 2**22  # elements hashed at once; each takes 8 bytes while they are


def tensor_hash(tensor: Tensor) -> Tensor:
    """A 64-bit hash of a tensor's bits (int64, no dimensions): Σ (2i + 1) · bᵢ modulo 2⁶⁴.

    The factors are odd, so that a change of one element always changes the sum, and differ, so that a mask with as many weights
    in other places does.
    """
    flat = tensor.detach().contiguous().flatten()
    bits = flat.view(INTEGERS[flat.element_size()])
    factors = torch.arange(1, 2 * min(len(bits), PIECE), 2, device=bits.device)
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for start in range(0, len(bits), PIECE):
        piece = bits[start : start + PIECE].long()
        if flat.element_size() == 8:
            piece = piece ^ (
                piece >> 32 & 0xFFFFFFFF
            )  # the low bits of a double are often zero, and its high ones would leave the sum
        total += (piece * (factors[: len(piece)] + 2 * start)).sum()
    return total


def disagreement(names: Sequence[str], hashes: Tensor) -> str | None:
    """Which tensors differ, and on which ranks from the others; None where all are equal.

    Args:
        names: of the tensors.
        hashes: (ranks, tensors).
    """
    differ = (hashes != hashes[0]).any(0).nonzero().flatten().tolist()
    if not differ:
        return None
    column = hashes[:, differ[0]].tolist()
    usual, _ = Counter(column).most_common(1)[0]
    odd = [str(rank) for rank, value in enumerate(column) if value != usual]
    others = [str(rank) for rank, value in enumerate(column) if value == usual]
    further = f", and {len(differ) - 1} more of {len(names)} tensors differ" if len(differ) > 1 else ""
    return f"{names[differ[0]]} on rank {', '.join(odd)} is not that of rank {', '.join(others)}{further}"


def what_ranks_share(trainer: Trainer, pl_module: LightningModule) -> dict[str, Tensor]:
    """Schedule, masks and weights, by what they are called in a message."""
    optimizer, sparse = trainer.optimizers[0], sparse_training(trainer)
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    momenta = [float(group.get("momentum", group.get("betas", (0.0,))[0])) for group in optimizer.param_groups]
    shared = {"the schedule": torch.tensor([trainer.global_step, *rates, *momenta], dtype=torch.float64)}
    masks: Mapping[str, Tensor] = {} if sparse is None else sparse.masks
    shared |= {f"the mask of {name}": mask for name, mask in masks.items()}
    return shared | {name.removeprefix("model."): weight for name, weight in pl_module.named_parameters()}


class RankAgreement(Callback):
    """Compares masks, weights and schedule across ranks: when training starts, every so many steps, and when it ends.

    A tensor is 8 bytes, all of them one message. Nothing is done where there is one rank.

    Args:
        every: optimizer steps between two comparisons.
    """

    def __init__(self, every: int = 100) -> None:
        if every < 1:
            raise ValueError(f"agreement.every >= 1 expected, got {every}")
        self.every, self._compared = every, -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        need_whole_weights(trainer, "a run, which compares, teaches and exports them,")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.compare(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every == 0 and trainer.global_step != self._compared:
            self.compare(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.compare(trainer, pl_module)

    @torch.no_grad()
    def compare(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the run where ranks differ.

        Raises:
            RunEnded: they do; on all ranks at once, as all see the same table.
        """
        self._compared = trainer.global_step
        if trainer.world_size == 1:
            return
        shared = what_ranks_share(trainer, pl_module)
        own = torch.stack([tensor_hash(tensor).to(pl_module.device) for tensor in shared.values()])
        gathered = trainer.strategy.all_gather(own)
        if found := disagreement(list(shared), gathered):
            raise RunEnded(RANKS_DIFFER, f"step {trainer.global_step}: {found}; the run ends before it is saved")
