"""Tables and plots of finished runs.

``python report.py RUNS …`` reads each run's ``summary.json``, and the ``sweep.json`` above it: pretraining in one table, GLUE as
it is published, each with the spread over the runs of a model. Commands, each with ``--help``:

``page RUNS …`` is the page of results: a row a model with losses, GLUE and costs, published rows, and what was tuned;
``frontier RUNS …`` compares rows by what they cost, ``lengths RUNS …`` by the length of training, ``curves RUNS …`` draws losses
over training; ``budget --config FILE …`` says how many weights a fit would keep, ``budget DIRECTORY`` how many an exported model
has; ``masks RUN [RUN]`` what masks look like; ``archive RUNS DIRECTORY`` keeps what reports read of runs. (Directories of runs
with these names are ``./page`` and so on.)
"""

import sys
from argparse import ArgumentError
from pathlib import Path
from typing import get_args

from arguments import OneLineParser, command_line, one_line_errors
from reports.archive import archive
from reports.curves import read_curves
from reports.frontier import frontier_points, frontier_table
from reports.lengths import lengths_of, lengths_table
from reports.page import page_tables
from reports.pretraining import by_model_and_length, pretraining_table, runs_table
from reports.results import own_results, published_results, results_table, spread_table, unfinished_table
from reports.rows import rows_of
from reports.runs import Run, best_run, read_runs
from reports.tables import Format, Table


def parser_of(command: str, description: str | None) -> OneLineParser:
    """What all reports have in common."""
    parser = OneLineParser(f"report.py{command}", description=description, allow_abbrev=False)
    parser.add_argument("--format", choices=get_args(Format), default="terminal", help="how tables are printed")
    return parser


def parser_of_runs(command: str, description: str | None) -> OneLineParser:
    """What all reports on runs have in common."""
    parser = parser_of(command, description)
    parser.add_argument("runs", type=Path, nargs="+", help="directories of runs, experiments, sweeps or of all runs")
    return parser


def read(paths: list[Path]) -> list[Run]:
    """The runs at or below ``paths``; what cannot be read is named on stderr and left out.

    Raises:
        ValueError: there is none.
    """
    runs, complaints = read_runs(paths)
    complain(complaints)
    if not runs:
        raise ValueError(f"{', '.join(map(str, paths))}: no summary.json there that can be read")
    return runs


def complain(complaints: list[str]) -> None:
    """What is left out of a report, a line each on stderr."""
    for complaint in complaints:
        print(complaint, file=sys.stderr)


def show(tables: list[Table], form: Format) -> None:
    """Print tables, an empty line between two."""
    print("\n".join(table.render(form) for table in tables), end="")


def report_runs(arguments: list[str]) -> None:
    """Print the tables of runs and where their files are."""
    parser = parser_of_runs("", __doc__)
    parser.add_argument("--runs", action="store_true", dest="single", help="also a table with every single run")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="also draw every run: eval loss and tasks (.png, .pdf, .svg)"
    )
    options = parser.parse_args(arguments)
    runs = read(options.runs)
    own = own_results(runs)
    candidates = [results_table([*published_results(), *own]), spread_table(runs)] if own else []
    candidates += [unfinished_table(runs), pretraining_table(runs)] + ([runs_table(runs)] if options.single else [])
    show([table for table in candidates if table.rows], options.format)
    if options.format == "terminal":
        for run in map(best_run, by_model_and_length(runs).values()):
            exported = ", Hugging Face model in export/" if (run.directory / "export").is_dir() else ""
            events = ", TensorBoard events" if any(run.directory.glob("events.out.tfevents.*")) else ""
            print(f"{run.directory}: summary.json{events}{exported}")
        print("Curves: make tensorboard, then http://localhost:6006")
    if options.plot is not None:
        from reports.plot import runs_figure, save  # only here, for the time that matplotlib takes

        save(runs_figure(runs), options.plot)


