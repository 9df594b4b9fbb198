"""Rows of published tables: which runs of a model count, what they have in common, and how far two rows are apart."""

import itertools
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reports.results import COLUMNS
from reports.runs import TUNE, Run
from run_record import RunRecord

Loss = Literal["test_loss", "eval_loss"]
LOSS_NAMES: dict[Loss, str] = {"test_loss": "test loss", "eval_loss": "eval loss"}


@dataclass(frozen=True)
class Row:
    """A model.

    Attributes:
        name: of the row.
        runs: of pretraining, each seed once and all of the same length.
        tasks: task → its runs.
    """

    name: str
    runs: list[Run]
    tasks: dict[str, list[Run]]

    def losses(self, loss: Loss) -> list[float]:
        """Of the runs that have a finite one, in nats."""
        return [value for run in self.runs if (value := loss_of(run, loss)) is not None]

    def differences(self, control: "Row", loss: Loss) -> list[float]:
        """Losses minus those of ``control`` for equal seeds and lengths, in nats."""
        theirs = {(run.record.seed, run.length): loss_of(run, loss) for run in control.runs}
        own_runs = (run for run in self.runs if run.record.seed is not None)
        pairs = ((loss_of(run, loss), theirs.get((run.record.seed, run.length))) for run in own_runs)
        return [own - other for own, other in pairs if own is not None and other is not None]


def loss_of(run: Run, loss: Loss) -> float | None:
    """A loss of a run; None where it has none, or one that is not finite."""
    value: float | None = getattr(run.record, loss)
    return value if value is not None and math.isfinite(value) else None


def common_loss(runs: Iterable[Run]) -> Loss:
    """The loss that tables compare: of the test text, if any run has it."""
    return "test_loss" if any(loss_of(run, "test_loss") is not None for run in runs) else "eval_loss"


def counted_runs(runs: Iterable[Run]) -> tuple[list[Run], list[str]]:
    """Finished runs that are not there to choose an option, each seed of the same fit once, and a line for each left out.

    Two fits are the same if model, length and seed are, and of a task also the model that it started from and the options that
    a sweep gave it.
    """
    first: dict[tuple[object, ...], Run] = {}
    counted, complaints = [], []
    for run in runs:
        if not run.record.finished or run.stage == TUNE:
            continue
        key: tuple[object, ...] = (run.model, run.length, run.record.seed)
        if run.task:
            key += (run.task, run.protocol, run.record.pretrained, json.dumps(run.settings, sort_keys=True, default=str))
        if run.record.seed is not None and first.setdefault(key, run) is not run:
            what = f"{run.model}, {run.task}" if run.task else run.model
            complaints.append(
                f"{run.directory} left out: {what} has seed {run.record.seed} already in {first[key].directory}"
            )
        else:
            counted.append(run)
    return counted, complaints


def rows_of(runs: Iterable[Run]) -> tuple[list[Row], list[str]]:
    """The rows in the order of their first runs, and a line for whatever does not count.

    Of a model that was pretrained for several lengths the longest is the row. Of a task that was finetuned by several protocols
    the first counts.
    """
    counted, complaints = counted_runs(runs)
    rows = []
    for name in dict.fromkeys(run.model for run in counted):
        own = [run for run in counted if run.model == name]
        longest = max((run.length for run in own if not run.task), default=0)
        short = [run for run in own if not run.task and run.length < longest]
        if short:
            complaints.append(
                f"{name}: runs of fewer than {longest:,} steps left out ({len(short)}); report.py lengths has them"
            )
        pretrained = [run for run in own if not run.task]
        tasks: dict[str, list[Run]] = {}
        for task in COLUMNS:
            group = [run for run in own if run.task == task and origin(run, pretrained) not in short]
            protocols = list(dict.fromkeys(run.protocol for run in group))
            if len(protocols) > 1:
                others = ", ".join(protocol or "no protocol" for protocol in protocols[1:])
                complaints.append(
                    f"{name}, {task}: only runs of {protocols[0] or 'no protocol'} counted, those of {others} left out"
                )
            if group:
                tasks[task] = [run for run in group if run.protocol == protocols[0]]
        counted_here = [run for run in pretrained if run not in short]
        sizes = {run.record.nonzeros for run in counted_here if run.record.nonzeros is not None}
        if len(sizes) > 1:
            complaints.append(
                f"{name}: runs of different models, of {', '.join(f'{size:,}' for size in sorted(sizes))} non-zeros, are "
                "averaged; an --experiment for each keeps them apart"
            )
        rows.append(Row(name, counted_here, tasks))
    return rows, complaints


