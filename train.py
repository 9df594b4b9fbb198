"""One run: ``python train.py fit --config configs/experiments/….yaml``, and every parameter as an option.

Subcommands ``fit``, ``validate``, ``test`` and ``predict`` are Lightning's; ``--help`` lists what each takes.
"""

import sys
from argparse import ArgumentError
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


def main(arguments: list[str] | None = None) -> "TrifectaCLI":
    """Run the subcommand of ``arguments`` (the command line by default), or show examples in its place."""
    given = command_line(arguments)
    if given[-1:] in (["--help"], ["-h"]) and len(given) <= 2:
        print(f"usage: train.py {{fit,validate,test,predict}} --config FILE_OR_NAME [OPTION …]\n\n{EXAMPLES}", end="")
        sys.exit()
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
