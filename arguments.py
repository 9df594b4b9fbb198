"""What the command lines of all entry points share: a user's mistake is one line, and a traceback on demand."""

import argparse
import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

VERSION = "0.2.0"
"""Of the project; ``setup.cfg`` reads it here."""
TRACEBACK = "TRIFECTA_TRACEBACK"
FULL = (errno.ENOSPC, errno.EDQUOT)


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all others: ValueError, for :func:`one_line_errors` to print."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def command_line(arguments: list[str] | None) -> list[str]:
    """The arguments of a program, by default those of the process; ``--version`` alone is answered, and the process ends."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        print(f"trifecta {VERSION}")
        sys.exit()
    return arguments


def one_line(error: Exception) -> str:
    """The message of an error without line breaks."""
    return " ".join(str(error).split())


@contextlib.contextmanager
def one_line_errors(*further: type[Exception], describe: Callable[[Exception], str] = one_line) -> Iterator[None]:
    """End the process with ``error: …`` and exit code 1 where something the user can mend is raised inside the block.

    With ``TRIFECTA_TRACEBACK=1`` in the environment the error itself comes through.

    Args:
        further: kinds of errors that count beside ValueError and OSError.
        describe: makes the line of an error.
    """
    kinds: tuple[type[Exception], ...] = (ValueError, OSError, *further)
    try:
        yield
    except kinds as error:
        if os.environ.get(TRACEBACK):
            raise
        full = (isinstance(error, OSError) and error.errno in FULL) or "(os error 28)" in str(error)  # which is Rust's
        sys.exit(f"error: {describe(error)}{': free some space and start the same command again' if full else ''}")
