"""Lease: the right to keep reading a span, for as long as any view of it lives.

A lease is a plain array over the mapping. Everything unpickled over it (through NumPy, torch, pandas,
pyarrow, dlpack) keeps it alive, and its death frees the span. Three other ways were tried and broke:
``base[a:b].view()`` lets numpy collapse the chain of bases, so the span is freed under the user's feet; a
subclass of ndarray is tracked by the garbage collector, which runs callbacks before the last reader's
``__del__``; a callback that frees by itself runs inside our own critical sections.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np

from mploader.transport.segment import Segment

FREED = -1  # first word of a span, no byte of it 0: written by its reader when the last view is gone


class _Watch(weakref.ref):  # type: ignore[type-arg]
    """Weak reference to a lease that remembers which span it was, and whether its death frees that."""

    __slots__ = ("armed", "nbytes", "segment", "start")

    segment: Segment | None  # None: its loader was closed
    start: int
    nbytes: int
    armed: bool


class Leases:
    """The spans one process reads. Runs in: consumer.

    One thread at a time leases and arms; others may `reap` meanwhile.

    Attributes:
      nbytes: bytes leased now.
      dead: leases whose last view has died, for `reap`.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self._pending: list[_Watch] = []
        self._lock = threading.RLock()
        self._carried: set[int] = set()  # segments that a forked process may read from, by id
        self._watched: dict[int, _Watch] = {}  # by id: a weak reference hashes as its array
        self.dead: deque[_Watch] = deque()  # filled by the collector, from any thread, in C

    def lease(self, segment: Segment, start: int, nbytes: int) -> memoryview:
        """Lease a span.

        Returns:
          Its bytes, writable. Once `arm` was called, the span is free when this view and all that was made
          from it are gone; until then it stays: an interrupt may undo the hand-over, and the next try reads again.
        """
        array = np.ndarray(nbytes, np.uint8, segment.mapping, start)
        watch = _Watch(array, self.dead.append)
        watch.segment, watch.start, watch.nbytes, watch.armed = segment, start, nbytes, False
        with self._lock:
            self._pending.append(watch)
            self._watched[id(watch)] = watch
            self.nbytes += nbytes
        return memoryview(array)  # type: ignore[arg-type]

    def begin(self) -> None:
        """Forget what was leased and not armed: its hand-over was interrupted, and begins anew."""
        self._pending = []

    def arm(self) -> None:
        """What was leased since `begin` has been handed over: from now on its death frees the span."""
        for watch in self._pending:
            watch.armed = True  # first: who reaps in another thread leaves alone what is pending
        self._pending = []

    def reap(self, *, between: bool = True) -> bool:
        """Free the spans whose last view has died since the last call; True if there were any.

        Args:
          between: nothing is being handed over. False, from any other thread, leaves what is leased and not armed.
        """
        dead, watched, found = self.dead, self._watched, False
        with self._lock:
            while dead:
                watch = dead[0]
                if not between and any(watch is pending for pending in self._pending):
                    break
                key = id(watch)
                # freed, then removed: an interrupt repeats it, harmlessly. No call stands in here: a collector's
                # callback may call this very function
                if key in watched:
                    if watch.armed and watch.segment is not None:
                        watch.segment.words[watch.start >> 3] = FREED
                    found = True
                    self.nbytes -= watch.nbytes
                    del watched[key]
                if dead and dead[0] is watch:
                    dead.popleft()
        return found

    def retire(self) -> None:
        """Never free what is leased now: a forked process reads it too, and nobody hears when it is done."""
        self._pending = []
        for watch in list(self._watched.values()):
            watch.armed = False
            if watch.segment is not None:
                self._carried.add(id(watch.segment))

    def close(self, segments: Iterable[Segment]) -> None:
        """Nothing will be written any more: give back all pages that no lease covers, and those when it ends.

        Args:
          segments: memories that nobody reads but through a lease; those of the leases are among them or not.
        """
        with self._lock:
            self._pending = []
            self.reap()
            covered: dict[int, tuple[Segment, list[tuple[int, int]]]] = {id(one): (one, []) for one in segments}
            for watch in list(self._watched.values()):
                segment, watch.segment = watch.segment, None  # ours is the last reference, but for living arrays
                array = watch()
                if segment is None or array is None:
                    continue
                covered.setdefault(id(segment), (segment, []))[1].append((watch.start, watch.start + watch.nbytes))
                _outlive(array, segment, watch, is_carried=id(segment) in self._carried)
            for key, (segment, spans) in covered.items():
                if key in self._carried:
                    continue
                at = 0
                for start, stop in sorted(spans):
                    segment.discard(at, start)
                    at = stop
                segment.discard(at, segment.nbytes)

    def __len__(self) -> int:
        return len(self._watched)

    def forget(self) -> dict[str, Any]:
        """Drop everything without freeing (in a forked child, whose frees would be the parent's)."""
        self._lock = threading.RLock()  # another thread of the parent's may have held it
        dropped = {"spans": len(self._watched), "nbytes": self.nbytes}
        self._watched.clear()
        self.dead.clear()
        self.nbytes = 0
        return dropped


# Of closed loaders, by id: a lease that lives on gives its pages back by itself. Nothing is written there any more,
# so this callback needs no lock and is in nobody's way.
_outliving: dict[int, _Watch] = {}
atexit.register(_outliving.clear)


def _outlive(array: Any, segment: Segment, watch: _Watch, *, is_carried: bool) -> None:
    later = _Watch(array, _give_back)
    later.segment, later.start, later.nbytes = segment, watch.start, watch.nbytes
    later.armed = not is_carried
    _outliving[id(later)] = later


def _give_back(watch: _Watch) -> None:
    if _outliving.pop(id(watch), None) is not None and watch.armed and watch.segment is not None:
        watch.segment.discard(watch.start, watch.start + watch.nbytes)


def _retire_outliving() -> None:
    for watch in list(_outliving.values()):
        watch.armed = False


os.register_at_fork(before=_retire_outliving)


def free(segment: Segment, start: int) -> None:
    """Tell the writer of a span that nobody reads it any more; idempotent until it is written again."""
    segment.words[start >> 3] = FREED
