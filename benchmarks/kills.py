"""``kill -9`` at random moments of a run, each of which goes on to its end: how many end like the run that nobody killed.

``python benchmarks/kills.py`` trains a BERT of 2×128 for 300 steps with RigL, one cycle, distillation, accumulation 2, dropout
0.1 and two loader processes, a checkpoint every 20 steps. Every other kill waits until a checkpoint is being written. Compared
are the content of the last checkpoint (weights, Adam's state, masks, schedule, random states), the exported files byte by byte,
and the logged loss of every step. ``--devices 2`` does it with two processes (gloo), ``--glue DIRECTORY`` with a finetuning.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from reports.curves import TRAIN, logged_scalars

ROOT = Path(__file__).parent.parent
SIZE = {"model_type": "bert", "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
CLOCKS = ("seconds", "train_seconds", "peak_memory_mb", "dirpath", "path")  # of no consequence, wherever they stand


def command(options: argparse.Namespace, name: str, teacher: Path | None = None) -> list[str]:
    """The fit, which goes on where there is something to go on with."""
    config = "configs/glue/finetune.yaml" if options.glue else "configs/experiments/cpu_bench.yaml"
    fit = [sys.executable, "train.py", "fit", f"--config={config}"]
    fit += [f"--runs={options.runs}", f"--experiment={name}", "--version=0"]
    fit += [
        "--ckpt_path=last",
        "--trainer.enable_progress_bar=false",
        "--trainer.log_every_n_steps=1",
        "--trainer.accelerator=cpu",
    ]
    fit += ["--trainer.accumulate_grad_batches=2", "--data.num_workers=2", "--checkpoint.every_n_train_steps=20"]
    fit += [f"--trainer.devices={options.devices}"] + ["--trainer.strategy=ddp"] * (options.devices > 1)
    if options.glue:
        fit += [f"--data.path={options.glue}", "--data.task=MRPC"]
        fit += [f"--model.pretrained={options.runs / 'teacher' / 'version_0' / 'export'}", "--data.train_examples=1200"]
        fit += ["--checkpoint.every_n_epochs=null"]
        return [*fit, "--data.batch_size=8", "--data.length=64", "--trainer.max_epochs=4"]
    fit += ["--model.config=null"]
    fit += [f"--model.config.{key}={value}" for key, value in SIZE.items()]
    fit += [f"--data.batch_size={8 // options.devices}", "--data.length=32", "--data.eval_sequences=64"]
    fit += [f"--trainer.max_steps={options.steps}"]
    if teacher is not None:
        fit += ["--masks=RigL", "--masks.every=10", f"--distillation.teachers={teacher}"]
    return fit


def run(
    options: argparse.Namespace, name: str, teacher: Path | None, kill_after: float | None = None, writing: bool = False
) -> bool:
    """Run a fit; whether it came to its end.

    Args:
        kill_after: seconds of training after which its processes are killed; None for never.
        writing: then wait for a checkpoint to be written.
    """
    directory = options.runs / name / "version_0"
    with (options.runs / f"{name}.log").open("a") as log:
        process = subprocess.Popen(
            command(options, name, teacher),
            cwd=ROOT,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        if kill_after is not None:
            while process.poll() is None and not (directory / "summary.json").exists():
                time.sleep(0.02)
            time.sleep(kill_after)
            while writing and process.poll() is None and not any(directory.glob("checkpoints/*.partial")):
                time.sleep(0.0005)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return process.wait() == 0


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two nested structures differ, but for clocks."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [key for key in {**one, **other} if not any(clock in str(key) for clock in CLOCKS)]
        return [line for key in keys for line in differences(one.get(key), other.get(key), f"{where}/{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [line for n, pair in enumerate(zip(one, other, strict=True)) for line in differences(*pair, f"{where}/{n}")]
    equal = torch.equal(one, other) if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) else one == other
    return [] if equal else [where]


def compare(whole: Path, killed: Path) -> list[str]:
    """What differs between two runs."""
    files = [torch.load(run / "checkpoints" / "last.ckpt") for run in (whole, killed)]
    for content in files:  # where they keep their files
        content["callbacks"] = {
            key: value for key, value in content["callbacks"].items() if not key.startswith("ModelCheckpoint")
        }
    found = differences(*files)
    for name in ("model.safetensors", "sparsity_masks.safetensors", "config.json"):
        one, other = whole / "export" / name, killed / "export" / name
        if one.exists() != other.exists() or (one.exists() and one.read_bytes() != other.read_bytes()):
            found.append(f"export/{name}")
    curves = [logged_scalars(run)[TRAIN] for run in (whole, killed)]
    return found + ["logged losses"] * (curves[0] != curves[1])


def main() -> None:
    """Kill, go on, compare, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/kills"))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--glue", type=Path, help="GLUE directory: finetune on MRPC instead")
    options = parser.parse_args()
    options.runs = options.runs.absolute()
    options.runs.mkdir(parents=True, exist_ok=True)
    draw, identical, landed = random.Random(0), 0, 0
    pretraining = argparse.Namespace(**vars(options) | {"glue": None, "devices": 1})
    teacher = options.runs / "teacher" / "version_0" / "export"
    assert teacher.exists() or run(pretraining, "teacher", None)
    began = time.perf_counter()
    assert run(options, "whole", teacher), f"see {options.runs / 'whole.log'}"
    length = time.perf_counter() - began
    for number in range(options.kills):
        name = f"killed_{number}"
        shutil.rmtree(options.runs / name, ignore_errors=True)
        landed += not run(options, name, teacher, draw.uniform(0.0, 0.8) * length, writing=number % 2 == 1)
        ended = run(options, name, teacher)
        found = compare(options.runs / "whole" / "version_0", options.runs / name / "version_0") if ended else ["no end"]
        identical += not found
        print(f"{name}: {'identical' if not found else ', '.join(found[:5])}", flush=True)
        if not found:
            shutil.rmtree(options.runs / name)
    print(f"{identical} of {options.kills} identical; {landed} of the kills came before the end of the run")


if __name__ == "__main__":
    main()
