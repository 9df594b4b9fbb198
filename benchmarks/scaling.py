"""How speed grows with processes, and step time with what there is to do.

``python benchmarks/scaling.py processes`` trains a small BERT (4×512) by ``train.py fit`` in one process of one thread and in
two, in turn, 16 sequences each, and prints the ratio of their tokens a second. ``python benchmarks/scaling.py steps --plot FILE``
times the optimizer step of a BERT against tokens, weights and masked positions, one thread, and says how far each is from a
straight line. Options of the fit with two processes follow ``--``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForMaskedLM

sys.path.insert(0, str(Path(__file__).parent.parent))
from pretraining import BATCHES, LENGTH, SIZES, VOCABULARY

from cpu import keep_freed_memory, multiply_with_onednn
from lightning_modules.optimizers import adamw
from objectives.masked_lm import masked_lm_logits, masked_lm_loss

ROOT = Path(__file__).parent.parent
LAYER = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}


def rate(processes: int, steps: int, size: str, extra: Sequence[str]) -> float:
    """Tokens a second of a fit, of all processes, the time of the first steps included."""
    with tempfile.TemporaryDirectory() as runs:
        settings = {
            **{"runs": runs, "experiment": "timed", "model": "MaskedLanguageModel", "model.config.model_type": "bert"},
            **{f"model.config.{name}": value for name, value in SIZES[size].items()},
            **{"schedule": "OneCycleLR", "schedule.max_lr": 1e-3, "data": "docstrings", "data.length": LENGTH},
            **{"data.batch_size": BATCHES[size], "data.vocabulary_size": VOCABULARY, "trainer.max_steps": steps},
            **{"trainer.accelerator": "cpu", "trainer.devices": processes, "trainer.limit_val_batches": 0},
            **{
                "trainer.enable_progress_bar": "false",
                "checkpoint.every_n_train_steps": 10**9,
                "checkpoint.save_last": "false",
            },
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        if processes > 1:
            options += ["--trainer.strategy=ddp", *extra]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "train.py", "fit", *options]
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if ended.returncode:
            sys.exit(ended.stderr[-2000:])
        return float(json.loads((Path(runs) / "timed" / "version_0" / "summary.json").read_text())["tokens_per_second"])


def processes(options: argparse.Namespace) -> None:
    """One and two in turn; the ratio of each pair."""
    ratios = []
    for _ in range(options.repetitions):
        one, two = (rate(count, options.steps, options.size, options.extra) for count in (1, 2))
        ratios.append(two / one)
        print(f"{options.size}: {one:,.0f} tokens/s with one process, {two:,.0f} with two: {two / one:.2f}", flush=True)
    print(f"{options.size}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def step_seconds(layers: int, sequences: int, masked: int, repetitions: int) -> tuple[float, int]:
    """Median time of an optimizer step, and the weights of the encoder."""
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(**LAYER, num_hidden_layers=layers, vocab_size=VOCABULARY)).train()
    optimizer = adamw(model.parameters(), 1e-3, 0.01, (0.9, 0.999), 1e-8)
    tokens = torch.randint(VOCABULARY, (sequences, LENGTH))
    positions = torch.stack([torch.randperm(LENGTH)[:masked].sort().values for _ in range(sequences)])
    times = []
    for _ in range(repetitions + 1):
        began = time.perf_counter()
        optimizer.zero_grad()
        masked_lm_loss(masked_lm_logits(model, tokens, positions), tokens.gather(1, positions)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        times.append(time.perf_counter() - began)
    encoder = sum(map(torch.numel, model.bert.encoder.parameters()))
    return statistics.median(times[1:]), encoder  # the first one warms up


def steps(options: argparse.Namespace) -> None:
    """Three series, of which one thing changes each time."""
    torch.set_num_threads(1)
    keep_freed_memory()
    multiply_with_onednn()
    series: dict[str, dict[float, float]] = {
        "tokens a step": {},
        "encoder weights (millions)": {},
        "masked positions of 128": {},
    }
    tokens, weights, masked = series.values()
    for sequences in (4, 8, 16, 24, 32):
        tokens[sequences * LENGTH], _ = step_seconds(4, sequences, 19, options.repetitions)
    for layers in (1, 2, 4, 6, 8):
        seconds, count = step_seconds(layers, 8, 19, options.repetitions)
        weights[count / 1e6] = seconds
    for positions in (5, 13, 19, 38, 64):
        masked[positions], _ = step_seconds(4, 8, positions, options.repetitions)
    for name, times in series.items():
        slope, start, off = straight_line(times)
        points = ", ".join(f"{x:,.4g}: {1e3 * seconds:.0f}" for x, seconds in times.items())
        print(f"{name} (ms): {points}; {1e3 * start:.1f} + {1e3 * slope:.4g} each, at most {off:.0%} off")
    if options.plot:
        plot(series, options.plot)


def straight_line(times: Mapping[float, float]) -> tuple[float, float, float]:
    """Slope and start of the least-squares line, and the largest distance from it as a share of its value."""
    x, y = np.array(list(times)), np.array(list(times.values()))
    slope, start = np.polyfit(x, y, 1)
    line = start + slope * x
    return float(slope), float(start), float(np.abs(y / line - 1).max())


def plot(series: Mapping[str, Mapping[float, float]], file: Path) -> None:
    """A panel for each, with its line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3), layout="constrained")
    for axes, (name, times) in zip(figure.subplots(1, 3), series.items(), strict=True):
        x = np.array(list(times))
        slope, start, off = straight_line(times)
        axes.plot(x, 1e3 * (start + slope * x), color="0.7")
        axes.plot(x, 1e3 * np.array(list(times.values())), "o", color="C0")
        axes.set(xlabel=name, ylim=(0, None), xlim=(0, None), title=f"at most {off:.0%} off the line")
    figure.axes[0].set_ylabel("milliseconds a step")
    figure.savefig(file, dpi=150)


def main() -> None:
    """Either of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("processes", "steps"))
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--steps", type=int, default=24, help="processes: optimizer steps of each fit")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--plot", type=Path, help="steps: where the picture goes")
    given, further = sys.argv[1:], []
    if "--" in given:  # options of the fit with two processes
        given, further = given[: given.index("--")], given[given.index("--") + 1 :]
    options = parser.parse_args(given)
    options.extra = further
    (processes if options.what == "processes" else steps)(options)


if __name__ == "__main__":
    main()
