"""Many fits as one protocol: ``python sweep.py --config configs/protocols/bert_hf.yaml --pretrained DIR --data.path GLUE``.

Every fit is a ``train.py fit`` of its own, into ``RUNS/NAME/TRIAL/version_0``; ``RUNS/NAME/sweep.json`` says what came out. A
sweep that was interrupted, however that happened, goes on when it is started again. What follows ``--`` goes to every fit.
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

from filelock import Timeout
from rich.console import Console

from arguments import OneLineParser, command_line, one_line, one_line_errors
from shipped import OF_SWEEPS, with_shipped_configs
from sweeps.driver import run_sweep
from sweeps.record import results_table

WIDTH = 140  # of tables in files and pipes
TRAIN = (sys.executable, str(Path(__file__).with_name("train.py")), "fit")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; what stands after ``--`` is ``extra``."""
    description = (__doc__ or "").split("\n\n")[0]
    parser = OneLineParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="protocol, a file of configs/protocols")
    parser.add_argument("--pretrained", help="directory or hub id of the model that the fits start from")
    parser.add_argument(
        "--data.path", dest="data", help="data of all fits: a GLUE directory, or text for pretraining; with stages the text"
    )
    parser.add_argument("--glue.path", dest="glue", help="GLUE directory of the stages that have tasks")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="directory of all runs")
    parser.add_argument("--name", help="name of the sweep; default: PROTOCOL_MODEL")
    parser.add_argument("--model", help="name of the model in tables; default: the experiment that --pretrained comes from")
    parser.add_argument("--tasks", nargs="+", default=[], metavar="TASK", help="these tasks of the protocol only")
    parser.add_argument(
        "--stages", nargs="+", default=[], metavar="STAGE", help="these stages only, and what they need from others"
    )
    parser.add_argument(
        "--rows", nargs="+", default=[], metavar="ROW", help="these rows only, and what they need from others"
    )
    parser.add_argument(
        "--seeds",
        type=positive(int),
        help="the first so many seeds of every fit only, and what they need from others; default: all",
    )
    parser.add_argument(
        "--quick", action="store_true", help="toy sizes of a protocol that has them; toy tasks, too, without --glue.path"
    )
    parser.add_argument(
        "--start", nargs="+", default=[], metavar="TASK=DIR", help="models to start from, instead of fitting TASK"
    )
    parser.add_argument(
        "--address", help="Ray cluster, as ray://HOST:10001, that sees the same files; default: this machine"
    )
    parser.add_argument("--concurrency", type=positive(int), default=2, help="fits at a time")
    parser.add_argument("--cpus", type=positive(float), default=1, help="processors reserved for a fit")
    parser.add_argument(
        "--gpus", type=positive(float, zero=True), default=0, help="GPUs reserved for a fit; a fraction shares one"
    )
    parser.add_argument("--retries", type=positive(int, zero=True), default=1, help="further attempts of a fit that failed")
    parser.add_argument(
        "--stall", type=positive(float), default=30, help="minutes without a new byte of a fit after which it hangs"
    )
    parser.add_argument("extra", nargs="*", help="after --: further options of train.py")
    return parser.parse_args(with_shipped_configs(command_line(arguments), OF_SWEEPS))


def positive(kind: type[int] | type[float], zero: bool = False) -> Callable[[str], float]:
    """A parser of finite numbers above zero, or from it on."""

    def number(text: str) -> float:
        value = kind(text)
        if not (math.isfinite(value) and (value > 0 or (zero and value == 0))):
            raise ValueError(text)
        return value

    number.__name__ = f"{kind.__name__} {'of zero or more' if zero else 'above zero'}"  # argparse says "invalid … value"
    return number


def main(arguments: list[str] | None = None, train: tuple[str, ...] = TRAIN) -> None:
    """Run a sweep, print what came out, and exit with 1 if not all that was asked for did.

    Args:
        arguments: the command line by default.
        train: the command that takes a fit's options.
    """
    plan = run_sweep(parse(arguments), train)
    record, planned = plan.record, {trial.name for trial in plan.trials}
    Console(width=None if sys.stdout.isatty() else WIDTH).print(results_table(record))
    for name in record.names("failed"):
        log = record.directory / name / "log.txt"
        print(f"failed: {name}: {record.trials[name]['error']}" + (f" ({log})" if log.exists() else ""))
    waiting = set(record.names("waiting", "running", "stopped"))
    if planned & waiting:
        print(f"{len(planned & waiting)} fits have not been run; the same command goes on with them")
    if waiting - planned:
        print(
            f"{len(waiting - planned)} further fits of this sweep have not been run; they are not among those of this command"
        )
    print(record.directory / "sweep.json")
    sys.exit(bool(planned & {*waiting, *record.names("failed")}))


def describe(error: Exception) -> str:
    """The message of an error, and what to do about it."""
    if isinstance(error, Timeout):
        return f"another sweep.py is running this sweep ({error.lock_file} is locked)"
    return f"{error}; sweeps need Ray: pip install 'trifecta[sweep]'" if isinstance(error, ImportError) else one_line(error)


def run(arguments: list[str] | None = None, train: tuple[str, ...] = TRAIN) -> None:
    """:func:`main`; the user's mistakes end with one line."""
    with one_line_errors(ImportError, describe=describe):
        main(arguments, train)


if __name__ == "__main__":
    run()
