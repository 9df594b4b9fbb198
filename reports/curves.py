"""Loss over training, as runs have logged it."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reports.rows import Row
from run_record import write_whole

TRAIN, VALIDATION = "train/loss", "val/loss"
WINDOW = 20  # a smoothed curve looks back over a twentieth of its points


@dataclass(frozen=True)
class Curves:
    """One run.

    Attributes:
        name: of its row.
        train: optimizer step → loss of training.
        validation: optimizer step → loss of validation.
    """

    name: str
    train: dict[int, float]
    validation: dict[int, float]


def read_curves(rows: Sequence[Row]) -> tuple[list[Curves], list[str]]:
    """The curves of each row's first seed that has logged losses, and a line for each row without any.

    Raises:
        ValueError: no row has any.
    """
    curves, complaints = [], []
    for row in rows:
        if not row.runs:
            continue
        runs = sorted(row.runs, key=lambda run: (run.record.seed is None, run.record.seed or 0))
        logged = (logged_scalars(run.directory) for run in runs)
        if scalars := next((losses for losses in logged if losses[TRAIN] or losses[VALIDATION]), None):
            curves.append(Curves(row.name, scalars[TRAIN], scalars[VALIDATION]))
        else:
            complaints.append(
                f"{runs[0].directory} left out: no TensorBoard events or metrics.csv with {TRAIN} or {VALIDATION}"
            )
    if not curves:
        raise ValueError("; ".join(complaints[:1]) or "no finished pretraining run")
    return curves, complaints


def logged_scalars(run: Path) -> dict[str, dict[int, float]]:
    """Losses by step in the TensorBoard events of a run, or in its ``csv/version_N/metrics.csv``; the last one of a step.

    Raises:
        ValueError: a file is broken.
    """
    found: dict[str, dict[int, float]] = {TRAIN: {}, VALIDATION: {}}
    if any(run.glob("events.out.tfevents.*")):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # only here: it takes its time

        events = EventAccumulator(str(run), size_guidance={"scalars": 0})  # every one of them
        events.Reload()
        for tag in found.keys() & set(events.Tags()["scalars"]):
            found[tag] = {event.step: event.value for event in events.Scalars(tag)}
    files = sorted(run.glob("csv/version_*/metrics.csv"), key=lambda file: (len(file.parent.name), file))
    for file in files if not any(found.values()) else []:
        try:
            add_csv(file, found)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
    return {
        tag: {step: values[step] for step in sorted(values) if math.isfinite(values[step])} for tag, values in found.items()
    }


def add_csv(file: Path, found: dict[str, dict[int, float]]) -> None:
    """Put the losses of a ``metrics.csv`` into ``found``."""
    with file.open(encoding="utf-8", newline="") as stream:
        for line in csv.DictReader(stream):
            for tag, values in found.items():
                if line.get(tag) and line.get("step"):
                    values[int(line["step"])] = float(line[tag])


def write_csv(file: Path, scalars: Mapping[str, Mapping[int, float]]) -> None:
    """Write tag → step → value as a ``metrics.csv``, a line a step, to six digits; whole or not at all."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["step", *scalars])
    for step in sorted({step for values in scalars.values() for step in values}):
        table.writerow([step, *(f"{values[step]:.6g}" if step in values else "" for values in scalars.values())])
    write_whole(file, text.getvalue())


def smoothed(curve: Mapping[int, float]) -> dict[int, float]:
    """Exponential moving average whose weights sum to one from the first value on (as Adam's moments are corrected)."""
    keep = 1 - 1 / max(1.0, len(curve) / WINDOW)
    average, weight, result = 0.0, 0.0, {}
    for step, value in curve.items():
        average, weight = keep * average + (1 - keep) * value, keep * weight + (1 - keep)
        result[step] = average / weight
    return result
