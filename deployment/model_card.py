"""The README.md of an exported model, in the hub's format: what it is, how it was made, what it scores, how to load it."""

import json
import math
import re
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from deployment.compressed import WEIGHTS_FILE
from run_record import CARD_FILE, RunRecord, model_name
from sparsity import REPORT_FILE

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

# Parts of a parameter's name that tell its class; the first class with one of them is the parameter's.
CLASSES = {
    "embeddings": {"embeddings"},
    "head": {"cls", "head", "decoder", "classifier", "qa_outputs", "lm_head", "pooler", "pre_classifier", "vocab_projector"},
    "attention": {"attention", "attn"},
    "feed-forward": {"mlp", "intermediate", "output", "ffn"},
}
PIPELINES = {
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForTokenClassification": "token-classification",
}
LOSSES = ("eval_loss", "perplexity", "loss_per_word", "test_loss", "test_perplexity", "test_loss_per_word")
_PATH = re.compile(r"(?<![\w.\-/\\])(?:~\w*[/\\]|[A-Za-z]:[/\\]|/(?!/))[^'\",\]}=\n]*")

TEXT = """# {name}

{summary}

## Sparsity

| tensors | weights | not zero | sparsity |
|---|---:|---:|---:|
{sparsity}

{made_by}
## Results

{results}

## How it was made

{recipe}

## How to load it

Dense, as any other model:

```python
from transformers import AutoTokenizer, {auto}

model = {auto}.from_pretrained("{address}")
tokenizer = AutoTokenizer.from_pretrained("{address}")
```

Packed into one file (`python deploy.py pack {name} {name}.packed`), and with sparse linear layers where they are faster:

```python
from deployment import load

model, tokenizer = load("{name}.packed")
model, tokenizer = load("{name}.packed", sparse_tokens=128)
```
"""


def without_paths(text: str) -> str:
    """``text`` with the last part of every absolute path in its place: where it lay on a machine is nobody's business."""
    return _PATH.sub(lambda match: re.split(r"[/\\]", match[0].rstrip("/\\"))[-1], text)


def public_command(command: str) -> str:
    """A command line without absolute paths, quoted for a shell."""
    return shlex.join(without_paths(part) for part in shlex.split(command))


def class_of(name: str) -> str:
    """The class of a parameter's tensor, for the table."""
    parts = set(name.split("."))
    return next((each for each, words in CLASSES.items() if words & parts), "other")


