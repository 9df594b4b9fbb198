"""Which rank is gone, where a collective has failed for want of one."""

import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from run_exit import PEER_LOST, RunEnded

BEAT = 0.5  # seconds between two signs of life of a rank
LISTEN = 2.0  # seconds in which one must come
ANSWER = 5.0  # seconds in which the store must answer
OF_A_PEER = re.compile(
    r"by peer|closed|reset|refused|broken pipe|timed? ?out|unreachable|no route|remote process|nccl", re.I
)


@dataclass(frozen=True)
class Peer:
    """Where a rank runs; ``processes`` tells two containers of one name apart."""

    rank: int
    host: str
    pid: int
    processes: str

    def __str__(self) -> str:
        return f"rank {self.rank} (process {self.pid} on {self.host})"


def this_process(rank: int) -> Peer:
    """Where this rank runs."""
    space = Path("/proc/self/ns/pid")
    return Peer(rank, socket.gethostname(), os.getpid(), os.readlink(space) if space.is_symlink() else "")


def is_dead(pid: int) -> bool:
    """Whether a process of this machine has ended, also where nobody has asked for its exit code yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] in "ZX"
    except FileNotFoundError:
        return Path("/proc/self/stat").exists()  # without /proc nobody can say
    except OSError:
        return False


def silent(peers: Sequence[Peer], beats: Callable[[], list[bytes]], listen: float = LISTEN) -> list[Peer]:
    """The peers of which no beat comes.

    Args:
        peers: all ranks, in order.
        beats: reads the latest of each.
        listen: seconds to wait for another.
    """
    before = beats()
    time.sleep(listen)
    return [peer for peer, old, new in zip(peers, before, beats(), strict=True) if old == new]


class RollCall(Callback):
    """Names the rank that is gone when another one cannot go on without it.

    Every rank gives a sign of life from a thread of its own, in a store that rank 0 keeps. When a collective fails, because a
    connection was closed or nothing came within ``rank_timeout``, the ranks whose signs have ended are gone; where the store does
    not answer, rank 0 is, or the link to it. Nothing is done where there is one rank.
    """

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.rank = 0
        self._store: torch.distributed.TCPStore | None = None
        self._ended = threading.Event()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size == 1:
            return
        self.rank, self._ended = trainer.global_rank, threading.Event()
        gathered: list[Peer | None] = [None] * trainer.world_size
        torch.distributed.all_gather_object(gathered, this_process(self.rank))
        self.peers = cast(list[Peer], gathered)
        self._store = self._connect(trainer)
        beat(self._store, self.rank, 0)
        trainer.strategy.barrier("roll call")
        threading.Thread(target=self._live, args=(self._store, self._ended), name="roll-call", daemon=True).start()

    def _connect(self, trainer: Trainer) -> torch.distributed.TCPStore:
        """Rank 0's store, and the way to it."""
        address: str = trainer.strategy.cluster_environment.main_address  # type: ignore[attr-defined]
        TCPStore, timeout = torch.distributed.TCPStore, timedelta(seconds=ANSWER)
        own = TCPStore("0.0.0.0", 0, None, True, timeout, wait_for_workers=False) if self.rank == 0 else None
        port = trainer.strategy.broadcast(0 if own is None else own.port)
        return own or TCPStore(address, port, None, False, timeout, wait_for_workers=False)

    def _live(self, store: torch.distributed.TCPStore, ended: threading.Event) -> None:
        number = 0
        while not ended.wait(BEAT):
            number += 1
            try:
                beat(store, self.rank, number)
            except RuntimeError:  # rank 0 is gone
                return

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        of_a_peer = isinstance(exception, RuntimeError) and OF_A_PEER.search(str(exception))
        if self._store is not None and of_a_peer and not isinstance(exception, RunEnded) and (gone := self.gone()):
            # at once, as whoever started the ranks may end this one too
            print(f"rank {self.rank}, step {trainer.global_step}: {gone}", file=sys.stderr, flush=True)
            exception.add_note(LOST)
        self._ended.set()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._store is not None:
            trainer.strategy.barrier("roll call ends")  # the store goes with rank 0
        self._ended.set()
        self._store = None

    def gone(self) -> str:
        """Who is gone, in words; nothing where all are there."""
        own = self.peers[self.rank]
        here = [peer for peer in self.peers if (peer.host, peer.processes) == (own.host, own.processes)]
        dead = [peer for peer in here if is_dead(peer.pid)]
        if not dead:
            found: list[list[Peer]] = []
            thread = threading.Thread(target=lambda: found.append(silent(self.peers, self._beats)), daemon=True)
            thread.start()
            thread.join(LISTEN + ANSWER)
            if not found:
                return f"{self.peers[0]}: gone, or the link is"
            dead = [peer for peer in found[0] if peer.rank != self.rank]
        if not dead:
            return ""
        return f"{' and '.join(map(str, dead))}: gone, or the link is"

    def _beats(self) -> list[bytes]:
        assert self._store is not None
        return self._store.multi_get([key(peer.rank) for peer in self.peers])


def key(rank: int) -> str:
    """Where a rank's signs of life are in the store."""
    return f"alive/{rank}"


def beat(store: torch.distributed.TCPStore, rank: int, number: int) -> None:
    """Give a sign of life."""
    store.set(key(rank), str(number))


LOST = "a rank is gone, or the link to it: start all ranks again with --ckpt_path last"


@contextmanager
def naming_lost_peers() -> Iterator[None]:
    """Make the failure of a collective that :class:`RollCall` has explained the end of the run, with a code of its own.

    Raises:
        RunEnded: a rank is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if LOST in getattr(error, "__notes__", ()):
            raise RunEnded(PEER_LOST, LOST) from error
        raise
