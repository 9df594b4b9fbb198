"""Masks: one boolean per weight, ``True`` where the weight is on.

A :class:`MaskSet` maps parameter names to masks. A weight that is off is exactly 0.0 and gets no gradient; with zero
optimizer state, decoupled weight decay and momentum then leave it at 0.0, so nothing has to be enforced in the forward or
the backward pass.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

NOT_RANKED = "scores that are NaN cannot be ranked"


def kth_smallest(scores: Tensor, k: int) -> Tensor:
    """The ``k``-th smallest of each row, one column. Other devices than the CPU have no ``kthvalue`` that is deterministic."""
    if scores.device.type == "cpu":
        return scores.kthvalue(k, dim=-1, keepdim=True).values
    return scores.sort(dim=-1).values[..., k - 1 : k]


def kth_largest(scores: Tensor, k: int) -> Tensor:
    """The ``k``-th largest of a vector of scores, exactly.

    Many single-precision scores are first counted by their leading 16 bits (sign, exponent, 7 bits of the fraction), so that
    only those with the leading bits of the answer are searched: on a CPU four times faster than ``kthvalue``.
    """
    if scores.dtype == torch.float32 and scores.numel() >= 2**16:
        bits = scores.view(torch.int32)
        leading = (bits ^ (bits >> 31 & 0x7FFFFFFF)) >> 16  # integers in the order of the floats
        counts = torch.bincount(leading + 2**15, minlength=2**16)
        at_least = counts.flip(0).cumsum(0)  # scores in a bucket or above it, from the highest bucket
        above = at_least < k
        bucket, k = 2**15 - 1 - int(above.sum()), k - int(counts.flip(0)[above].sum())
        scores = scores[leading == bucket]
    return kth_smallest(scores, scores.numel() - k + 1)


def top_k_mask(scores: Tensor, k: int) -> Tensor:
    """Mask of the ``k`` largest scores; equal scores go to the lowest flat index, so every rank and run agrees.

    Args:
        scores: any shape, finite or ±inf.
        k: how many to select, from 0 to ``scores.numel()``.

    Returns:
        Boolean tensor of the shape of ``scores`` with exactly ``k`` entries ``True``.

    Raises:
        ValueError: ``k`` is out of range, or NaN among the scores leaves fewer.
    """
    if not 0 <= k <= scores.numel():
        raise ValueError(f"cannot select {k} of {scores.numel()} scores")
    if k == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    flat = scores.flatten()
    threshold = kth_largest(flat, k)
    selected = flat > threshold
    ties, places = (flat == threshold).nonzero().squeeze(1), k - int(selected.sum())
    if not 0 <= places <= len(ties):
        raise ValueError(NOT_RANKED)
    selected[ties[:places]] = True
    return selected.view_as(scores)


def pack_bits(mask: Tensor) -> Tensor:
    """A mask of any shape as ``ceil(numel / 8)`` bytes (uint8, on the CPU); the first weight is the lowest bit."""
    bits = mask.flatten().to(device="cpu", dtype=torch.uint8)
    bits = nn.functional.pad(bits, (0, -bits.numel() % 8)).view(-1, 8)
    return (bits << torch.arange(8, dtype=torch.uint8)).sum(dim=1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """The boolean mask of ``shape`` that :func:`pack_bits` packed."""
    size = torch.Size(shape).numel()
    if packed.dtype != torch.uint8 or packed.numel() != -(-size // 8):
        raise ValueError(f"{packed.numel()} bytes ({packed.dtype}) are not a packed mask of shape {tuple(shape)}")
    bits = packed.view(-1, 1) >> torch.arange(8, dtype=torch.uint8) & 1
    return bits.flatten()[:size].view(shape).bool()


_SAME_SIZE_INTEGER = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


def zero_where_off_(tensor: Tensor, mask: Tensor) -> None:
    """Set ``tensor`` to exactly 0.0 where ``mask`` is False, whatever was there, infinities and NaN included.

    The bits are and-ed with all ones or all zeros: on a CPU seven times faster than ``masked_fill_``, and this is done at
    every step.
    """
    bits = tensor.view(_SAME_SIZE_INTEGER[tensor.dtype])
    bits.bitwise_and_(mask.view(torch.int8).to(bits.dtype).neg_())


class MaskSet(Mapping[str, Tensor]):
    """Masks by parameter name, in a fixed order.

    Args:
        masks: boolean tensors, each on the device and of the shape of its weight.
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self._masks = dict(masks)

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def replace(self, name: str, mask: Tensor) -> None:
        """Put another mask of the same shape in the place of ``name``'s."""
        if mask.shape != self._masks[name].shape:
            raise ValueError(f"mask of {name}: shape {tuple(mask.shape)}, expected {tuple(self._masks[name].shape)}")
        self._masks[name] = mask

    def nnz(self) -> dict[str, int]:
        """Weights that are on, by name."""
        return {name: int(mask.sum()) for name, mask in self._masks.items()}

    def to_parameters(self, parameters: Mapping[str, Tensor]) -> "MaskSet":
        """The same masks on the devices of the named parameters; a name or shape that does not fit is an error."""
        moved = {}
        for name, mask in self._masks.items():
            if name not in parameters or parameters[name].shape != mask.shape:
                found = tuple(parameters[name].shape) if name in parameters else "absent"
                raise ValueError(f"mask {name} of shape {tuple(mask.shape)} does not fit the model: parameter is {found}")
            moved[name] = mask.to(parameters[name].device)
        return MaskSet(moved)

    @torch.no_grad()
    def zero_weights_(self, parameters: Mapping[str, Tensor]) -> None:
        """Set every weight that is off to exactly 0.0."""
        for name, mask in self._masks.items():
            zero_where_off_(parameters[name], mask)

    @torch.no_grad()
    def zero_gradients_(self, parameters: Mapping[str, Tensor]) -> None:
        """Set the gradient of every weight that is off to exactly 0.0."""
        for name, mask in self._masks.items():
            if (gradient := parameters[name].grad) is not None:
                zero_where_off_(gradient, mask)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """One bit a weight: name → ``{"bits": uint8 tensor, "shape": list}``."""
        return {name: {"bits": pack_bits(mask), "shape": list(mask.shape)} for name, mask in self._masks.items()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Mapping[str, Any]]) -> "MaskSet":
        """The masks that :meth:`state_dict` packed, on the CPU."""
        return cls({name: unpack_bits(entry["bits"], tuple(entry["shape"])) for name, entry in state.items()})

    @classmethod
    def from_zeros(cls, parameters: Mapping[str, Tensor]) -> "MaskSet":
        """Masks inferred from the weights: on where a weight is not 0.0. For models that come without masks."""
        return cls({name: parameter.detach() != 0 for name, parameter in parameters.items()})


def zero_optimizer_state_(state: MutableMapping[str, Any], where: Tensor) -> None:
    """Zero every optimizer-state tensor of the weight's shape (both Adam moments, momentum buffers) at ``where``."""
    for value in state.values():
        if isinstance(value, Tensor) and value.shape == where.shape:
            if value.dtype in _SAME_SIZE_INTEGER:
                zero_where_off_(value, ~where)
            else:
                value.masked_fill_(where, 0)
