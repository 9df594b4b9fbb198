"""One run: ``python train.py fit --config configs/experiments/….yaml``, and every parameter as an option.

Subcommands ``fit``, ``validate``, ``test`` and ``predict`` are Lightning's; ``--help`` lists what each takes.
"""

import sys
from argparse import ArgumentError

import datasets
import torch
from transformers.utils import logging as transformers_logging

from arguments import command_line, one_line_errors
from callbacks import naming_lost_peers, quiet_lightning
from cli import TrifectaCLI, build
from command_help import describe, help_screen, lightning_errors
from cpu import keep_freed_memory
from run_exit import ended_with_code


def main(arguments: list[str] | None = None) -> TrifectaCLI:
    """Run the subcommand of ``arguments`` (the command line by default) with what makes a process of training fast and quiet."""
    if help_text := help_screen(command_line(arguments)):
        print(help_text)
        sys.exit()
    quiet_lightning()
    keep_freed_memory()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    torch.set_float32_matmul_precision("high")
    with naming_lost_peers(), lightning_errors():
        return build(arguments)


def run(arguments: list[str] | None = None) -> None:
    """:func:`main`; the user's mistakes end with one line, and with the traceback where TRIFECTA_TRACEBACK is set.

    What else ends a run early has a line and an exit code of its own (:mod:`run_exit`).
    """
    with ended_with_code(), one_line_errors(ArgumentError, describe=describe):
        main(arguments)


if __name__ == "__main__":
    run()
