"""What only a GPU can show: speed and utilisation, RigL's update, the same bits twice, and losses of the precisions.

``python benchmarks/gpu.py`` runs ``train.py fit`` on BERT-base (batch 256, 128 tokens, bf16-mixed) with and without
``torch.compile``, and prints tokens a second and model FLOP utilisation: the FLOPs of the matrix products, forward and backward,
against the best matrix product of this card in the same precision. Then milliseconds of a mask update of all encoder matrices;
whether two runs of RigL with one seed have the same masks and weights; and eval losses of ``cpu_bench`` in 32-true, bf16-mixed
and 16-mixed. ``--accelerator cpu --size tiny --batch 8 --steps 40 --bench-steps 40`` tries the script where there is no GPU.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoConfig, AutoModelForMaskedLM

sys.path.insert(0, str(Path(__file__).parent.parent))
import yaml

from objectives.parameter_groups import sparse_weights
from sparsity import RigL, SparseStepping, load_masks

ROOT = Path(__file__).parent.parent


def fit(runs: Path, name: str, accelerator: str, *arguments: str) -> Path:
    """Run ``train.py fit`` to its end; the directory of the run."""
    command = [sys.executable, "train.py", "fit", *arguments, f"--runs={runs}", f"--experiment={name}", "--version=0"]
    command += [f"--trainer.accelerator={accelerator}", "--trainer.devices=1", "--trainer.enable_progress_bar=false"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(ended.stderr[-2000:])
    return runs / name / "version_0"


def matmul_peak(device: str, size: int = 8192) -> float:
    """FLOP/s of the best of a few square matrix products in bfloat16."""
    size = size if device == "cuda" else 1024
    one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / min(timed(lambda: one @ other, device) for _ in range(10))


def timed(work: Any, device: str) -> float:
    """Seconds of a piece of work on a device."""
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def speed(runs: Path, options: argparse.Namespace, device: str) -> None:
    """Tokens a second of the second half of a run, and the share of the card's peak."""
    peak = matmul_peak(device)
    print(f"best matrix product in bf16: {peak / 1e12:.3g} TFLOP/s")
    data = [f"--data.batch_size={options.batch}", "--data.length=128", f"--trainer.max_steps={options.steps}"]
    common = ["--config=cpu_bench", f"--model={options.size}", *data, "--trainer.precision=bf16-mixed"]
    common += ["--trainer.limit_val_batches=0", "--trainer.val_check_interval=1.0", "--trainer.log_every_n_steps=10"]
    flops = 0.0
    for name in ("eager", "compiled"):
        run = fit(runs, name, options.accelerator, *common, f"--model.compile_encoder={str(name == 'compiled').lower()}")
        events = EventAccumulator(str(run)).Reload()
        rates = [event.value for event in events.Scalars("throughput/tokens_per_sec")]
        rate = statistics.median(rates[len(rates) // 2 :])
        summary = json.loads((run / "summary.json").read_text())
        flops = summary.get("flops_per_step", flops)  # which a compiled run does not count
        utilisation = rate * flops / (options.batch * 128) / peak
        print(
            f"{name}: {rate:,.0f} tokens/s, utilisation {utilisation:.1%}, {summary['peak_memory_mb']:,.0f} MB on the host"
        )


def update(size: str, device: str) -> None:
    """Milliseconds of a mask update of all encoder matrices, the median of ten."""
    fields = yaml.safe_load((ROOT / "configs" / "model" / f"{size}.yaml").read_text())["init_args"]["config"]
    config = AutoConfig.for_model(**{"vocab_size": 30522} | fields)
    model = AutoModelForMaskedLM.from_config(config).to(device)
    method = RigL(every=1, stop=1.0)
    weights, scope_size = sparse_weights(method, model)
    sparse = SparseStepping(method, weights, max_steps=100, scope_size=scope_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    times = []
    for _ in range(11):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        before = timed(lambda: sparse.before_step(optimizer.state, 1), device)
        optimizer.step()
        times.append(before + timed(lambda: sparse.after_step(1), device))
    print(f"an update of {len(sparse.masks)} tensors: {1000 * statistics.median(times[1:]):.1f} ms")


def determinism(runs: Path, options: argparse.Namespace) -> None:
    """Two runs of one seed."""
    given = ["--config=cpu_bench", "--masks=RigL", "--masks.every=10", f"--trainer.max_steps={options.bench_steps}"]
    given += ["--trainer.precision=bf16-mixed", "--trainer.val_check_interval=1.0"]
    one, two = (fit(runs, name, options.accelerator, *given) / "export" for name in ("one", "two"))
    masks = [dict(load_masks(export)) for export in (one, two)]
    same = all(torch.equal(mask, masks[1][name]) for name, mask in masks[0].items())
    print(f"two runs of one seed: masks {'equal' if same else 'DIFFER'}", end=", ")
    weights = [load_file(export / "model.safetensors") for export in (one, two)]
    largest = max(float((weight - weights[1][name]).abs().max()) for name, weight in weights[0].items())
    print(f"largest difference of a weight {largest:.2g}")


def precisions(runs: Path, options: argparse.Namespace) -> None:
    """Eval losses."""
    for precision in ("32-true", "bf16-mixed", "16-mixed") if options.accelerator == "gpu" else ("32-true", "bf16-mixed"):
        steps = f"--trainer.max_steps={options.bench_steps}"
        run = fit(runs, precision, options.accelerator, "--config=cpu_bench", steps, f"--trainer.precision={precision}")
        print(f"{precision}: eval loss {json.loads((run / 'summary.json').read_text())['eval_loss']:.4f}")


def main() -> None:
    """All of it, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accelerator", choices=["gpu", "cpu"], default="gpu")
    parser.add_argument("--size", default="base", help="a file of configs/model")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--bench-steps", type=int, default=1000, help="of the runs of cpu_bench")
    options = parser.parse_args()
    device = "cuda" if options.accelerator == "gpu" else "cpu"
    card = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{card}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as scratch:
        speed(Path(scratch), options, device)
        update(options.size, device)
        determinism(Path(scratch), options)
        precisions(Path(scratch), options)


if __name__ == "__main__":
    main()
