"""Methods side by side in the low-noise regime of ``configs/experiments/cpu_bench.yaml``: mean and spread of the eval loss.

``python benchmarks/cpu_bench.py`` makes what is not there yet and prints the table; a run that finished is not repeated.
Sparsity is that of the encoder's matrices at the end, average density that over training. Runs take one thread each and go
``--parallel`` at a time: tokens a second are those of one thread, and compare on a machine that does nothing else.
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

sys.path.insert(0, str(Path(__file__).parent.parent))
from reports.tables import Format, Table
from run_record import RunRecord

ROOT = Path(__file__).parent.parent
COLUMNS = ("method", "eval loss", "std", "each seed", "unigram loss", "sparsity", "average density", "tokens/s")
TEACHER = "dense_seed0"
DISTILLATION = [
    *("--distillation.teachers={teacher}", "--distillation.factor=0.8", "--distillation.final_factor=0.0"),
    "--distillation.temperature=1.0",
]
METHODS: dict[str, list[str]] = {
    "dense": [],
    "static": ["--masks=Static"],
    "rigl": ["--masks=RigL"],
    "rigl_rows": ["--masks=RigL", "--masks.structure=rows"],
    "rigl_balanced": ["--masks=RigL", "--masks.growth=balanced_gradient"],
    "set": ["--masks=SET"],
    "rigl_global": ["--masks=GlobalRigL"],
    "gmp": ["--masks=GMP"],
    "ste": ["--masks=STE"],
    "dense_kd": DISTILLATION,
    "rigl_kd": ["--masks=RigL", *DISTILLATION],
    "gmp_kd": ["--masks=GMP", *DISTILLATION],
}
"""Options of each method; the masks are 80 % sparse."""


def finished(run: Path) -> RunRecord | None:
    """What a run that came to its end left."""
    record = RunRecord.find(run)
    return record if record is not None and record.finished else None


def fit(runs: Path, method: str, seed: int, extra: list[str]) -> None:
    """One run, in a process of its own, into ``runs / method_seedN / version_0``."""
    name = f"{method}_seed{seed}"
    if finished(runs / name / "version_0"):
        return
    command = [sys.executable, "train.py", "fit", "--config", "configs/experiments/cpu_bench.yaml"]
    command += [f"--runs={runs}", f"--experiment={name}", f"--seed_everything={seed}"]
    command += ["--version=0", "--trainer.enable_progress_bar=false"]
    teacher = runs / TEACHER / "version_0" / "export"
    command += [option.format(teacher=teacher) for option in METHODS[method]] + extra
    log = runs / f"{name}.log"
    with log.open("w", encoding="utf-8") as stream:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        code = subprocess.run(command, cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT).returncode
    print(f"{name}: {'done' if code == 0 else f'exit code {code}, see {log}'}", flush=True)


def mean(values: Iterable[float | None]) -> float:
    """Mean of one figure of several runs, NaN where a run does not have it."""
    return statistics.fmean(math.nan if value is None else value for value in values)


def results_table(runs: Path, methods: list[str], seeds: list[int]) -> Table:
    """Mean and sample standard deviation of the eval loss over seeds, every seed's figure, and what the method costs."""
    rows = []
    for method in methods:
        records = [record for seed in seeds if (record := finished(runs / f"{method}_seed{seed}" / "version_0"))]
        losses = [record.eval_loss for record in records if record.eval_loss is not None]
        if not losses:
            continue
        densities = [1.0 if record.average_density is None else record.average_density for record in records]
        row = [
            method,
            f"{statistics.mean(losses):.3f}",
            f"{statistics.stdev(losses):.3f}" if len(losses) > 1 else "",
            ", ".join(f"{loss:.3f}" for loss in losses),
            f"{mean(record.unigram_loss for record in records):.3f}",
            f"{records[0].sparsity['encoder']:.4f}",
            f"{mean(densities):.3f}",
            f"{mean(record.tokens_per_second for record in records):,.0f}",
        ]
        rows.append(row)
    return Table("", COLUMNS, rows)


def main() -> None:
    """Fit everything that needs no teacher, one of which is the teacher, then the rest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/cpu_bench"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--format", choices=get_args(Format), default="terminal")
    options, extra = parser.parse_known_args()
    runs = options.runs.absolute()
    runs.mkdir(parents=True, exist_ok=True)
    taught = [method for method in options.methods if DISTILLATION[0] in METHODS[method]]
    for stage in ([method for method in options.methods if method not in taught], taught):
        jobs = [(method, seed) for method in stage for seed in options.seeds]
        with ThreadPoolExecutor(options.parallel) as pool:
            list(pool.map(lambda job: fit(runs, job[0], job[1], extra), jobs))
    print(results_table(runs, options.methods, options.seeds).render(options.format), end="")


if __name__ == "__main__":
    main()
