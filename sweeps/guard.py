"""Runs a command that cannot outlive what started it: ``python guard.py COMMAND …``, with a pipe as standard input.

A fit has processes of its own (ranks, loaders), and must not go on when its sweep is gone, whatever ended that. A pipe ends when
its writer is gone, which not even SIGKILL prevents. Then, and when the command itself ends, its whole process group goes. Should
this process be killed, the kernel tells the command to stop (Linux).
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys

PR_SET_PDEATHSIG = 1
GRACE = 40.0  # seconds between SIGTERM, on which a fit writes a checkpoint and says that it was stopped, and SIGKILL


def end_group(group: int, with_signal: signal.Signals) -> None:
    """Send a signal to what is left of a process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, with_signal)


def stop_with_parent() -> None:
    """Let the kernel send SIGTERM to this process when its parent ends, in whatever way; prctl(2), PR_SET_PDEATHSIG."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def guard(command: list[str]) -> int:
    """The exit code of ``command``, negative for a signal. What this process has inherited (a lock) the command inherits too."""
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, start_new_session=True, close_fds=False, preexec_fn=stop_with_parent
    )
    try:
        while child.poll() is None:
            if select.select([sys.stdin], [], [], 0.2)[0]:  # nobody writes: readable is ended
                print("ended by the sweep, or with it", flush=True)
                end_group(child.pid, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(GRACE)
                break
    finally:
        end_group(child.pid, signal.SIGKILL)
    return child.wait()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    code = guard(sys.argv[1:])
    if code < 0:
        print(f"ended by {signal.Signals(-code).name}", flush=True)
    sys.exit(min(abs(code), 255))
