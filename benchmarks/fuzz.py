"""Reads files that are nearly right: ``python benchmarks/fuzz.py --examples 100000``. Any error a user cannot mend ends it.

Mask files and their reports, packed files, TSV, JSON lines, summaries and protocols take equal shares; the address space is
limited, so that a file that asks for memory beyond reason is an error, too.
"""

import argparse
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

from fuzzing import Fuzzed  # noqa: E402

MARGIN = 4 << 30  # bytes beyond those in use when it begins


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100_000, help="files in all (default 100,000)")
    parser.add_argument("--seconds", type=float, default=10.0, help="that reading one file may take (default 10)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # about rows that are left out
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MARGIN, used + MARGIN))
    with tempfile.TemporaryDirectory() as directory:
        fuzzed = Fuzzed(Path(directory) / "root")
        total = 0
        for kind, (contents, *_) in fuzzed.kinds.items():
            total += fuzz(fuzzed, kind, contents, -(-options.examples // len(fuzzed.kinds)), options.seconds)
    print(f"{total:,} files, no error but those that a user can mend")


def fuzz(fuzzed: Fuzzed, kind: str, contents: st.SearchStrategy[bytes], examples: int, limit: float) -> int:
    """Read so many files of a kind, print what came of them, and return their number."""
    counts, slowest = [0, 0], 0.0

    @settings(
        max_examples=examples, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(content=contents)
    def read(content: bytes) -> None:
        nonlocal slowest
        start = time.perf_counter()
        counts[fuzzed.read(kind, content)] += 1
        slowest = max(slowest, time.perf_counter() - start)
        assert slowest < limit

    read()
    print(f"{kind}: {sum(counts):,} files, {counts[0]:,} refused, {counts[1]:,} read; slowest {slowest:.3f} s", flush=True)
    return sum(counts)


if __name__ == "__main__":
    main()
