"""Matrix products of tests: kernels that are replaced for good in a command are given back after a test."""

from collections.abc import Iterator
from contextlib import contextmanager

import cpu


def take_out() -> None:
    """Give torch its own kernels back, which no command needs."""
    if cpu._kernels is not None:
        cpu._kernels._destroy()
    cpu._kernels = None


@contextmanager
def kernels_given_back() -> Iterator[None]:
    """Begins and ends with torch's own kernels."""
    take_out()
    yield
    take_out()
