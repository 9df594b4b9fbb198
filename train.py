"""One run: ``python train.py fit --config configs/experiments/….yaml``, and every parameter as an option.

Subcommands ``fit``, ``validate``, ``test`` and ``predict`` are Lightning's; ``--help`` lists what each takes.
"""

import ast
import difflib
import functools
import importlib.util
import re
import sys
from argparse import ArgumentError
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from arguments import command_line, one_line, one_line_errors
from run_exit import ended_with_code
from shipped import check_configs, with_shipped_configs

if TYPE_CHECKING:
    from cli import TrifectaCLI

EXAMPLES = """\
A fit on text that is already on the machine, and one on text of your own:
  python train.py fit --config cpu_bench
  python train.py fit --config cpu_bench --data.path my_text/ --trainer.max_steps 1000
The published recipe on eight GPUs:
  python train.py fit --config sparse_80_kd_onecycle_lr_rigl --trainer eight_gpus
Go on with the newest run of an experiment:
  python train.py fit --config cpu_bench --ckpt_path last
Finetune an exported model on a task of GLUE:
  python train.py fit --config finetune --data.task MRPC --data.path GLUE_DIRECTORY --model.pretrained DIRECTORY

A name is a file of configs/; later options win over earlier ones, and a --config over the one before it.

  --model.help, --data.help, --masks.help, --schedule.help, --trainer.callbacks.help   which classes there are
  --masks.help RigL                   the settings of one, likewise of the others
  --print_config                      everything that the options given so far make, as YAML
  SUBCOMMAND --help all               all options of fit, validate, test or predict, some of them this project's:
                                      --experiment, --runs, --version, --checkpoint, --export, --submission, --predictions,
                                      --ckpt_path
"""

SUBCOMMANDS = ("fit", "validate", "test", "predict")
OPTIONS = {
    *("help", "config", "print_config", "experiment", "runs", "version", "seed_everything", "model", "data", "trainer"),
    *("masks", "schedule", "distillation", "resume", "rank_timeout", "numbers", "agreement", "watchdog", "checkpoint"),
    *("export", "submission", "predictions", "ckpt_path", "weights_only", "verbose", "return_predictions"),
}
"""What an option of a subcommand is called up to its first dot; the parser, which knows the rest, takes seconds to come."""


@functools.cache
def trainer_settings() -> set[str]:
    """Parameters of Lightning's Trainer, read from its source; empty where that is not found."""
    spec = importlib.util.find_spec("pytorch_lightning")  # which imports nothing
    file = Path(*(spec.submodule_search_locations or [""]) if spec else "", "trainer", "trainer.py")
    tree = ast.parse(file.read_text(encoding="utf-8")) if file.exists() else ast.Module([], [])
    made = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    return {argument.arg for node in made for argument in (*node.args.args, *node.args.kwonlyargs)}


def check_options(arguments: Sequence[str]) -> None:
    """Refuse a subcommand and an option that no run has, before anything is imported that takes seconds.

    Raises:
        ValueError: with the nearest that there is.
    """
    if arguments and not arguments[0].startswith("-") and arguments[0] not in SUBCOMMANDS:
        raise ValueError(f"argument subcommand: invalid choice: {arguments[0]!r} (choose from {', '.join(SUBCOMMANDS)})")
    for argument in arguments:
        if argument.startswith("--"):
            name, *inner = re.split(r"[.=+ ]", argument.removeprefix("--"))
            if not any(option.startswith(name) for option in OPTIONS):
                raise unrecognized(argument, name, OPTIONS, "--")
            settings = trainer_settings() if name == "trainer" and argument.startswith("--trainer.") else set()
            if settings and not any(setting.startswith(inner[0]) for setting in ("help", *settings)):
                raise unrecognized(argument, inner[0], settings, "--trainer.")


def unrecognized(argument: str, name: str, known: Collection[str], prefix: str) -> ValueError:
    """The error of an option that there is not, with the one that it may have been meant to be."""
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"; is it {prefix}{nearest[0]}?" if nearest else "; train.py fit --help all lists all there are"
    return ValueError(f"unrecognized arguments: {argument}{hint}")


def main(arguments: list[str] | None = None) -> "TrifectaCLI":
    """Run the subcommand of ``arguments`` (the command line by default), or show examples in its place."""
    given = command_line(arguments)
    if given[-1:] in (["--help"], ["-h"]) and len(given) <= 2:
        print(f"usage: train.py {{fit,validate,test,predict}} --config FILE_OR_NAME [OPTION …]\n\n{EXAMPLES}", end="")
        sys.exit()
    check_options(given)
    check_configs(with_shipped_configs(given))
    from cli import run_subcommand  # seconds: torch, Lightning, transformers and datasets come with it

    return run_subcommand(arguments)


def describe(error: Exception) -> str:
    """The line of an error; of the parser's errors what is wrong and what there is."""
    if "cli" not in sys.modules:  # there was no parser yet
        return one_line(error)
    from command_help import describe

    return describe(error)


def run(arguments: list[str] | None = None) -> None:
    """:func:`main`; the user's mistakes end with one line, and with the traceback where TRIFECTA_TRACEBACK is set.

    What else ends a run early has a line and an exit code of its own (:mod:`run_exit`).
    """
    with ended_with_code(), one_line_errors(ArgumentError, describe=describe):
        main(arguments)


if __name__ == "__main__":
    run()
