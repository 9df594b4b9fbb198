"""SQuAD, SWAG and CoNLL beside ``transformers.Trainer`` as in its run_qa, run_swag and run_ner: scores over seeds, and speed.

``python benchmarks/beyond_glue.py scores --task SQuAD --path DIRECTORY`` finetunes the packaged MiniLM both ways with the same
settings and prints the dev scores of each seed; what is finished in ``--runs`` is not repeated. ``… speed`` times the training of
both in turn, theirs with the padding that its script has by default: all windows of run_qa to 384, choices and sentences to the
longest of a batch.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import (
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForMultipleChoice,
    DataCollatorForTokenClassification,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.finetuning import compared, packaged_minilm
from cpu import keep_freed_memory, multiply_with_onednn
from datamodules import TaskFiles
from objectives.beyond_glue import BEYOND_GLUE, TAGS, beyond_glue
from objectives.squad import squad_scores
from objectives.tagging import entity_scores
from run_record import SUMMARY, read_object, write_json

ROOT = Path(__file__).parent.parent
TASKS = ("SQuAD", "SWAG", "CoNLL")
N_BEST, LONGEST = 20, 30


class Side(NamedTuple):
    """What transformers.Trainer needs for a task: model, rows to train on, rows to score, collator, and the scores of logits."""

    model: Any
    train: datasets.Dataset
    dev: datasets.Dataset
    collator: Any
    scores: Callable[[Any], dict[str, float]]


def windows_of(rows: datasets.Dataset, tokenizer: PreTrainedTokenizerFast, length: int, training: bool) -> datasets.Dataset:
    """As run_qa prepares its features, padded to ``length``."""

    def prepare(batch: dict[str, list], numbers: list[int]) -> dict[str, list]:
        encoded = tokenizer(
            [question.lstrip() for question in batch["question"]],
            batch["context"],
            truncation="only_second",
            max_length=length,
            stride=128,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            padding="max_length",
        )
        owners, offsets = encoded.pop("overflow_to_sample_mapping"), encoded.pop("offset_mapping")
        columns = dict(encoded) | {"start_positions": [], "end_positions": [], "example": [], "offsets": []}
        for window, owner in enumerate(owners):
            sequence = encoded.sequence_ids(window)
            begin, end = sequence.index(1), len(sequence) - 1 - sequence[::-1].index(1)
            start = batch["starts"][owner][0]
            stop = start + len(batch["answers"][owner][0])
            first = last = 0
            if offsets[window][begin][0] <= start and offsets[window][end][1] >= stop:
                first = max(place for place in range(begin, end + 1) if offsets[window][place][0] <= start)
                last = min(place for place in range(begin, end + 1) if offsets[window][place][1] >= stop)
            columns["start_positions"].append(first)
            columns["end_positions"].append(last)
            columns["example"].append(numbers[owner])
            pairs = zip(offsets[window], sequence, strict=True)
            columns["offsets"].append([list(pair) if part == 1 else [-1, -1] for pair, part in pairs])
        return columns

    found = rows.map(prepare, batched=True, batch_size=200, with_indices=True, remove_columns=rows.column_names)
    return found.remove_columns(["example", "offsets"]) if training else found


def answers_of(logits: tuple[np.ndarray, np.ndarray], windows: datasets.Dataset, rows: datasets.Dataset) -> dict[str, str]:
    """As run_qa looks for answers: the 20 best starts with the 20 best ends of each window."""
    best: dict[int, tuple[float, str]] = {}
    for start, end, number, offsets in zip(*logits, windows["example"], windows["offsets"], strict=True):
        for i in np.argsort(start)[-N_BEST:]:
            for j in np.argsort(end)[-N_BEST:]:
                if offsets[i][0] >= 0 and offsets[j][0] >= 0 and i <= j < i + LONGEST:
                    text = rows[number]["context"][offsets[i][0] : offsets[j][1]]
                    best[number] = max(best.get(number, (-np.inf, "")), (float(start[i] + end[j]), text))
    return {name: best.get(number, (0.0, ""))[1] for number, name in enumerate(rows["id"])}


def side_of(task: str, train: datasets.Dataset, dev: datasets.Dataset, tokenizer: Any, length: int) -> Side:
    """The model and the rows of a task, prepared as the example scripts of transformers prepare them."""
    path = packaged_minilm()
    if task == "SQuAD":
        windows = windows_of(dev, tokenizer, length, training=False)
        golds = dict(zip(dev["id"], dev["answers"], strict=True))
        return Side(
            AutoModelForQuestionAnswering.from_pretrained(path),
            windows_of(train, tokenizer, length, training=True),
            windows,
            default_data_collator,
            lambda logits: squad_scores(answers_of(logits, windows, dev), golds),
        )
    if task == "SWAG":

        def choices(row: dict[str, Any]) -> dict[str, Any]:
            endings = [f"{row['sent2']} {row[f'ending{number}']}" for number in range(4)]
            return dict(tokenizer([row["sent1"]] * 4, endings, truncation=True, max_length=length)) | {
                "label": row["choice"]
            }

        prepared = [rows.map(choices, remove_columns=rows.column_names) for rows in (train, dev)]
        right = np.array(dev["choice"])
        collator = DataCollatorForMultipleChoice(tokenizer)
        model = AutoModelForMultipleChoice.from_pretrained(path)
        return Side(model, *prepared, collator, lambda logits: {"accuracy": float((logits.argmax(1) == right).mean())})

    def tags(row: dict[str, Any]) -> dict[str, Any]:
        encoded = tokenizer(row["words"], is_split_into_words=True, truncation=True, max_length=length)
        owners = encoded.word_ids()
        first = [owner is not None and owner != before for owner, before in zip(owners, [None, *owners], strict=False)]
        labels = [row["tags"][owner] if begins else -100 for owner, begins in zip(owners, first, strict=True)]
        return dict(encoded) | {"labels": labels}

    prepared = [rows.map(tags, remove_columns=rows.column_names) for rows in (train, dev)]

    def of_tags(logits: np.ndarray) -> dict[str, float]:
        own, right = [], []
        for row, labels in zip(logits.argmax(-1), prepared[1]["labels"], strict=True):
            kept = [place for place, label in enumerate(labels) if label != -100]
            own.append([TAGS[row[place]] for place in kept])
            right.append([TAGS[labels[place]] for place in kept])
        return entity_scores(own, right)

    model = AutoModelForTokenClassification.from_pretrained(path, num_labels=len(TAGS))
    return Side(model, *prepared, DataCollatorForTokenClassification(tokenizer), of_tags)


def theirs(options: argparse.Namespace) -> None:
    """One run of ``transformers.Trainer``; its dev scores and training time go to ``options.result``."""
    set_seed(options.seeds[0])
    if not options.only_time:  # only rounding differs
        keep_freed_memory()
        multiply_with_onednn()
    datasets.disable_progress_bars()
    task, files = beyond_glue(options.task), TaskFiles(beyond_glue(options.task), options.path)
    train, dev = files.read("train"), files.read("dev")
    train = train.select(range(min(options.examples or len(train), len(train))))
    tokenizer = AutoTokenizer.from_pretrained(packaged_minilm())
    side = side_of(task.name, train, dev, tokenizer, options.length)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            side.model,
            TrainingArguments(
                output_dir=scratch,
                learning_rate=options.lr,
                per_device_train_batch_size=options.batch,
                per_device_eval_batch_size=options.batch,
                num_train_epochs=options.epochs,
                seed=options.seeds[0],
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                use_cpu=not torch.cuda.is_available(),
                disable_tqdm=True,
            ),
            train_dataset=side.train,
            data_collator=side.collator,
        )
        start = time.perf_counter()
        trainer.train()
        figures: dict[str, Any] = {"train_seconds": time.perf_counter() - start}
        if not options.only_time:
            figures["metrics"] = side.scores(trainer.predict(side.dev).predictions)
    write_json(options.result, figures)


def one_of(options: argparse.Namespace, side: str, seed: int, where: Path) -> dict[str, Any]:
    """The figures of one run, in a process of its own unless it is finished already."""
    result = where / "ours" / f"version_{seed}" / SUMMARY if side == "ours" else where / f"transformers_seed{seed}.json"
    if not (result.is_file() and (side != "ours" or read_object(result)["status"] == "finished")):
        if side == "ours":
            command = [sys.executable, "train.py", "fit", "--config", "configs/squad/finetune.yaml"]
            command += [f"--data.task={options.task}", f"--data.path={options.path}", f"--data.length={options.length}"]
            command += [f"--data.batch_size={options.batch}", f"--data.train_examples={options.examples or 'null'}"]
            command += [f"--model.pretrained={packaged_minilm()}", f"--model.lr={options.lr}", f"--seed_everything={seed}"]
            command += [f"--trainer.max_epochs={options.epochs}", "--trainer.enable_progress_bar=false"]
            command += ["--trainer.check_val_every_n_epoch=1000", "--schedule.warmup_steps=0.0"]  # as the scripts have none
            command += ["--trainer.limit_val_batches=0"] if options.only_time else []
            command += [f"--runs={where}", "--experiment=ours", f"--version={seed}"]
        else:
            command = [sys.executable, __file__, "one", "--seeds", str(seed), "--result", str(result)]
            for name in ("task", "path", "length", "batch", "lr", "epochs"):
                command += [f"--{name}", str(getattr(options, name))]
            command += ["--examples", str(options.examples)] if options.examples else []
            command += ["--only_time"] if options.only_time else []
        where.mkdir(parents=True, exist_ok=True)
        with (where / f"{side}_seed{seed}.log").open("w") as log:
            subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, env=os.environ, check=True)
    figures = read_object(result)
    shown = {name: round(100 * value, 2) for name, value in figures.get("metrics", {}).items()}
    print(f"{side}, seed {seed}: {figures['train_seconds']:.1f} s of training, {shown}", flush=True)
    return figures


def scores(options: argparse.Namespace) -> None:
    """A table of every metric: mean and standard deviation over seeds of both sides."""
    where = options.runs.absolute() / f"{options.task}_{options.examples or 'all'}"
    own, other = ([one_of(options, side, seed, where)["metrics"] for seed in options.seeds] for side in ("ours", "theirs"))
    table = Table()
    for column in ("metric", "ours", "std", "transformers.Trainer", "std", "difference / std", "each seed"):
        table.add_column(column)
    for metric in BEYOND_GLUE[options.task].metrics:
        table.add_row(metric, *compared(*([run[metric] for run in side] for side in (own, other))))
    Console(width=150).print(table)


def speed(options: argparse.Namespace) -> None:
    """Seconds of training both in turn, and their ratio."""
    options.only_time = True
    with tempfile.TemporaryDirectory() as scratch:
        ratios = []
        for repetition in range(options.repetitions):
            seconds = [one_of(options, side, repetition, Path(scratch))["train_seconds"] for side in ("ours", "theirs")]
            ratios.append(seconds[1] / seconds[0])
    print(f"{options.task}: {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})")


def main() -> None:
    """``scores``, ``speed``, or ``one`` run of ``transformers.Trainer``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("scores", "speed", "one"))
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument("--path", required=True, help="directory with the official files")
    parser.add_argument("--runs", type=Path, default=Path("runs/beyond_glue"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--examples", type=int, help="of the training set; all by default")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--length", type=int, default=384)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only_time", action="store_true", help="leave the scores out")
    parser.add_argument("--result", type=Path, help="one: where its figures go")
    options = parser.parse_args()
    {"scores": scores, "speed": speed, "one": theirs}[options.what](options)


if __name__ == "__main__":
    main()
