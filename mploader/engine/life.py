"""Life: the consumer's handle on one incarnation of one worker.

Owner of: its segment, the write ends of its mailbox and lifeline, the watch on its process, its dump file. Death is
what that watch says, nothing else: sentinels lie both ways (with the launcher killed all look dead and live on; a
worker that forked a child looks alive after SIGKILL).
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import Any

from mploader import platform
from mploader.engine.contract import Arrival
from mploader.engine.launch import Launcher
from mploader.engine.lifecycle import Event, State, after
from mploader.stats.block import BLOCK_BYTES, NO_CLAIM, NO_ELEMENT, Hand, StatusBlock, Word
from mploader.transport import records
from mploader.transport.records import Task
from mploader.transport.segment import Segment

MAX_DUMP_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Doom:
    """Why we killed a worker."""

    reason: str  # "timeout", "stale", "stopped" or "close"
    seq: int = -1
    attempt: int = 0
    element: int = NO_ELEMENT
    stack: str = ""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all workers of a pool are given: descriptors and sizes."""

    tasks_fd: int
    records_fd: int
    payload_fd: int
    control: Segment
    arena: Segment
    consumer_pid: int
    segment_nbytes: int
    limit_bytes: int
    retries: int
    num_workers: int
    seed: int


class Life:
    """One incarnation, from its start to its burial.

    Attributes:
      exitcode: how its process ended, as `subprocess.Popen.returncode`; None before, or where nobody knows.
      is_condemned: its task is overdue, it is asked for its stack and then killed; no result of it counts any more.
        The signal that asks ends the waits of native code early (``EINTR``), which may return something else then:
        in the task in hand, or in the next one, should it have finished just before.
    """

    def __init__(self, worker_id: int, incarnation: int, restarts: int, shared: Shared) -> None:
        self.worker_id = worker_id
        self.incarnation = incarnation  # unique in the pool
        self.restarts = restarts
        self.state = State.STARTING
        self.pid: int | None = None
        self.exitcode: int | None = None
        self._process: platform.Process | None = None
        self.doom: Doom | None = None
        self.is_condemned = False
        self.mailed = 0
        self.start_error: Arrival | None = None
        self.excused: tuple[Hand | None, int] = (None, 0)  # a hand, and when its time began anew
        self._shared = shared
        self.segment = Segment.create(f"worker-{worker_id}", BLOCK_BYTES + shared.segment_nbytes)
        try:
            self.segment.commit(0, BLOCK_BYTES)
        except OSError:
            self.segment.close_fd()
            raise
        self.block = StatusBlock(self.segment.words)
        self.block.reset(time.monotonic_ns())
        self._mailbox_read = self._mailbox_fd = -1
        self._lifeline_fd = -1
        self._is_closed = False
        self._dump_fd = -1

    def start(self, launcher: Launcher) -> None:
        """Have the process made.

        Raises:
          LaunchError: it could not be.
          OSError: no descriptors left.
        """
        shared = self._shared
        # the read end stays open here too: a write to a dead worker's mailbox must not be a SIGPIPE
        self._mailbox_read, self._mailbox_fd = os.pipe()
        os.set_blocking(self._mailbox_read, False)
        os.set_blocking(self._mailbox_fd, False)
        self._dump_fd = platform.file_fd("dump")
        lifeline_read, self._lifeline_fd = os.pipe()
        with platform.closing_fds(lifeline_read):
            fds = {
                "segment": self.segment.fd,
                "tasks": shared.tasks_fd,
                "mailbox": self._mailbox_read,
                "records": shared.records_fd,
                "lifeline": lifeline_read,
                "payload": shared.payload_fd,
                "control": shared.control.fd,
                "arena": shared.arena.fd,
                "dump": self._dump_fd,
            }
            self.pid = launcher.start(self._config(), fds)
        self._process = platform.Process(self.pid)  # the launcher has not reaped it: the pid is still its own
        self.segment.close_fd()

    def _config(self) -> dict[str, Any]:
        shared = self._shared
        return {
            "worker_id": self.worker_id,
            "incarnation": self.incarnation,
            "num_workers": shared.num_workers,
            "restarts": self.restarts,
            "seed": shared.seed,
            "retries": shared.retries,
            "segment_nbytes": self.segment.nbytes,
            "control_nbytes": shared.control.nbytes,
            "arena_nbytes": shared.arena.nbytes,
            "limit_bytes": shared.limit_bytes,
            "consumer_pid": shared.consumer_pid,
        }

    def note(self, event: Event) -> None:
        """Move to the next state."""
        self.state = after(self.state, event)

    @property
    def death_fd(self) -> int:
        """Readable once its process is dead; -1 before `start` and after `close`."""
        return -1 if self._process is None else self._process.fd

    @property
    def is_dead(self) -> bool:
        """Its death was confirmed."""
        return self.state is State.DEAD

    def mail(self, task: Task) -> bool:
        """Write a task to its own mailbox; False if that is full (more than 1,000 unread) or gone."""
        try:
            os.write(self._mailbox_fd, records.pack_task(*task))
        except OSError:
            return False
        self.mailed += 1
        self.segment.words[Word.MAIL] = self.mailed  # a hint to look there first; the pipe itself wakes it
        return True

    def claimed(self) -> int:
        """Seq it took last, `NO_CLAIM` if none."""
        return self.block.claimed()

    def taken(self) -> range:
        """Seqs of the task or chunk it took last, finished or not."""
        return self.block.chunk()

    def kill(self, doom: Doom) -> None:
        """Presumed dead: SIGKILL. `death_fd` becomes readable when it is."""
        self.doom = doom
        self.note(Event.WAS_DOOMED)
        self.signal(signal.SIGKILL)

    def let_go(self) -> None:
        """Drop the memories; what remains is for stats."""
        self.close()
        self.start_error = None
        del self.segment, self._shared

    def signal(self, signum: int) -> None:
        """Send a signal to this very process, never to one that got its pid."""
        if self._process is not None:
            self._process.signal(signum)

    def ask_for_dump(self) -> None:
        """Have it write its Python stack into the dump file, also while C code holds the GIL."""
        self.signal(platform.DUMP_SIGNAL)

    def dump(self) -> str:
        """What faulthandler wrote so far."""
        if self._dump_fd < 0:
            return ""
        return os.pread(self._dump_fd, MAX_DUMP_BYTES, 0).decode(errors="replace").strip()

    def close(self) -> None:
        """Close the descriptors; idempotent. The segment lives as long as anything reads from it."""
        if self._is_closed:
            return
        self._is_closed = True
        self.block = self.block.stopped(time.monotonic_ns())  # what may be asked of it from now on stands still
        for name in ("_mailbox_read", "_mailbox_fd", "_lifeline_fd", "_dump_fd"):
            fd = getattr(self, name)
            setattr(self, name, -1)
            if fd >= 0:
                os.close(fd)
        if self._process is not None:
            self._process.close()
        self.segment.close_fd()


__all__ = ["NO_CLAIM", "Doom", "Life", "Shared"]
