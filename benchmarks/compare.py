"""Whether a change made something slower: the same benchmark on two revisions in turn.

``python benchmarks/compare.py main~5 main -- benchmarks/pretraining.py --one product tiny`` checks both revisions out beside each
other and runs the command in each, alternating which is first. The last line that the command prints is a JSON object of
numbers; for each is printed the median of either, and the median and extremes of the ratios of neighbouring runs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def measure(checkout: Path, command: list[str]) -> dict[str, float]:
    """The numbers of one run in a checkout, with this process's Python and its modules.

    Raises:
        SystemExit: the command failed, or its last line is no object of numbers.
    """
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    ended = subprocess.run([sys.executable, *command], cwd=checkout, capture_output=True, text=True, env=environment)
    if ended.returncode:
        sys.exit(f"{checkout.name}: {' '.join(command)} ended with {ended.returncode}\n{ended.stderr[-2000:]}")
    try:
        return {name: float(value) for name, value in json.loads(ended.stdout.splitlines()[-1]).items()}
    except (ValueError, AttributeError, IndexError):
        sys.exit(f"{checkout.name}: the last line of {' '.join(command)} is no JSON object of numbers")


def main() -> None:
    """Check out, run in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", help="revision, as git names it")
    parser.add_argument("after", help="another one")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("command", nargs="+", help="after --: a script of the repository and its arguments")
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"before": [], "after": []}
    with tempfile.TemporaryDirectory() as scratch:
        checkouts = {name: Path(scratch, name) for name in found}
        try:
            for name, checkout in checkouts.items():
                revision = getattr(options, name)
                subprocess.run(["git", "worktree", "add", "--quiet", "--detach", checkout, revision], cwd=ROOT, check=True)
                measure(checkout, options.command)  # caches are made, files read
            for repetition in range(options.repetitions):
                for name in sorted(found, reverse=repetition % 2 == 0):
                    found[name].append(measure(checkouts[name], options.command))
        finally:
            for checkout in checkouts.values():
                subprocess.run(["git", "worktree", "remove", "--force", checkout], cwd=ROOT, capture_output=True)
    for key in found["before"][0].keys() & found["after"][0].keys():
        before, after = ([run[key] for run in found[name]] for name in ("before", "after"))
        ratios = [new / old for old, new in zip(before, after, strict=True) if old]
        spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})" if ratios else "no ratio"
        print(
            f"{key}: {statistics.median(before):.6g} before, {statistics.median(after):.6g} after; after / before {spread}"
        )


if __name__ == "__main__":
    main()
