"""How a run ends that does not come to its end: a code of its own for each reason, so that whoever started it knows what to do.

| code | name | what happened | what to do |
|---|---|---|---|
| 0 | | the run has finished | nothing |
| 1 | | an error that the last line names | mend it |
| 75 | ``STOPPED_BY_SIGNAL`` | a signal (pre-emption, Ctrl-C, SLURM) | start again with ``--ckpt_path last`` |
| 76 | ``STALLED`` | no optimizer step for many times its usual time | read ``stacks_rank*.txt``, then ``--ckpt_path last`` |
| 77 | ``NOT_FINITE`` | too many steps in a row were not finite | lower the learning rate, from the checkpoint it names |
| 78 | ``RANKS_DIFFER`` | masks, weights or schedule are not the same on all ranks | find out why; the checkpoint before is good |
| 79 | ``PEER_LOST`` | another rank, or the link to it, is gone | start all ranks again with ``--ckpt_path last`` |

75 is EX_TEMPFAIL of sysexits.h; those that follow have no other meaning on Linux.
"""

import contextlib
import sys
from collections.abc import Iterator

STOPPED_BY_SIGNAL = 75
STALLED = 76
NOT_FINITE = 77
RANKS_DIFFER = 78
PEER_LOST = 79


class RunEnded(RuntimeError):
    """A run that has to end, and says why in one line.

    Args:
        code: of the process.
        message: one line.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@contextlib.contextmanager
def ended_with_code() -> Iterator[None]:
    """End the process with ``error: …`` and the code of a :class:`RunEnded` that is raised inside the block."""
    try:
        yield
    except RunEnded as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.code)
