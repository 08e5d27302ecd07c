"""The nouns that pass between source, stream and pool, and between the stream and who iterates it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mploader.errors import MploaderError
from mploader.transport.codec import free_chunk
from mploader.transport.lease import free
from mploader.transport.records import Kind, Result
from mploader.transport.segment import Segment


class WaitedTooLong(MploaderError):
    """Nothing came within the time that ``next()`` may wait; a later call goes on waiting."""


class For(NamedTuple):
    """An element that a given worker must have; only from a source that is drawn in ``next()``."""

    worker_id: int
    element: Any


class Elements(NamedTuple):
    """What an epoch runs over.

    Attributes:
      length: the tasks are the indices below it; -1 where an iterator gives them.
      iterator: gives the elements that travel, from ``start`` on.
      describe: shows the element of a task that nobody has fetched, for an error.
      start: the first task, where an epoch that was saved goes on.
      done: tasks from there on that were delivered already.
      reopen: makes the iterator anew; None for one that can be had only once.
      is_bound: only the thread that made the iterator may draw from it.
      is_quick: drawing takes no time: a window of it is drawn as the epoch begins, and then by `Stream.admit`.
    """

    length: int
    iterator: Iterator[Any] | None
    describe: Callable[[int], str]
    start: int = 0
    done: frozenset[int] = frozenset()
    reopen: Callable[[], Iterator[Any]] | None = None
    is_bound: bool = False
    is_quick: bool = False


class Delivery(NamedTuple):
    """What the next call of ``next()`` gives: a value, an error, or the end.

    With ``is_source`` the source raised the error: no ``on_error`` judges it.
    """

    run: int  # the one it is for, of a stream's
    seq: int = -1  # or an item's number, where items are not tasks
    value: Any = None
    error: BaseException | None = None
    is_end: bool = False
    task: int = -1  # its number in the epoch
    is_source: bool = False


class Arrival(NamedTuple):
    """Completed: a result, a chunk of them or a failure in a worker's segment, or an error that arose here.

    Attributes:
      record: what the worker announced, and where it lies in ``segment``; with ``error``, only its ``seq`` counts.
      segment: the worker's memory; None if ``error`` says it all.
      pid: the worker's.
      is_source: the source raised ``error``: no ``on_error`` judges it.
    """

    record: Result
    segment: Segment | None
    pid: int | None
    error: BaseException | None = None
    is_source: bool = False

    def free(self) -> None:
        """Give its memory back, unread; nothing to do for an error that arose here."""
        if self.segment is not None:
            free_result(self.segment, self.record)


def free_result(segment: Segment, record: Result) -> None:
    """Give the memory of a result back, or of a chunk of them, which nobody reads."""
    if record.n_tasks > 1:
        free_chunk(segment, record, record.n_tasks)
    else:
        free(segment, record.offset)


def failed_here(seq: int, error: BaseException, *, is_source: bool = False) -> Arrival:
    """The arrival of a task that failed on this side: its worker died, its source raised."""
    return Arrival(Result(seq, 0, 0, 0, 0, 0, 0, 0, Kind.ERROR, 0), None, None, error, is_source)