def report_page(arguments: list[str]) -> None:
    """Print the page of results."""
    parser = parser_of_runs(
        " page",
        "A row a model: losses with their spread over seeds, the difference to a control, GLUE, and what the model costs. Beside "
        "it published rows, what was tuned, and what does not count. Rows are those of a sweep, or experiments.",
    )
    parser.add_argument("--control", metavar="ROW", help="compare with this row (default: dense + KD, else dense)")
    options = parser.parse_args(arguments)
    runs = read(options.runs)
    tables, complaints = page_tables(runs, options.control)
    complain(complaints)
    show([table for table in (*tables, unfinished_table(runs)) if table.rows], options.format)


def report_frontier(arguments: list[str]) -> None:
    """Print, and draw, rows by what they cost."""
    parser = parser_of_runs(
        " frontier", "Loss against non-zeros and against training FLOPs: which rows no cheaper one beats."
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw them (.png, .pdf, .svg)")
    options = parser.parse_args(arguments)
    rows, complaints = rows_of(read(options.runs))
    points, loss, without = frontier_points(rows)
    complain(complaints + without)
    show([frontier_table(points, loss)], options.format)
    if options.plot is not None:
        from reports.figures import frontier_figure
        from reports.plot import save

        save(frontier_figure(points, loss), options.plot)


def report_lengths(arguments: list[str]) -> None:
    """Print, and draw, rows by the length of training."""
    parser = parser_of_runs(
        " lengths",
        "Loss minus that of the control with the same seed after as many steps. Runs of several lengths are those of a sweep "
        "over trainer.max_steps, or of several directories.",
    )
    parser.add_argument("--control", metavar="ROW", help="compare with this row (default: dense)")
    parser.add_argument("--baseline", metavar="ROW", help="say from which length on rows beat this one (default: static)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw them (.png, .pdf, .svg)")
    options = parser.parse_args(arguments)
    lengths, complaints = lengths_of(read(options.runs), options.control, options.baseline)
    complain(complaints)
    show([lengths_table(lengths)], options.format)
    if options.plot is not None:
        from reports.figures import lengths_figure
        from reports.plot import save

        save(lengths_figure(lengths), options.plot)


def report_curves(arguments: list[str]) -> None:
    """Draw losses over training."""
    parser = parser_of_runs(
        " curves",
        "Loss of training and of validation over steps, of the first seed of each row, from TensorBoard events or metrics.csv.",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", required=True, help="what to draw (.png, .pdf, .svg)")
    options = parser.parse_args(arguments)
    rows, complaints = rows_of(read(options.runs))
    curves, missing = read_curves(rows)
    complain(complaints + missing)
    from reports.figures import curves_figure
    from reports.plot import save

    save(curves_figure(curves), options.plot)


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
    if options.vocabulary_size < 1:
        parser.error(f"argument --vocabulary_size: {options.vocabulary_size} tokens; 1 or more expected")
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
    from reports.masks import masks_table  # only here, for the time that torch takes

    show([masks_table(options.run, options.other)], options.format)


def report_archive(arguments: list[str]) -> None:
    """Copy what reports read."""
    parser = OneLineParser(
        "report.py archive",
        description="Copy every summary.json and sweep.json, and the losses of pretraining, to a directory that a repository can "
        "keep: a few kilobytes a run, without absolute paths. Tables and figures can be made from there again.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", type=Path, help="directory of runs, of an experiment or of a sweep")
    parser.add_argument("directory", type=Path, help="where to")
    options = parser.parse_args(arguments)
    print(f"{len(archive(options.runs, options.directory))} files in {options.directory}")


COMMANDS = {
    "page": report_page,
    "frontier": report_frontier,
    "lengths": report_lengths,
    "curves": report_curves,
    "budget": report_budget,
    "masks": report_masks,
    "archive": report_archive,
}


def main(arguments: list[str] | None = None) -> None:
    """Report on runs, or what the first argument names."""
    arguments = command_line(arguments)
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
