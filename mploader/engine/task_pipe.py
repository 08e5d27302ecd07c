"""TaskPipe: the one pipe that all workers pull their tasks from, and the backlog of what does not fit into it.

Runs in: consumer, under the pool's lock. The consumer never blocks writing: else a window of 4,096 hangs, the
consumer filling this pipe while the workers fill the record pipe. Owner of: both ends; workers inherit the
read end, whose open file description they share.
"""

from __future__ import annotations

import os
from collections import deque

from mploader import platform
from mploader.engine.ledger import Ledger
from mploader.transport import records
from mploader.transport.records import Task

MAX_WRITE_RECORDS = platform.PIPE_BUF // records.RECORD_BYTES


class TaskPipe:
    """Tasks on their way to whichever worker comes first.

    Attributes:
      fd: the write end; while there is a backlog it is in the poller, and `flush` is due when it is ready.
      read_fd: the workers' end.
    """

    def __init__(self, poller: platform.Poller, ledger: Ledger, nbytes: int) -> None:
        """Open it; ``nbytes`` is the size to ask the system for."""
        self.read_fd, self.fd = os.pipe()
        os.set_blocking(self.read_fd, False)
        os.set_blocking(self.fd, False)
        platform.enlarge_pipe(self.fd, nbytes)
        self._poller = poller
        self._ledger = ledger
        self._backlog: deque[Task] = deque()
        self._watched = False

    def send(self, tasks: list[Task], *, together: bool) -> None:
        """Write tasks, or keep them until there is room; never blocks.

        Args:
          together: in as few writes as can be; a write wakes one worker.
        """
        n = MAX_WRITE_RECORDS if together else 1
        if len(tasks) <= n:
            self._write(tasks)
            return
        for first in range(0, len(tasks), n):
            self._write(tasks[first : first + n])

    def flush(self) -> None:
        """Write what the pipe has room for now."""
        while self._backlog:
            task = self._backlog[0]
            if task.n_tasks == 1 and task.seq not in self._ledger.open:  # completed meanwhile: its element may be gone
                self._backlog.popleft()
                continue
            try:
                os.write(self.fd, records.pack_task(*task))
            except BlockingIOError:
                return
            self._backlog.popleft()
            self._ledger.wrote(task)
        if self._watched:
            self._watched = False
            self._poller.unregister(self.fd)

    def give_up_below(self, floor: int) -> None:
        """Forget what waits here and has a smaller seq; what is in the pipe is skipped by who reads it."""
        self._backlog = deque(task for task in self._backlog if task.seq >= floor)

    @property
    def n_unread(self) -> int:
        """How many records no worker has taken yet."""
        return platform.queued_bytes(self.read_fd) // records.RECORD_BYTES

    @property
    def waiting(self) -> list[Task]:
        """What was never written."""
        return list(self._backlog)

    def close(self) -> None:
        """Close both ends; idempotent."""
        for fd in (self.read_fd, self.fd):
            if fd >= 0:
                os.close(fd)
        self.read_fd = self.fd = -1

    def _write(self, tasks: list[Task]) -> None:
        if not self._backlog:
            try:
                # C: one pipe that all workers pull from; whole or not at all, being shorter than PIPE_BUF
                os.write(self.fd, b"".join([records.pack_task(*task) for task in tasks]))
            except BlockingIOError:
                if not self._watched:
                    self._watched = True
                    self._poller.register(self.fd, platform.WRITABLE)
            else:
                for task in tasks:
                    self._ledger.wrote(task)
                return
        self._backlog.extend(tasks)
