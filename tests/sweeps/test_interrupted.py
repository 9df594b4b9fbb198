"""A sweep that is asked to stop takes its fits with it, however its workers come to their ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAKE = ROOT / "tests" / "fake_fit.py"


def fits(tmp_path: Path) -> list[int]:
    """Process ids of the fits that have begun."""
    log = tmp_path / "events.log"
    return [int(line.split()[2]) for line in log.read_text().splitlines()] if log.exists() else []


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_interrupted_ends_its_fits(tmp_path: Path, ended_by: signal.Signals) -> None:
    """The signal goes to the sweep alone, not to its process group, as of a supervisor and not of Ctrl-C."""
    (tmp_path / "protocol.yaml").write_text(f"config: {FAKE}\nseeds: 2\n")
    program = "import sys, sweep; sweep.run(sys.argv[2:], (sys.executable, sys.argv[1]))"
    arguments = ["--config", str(tmp_path / "protocol.yaml"), "--runs", str(tmp_path / "runs")]
    arguments += ["--name=s", "--", "--seconds=600", "--schedule.max_lr=1", "--best=1"]
    environment = os.environ | {"HOME": str(tmp_path)}
    command = [sys.executable, "-c", program, str(FAKE), *arguments]
    with (tmp_path / "output").open("w") as output:
        driver = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while len(fits(tmp_path)) < 2 and time.monotonic() < deadline:
            assert driver.poll() is None, (tmp_path / "output").read_text()
            time.sleep(0.05)
        driver.send_signal(ended_by)
        driver.wait(60)
    finally:
        driver.kill()
    entries = json.loads((tmp_path / "runs" / "s" / "sweep.json").read_text())["trials"].values()
    assert {entry["status"] for entry in entries} == {"stopped"}
    deadline = time.monotonic() + 30
    while any(map(alive, fits(tmp_path))) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = [process for process in fits(tmp_path) if alive(process)]
    for process in left:
        os.killpg(process, signal.SIGKILL)
    assert left == []
