"""Epoch: the iterator that a user holds. What it gives was decided already; it hands it over, and loses none of it.

Runs in: consumer. Must never know: where items come from.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sized
from typing import TypeVar

from mploader.engine.behind import Behind
from mploader.engine.inline import InlineStream
from mploader.engine.opened import Ready
from mploader.engine.stream import Stream

T_co = TypeVar("T_co", covariant=True)
Items = Stream | InlineStream | Behind


class EpochIterator(Iterator[T_co]):
    """One epoch. An object, no generator: a generator could not go on after an error."""

    def __init__(
        self,
        loader: Sized,
        stream: Stream | InlineStream,
        items: Items,
        run: int,
        ready: Ready,
        on_end: Callable[[Items], None],
    ) -> None:
        """Iterate over ``items``, which come out of ``stream``; ``on_end`` is told when there are no more."""
        self._loader = loader  # keeps the workers alive
        self._items = items
        self._run = run
        self._ready = ready
        self._fill = items.fill if isinstance(items, Stream) else items.take
        self._on_end = on_end
        self._handouts = items.handouts
        weakref.finalize(self, _abandon, weakref.ref(stream), run).atexit = False

    def __iter__(self) -> EpochIterator[T_co]:
        return self

    def __next__(self) -> T_co:
        while True:
            if not self._handouts or threading.get_ident() not in self._handouts:  # what was kept back comes first
                for value in self._ready.values:
                    return value  # type: ignore[no-any-return]  # no interrupt can strike between these two lines
            thread = threading.get_ident()
            delivery = self._fill(self._run, thread)
            if delivery is not None:
                break
        error, value = delivery.error, delivery.value
        if delivery.is_end:
            self._on_end(self._items)
            raise StopIteration
        del delivery
        # an interrupt up to here: the next call gives the same item again. From here to the return there is none
        if thread in self._handouts:  # else the loader was closed meanwhile, by another thread
            del self._handouts[thread]
        if error is None:
            return value  # type: ignore[no-any-return]
        raise error

    def __length_hint__(self) -> int:
        try:
            return max(0, len(self._loader))
        except TypeError:
            return 0


def _abandon(stream: weakref.ref[Stream | InlineStream], run: int) -> None:
    """Called by the collector, anywhere: takes no lock, waits for nothing, and keeps no stream alive."""
    found = stream()
    if found is not None:
        found.abandon(run)