def sparsity_by_class(shapes: Mapping[str, Sequence[int]], nnz: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Class → (weights, of these not off by a mask), in the order of :data:`CLASSES`, and ``model``; biases are ``other``."""
    counts = {name: [0, 0] for name in (*CLASSES, "other")}
    for name, shape in shapes.items():
        size = math.prod(shape)
        entry = counts[class_of(name) if len(shape) > 1 else "other"]
        entry[0] += size
        entry[1] += nnz.get(name, size)
    found = {name: (size, on) for name, (size, on) in counts.items() if size}
    return found | {"model": (sum(size for size, _ in found.values()), sum(on for _, on in found.values()))}


def scores(records: Sequence[RunRecord]) -> dict[str, list[float]]:
    """Name of a loss or a metric → its finite values, one a run; only of runs that were evaluated at their last step."""
    found: dict[str, list[float]] = {}
    for record in records:
        current = record.metrics if record.task else {name: getattr(record, name) for name in LOSSES}
        if record.eval_step not in (None, record.steps):
            current = {name: value for name, value in current.items() if name.startswith("test_")}
        for name, value in current.items():
            if value is not None and math.isfinite(value):
                found.setdefault(name, []).append(value)
    return found


def with_spread(values: Sequence[float]) -> str:
    """The mean, and the standard deviation where there is more than one value."""
    mean = f"{statistics.fmean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.4f} ({len(values)} seeds)"


def dataset_of(task: str) -> tuple[str, str, str | None]:
    """Data set of a task on the hub, its name, and its configuration where it has several."""
    from objectives.beyond_glue import BEYOND_GLUE
    from objectives.glue import GLUE

    if task in BEYOND_GLUE:
        return BEYOND_GLUE[task].hub, task, None
    return "nyu-mll/glue", f"GLUE {task}", GLUE[task].hub


def eval_results(
    found: Mapping[str, Sequence[float]], task: str | None, pipeline: str, datasets: Sequence[str]
) -> "list[EvalResult]":
    """The same for the ``model-index``: means, with number and spread among their arguments."""
    from huggingface_hub import EvalResult

    kind, title, config = "text", ", ".join(datasets) or "text", None
    if task:
        kind, title, config = dataset_of(task)
    return [
        EvalResult(
            task_type=pipeline,
            dataset_type=kind,
            dataset_name=title,
            dataset_config=config,
            dataset_split="test" if name.startswith("test_") else "validation",
            metric_type=name,
            metric_name=name,
            metric_value=round(statistics.fmean(values), 6),
            metric_args={"seeds": len(values), "std": round(statistics.stdev(values), 6)} if len(values) > 1 else None,
        )
        for name, values in found.items()
    ]


def model_card(
    export: Path,
    name: str,
    records: Sequence[RunRecord] = (),
    datasets: Iterable[str] = (),
    license: str | None = None,
    repository: str | None = None,
) -> "ModelCard":
    """The card of the model in ``export``.

    Args:
        export: directory of the model; its config, weights and ``sparsity.json`` are read.
        name: of the model.
        records: of its run first, then of the runs that differ from it by their seed.
        datasets: hub ids (OWNER/NAME), which the metadata lists, or names and paths, of which the last part is shown.
        license: identifier of the hub; what was trained on decides it, so there is no default.
        repository: OWNER/NAME that it is loaded from; by default from a directory of the model's name.

    Raises:
        ValueError: no exported model there.
    """
    from huggingface_hub import ModelCard, ModelCardData

    for each in ("config.json", WEIGHTS_FILE):
        if not (export / each).is_file():
            raise ValueError(f"{export}: no {each} there; expected the directory of an exported model")
    config = json.loads((export / "config.json").read_text(encoding="utf-8"))
    kind = (config.get("architectures") or [""])[0]
    ending = next((each for each in PIPELINES if kind.endswith(each)), "")
    with safe_open(export / WEIGHTS_FILE, "pt") as weights:
        shapes = {key: weights.get_slice(key).get_shape() for key in weights.keys()}  # noqa: SIM118
    report = _sparsity_report(export)
    counts = sparsity_by_class(shapes, {key: entry["nnz"] for key, entry in report.get("tensors", {}).items()})
    size, on = counts["model"]
    names = [without_paths(each) for each in datasets]
    task = records[0].task if records else None
    ids = [dataset_of(task)[0]] if task else [each for each in names if is_hub_id(each)]
    found = scores(records)
    made_by = {key: value for key, value in report.get("made_by", {}).items() if key != "initial_nnz"}
    method = made_by.pop("method", None)
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=PIPELINES.get(ending),
        tags=["trifecta", "sparse" if on < size else "dense", *([str(method).lower()] if method else [])],
        datasets=ids or None,
        license=license,
        model_name=name,
        metrics=list(found) or None,
        eval_results=eval_results(found, task, PIPELINES.get(ending, "feature-extraction"), names) or None,
    )
    settings = ", ".join(
        f"{key} {without_paths(str(value))}" for key, value in made_by.items() if value not in (None, {}, [])
    )
    text = TEXT.format(
        name=name,
        address=repository or name,
        summary=f"{kind} ({config.get('model_type')}), {size:,} parameters, of which {on:,} are not zero: "
        f"{1 - on / size:.2%} sparse.",
        sparsity="\n".join(f"| {each} | {size:,} | {on:,} | {1 - on / size:.2%} |" for each, (size, on) in counts.items()),
        made_by=f"Masks by {method}: {settings}.\n" if method else "",
        results="\n".join(f"- {each}: {with_spread(values)}" for each, values in found.items()) or "None are recorded.",
        recipe=recipe(records[0], names) if records else "Not recorded.",
        auto=f"AutoModel{ending}",
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def is_hub_id(name: str) -> bool:
    """Whether a data set is one of the hub's, OWNER/NAME, and nothing that lies on this machine. The hub takes no other."""
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name)) and not Path(name).exists()


def recipe(record: RunRecord, datasets: Sequence[str] = ()) -> str:
    """The experiment, its cost and its command, in Markdown."""
    lines = [f"- experiment: {record.experiment}"]
    if datasets:
        lines.append(f"- text: {', '.join(datasets)}")
    if record.pretrained:
        lines.append(f"- started from: {record.pretrained_name or model_name(record.pretrained)}")
    for label, value in (("seed", record.seed), ("optimizer steps", record.steps), ("tokens", record.tokens)):
        lines += [] if value is None else [f"- {label}: {value:,}"]
    if record.versions:
        lines.append("- versions: " + ", ".join(f"{package} {version}" for package, version in record.versions.items()))
    if record.revision:
        lines.append(f"- revision: {record.revision}")
    if record.command:
        script = "python " if Path(record.command.split()[0]).suffix == ".py" else ""
        lines.append(f"\n```sh\n{script}{public_command(record.command)}\n```")
    return "\n".join(lines)


def write_card(
    export: Path,
    name: str,
    records: Sequence[RunRecord] = (),
    datasets: Iterable[str] = (),
    license: str | None = None,
    repository: str | None = None,
) -> None:
    """Write :func:`model_card` into the directory of the model."""
    card = model_card(export, name, records, datasets, license, repository)
    (export / CARD_FILE).write_text(str(card), encoding="utf-8")


def _sparsity_report(export: Path) -> dict[str, Any]:
    file = export / REPORT_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
