"""RecordPipe: the one pipe in which all workers announce what they have done.

Runs in: consumer, under the pool's lock. Owner of: both ends; workers inherit the write end. An interrupt may strike
between any two bytecodes: what was read stays here until all of it is filed.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator

from mploader import platform
from mploader.transport import records
from mploader.transport.records import Result

READ_BYTES = 256 * records.RECORD_BYTES


class RecordPipe:
    """Records on their way to the consumer.

    Attributes:
      fd: the consumer's end.
      write_fd: the workers' end.
      n_filed: of the records in hand, those that were filed.
    """

    def __init__(self, nbytes: int) -> None:
        """Open it; ``nbytes`` is the size to ask the system for."""
        self.fd, self.write_fd = os.pipe()
        os.set_blocking(self.fd, False)
        platform.enlarge_pipe(self.fd, nbytes)
        self.n_filed = 0
        self._raw: deque[bytes] = deque()

    def read(self) -> bool:
        """Take what has come in hand; False if there is nothing."""
        self.n_filed = 0  # here, not in `clear`: an interrupt between its lines would leave it wrong
        try:
            # G: file what was announced
            self._raw.extend(map(os.read, (self.fd,), (READ_BYTES,)))  # one C call: an interrupt cannot lose it
        except BlockingIOError:
            return False
        return True

    @property
    def is_torn(self) -> bool:
        """An interrupt struck while records were filed."""
        return bool(self._raw)

    def in_hand(self) -> Iterator[Result]:
        """The records that were read."""
        return map(Result._make, records.iter_results(self._raw[0]))

    def clear(self) -> bool:
        """All in hand was filed. False: there was no more in the pipe."""
        full = len(self._raw[0]) == READ_BYTES
        self._raw.clear()
        return full

    @property
    def has_more(self) -> bool:
        """Whether there is something to read; then a worker may be waiting for room."""
        return platform.queued_bytes(self.fd) > 0

    def close(self) -> None:
        """Close both ends; idempotent."""
        for fd in (self.fd, self.write_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self.write_fd = -1
