"""Ring: where in a memory the next span goes. Arithmetic on integers, nothing else.

Must never know: bytes, processes, clocks. Invariants (checked by the tests against a naive model): live
spans never overlap, every start is a multiple of 64, nothing lies beyond ``capacity``, and ``capacity``
grows only when no gap fits.

The ring's size decided more than anything else in the measurements: memory that was never touched, or has
left the caches, costs several times the copy itself. So a span goes to the bottom whenever the bottom is
free, else next fit from the last one, stepping over what still lives, and the ring grows only after a
full turn that found no gap.
"""

from __future__ import annotations

from collections.abc import Callable

ALIGN_BYTES = 64
GROW_BYTES = 256 << 10  # one growth serves some thousand small items: a full turn over them is rare


def align(nbytes: int) -> int:
    """Round up to a multiple of 64."""
    return (nbytes + ALIGN_BYTES - 1) & -ALIGN_BYTES


class Ring:
    """Allocator of spans in ``[0, limit)``; one writer allocates, ``freed`` tells what its reader gave back."""

    def __init__(self, limit: int, freed: Callable[[int], object]) -> None:
        """Make an empty ring.

        Args:
          limit: bytes that can be had at most.
          freed: whether the live span that starts at this offset was given back; what it answers is true or false.
        """
        self.limit = limit & -ALIGN_BYTES
        self.capacity = 0
        self._freed = freed
        self._spans: list[tuple[int, int]] = []  # one list, so that an interrupt cannot part start and end
        self._next = 0  # the search goes on behind the span before this one
        self._high = 0  # highest byte used since the last `shrink`

    def allocate(self, nbytes: int) -> int | None:
        """Find room for a span.

        Returns:
          Its offset, a multiple of 64; None if it cannot fit below ``limit``. ``capacity`` may have grown.
        """
        nbytes = (nbytes + ALIGN_BYTES - 1) & -ALIGN_BYTES or ALIGN_BYTES
        spans, freed = self._spans, self._freed
        while spans and freed(spans[0][0]):
            self._remove(0)
        if not spans or spans[0][0] >= nbytes:
            if nbytes > self.capacity and not self._grow(nbytes):
                return None
            return self._place(0, 0, nbytes)
        at = self._search(self._next, len(spans), nbytes)
        if at is None:
            at = self._search(0, self._next, nbytes)
        if at is None:
            start = spans[-1][1]
            if not self._grow(start + nbytes):
                return None
            at = len(spans)
        return self._place(at, spans[at - 1][1], nbytes)

    def trim(self, start: int, nbytes: int) -> None:
        """Shorten the span at ``start`` to its first ``nbytes``."""
        at = self._find(start)
        self._spans[at] = (start, min(self._spans[at][1], start + align(nbytes)))

    def release(self, start: int) -> None:
        """Take back a span that was never announced."""
        self._remove(self._find(start))

    def shrink(self) -> tuple[int, int] | None:
        """Forget the memory above all that was used since the last call.

        Returns:
          The range that is no longer part of the ring, None if there is none.
        """
        for at in range(len(self._spans) - 1, -1, -1):
            if self._freed(self._spans[at][0]):
                self._remove(at)
        top = self._spans[-1][1] if self._spans else 0
        keep = max(self._high, top)
        self._high = top
        if keep + GROW_BYTES >= self.capacity:
            return None
        dropped = (keep, self.capacity)
        self.capacity = keep
        return dropped

    @property
    def live(self) -> int:
        """Number of spans not yet seen to be given back."""
        return len(self._spans)

    def _search(self, first: int, last: int, nbytes: int) -> int | None:
        """Find a gap behind the spans ``first - 1`` to ``last - 1``; the answer is the position to insert at."""
        spans, freed = self._spans, self._freed
        at = first or 1
        while at <= last:
            if at < len(spans):
                stop = spans[at][0]
                if freed(stop):
                    self._remove(at)
                    last -= 1
                    continue
            else:
                stop = self.capacity
            if stop - spans[at - 1][1] >= nbytes:
                return at
            at += 1
        return None

    def _place(self, at: int, start: int, nbytes: int) -> int:
        self._spans.insert(at, (start, start + nbytes))
        self._next = at + 1
        if start + nbytes > self._high:
            self._high = start + nbytes
        return start

    def _remove(self, at: int) -> None:
        del self._spans[at]
        if at < self._next:
            self._next -= 1

    def _find(self, start: int) -> int:
        return next(at for at, span in enumerate(self._spans) if span[0] == start)

    def _grow(self, needed: int) -> bool:
        if needed > self.limit:
            return False
        self.capacity = min(max(needed, self.capacity + GROW_BYTES), self.limit)
        return True
