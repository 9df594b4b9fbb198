"""The command line of what is no fit."""

import argparse
from typing import NoReturn


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all others: ValueError, for the caller to print."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)
