"""ReorderBuffer: results by seq, handed out in order, or as they came.

Must never know: what a result is, where it lies, that time passes. Invariant: in order, results leave without
a gap, each once; out of order, each leaves as often as it was parked, and the ledger above sees to it that this
is once.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class ReorderBuffer(Generic[T]):
    """Holds results that arrived before their turn (parked)."""

    def __init__(self, *, in_order: bool = True) -> None:
        self.in_order = in_order
        self.head = 0
        self._parked: dict[int, T] = {}
        self._arrived: deque[int] = deque()

    def start(self, seq: int) -> list[T]:
        """Begin an epoch at ``seq``; returns what was still parked."""
        dropped = list(self._parked.values())
        self._parked.clear()
        self._arrived.clear()
        self.head = seq
        return dropped

    def park(self, seq: int, result: T) -> bool:
        """Take a result; False if it is parked already, or (in order) was handed out."""
        if seq in self._parked or seq < self.head:
            return False
        self._parked[seq] = result
        if not self.in_order:
            self._arrived.append(seq)
        return True

    def peek(self) -> tuple[int, T] | None:
        """The result whose turn it is, None if it has not arrived; it stays until `advance`."""
        if self.in_order:
            seq = self.head
        elif self._arrived:
            seq = self._arrived[0]
        else:
            return None
        result = self._parked.get(seq)
        return None if result is None else (seq, result)

    def behind(self, number: int, seq: int) -> T | None:
        """The result that follows ``number`` results from `peek` on, the last of which ended before ``seq``."""
        if not self.in_order:
            if number >= len(self._arrived):
                return None
            seq = self._arrived[number]
        return self._parked.get(seq)

    def advance(self, seq: int, count: int = 1) -> bool:
        """The result that `peek` gave was handed out, or was a chunk of ``count`` results in one.

        Returns:
          False: a second call for it, which does nothing.
        """
        # in this order: an interrupt between two of these lines is repaired by calling again
        if self.in_order:
            if seq >= self.head:
                self.head = seq + count
        elif self._arrived and self._arrived[0] == seq:
            self._arrived.popleft()
        return self._parked.pop(seq, None) is not None

    def get(self, seq: int) -> T:
        """A parked result."""
        return self._parked[seq]

    def all(self) -> list[T]:
        """All that is parked."""
        return list(self._parked.values())

    def __contains__(self, seq: int) -> bool:
        return seq in self._parked

    def __len__(self) -> int:
        return len(self._parked)
