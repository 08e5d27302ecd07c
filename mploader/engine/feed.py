"""Feed: turns what an epoch runs over into tasks, as far as the window has room: steps A and B.

Runs in: consumer, inside the stream's turn. Must never know: the order of delivery, what a source is. An
interrupt may strike anywhere: an element that was drawn stays in `_drawn` until its task is submitted, and
`repair` counts what was submitted.

A stream is drawn by a `Feeder`, in a thread of its own; here, inside ``next()``, is drawn what is bound to the
thread that made it.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections import deque
from itertools import islice
from typing import Any

from mploader.engine import blame
from mploader.engine.contract import Elements, For
from mploader.engine.feeder import Broken, Feeder
from mploader.engine.process import Pool
from mploader.engine.window import Window
from mploader.errors import ClosedError, MploaderError, NotPicklableError, TaskInfo
from mploader.pipeline.chain import Failure
from mploader.pipeline.fetch import short_repr
from mploader.transport.codec import NoRoomError, Span
from mploader.transport.diagnose import find_unpicklable

SLOW_DRAW_S = 0.5e-3  # a source slower than this is drawn only when nothing is ready, where it is drawn here
BATCH = 16  # elements that are sent together, where their tasks are cheap

_BOUND = (
    "The source is drawn in a thread of its own, so that results are delivered while it makes the next element. "
    "If this error is about that: make what is bound to a thread inside the source's function, or pass a generator, "
    "rows() instead of rows, which is drawn by the thread that iterates"
)


class Feed:
    """The tasks of one epoch after the other.

    Attributes:
      base: the seq of the epoch's first task: an item's index is its seq less this.
      next_seq: the seq of the next task; never used twice.
      is_exhausted: every task of this epoch was submitted.
      is_stream: elements are drawn in this process and travel; else the index does.
      done: indices that were delivered before the state was saved from which this epoch goes on.
    """

    def __init__(self, pool: Pool, window: Window) -> None:
        self.base = self.next_seq = self._end = self._first = 0
        self.is_exhausted = True
        self.is_stream = False
        self.done: frozenset[int] = frozenset()
        self._pool = pool
        self._window = window
        self._epoch = -1
        self._elements = Elements(0, None, str)
        self._feeder: Feeder | None = None
        self._is_bound = False  # the source has shown that it must be drawn by the thread that made it
        self._drawn: deque[Any] = deque()
        self._draw_s = 0.0

    def begin(self, epoch: int, run: int, elements: Elements) -> None:
        """Start an epoch, by a number that no other run has; what the last one had left is gone already (`clear`)."""
        self._epoch = epoch
        self._elements = elements
        self.base = self.next_seq - elements.start
        self._end = self.base + max(elements.start, elements.length)
        self._first = self.next_seq
        self.done = elements.done
        self.is_stream = elements.iterator is not None
        self.is_exhausted = False
        if elements.iterator is not None and not (elements.is_bound or self._is_bound):
            writer = _Writer(self._pool, self.next_seq, self.base, epoch)
            feeder = Feeder(run, elements.iterator, self._pool.wakeup, writer.write, writer.forget)
            with contextlib.suppress(RuntimeError):  # no thread to be had: drawn here
                feeder.thread.start()
                self._elements = elements._replace(iterator=None)  # it is let go by who draws it
                self._feeder = feeder

    def begin_ahead(self) -> None:
        """Have the first tasks made, or elements drawn, before anybody asks for them; not those drawn in ``next()``."""
        if not self.is_stream:
            self.admit()
        elif self._feeder is not None:
            self._give_credit(self._feeder)
        elif self._elements.is_quick:
            while self.admit():
                pass

    def clear(self) -> None:
        """Give the epoch up; drops every reference to the source."""
        self.base = self.next_seq
        self.is_exhausted = True
        if self._feeder is not None:
            for made in self._drawn:
                if isinstance(made, Span):
                    self._pool.free_element(made)
        self._drawn.clear()
        self._elements = Elements(0, None, str)
        feeder, self._feeder = self._feeder, None
        if feeder is not None:
            feeder.end()

    def stop(self, run: int) -> None:
        """Have nothing more drawn for a run. Takes no lock."""
        feeder = self._feeder
        if feeder is not None and feeder.run == run:
            feeder.stop()

    @property
    def draws_here(self) -> bool:
        """Elements are drawn inside ``next()``, which may take long."""
        return self.is_stream and self._feeder is None

    def is_inside_source(self) -> bool:
        """Whether the calling thread is the one that draws: what it runs is the user's source."""
        feeder = self._feeder
        return feeder is not None and threading.current_thread() is feeder.thread

    def describe(self, index: int) -> str:
        """Show an element, for an error."""
        return self._elements.describe(index)

    def repair(self, issued: int) -> None:
        """After an interrupt: the tasks up to seq ``issued`` were submitted, whether they were counted or not."""
        if issued >= self.next_seq:
            rest = deque(islice(self._drawn, issued + 1 - self.next_seq, None))
            self._drawn, self.next_seq = rest, issued + 1  # nothing is called between these: all or none

    def admit_lazily(self) -> None:
        """Fill the window at a delivery, where that cannot hold the item up for long.

        Where tasks cost less than waking a worker, it waits until half of the window is free.
        """
        if self.draws_here:
            if self._draw_s < SLOW_DRAW_S and not self._elements.is_quick:
                self.admit()
        elif 2 * self._window.outstanding <= self._window.prefetch or not self._pool.pace.is_cheap:
            self.admit()

    def admit(self) -> bool:
        """Fill the window. True if something may have arrived: an element was drawn, or failed, here."""
        window = self._window
        if self.is_exhausted:
            return False
        room = window.room()
        if not room:
            return False
        if not self.is_stream:
            self._admit_indices(room)
            return False
        feeder = self._feeder
        if feeder is None:
            self._draw()
            return True
        failed = False
        while not (self.is_exhausted or failed) and window.has_room() and (self._drawn or feeder.has_more):
            failed = self._draw()
            if self._feeder is None:
                return True
        if feeder.draw_s > SLOW_DRAW_S or 2 * window.outstanding <= window.prefetch:
            self._give_credit(feeder)
        return failed

    def _admit_indices(self, room: int) -> None:
        """Send tasks for the next indices: whole chunks, but at the end, and where the window has no room for one."""
        window, first, end = self._window, self.next_seq, self._end
        last = first + room  # A: the next indices
        chunk = 1 if self.done else self._pool.pace.chunk
        if last >= end:
            last = end
        elif chunk > 1:
            if room < chunk and not window.outstanding:
                chunk = 1
            last -= room % chunk
        if last > first:
            window.admit(last - first)  # B: admitted
            self._pool.submit(range(first, last), self.base, self._epoch, None, chunk)
            self.next_seq = last
        self.is_exhausted = last == end

    def may_sleep(self) -> bool:
        """Before the consumer sleeps: an element that comes will wake it. False if one is there."""
        feeder = self._feeder
        if feeder is None or self.is_exhausted or not self._window.has_room():
            return True
        self._give_credit(feeder)
        return feeder.may_sleep()

    def _give_credit(self, feeder: Feeder) -> None:
        """What is drawn ahead and what is outstanding stay within the window together."""
        feeder.allow(self.next_seq - self._first + len(self._drawn) + self._window.room())

    def _draw(self) -> bool:
        """A: take elements of a stream, put them into the arena, send their tasks. True if the last one failed.

        They are several only where a feeder has drawn them already, and tasks cost less than waking a worker.
        """
        drawn, window = self._drawn, self._window
        failed: Failure | Broken | None = None
        spans: list[Span] = []
        workers: list[int] | None = None
        while window.has_room() and (len(drawn) > len(spans) or self._take()):
            element = drawn[len(spans)]
            if type(element) is For:
                workers, element = [element.worker_id], element.element
            if self._feeder is None and type(element) is not Broken:
                element = self._write(element, self.next_seq + len(spans))
            if not isinstance(element, Span):
                failed = element
                break
            spans.append(element)
            window.admit()  # B: admitted
            if self._feeder is None or not self._pool.pace.is_cheap or len(spans) == BATCH:
                break
        end = self.next_seq + len(spans)
        if spans:
            self._pool.submit(range(self.next_seq, end), self.base, self._epoch, spans, workers=workers)
        if failed is not None:
            error = failed.error
            if not isinstance(error, MploaderError):  # which tells its place itself: an element that cannot travel
                info = TaskInfo(index=end - self.base, seq=end, epoch=self._epoch)
                error = blame.raised(error, info, what="the source")
            self._pool.fail(end, error, is_source=type(failed) is Broken)
            window.admit()
            end += 1
        self.next_seq = end
        drawn.clear()
        return failed is not None

    def _write(self, element: object, seq: int) -> Span | Failure:
        if type(element) is Failure:  # of a pipeline that was merged into this one
            return element
        try:
            return write_element(self._pool, element, seq, self.base, self._epoch)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  at its place, whatever it is
            return Failure(error)

    def _take(self) -> bool:
        """Move the next element into `_drawn`, by one C call: an interrupt cannot lose it. False: none there."""
        drawn, feeder = self._drawn, self._feeder
        if feeder is not None:
            if not feeder.drawn:
                self.is_exhausted = feeder.is_over and not drawn  # the end is met when all before it was sent
                return False
            if drawn or not self._must_draw_here(feeder, feeder.drawn[0]):
                drawn.extend(map(deque.popleft, (feeder.drawn,)))
                return True
            self._draw_here()
        iterator = self._elements.iterator
        assert iterator is not None
        if drawn:
            return True
        before = time.perf_counter()
        try:
            drawn.extend(islice(iterator, 1))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  at its place, whatever it is
            drawn.append(Broken(error))
        self._draw_s += (time.perf_counter() - before - self._draw_s) * 0.2
        self.is_exhausted = not drawn
        return bool(drawn)

    def _must_draw_here(self, feeder: Feeder, first: object) -> bool:
        """Whether a feeder failed because it is another thread, and the source can be begun again in this one."""
        if type(first) is not Broken or not _speaks_of_threads(first.error):
            return False
        if feeder.n_drawn > 1 or self._elements.reopen is None:
            BaseException.add_note(first.error, _BOUND)
            return False
        return True

    def _draw_here(self) -> None:
        """Open the source anew, in this thread; from now on it is drawn here, in the next epochs too."""
        assert self._elements.reopen is not None
        try:
            iterator = self._elements.reopen()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  at its place
            self._drawn.append(Broken(error))
            iterator = iter(())
        self._elements = self._elements._replace(iterator=iterator)
        self._is_bound = True
        self._feeder = None