def origin(run: Run, pretrained: Sequence[Run]) -> Run | None:
    """Which of some runs has the export that a run started from: the one whose path ends most alike, from two parts on.

    The whole path is another in an archive, and where a directory was moved.
    """
    if not (pretrained and run.record.pretrained):
        return None
    wanted = Path(run.record.pretrained).resolve().parent.parts

    def alike(other: Run) -> int:
        pairs = zip(reversed(wanted), reversed(other.directory.resolve().parts), strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

    nearest = max(pretrained, key=alike)
    return nearest if alike(nearest) > 1 else None


def find_row(rows: Sequence[Row], name: str | None, defaults: Sequence[str], option: str) -> Row | None:
    """The row called ``name``; without a name the first of ``defaults`` that there is, or None.

    Raises:
        ValueError: there is no row of that name.
    """
    by_name = {row.name: row for row in rows}
    if name is not None and name not in by_name:
        raise ValueError(f"{option}: no row {name!r}; there are {', '.join(by_name) or 'none'}")
    return (
        by_name[name] if name is not None else next((by_name[default] for default in defaults if default in by_name), None)
    )


def unpaired(rows: Sequence[Row], control: Row | None, loss: Loss) -> list[str]:
    """A line for each row with a loss that has no difference to that of the ``control``."""
    if control is None:
        return []
    complaints = []
    for row in rows:
        if row is control or not row.losses(loss) or row.differences(control, loss):
            continue
        own, theirs = ({run.length for run in each.runs} for each in (row, control))
        steps = [" and ".join(f"{length:,}" for length in sorted(lengths)) for lengths in (own, theirs)]
        reason = f"no seed of {control.name}" if own & theirs else f"{steps[0]} steps, {control.name} {steps[1]}"
        complaints.append(f"{row.name}: no difference to {control.name}, as it has {reason}")
    return complaints


def training_flops(record: RunRecord) -> tuple[float | None, float | None]:
    """Floating-point operations of a run: as it was computed, and where zeros are free; None where it is not known.

    Only products with sparse tensors cost less. A run that has not recorded by how much (``saved_flops``) is taken as one whose
    sparse tensors have one density, its average; without ``sparse_flops_per_step`` as one of sparse encoder matrices, at 6
    operations a weight and token, if its embeddings have no zeros; for STE, whose gradients stay dense, that is 2 too cheap.
    """
    if record.flops_per_step is None or not record.steps:
        return None, None
    dense = float(record.flops_per_step * record.steps)
    if record.average_density is None:  # without masks
        return dense, dense if record.nonzeros == record.parameters else None
    saved: float | None = record.saved_flops
    if saved is None and record.sparse_flops_per_step is not None:
        saved = (1 - record.average_density) * record.sparse_flops_per_step * record.steps
    encoder, embeddings = record.sparsity.get("encoder"), record.sparsity.get("embeddings", 0.0)
    if saved is None and encoder and not embeddings and record.parameters and record.nonzeros and record.tokens:
        saved = (1 - record.average_density) * 6 * (record.parameters - record.nonzeros) / encoder * record.tokens
    return dense, None if saved is None else dense - saved


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of what is there."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def spread(values: Sequence[float], form: str, runs: int | None = None) -> str:
    """Mean ± standard deviation of the sample as a cell, with the number of values where it is not that of the row's ``runs``."""
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):{form.lstrip('+')}}" if len(values) > 1 else ""
    number = f" ({len(values)})" if len(values) != runs else ""
    return f"{statistics.fmean(values):{form}}{deviation}{number}"


def scientific(value: float | None) -> str:
    """A large number in a cell: ``1.23e15``."""
    return "" if value is None else f"{value:.2e}".replace("e+0", "e").replace("e+", "e")
