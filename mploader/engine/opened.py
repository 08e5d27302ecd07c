"""Opened: results that were rebuilt together, each until it is handed out.

Runs in: consumer. Must never know: how they came. An interrupt can strike behind any call, so what is handed out
leaves here by an iterator in C, from which a ``for`` takes it without one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice, repeat
from typing import Any, NamedTuple

_NOTHING: Iterator[Any] = iter(())


class Failed(NamedTuple):
    """One that is no plain value: an error, or a value that comes behind one."""

    value: Any
    error: BaseException | None
    is_source: bool


class Ready:
    """What an epoch's iterator may hand out at once.

    Attributes:
      values: each item it gives is handed out.
    """

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values = _NOTHING


class Opened:
    """Results that have left the order, in their order.

    Attributes:
      seqs: of those that were rebuilt last, handed out or not.
      ready: for the iterator of this epoch.
      values: those not handed out that are plain values.
      rest: and what comes behind those.
    """

    def __init__(self) -> None:
        self.seqs: Sequence[int] = ()
        self.ready = Ready()
        self.values: deque[Any] = deque()
        self.rest: deque[Failed] = deque()
        self._sizes: Sequence[int] = ()

    def begin(self) -> None:
        """Forget all; iterators of older epochs find nothing here any more. Any thread."""
        ready = Ready()
        self.ready.values = _NOTHING
        self.ready = ready
        self.seqs = self._sizes = ()
        self.values = deque()
        self.rest = deque()

    def stop(self) -> None:
        """Hand nothing out any more, but keep count of what was not. Any thread."""
        self.ready.values = _NOTHING

    def fill(self, seqs: Sequence[int], values: list[Any], rest: list[Failed], sizes: Sequence[int]) -> None:
        """Take results: values, and what follows them from the first error on; ``sizes`` are the bytes each leases."""
        queue, others = deque(values), deque(rest)
        iterator = map(deque.popleft, repeat(queue, len(queue)))
        ready = self.ready
        # no call stands from here on: all or nothing
        self.values, self.rest = queue, others
        self.seqs, self._sizes = seqs, sizes
        ready.values = iterator

    def first(self) -> Failed:
        """The next one, which stays."""
        return Failed(self.values[0], None, False) if self.values else self.rest[0]

    def drop_first(self) -> None:
        """It was handed out."""
        if self.values:
            deque(islice(self.ready.values, 1), maxlen=0)
        else:
            self.rest.popleft()

    @property
    def left(self) -> Sequence[int]:
        """Seqs of those that were not handed out."""
        return self.seqs[len(self.seqs) - len(self) :]

    @property
    def leased_bytes(self) -> int:
        """Shared memory that those take which were not handed out."""
        left = len(self)
        return sum(self._sizes[-left:]) if left else 0

    @property
    def end(self) -> int:
        """The seq behind the last, handed out or not; 0 if there was none."""
        return self.seqs[-1] + 1 if self.seqs else 0

    def __len__(self) -> int:
        return len(self.values) + len(self.rest)
