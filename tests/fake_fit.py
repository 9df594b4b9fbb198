"""Stands for ``train.py fit`` in tests of sweeps: takes its options, leaves what it leaves, in a fraction of a second.

By its seed and rate (``--model.lr``) it fails, hangs, or reports perplexities. Without a task it pretrains: the eval loss is
lowest where ``--schedule.max_lr`` is ``--best``. Beginnings and ends are appended to ``events.log`` beside the sweep, and what it
was told is in ``options.json``.
"""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

options = dict(argument[2:].split("=", 1) for argument in sys.argv[1:] if "=" in argument)
runs, name, seed = Path(options["runs"]), options["experiment"], int(options["seed_everything"])
run = runs / name / f"version_{options['version']}"
behaviour = options.get("behaviour", "")


def note(event: str) -> None:
    """One line, written at once, so that lines of processes side by side do not mix."""
    with (runs.parent / "events.log").open("a") as log:
        log.write(f"{event} {name} {os.getpid()}\n")


def summary(status: str, **results: object) -> None:
    partial = run / "summary.partial"
    partial.write_text(json.dumps({"experiment": name, "seed": seed, "status": status, **results}))
    partial.replace(run / "summary.json")


run.mkdir(parents=True, exist_ok=True)
note("begins")
summary("running")
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])  # as a rank or a loader would be
print("a line that says little")
if seed == 1 and behaviour == "fails":
    raise RuntimeError("the loss is not finite")
if seed == 1 and behaviour == "hangs":
    time.sleep(600)
if behaviour in (f"seed {seed} stops", "ends early") and not (run / "told").exists():
    (run / "told").touch()  # once
    summary("stopped")
    child.kill()
    sys.exit(0 if behaviour == "ends early" else 75)
if seed == 1 and behaviour == "diverges":
    child.kill()
    print("error: 10 steps in a row were not finite", file=sys.stderr)
    sys.exit(77)
if behaviour == "searches":
    rate, steps = float(options["model.lr"]), int(options["trainer.max_steps"])
    for step in range(10, steps + 1, 10):
        time.sleep(0.3)
        note(f"step {step} of")
        summary("running", eval_step=step, perplexity=rate * 100, eval_loss=1.0)
    results = {"eval_step": steps, "perplexity": rate * 100, "eval_loss": 1.0}
elif "data.task" not in options:
    time.sleep(float(options.get("seconds", 0.5)))
    loss = 3 + abs(math.log(float(options["schedule.max_lr"]) / float(options["best"])))
    results = {"eval_loss": loss, "perplexity": math.exp(loss)}
else:
    time.sleep(float(options.get("seconds", 0.5)))
    task = options["data.task"]
    metric = "matthews" if task == "CoLA" else "accuracy"
    results = {"task": task, "metrics": {metric: seed / 10}, "degenerate": seed == 0}
    results["pretrained"] = options.get("model.pretrained")
for directory in ("export", "checkpoints"):
    (run / directory).mkdir(exist_ok=True)
(run / "export" / "config.json").write_text("{}")
(run / "options.json").write_text(json.dumps(options))
note("ends")
summary("finished", **results)
child.kill()
