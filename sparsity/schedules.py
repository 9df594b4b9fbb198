"""Schedules: when masks change and by how much. Steps are optimizer steps, from 0."""

import math


def update_due(step: int, every: int, start: float, stop: float) -> bool:
    """Whether masks are updated at ``step``: every ``every`` steps, strictly between ``start`` and ``stop``."""
    return start < step < stop and step % every == 0


def cosine_drop_fraction(step: float, stop: float, initial: float) -> float:
    """f(t) = α/2 · (1 + cos(π t / T_end)): share of a tensor's active weights replaced (Evci et al. 2020, section 3)."""
    return initial / 2 * (1 + math.cos(math.pi * step / stop))


def cubic(step: int, first: int, last: int) -> float:
    """1 − (1 − (t − t₀) / (t₁ − t₀))³ from 0 at step ``first`` to 1 at step ``last`` (Zhu and Gupta 2017, eq. 1)."""
    if step >= last:
        return 1.0
    return 1 - (1 - max(step - first, 0) / (last - first)) ** 3


def linear(step: int, steps: int, first: float, last: float) -> float:
    """From ``first`` at step 0 to ``last`` at step ``steps`` in a straight line, and constant after."""
    return first + (last - first) * min(step / max(steps, 1), 1.0)
