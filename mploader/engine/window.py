"""Window: may another task be admitted? The only place where anything waits for room.

Must never know: processes, time, what a task is. Workers never wait: with workers that wait for room in a
full ring, the head item's worker dies, its item goes back to the queue, and every other worker sits on
parked later items: a deadlock in 300 of 300 runs of a model.
"""

from __future__ import annotations

from mploader.engine.opened import Opened

_FORGET = 0.98  # how much of the size estimate is left after one smaller result


class Window:
    """Counts what is admitted and not delivered, in items and bytes.

    Attributes:
      outstanding: items admitted and neither delivered nor opened, those that still run included.
      parked: of these, how many have arrived.
      parked_bytes: size of the arrived ones.
    """

    def __init__(self, prefetch: int, limit_bytes: int, opened: Opened | None = None) -> None:
        """Have room for so much; of ``opened``, the first is being handed out, the others are outstanding still."""
        self._opened = Opened() if opened is None else opened
        self.prefetch = prefetch
        self.limit_bytes = limit_bytes
        self.outstanding = 0
        self.parked = 0
        self.parked_bytes = 0
        self._estimate = 0.0

    def has_room(self) -> bool:
        """True if one more may be admitted; always if nothing is outstanding: the next to deliver never waits."""
        return self.room() > 0

    def room(self) -> int:
        """How many more may be admitted, as far as can be told now; at least one if nothing is outstanding."""
        opened = self._opened
        held = len(opened.values) + len(opened.rest)
        outstanding = self.outstanding + held - 1 if held > 1 else self.outstanding
        free = self.prefetch - outstanding
        if free > 0 and self.parked_bytes + self.prefetch * self._estimate > self.limit_bytes:
            running = outstanding - self.parked
            free = min(free, int((self.limit_bytes - self.parked_bytes) / self._estimate) - running)
        if free > 0:
            return free
        return 0 if outstanding else 1

    def admit(self, count: int = 1) -> None:
        """Count some more."""
        self.outstanding += count

    def park(self, nbytes: int, count: int = 1) -> None:
        """One has arrived, with this size, or some together."""
        self.parked += count
        self.parked_bytes += nbytes
        estimate, each = self._estimate * _FORGET, nbytes / count
        self._estimate = each if each > estimate else estimate

    def deliver(self, nbytes: int, count: int = 1) -> None:
        """One that had arrived, or some together, was handed out: what the user holds does not count."""
        self.outstanding -= count
        self.parked -= count
        self.parked_bytes -= nbytes

    def restore(self, outstanding: int, parked: int, parked_bytes: int) -> None:
        """Count anew, after an interrupt."""
        self.outstanding, self.parked, self.parked_bytes = outstanding, parked, parked_bytes

    def clear(self) -> None:
        """Nothing is outstanding any more: the epoch was given up."""
        self.outstanding = self.parked = self.parked_bytes = 0
