"""Tables and plots of finished runs.

``python report.py RUNS …`` reads each run's ``summary.json`` and nothing else: pretraining in one table, GLUE as it is published,
each with the spread over the runs of a model. ``python report.py budget --config FILE …`` says how many weights a fit would
keep, ``python report.py budget DIRECTORY`` how many an exported model has, ``python report.py masks RUN [RUN]`` what masks look
like. (Directories of runs with these names are ``./budget`` and ``./masks``.)
"""

import sys
from argparse import ArgumentError
from pathlib import Path
from typing import get_args

from arguments import OneLineParser, one_line_errors
from reports.masks import masks_table
from reports.pretraining import by_model, pretraining_table, runs_table
from reports.results import own_results, published_results, results_table, spread_table, unfinished_table
from reports.runs import best_run, read_runs
from reports.tables import Format, Table


def parser_of(command: str, description: str | None) -> OneLineParser:
    """What all reports have in common."""
    parser = OneLineParser(f"report.py{command}", description=description, allow_abbrev=False)
    parser.add_argument("--format", choices=get_args(Format), default="terminal", help="how tables are printed")
    return parser


def show(tables: list[Table], form: Format) -> None:
    """Print tables, an empty line between two."""
    print("\n".join(table.render(form) for table in tables), end="")


def report_runs(arguments: list[str]) -> None:
    """Print the tables of runs and where their files are; what cannot be read is named on stderr and left out."""
    parser = parser_of("", __doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="directories of runs, experiments, sweeps or of all runs")
    parser.add_argument("--runs", action="store_true", dest="single", help="also a table with every single run")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw the runs of each task and model (.png, .pdf)")
    options = parser.parse_args(arguments)
    runs, complaints = read_runs(options.runs)
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    if not runs:
        raise ValueError(f"{', '.join(map(str, options.runs))}: no summary.json there that can be read")
    own = own_results(runs)
    candidates = [results_table([*published_results(), *own]), spread_table(runs)] if own else []
    candidates += [unfinished_table(runs), pretraining_table(runs)] + ([runs_table(runs)] if options.single else [])
    show([table for table in candidates if table.rows], options.format)
    if options.format == "terminal":
        for run in map(best_run, by_model(runs).values()):
            exported = ", Hugging Face model in export/" if (run.directory / "export").is_dir() else ""
            events = ", TensorBoard events" if any(run.directory.glob("events.out.tfevents.*")) else ""
            print(f"{run.directory}: summary.json{events}{exported}")
        print("Curves: make tensorboard, then http://localhost:6006")
    if options.plot is not None:
        from reports.plot import save_spread  # only here, for the time that matplotlib takes

        save_spread(runs, options.plot)


def report_budget(arguments: list[str]) -> None:
    """Print what a fit would keep, or what an exported model has."""
    parser = parser_of(
        " budget",
        "With the options of a fit (--config FILE …): shape, density and non-zeros of each tensor that it would start with, "
        "without data. With the directory of an exported model: the same, counted in its file.",
    )
    parser.add_argument("--vocabulary_size", type=int, default=30522, help="where neither config nor tokenizer says it")
    options, rest = parser.parse_known_args(arguments)
    if not rest:
        parser.error("options of a fit (--config FILE …) or the directory of an exported model expected")
    from reports.budget import exported_budget, planned_budget  # only here, for the time that Lightning takes

    if rest[0].startswith("-"):
        from cli import planned_fit
        from command_help import describe

        try:
            fit = planned_fit(rest)
        except (ArgumentError, ValueError) as error:
            raise ValueError(describe(error)) from error
        show(planned_budget(fit.model, fit.data, fit.masks, options.vocabulary_size), options.format)
    elif len(rest) == 1:
        show(exported_budget(Path(rest[0])), options.format)
    else:
        parser.error(f"one directory of an exported model expected, got {' '.join(rest)}")


def report_masks(arguments: list[str]) -> None:
    """Print the masks of a run, and their overlap with those of another."""
    parser = parser_of(" masks", "Masks of a run, or of an exported model, and their overlap with those of another.")
    parser.add_argument("run", type=Path, help="runs/EXPERIMENT/version_N, or an exported directory")
    parser.add_argument("other", type=Path, nargs="?", help="another one with masks of the same tensors")
    options = parser.parse_args(arguments)
    show([masks_table(options.run, options.other)], options.format)


COMMANDS = {"budget": report_budget, "masks": report_masks}


def main(arguments: list[str] | None = None) -> None:
    """Report on runs, or what the first argument names."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command = COMMANDS.get(arguments[0]) if arguments else None
    if command is not None:
        command(arguments[1:])
    else:
        report_runs(arguments)


def run(arguments: list[str] | None = None) -> None:
    """:func:`main`; the user's mistakes end with one line."""
    with one_line_errors():
        main(arguments)


if __name__ == "__main__":
    run()
