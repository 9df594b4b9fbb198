"""What a run leaves behind: the content of ``summary.json``, and the names that its directory gives to it and to its model."""

import dataclasses
import fcntl
import json
import math
import os
import re
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

Status = Literal["running", "finished", "failed", "stopped"]
SUMMARY = "summary.json"
LOCK = ".lock"  # in a run's directory, held while the run is under way
HEARTBEAT = "heartbeat.json"
CARD_FILE = "README.md"
LARGEST = 2**63  # no count is
EXPECTED = {str: "a text", int: "a number", float: "a number", bool: "true or false"}


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run. What has no meaning for it is None, or empty, and absent from the file.

    Attributes:
        experiment: name of the run's experiment.
        status: ``finished`` came to its end, ``failed`` had an error, ``stopped`` was interrupted.
        error: of a run that failed.
        seed: of the run.
        steps: optimizer steps made.
        skipped_steps: of these, those that changed nothing, as a loss or a gradient was not finite.
        tokens: that the model was trained on, padding included, over all ranks and resumes.
        seconds: of the fit over all resumes.
        train_seconds: of these, without validation.
        tokens_per_second: of training, without validation.
        parameters: of the model.
        nonzeros: parameters that no mask turns off.
        masks: the method that chose them, with the options that are not its defaults.
        sparsity: share of zeros by the masks, of the ``model``, the ``encoder`` and the ``embeddings``.
        average_density: mean over training of the share of the sparse tensors' weights that were on.
        eval_step: optimizer steps made when what follows was measured.
        eval_loss: in nats.
        perplexity: its exponential.
        unigram_loss: what word frequencies alone would reach, in nats.
        loss_per_word: the mean loss of a token times the tokens of the validation text over its words, in nats; it compares
            vocabularies.
        loss_per_character: the same over its characters.
        test_loss: of the final weights on the test split, in nats.
        test_perplexity: its exponential.
        test_loss_per_word: of the test text.
        test_loss_per_character: of the test text.
        task: that was learnt; None for pretraining.
        metrics: of the task, as fractions of 1; NaN where one is not defined.
        thresholds: of the no-answer odds, in logits, at which a metric is what it is; of tasks with unanswerable questions.
        degenerate: whether the model has learnt nothing of its task.
        pretrained: directory or hub id of the model that the run started from.
        pretrained_name: what that model was called then (:func:`model_name`).
        flops_per_step: floating-point operations of an optimizer step over all ranks, a teacher's forward pass included.
        sparse_flops_per_step: of these, the ones that zeros would save if all weights with a mask were zero.
        saved_flops: operations of all steps that zeros would have saved, each tensor by its own density.
        peak_memory_mb: most memory held.
        matmul: library that multiplies fp32 matrices.
        versions: of Python and of the packages.
        revision: git commit of the code at the latest start.
        command: of the latest start.
    """

    experiment: str
    status: Status
    error: str | None = None
    seed: int | None = None
    steps: int | None = None
    skipped_steps: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    train_seconds: float | None = None
    tokens_per_second: float | None = None
    parameters: int | None = None
    nonzeros: int | None = None
    masks: str | None = None
    sparsity: dict[str, float] = field(default_factory=dict)
    average_density: float | None = None
    eval_step: int | None = None
    eval_loss: float | None = None
    perplexity: float | None = None
    unigram_loss: float | None = None
    loss_per_word: float | None = None
    loss_per_character: float | None = None
    test_loss: float | None = None
    test_perplexity: float | None = None
    test_loss_per_word: float | None = None
    test_loss_per_character: float | None = None
    task: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    degenerate: bool | None = None
    pretrained: str | None = None
    pretrained_name: str | None = None
    flops_per_step: int | None = None
    sparse_flops_per_step: int | None = None
    saved_flops: int | None = None
    peak_memory_mb: float | None = None
    matmul: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    revision: str | None = None
    command: str | None = None

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    def write(self, run: Path) -> None:
        """Write ``summary.json`` into the directory of a run. JSON has no NaN: such a metric is null, such a loss is absent."""
        content = _without_nan(dataclasses.asdict(self))
        write_json(run / SUMMARY, {name: value for name, value in content.items() if value not in (None, {})})

    @classmethod
    def read(cls, file: Path) -> Self:
        """The record in a file. Keys that are not known here, of a newer version, are left out.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not the summary of a run, or a key holds what it cannot hold.
        """
        content, hints = read_object(file), get_type_hints(cls)
        known = {name: content[name] for name in hints if content.get(name) is not None}
        if isinstance(metrics := known.get("metrics"), dict):
            known["metrics"] = {name: math.nan if value is None else value for name, value in metrics.items()}
        if not (isinstance(known.get("experiment"), str) and known.get("status") in get_args(Status)):
            statuses = ", ".join(get_args(Status))
            raise ValueError(f"not the summary of a run: an experiment and a status ({statuses}) expected")
        for name, value in known.items():
            check(name, value, hints[name])
        return cls(**known)

    @classmethod
    def find(cls, run: Path) -> Self | None:
        """The record of a run that may not have begun, or whose ``summary.json`` may be broken: then None."""
        try:
            return cls.read(run / SUMMARY)
        except (OSError, ValueError):
            return None


@dataclass(frozen=True)
class Heartbeat:
    """The latest sign of life of a run, in ``heartbeat.json``, which is written anew every few seconds.

    Attributes:
        step: optimizer steps made.
        step_seconds: an optimizer step usually takes; None while too few have been made.
    """

    step: int
    step_seconds: float | None = None

    def write(self, run: Path) -> None:
        """Write it into the directory of a run."""
        write_json(run / HEARTBEAT, dataclasses.asdict(self))

    @classmethod
    def find(cls, run: Path) -> Self | None:
        """That of a run; None where there is none, or one that cannot be read."""
        try:
            content = read_object(run / HEARTBEAT)
            check("step", step := content.get("step", ""), int)
            if (seconds := content.get("step_seconds")) is not None:
                check("step_seconds", seconds, float)
        except (OSError, ValueError):
            return None
        return cls(int(step), None if seconds is None else float(seconds))


def check(name: str, value: object, kind: Any) -> None:
    """Check a value against the type of its field.

    Raises:
        ValueError: it is something else.
    """
    kind = get_args(kind)[0] if isinstance(kind, types.UnionType) else kind  # the other one is None
    if get_origin(kind) is Literal:
        return
    if get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{name}: an object expected, not {value!r:.40}")
        for key, entry in value.items():
            check(f"{name}.{key}", entry, get_args(kind)[1])
        return
    number = isinstance(value, float) or (type(value) is int and abs(value) <= LARGEST)
    if not (number if kind in (int, float) else isinstance(value, kind)):
        raise ValueError(f"{name}: {EXPECTED[kind]} expected, not {value!r:.40}")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write_whole(file, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_whole(file: Path, text: str) -> None:
    """Write a text file, whole or not at all: beside its place, then renamed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(file)
    except OSError:  # a full disk
        partial.unlink(missing_ok=True)
        raise


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of JSON and of UTF-8; of braces without end
        raise ValueError(f"not JSON, or only the beginning of it ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"a JSON object expected, not {type(content).__name__}")
    return content


class RunLock:
    """Held by the process that runs a fit for as long as it lives, whatever ends it.

    It is a record lock, which children do not inherit: loader processes that outlive the fit by seconds hold nothing.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / LOCK
        self.file = self.path.open("a")

    def take(self) -> bool:
        """False where another process has it, or has just let go of it."""
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.fstat(self.file.fileno()).st_ino == self.path.stat().st_ino
        except OSError:
            return False

    def release(self) -> None:
        """Let go of the run. The file goes too, so that one that is there and held by nobody tells of a process that died."""
        self.path.unlink(missing_ok=True)
        self.file.close()


def is_held(run: Path) -> bool | None:
    """Whether another process holds the lock of a run; None where there is no lock, as of a run that came to an end."""
    try:
        with (run / LOCK).open("r") as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return None
    except OSError:
        return True


def experiment_name(run: Path) -> str:
    """The experiment of a run's directory: ``RUNS/EXPERIMENT/version_N`` is EXPERIMENT, any other has its own name."""
    return run.parent.name if re.fullmatch(r"version_\d+", run.name) else run.name


def carried_name(directory: Path) -> str | None:
    """The name in the card of an exported model; None where there is no card or it has none."""
    if not (directory / CARD_FILE).is_file():
        return None
    from huggingface_hub import ModelCard  # a while, for this alone

    try:
        name = ModelCard.load(directory / CARD_FILE, ignore_metadata_errors=True).data.model_name
    except Exception:  # of one class or another for every way in which somebody's YAML can be broken
        return None
    return name if isinstance(name, str) and name else None


def model_name(pretrained: str) -> str:
    """What tables call a model: the name that it carries in its card, or else one that its place tells.

    ``runs/bert_1mi/version_0/export`` is ``bert_1mi``, ``runs/bert_1mi/version_0/bert_100k`` is ``bert_100k``, and
    ``kept/export`` is ``kept``; of a hub id, and of any other directory, it is the last part.
    """
    path = Path(pretrained)
    return carried_name(path) or experiment_name(path.parent if path.name == "export" else path) or path.name
