"""What an update of the masks does to the loss: right before it, right after it, and while the next weights are trained.

``python benchmarks/mask_updates.py`` trains in the regime of ``configs/experiments/cpu_bench.yaml`` with each way to grow, and
scores the same 512 validation sequences around every update. ``before`` is the loss in nats, mean over the updates; what follows
is what was added to it so many optimizer steps later, 0 being the update itself, which takes the place of a step.
``concentration`` is the share of what grew that fell on the fullest 5 % of rows and columns, ``survival`` the share of it that is
still on after one, two and five more updates, ``dead`` the share of inputs and outputs of sparse layers without a weight in the
end. The last table is the loss of each method minus that of static masks, along the run.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

sys.path.insert(0, str(Path(__file__).parent.parent))
from callbacks.sparse_training import sparse_training
from objectives.masked_lm import masked_lm_loss
from reports.tables import Format, Table
from sparsity.statistics import concentration, dead_neurons

ROOT = Path(__file__).parent.parent
SEQUENCES = 512
AFTER = (0, 1, 2, 5, 10, 20, 50, 99)
LATER = (1, 2, 5)
METHODS: dict[str, list[str]] = {
    "gradient": ["--masks=RigL"],
    "balanced": ["--masks=RigL", "--masks.growth=balanced_gradient"],
    "random": ["--masks=SET"],
    "static": ["--masks=Static"],
}
"""Options of each way to grow; static masks show what the same steps do without an update."""


class UpdateRecorder(Callback):
    """Scores a fixed part of the validation split around every ``every`` steps, and keeps what grew; into ``updates.json``."""

    def __init__(self, every: int = 100) -> None:
        self.every = every
        self.losses: dict[int, dict[str, float]] = {}
        self.grown: dict[int, dict[str, torch.Tensor]] = {}
        self.survival: dict[int, list[float]] = {later: [] for later in LATER}
        self.concentration: list[tuple[int, float]] = []  # of how many weights

    @torch.inference_mode()
    def loss(self, trainer: Trainer, module: LightningModule) -> float:
        """Mean cross-entropy in nats."""
        total, labels, batches = 0.0, 0, iter(trainer.datamodule.val_dataloader())
        while labels < SEQUENCES:
            batch = next(batches)
            total += float(masked_lm_loss(module.predict_logits(module.model, batch), batch["labels"])) * len(
                batch["labels"]
            )
            labels += len(batch["labels"])
        return total / labels

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        step = trainer.global_step
        if step % self.every == 0 and step:
            self.before = dict(sparse_training(trainer).masks)
            self.losses[step] = {"before": self.loss(trainer, pl_module)}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        step = trainer.global_step - 1
        update, later = step - step % self.every, step % self.every
        if update and later in AFTER:
            self.losses[update][str(later)] = self.loss(trainer, pl_module) - self.losses[update]["before"]
        if update and later == 0:
            masks = sparse_training(trainer).masks
            grown = {name: mask & ~self.before[name] for name, mask in masks.items()}
            if total := sum(int(mask.sum()) for mask in grown.values()):
                on_top = sum(int(mask.sum()) * concentration(mask) for mask in grown.values())
                self.concentration.append((total, on_top / total))
                self.grown[update] = grown
            for gap in LATER:
                if (then := self.grown.get(update - gap * self.every)) is not None and total:
                    on = sum(int((mask & masks[name]).sum()) for name, mask in then.items())
                    self.survival[gap].append(on / sum(int(mask.sum()) for mask in then.values()))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        masks = sparse_training(trainer).masks
        content = {
            "losses": self.losses,
            "survival": self.survival,
            "concentration": self.concentration,
            "dead": dead_neurons(masks) / sum(sum(mask.shape) for mask in masks.values()),
        }
        (Path(trainer.default_root_dir) / "updates.json").write_text(json.dumps(content), encoding="utf-8")


def fit(runs: Path, method: str, extra: list[str]) -> None:
    """One run, unless it is there."""
    if (runs / method / "version_0" / "updates.json").exists():
        return
    command = [sys.executable, "train.py", "fit", "--config", "configs/experiments/cpu_bench.yaml", "--seed_everything=0"]
    command += [f"--runs={runs}", f"--experiment={method}", "--version=0", "--trainer.enable_progress_bar=false"]
    command += [*METHODS[method], "--trainer.callbacks+=benchmarks.mask_updates.UpdateRecorder", *extra]
    with (runs / f"{method}.log").open("w", encoding="utf-8") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True)


def around_updates(method: str, found: dict[str, Any]) -> list[str]:
    """Means over all updates up to T_end; the concentration of what grew over all that grew."""
    end = 0.75 * max(map(int, found["losses"]))
    losses = [around for step, around in found["losses"].items() if int(step) <= end and len(around) > len(AFTER)]
    cells = [f"{fmean(around['before'] for around in losses):.3f}"]
    cells += [f"{fmean(around[str(later)] for around in losses):+.3f}" for later in AFTER]
    weights, shares = zip(*found["concentration"], strict=True) if found["concentration"] else ((), ())
    cells += [f"{fmean(shares, weights):.2f}" if shares else ""]
    cells += ["/".join(f"{fmean(shares):.2f}" for shares in found["survival"].values() if shares)]
    return [method, *cells, f"{found['dead']:.3f}"]


def along_the_run(method: str, found: dict[str, Any], static: dict[str, Any], steps: list[str]) -> list[str]:
    """Loss minus that of static masks."""
    return [method, *(f"{found['losses'][step]['before'] - static['losses'][step]['before']:+.3f}" for step in steps)]


def main() -> None:
    """Train with every method, and print what updates did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/mask_updates"))
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--format", choices=get_args(Format), default="terminal")
    options, extra = parser.parse_known_args()
    runs = options.runs.absolute()
    runs.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(options.parallel) as pool:
        list(pool.map(lambda method: fit(runs, method, extra), METHODS))
    found = {m: json.loads((runs / m / "version_0" / "updates.json").read_text(encoding="utf-8")) for m in METHODS}
    columns = ["growth", "before", *(f"+{later}" for later in AFTER), "concentration", "survival", "dead"]
    rows = [around_updates(method, content) for method, content in found.items()]
    print(Table("Around an update", columns, rows).render(options.format))
    steps = list(found["static"]["losses"])
    steps = steps[:: max(1, len(steps) // 14)]
    rows = [along_the_run(method, content, found["static"], steps) for method, content in found.items()]
    print(Table("Loss minus that of static masks, at step", ["growth", *steps], rows).render(options.format))


if __name__ == "__main__":
    main()
