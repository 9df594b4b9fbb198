"""Tables as text: for a terminal, as Markdown, as CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table as RichTable

Format = Literal["terminal", "markdown", "csv"]
TEXT_COLUMNS = {
    "model",
    "method",
    "source",
    "task",
    "metric",
    "status",
    "error",
    "run",
    "tensor",
    "shape",
    "of",
    "each seed",
}


@dataclass(frozen=True)
class Table:
    """Cells that are text already.

    Attributes:
        title: one line; empty where the columns speak for themselves.
        columns: titles, whose lines a terminal shows one below the other.
        rows: as long as ``columns`` each; an empty cell is one that has no figure.
        notes: lines to print below.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def render(self, form: Format) -> str:
        """The table in one of the formats, ending with a line break."""
        return {"terminal": self._terminal, "markdown": self._markdown, "csv": self._csv}[form]()

    def _terminal(self) -> str:
        table = RichTable(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        for column in self.columns:
            table.add_column(column, justify="left" if column in TEXT_COLUMNS else "right")
        for row in self.rows:
            table.add_row(*row)
        console = Console(highlight=False, markup=False)
        natural = console.measure(table, options=console.options.update(max_width=1000)).maximum
        console.width = max(console.width, natural)  # a line may wrap in a narrow terminal, a figure is never cut
        with console.capture() as captured:
            console.print(table)
        text = "\n".join(line.rstrip() for line in captured.get().splitlines())
        return "\n".join([*([self.title] if self.title else []), text, *self.notes]) + "\n"

    def _markdown(self) -> str:
        heads = [column.replace("\n", " ") for column in self.columns]
        rules = ["---" if column in TEXT_COLUMNS else "---:" for column in self.columns]
        rows = [[cell.replace("|", "\\|") for cell in row] for row in self.rows]
        lines = ["| " + " | ".join(cells) + " |" for cells in (heads, rules, *rows)]
        above = [f"**{self.title}**", ""] if self.title else []
        below = [line for note in self.notes for line in ("", note)]
        return "\n".join([*above, *lines, *below]) + "\n"

    def _csv(self) -> str:
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([column.replace("\n", " ") for column in self.columns])
        writer.writerows(self.rows)
        return file.getvalue()