class _Writer:
    """Writes what a feeder draws; keeps no pool alive, as the feeder's thread may wait inside a source for ever."""

    def __init__(self, pool: Pool, first_seq: int, base: int, epoch: int) -> None:
        self._pool = weakref.ref(pool)
        self._first_seq, self._base, self._epoch = first_seq, base, epoch

    def write(self, element: object, number: int) -> Span | Failure:
        """Write the ``number``-th element into the arena."""
        if type(element) is Failure:  # of a pipeline that was merged into this one
            return element
        try:
            pool = self._pool()
            if pool is None:
                raise ClosedError("the loader was closed")
            return write_element(pool, element, self._first_seq + number, self._base, self._epoch)
        except BaseException as error:  # noqa: BLE001  at its place, whatever it is
            return Failure(error)

    def forget(self, made: Span | Failure) -> None:
        """Nobody will read it."""
        pool = self._pool()
        if pool is not None and isinstance(made, Span):
            pool.free_element(made)


def write_element(pool: Pool, element: object, seq: int, base: int, epoch: int) -> Span:
    """Write an element of a stream into the arena.

    Raises:
      ResultTooLargeError, NotPicklableError: it cannot travel.
    """
    try:
        return pool.write_element(element)
    except NoRoomError as error:
        info = TaskInfo(index=seq - base, element=short_repr(element), seq=seq, epoch=epoch)
        limit, room = pool.options.memory_limit_bytes, pool.arena.segment.nbytes
        raise blame.too_large(error.args[0], limit, info, room, is_element=True) from None
    except Exception as error:
        info = TaskInfo(index=seq - base, element=short_repr(element), seq=seq, epoch=epoch)
        culprit = find_unpicklable(element, "element", role="element", error=error)
        raise NotPicklableError(
            f"{culprit.sentence} ({info})", info, path=culprit.path, type_name=culprit.type_name
        ) from error


def _speaks_of_threads(error: BaseException) -> bool:
    """Whether an error may say that something is used outside the thread that made it: sqlite3, asyncio, signal do."""
    try:
        return isinstance(error, Exception) and "thread" in f"{type(error).__name__} {error}".lower()
    except Exception:  # noqa: BLE001  its __str__ is the user's
        return False
