"""How long one waits: from the command to the first optimizer step, and for a help text or the answer to a slip.

``python benchmarks/start.py`` starts a small fit a few times, of which the first one, that may have to make tokens, is not
counted, and then each of the short commands. Where the seconds go, ``python -X importtime train.py …`` says.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BEGAN = "TRIFECTA_BENCHMARK_BEGAN"
SHORT = (
    *(("train.py", "--help"), ("train.py", "fit", "--help"), ("sweep.py", "--help"), ("report.py", "--help")),
    *(("deploy.py", "--help"), ("train.py", "fit", "--trainr.max_steps=3"), ("train.py", "fit", "--trainer.max_stpes=3")),
    *(("report.py", "frontier", "--plt=x"), ("train.py", "fit", "--masks.sparsty=0.9")),
)


def first_step() -> None:
    """A fit in this process, which says when its first step was taken."""
    from pytorch_lightning import Callback

    import cli

    class Said(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 1:
                print(f"first step: {time.time() - float(os.environ[BEGAN])}", flush=True)

    class Saying(cli.TrifectaCLI):
        def instantiate_trainer(self, **options: Any) -> Any:
            trainer = super().instantiate_trainer(**options)
            trainer.callbacks.append(Said())
            return trainer

    with tempfile.TemporaryDirectory() as runs:
        settings = ("--trainer.max_steps=2", "--trainer.enable_progress_bar=false", f"--runs={runs}")
        cli.build(
            ["fit", f"--config={ROOT}/configs/experiments/cpu_bench.yaml", *settings, "--trainer.limit_val_batches=1"],
            Saying,
        )


def seconds_to_first_step() -> float:
    """Of a fit in a process of its own."""
    environment = os.environ | {BEGAN: str(time.time())}
    ended = subprocess.run([sys.executable, __file__, "--one"], cwd=ROOT, env=environment, capture_output=True, text=True)
    said = [line for line in ended.stdout.splitlines() if line.startswith("first step: ")]
    if not said:
        sys.exit(ended.stderr[-2000:])
    return float(said[0].split(": ")[1])


def seconds_of(command: Sequence[str]) -> float:
    """Of a command, however it ends."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    """All of them, each the median of a few."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--one", action="store_true", help="one fit, in this process")
    options = parser.parse_args()
    if options.one:
        sys.path.insert(0, str(ROOT))
        first_step()
        return
    seconds_to_first_step()
    waits = [seconds_to_first_step() for _ in range(options.repetitions)]
    print(f"command to first step: {statistics.median(waits):.1f} s ({min(waits):.1f} to {max(waits):.1f})", flush=True)
    for command in SHORT:
        print(f"{' '.join(command)}: {statistics.median(seconds_of(command) for _ in range(options.repetitions)):.2f} s")


if __name__ == "__main__":
    main()
