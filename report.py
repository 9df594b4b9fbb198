"""Tables of finished runs: ``python report.py RUNS …``. Reads nothing but each run's ``summary.json``."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

# Column title → (key of the summary, dotted into its tables; format). A cell whose key is absent stays empty.
COLUMNS = {
    "model": ("experiment", "{}"),
    "encoder\nzeros": ("sparsity.encoder", "{:.4f}"),
    "model\nzeros": ("sparsity.model", "{:.4f}"),
    "non-zeros": ("nonzeros", "{:,}"),
    "eval\nloss": ("eval_loss", "{:.4f}"),
    "perplexity": ("perplexity", "{:.2f}"),
    "unigram\nloss": ("unigram_loss", "{:.4f}"),
    "tokens/s": ("tokens_per_second", "{:,.0f}"),
    "status": ("status", "{}"),
}


def find_runs(paths: list[Path]) -> list[Path]:
    """Directories of runs at or below ``paths``; of an experiment's versions the newest.

    Raises:
        FileNotFoundError: a path is not there or holds no run.
    """
    runs: list[Path] = []
    for path in paths:
        found = {summary.parent for summary in path.rglob("summary.json")}
        if not found:
            raise FileNotFoundError(f"{path}: no summary.json there or below")
        newest: dict[Path, Path] = {}
        for run in sorted(found, key=lambda run: (len(run.name), run.name)):
            newest[run.parent] = run
        runs += sorted(newest.values())
    return runs


def cell(summary: dict[str, Any], key: str, template: str) -> str:
    """One figure of a run as text; empty where the run does not have it."""
    value: Any = summary
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return "" if value is None else template.format(value)


def runs_table(summaries: list[dict[str, Any]]) -> Table:
    """One row a run; the status where not all have finished."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    unfinished = any(summary.get("status") != "finished" for summary in summaries)
    columns = {title: spec for title, spec in COLUMNS.items() if title != "status" or unfinished}
    for title in columns:
        table.add_column(title, justify="left" if title in ("model", "status") else "right")
    for summary in summaries:
        table.add_row(*(cell(summary, *spec) for spec in columns.values()))
    return table


def main(arguments: list[str] | None = None) -> None:
    """Print the table and where each run's files are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="directories of runs, experiments or of all runs")
    runs = find_runs(parser.parse_args(arguments).runs)
    console = Console()
    console.print(runs_table([json.loads((run / "summary.json").read_text(encoding="utf-8")) for run in runs]))
    for run in runs:
        console.print(
            f"{run}: TensorBoard events" + (", Hugging Face model in export/" if (run / "export").is_dir() else "")
        )
    console.print("Curves: make tensorboard, then http://localhost:6006")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
