"""Feeder: draws the elements of one epoch of a stream ahead of the consumer, in a thread of its own.

The one helper thread on the way of an item: a source may take its time, or wait for its next element for ever, and
what was drawn before must be delivered meanwhile. It draws on credit, writes each element before it draws the next (a
source may yield one object again and again), and puts where it lies into a deque; all the rest (admission, order,
sending) is the consumer's, who takes from the deque as it would from the iterator.

Runs in: consumer. Must never know: tasks, seqs, the pool. Invariants: the thread is a daemon; while it rests it holds
nothing but a weak reference to its `Feeder`, so that a forgotten loader is collected; while it is inside the
user's source it holds that and the deque. No interrupt strikes it: Ctrl-C is the main thread's.
"""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mploader.platform import Wakeup

LET_GO_TIMEOUT_S = 0.5  # a draw that takes longer is not waited for when its epoch is over

_END = object()


class Broken(NamedTuple):
    """Takes the place of an element where the source raised."""

    error: BaseException


class Feeder:
    """Draws from one iterator, in one epoch.

    Attributes:
      run: the one it draws for.
      drawn: what ``write`` made of the elements, and `Broken`, in their order; the thread appends, the consumer takes.
      is_over: nothing comes behind what is in ``drawn``: the source has ended.
      n_drawn: elements drawn so far, taken ones and `Broken` included.
      draw_s: what drawing one takes, the recent mean.
    """

    def __init__(
        self,
        run: int,
        iterator: Iterator[Any],
        wakeup: Wakeup,
        write: Callable[[Any, int], Any],
        forget: Callable[[Any], None],
    ) -> None:
        """Make its thread; `thread.start()` is the caller's.

        Args:
          run: the one it draws for.
          iterator: where it draws from.
          wakeup: set at an element that the consumer sleeps for.
          write: what to keep of an element, the ``number``-th; raises nothing.
          forget: undoes a ``write`` that nobody will take.
        """
        self._write, self._forget = write, forget
        self.run = run
        self.drawn: deque[Any] = deque()
        self.is_over = False
        self.n_drawn = 0
        self.draw_s = 0.0
        self._iterator: Iterator[Any] | None = iterator
        self._wakeup = wakeup
        self._limit = 0
        self._is_awaited = self._is_resting = self._is_stopped = False
        self._drawing_since = 0.0
        self._calls: queue.SimpleQueue[None] = queue.SimpleQueue()  # `put` is safe in a collector's callback
        calls = self._calls
        this = weakref.ref(self, lambda _: calls.put(None))  # a thread that rests learns that nobody wants it
        # the context is the caller's, as if it drew itself
        call = contextvars.copy_context().run
        self.thread = threading.Thread(target=call, args=(_run, this, calls), name="mploader-feeder", daemon=True)

    # -- the consumer's side -----------------------------------------------------------------------

    def allow(self, limit: int) -> None:
        """Let it draw up to ``limit`` elements in all."""
        self._limit = limit
        if self._is_resting and self._calls.empty():
            self._calls.put(None)

    def may_sleep(self) -> bool:
        """Have the consumer's wakeup set at the next element; False if there is something to take already."""
        self._is_awaited = True
        return not self.has_more

    @property
    def has_more(self) -> bool:
        """There is an element to take, or the end."""
        return self.is_over or bool(self.drawn)

    def stop(self) -> None:
        """Draw no more, and let the source go. Takes no lock and waits for nothing: a collector may call it."""
        self._is_stopped = True
        self._calls.put(None)

    def end(self) -> None:
        """Stop, and wait until the source was let go; not for a draw that lasts longer than `LET_GO_TIMEOUT_S`."""
        self.stop()
        if self.thread is not threading.current_thread():
            self.thread.join(max(0.0, self._drawing_since + LET_GO_TIMEOUT_S - time.monotonic()))
        self._forget_drawn()

    def _forget_drawn(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                made = self.drawn.popleft()
                if type(made) is not Broken:
                    self._forget(made)

    # -- the thread's side -------------------------------------------------------------------------

    def step(self) -> bool | None:
        """Draw one element. False: there is no credit to do so; None: this was the last."""
        self._is_resting = False
        iterator = self._iterator
        if self._is_stopped or iterator is None:
            self._iterator = None
            return None
        if self.n_drawn >= self._limit:
            self._is_resting = True  # before the second look: whoever gives credit does it the other way round
            return self.n_drawn < self._limit or self._is_stopped
        self._drawing_since = since = time.monotonic()
        try:
            element = next(iterator, _END)
            if element is not _END:
                self.drawn.append(self._write(element, self.n_drawn))
                self.n_drawn += 1
                self.draw_s += (time.monotonic() - since - self.draw_s) * 0.2
        except BaseException as error:  # noqa: BLE001  whatever it is, the consumer raises it at its place
            element = _END if isinstance(error, KeyboardInterrupt) else None
            trace = error.__traceback__
            self.drawn.append(Broken(error.with_traceback(trace and trace.tb_next)))  # our frame keeps all this alive
            self.n_drawn += 1
        if element is _END:
            self._iterator = None
            self.is_over = True
        if self._is_stopped:
            self._forget_drawn()
        if self._is_awaited:
            self._is_awaited = False
            self._wakeup.set()
        return None if self.is_over else True


def _run(this: weakref.ref[Feeder], calls: queue.SimpleQueue[None]) -> None:
    while (feeder := this()) is not None:
        drew = feeder.step()
        if drew is None:
            return
        del feeder
        if not drew:
            calls.get()
