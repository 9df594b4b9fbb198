"""Shell patterns over parameter names: ordered, first match wins, and none may match nothing."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TypeVar

T = TypeVar("T")


def check_patterns(option: str, patterns: Iterable[str], names: Iterable[str]) -> None:
    """Raise ValueError for a shell pattern that matches none of ``names``."""
    names = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            there = f"{', '.join(names[:8])}{', …' if names[8:] else ''}" if names else "none"
            raise ValueError(f"{option}: {pattern!r} matches no parameter; there are {there}")


def first_match(patterns: Mapping[str, T], name: str) -> T | None:
    """The value of the first shell pattern that matches ``name``; None where none does."""
    return next((value for pattern, value in patterns.items() if fnmatchcase(name, pattern)), None)


def matching(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    """The ``names`` that match any of the shell patterns, in their own order."""
    patterns = list(patterns)
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
