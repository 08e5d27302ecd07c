"""InlineStream: the same items, made in this process when they are asked for (``num_workers=0``).

A debugger stops in the user's code. Same order, same errors, same options as far as one process can: there is
no death to retry and no time limit. It hands out the objects themselves: a function that returns one object
twice shares it.

Runs in: consumer. Must never know: processes, shared memory.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

from mploader import worker_info
from mploader.engine import blame
from mploader.engine.contract import Delivery, Elements
from mploader.engine.work import Work
from mploader.errors import ClosedError, TaskInfo, WorkerStartError
from mploader.options import Options
from mploader.pipeline.chain import Failure
from mploader.pipeline.fetch import short_repr
from mploader.pipeline.node import UNKNOWN, Runtime
from mploader.pipeline.state import Saved


class InlineStream:
    """One loader's items without any worker."""

    def __init__(self, options: Options, work: Work, seed: int) -> None:
        self.options = options
        self.epoch = self.run = -1
        self.is_closed = False
        self.delivered = self.skipped = self.errors = 0
        self.wait_ns = self.busy_ns = self._returned_ns = 0
        self.first_item_ns: int | None = None
        self.started_ns = time.monotonic_ns()
        self.handouts: dict[int, Delivery] = {}
        self._info = worker_info.WorkerInfo(id=0, num_workers=0, seed=seed, incarnation=0, engine="inline")
        self._work = work
        self._turn = threading.RLock()
        self._elements = Elements(0, None, str)
        self._base = self._position = 0
        self._drawn: list[Any] = []
        self._exhausted = True
        self._is_ready = False
        self._inside = False

    def publish(self, work: Work) -> None:
        """Run ``work`` from the next item on."""
        self._work = work
        self._is_ready = False

    def begin(self, epoch: int, elements: Callable[[], Elements]) -> int:
        """Start an epoch. Returns a number for `take`, never used twice."""
        self.epoch = epoch
        self.run = run = self.run + 1
        with self._turn:
            self.handouts.clear()
            self._drawn.clear()
            self._elements = elements()
            self._base += self._position - self._elements.start
            self._position = self._elements.start
            self._exhausted = False
        return run

    def check(self, run: int) -> None:
        """Refuse to go on.

        Raises:
          ClosedError: closed, or a newer epoch was begun.
        """
        if self.is_closed:
            raise ClosedError("the loader was closed")
        if run != self.run:
            raise ClosedError("superseded by a newer iter(loader); use two Loaders to iterate the same source twice")

    def progress(self) -> Saved:
        """How far the epoch has come."""
        saved = Saved(self._position, frozenset(), None, self._position)
        return saved.without(made.seq - self._base for made in list(self.handouts.values()) if not made.is_end)

    def abandon(self, run: int) -> None:
        """Nothing runs ahead: nothing to give up."""

    def close(self) -> None:
        """Idempotent."""
        self.is_closed = True
        if not self._inside:
            self._elements = Elements(0, None, str)
            self._drawn.clear()
            self.handouts.clear()

    def drop(self) -> None:
        """In a forked child: usable as it is, no process is involved."""

    def take(self, run: int, thread: int) -> Delivery:
        """The next delivery; it stays in ``handouts[thread]`` until the iterator has returned it.

        Raises:
          ClosedError: closed, or a newer epoch was begun.
        """
        with self._turn:
            if self._inside:
                raise RuntimeError(
                    "next() was called from inside next() of the same loader (in fn, on_error or a source)"
                )
            began = time.monotonic_ns()
            if self._returned_ns:
                self.busy_ns += began - self._returned_ns
            self._inside = True
            try:  # no call stands between: an interrupt cannot leave it set
                return self._take(run, thread)
            finally:
                self._inside = False
                self._returned_ns = time.monotonic_ns()
                self.wait_ns += self._returned_ns - began
                if self.first_item_ns is None:
                    self.first_item_ns = self._returned_ns - self.started_ns

    def _take(self, run: int, thread: int) -> Delivery:
        while True:
            self.check(run)
            delivery = self.handouts.get(thread) or self._make(run)
            if delivery is None:
                continue
            self.handouts[thread] = delivery
            if not delivery.is_end and delivery.seq == self._base + self._position:
                self._position += 1
                self._drawn.clear()
                self.delivered += 1
            return delivery

    def _make(self, run: int) -> Delivery | None:
        """Run the user's code for the next position; None if it was skipped."""
        if not self._is_ready:
            self._get_ready()
        index, iterator = self._position, self._elements.iterator
        seq = self._base + index
        if self._exhausted or (iterator is None and index >= self._elements.length):
            return Delivery(run, is_end=True)
        if iterator is not None and not self._drawn:
            try:
                self._drawn.extend(islice(iterator, 1))
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001  whatever the source raises is raised at its place
                self.errors += 1
                info = TaskInfo(index=index, seq=seq, epoch=self.epoch)
                return Delivery(run, seq, None, blame.raised(error, info, what="the source"), False, index, True)
            if not self._drawn:
                self._exhausted = True
                return Delivery(run, is_end=True)
        if index in self._elements.done:
            self._position += 1
            self._drawn.clear()
            return None
        value, failure = self._run(index)
        if failure is None:
            return Delivery(run, seq, value, None, False, index)
        self.errors += 1
        on_error = self.options.on_error
        if on_error == "raise":
            return Delivery(run, seq, None, failure, False, index)
        if callable(on_error):
            try:
                return Delivery(run, seq, on_error(failure))
            except Exception as raised:  # noqa: BLE001  it takes the item's place
                return Delivery(run, seq, None, blame.by_on_error(raised, failure))
        self.skipped += 1
        self._position += 1
        self._drawn.clear()
        return None

    def _run(self, index: int) -> tuple[Any, BaseException | None]:
        work, attempt = self._work, 0
        program = work.program
        if self._drawn and type(self._drawn[0]) is Failure:  # of a pipeline that was merged into this one
            info = TaskInfo(index=index, seq=self._base + index, epoch=self.epoch)
            return None, blame.raised(self._drawn[0].error, info, what="the source")

        def run() -> Any:
            saved = program.runtime.save(program.reseeds)
            try:
                return program.run(self._drawn[0] if self._drawn else index, index, self.epoch)
            finally:
                program.runtime.restore(saved)

        while True:
            try:
                return self._as_worker(run), None
            except KeyboardInterrupt:
                raise  # the user's: this is the user's process
            except BaseException as exc:  # noqa: BLE001  nothing the user raises may end an epoch
                if isinstance(exc, work.retry_on):
                    if program.runtime.is_spent:
                        attempt = self.options.retries
                    elif attempt < self.options.retries:
                        attempt += 1
                        continue
                element = program.runtime.element
                info = TaskInfo(
                    index=index,
                    element=self._elements.describe(index) if element is UNKNOWN else short_repr(element),
                    seq=self._base + index,
                    epoch=self.epoch,
                    pid=os.getpid(),
                    attempt=attempt,
                )
                error = blame.raised(exc, info)
                where = "" if program.is_simple else program.runtime.where()
                if where:
                    BaseException.add_note(error, where)
                return None, error

    def _get_ready(self) -> None:
        """Run ``worker_init_fn``, as a worker does before its first item, and after each publication."""
        self._work.program.attach(Runtime(None, self.options.retries, self._work.retry_on))
        init = self._work.worker_init_fn
        if init is not None:
            try:
                self._as_worker(lambda: init(0))
            except Exception as exc:
                raise WorkerStartError(
                    f"worker_init_fn failed in this process: {type(exc).__name__}: {exc}", worker_id=0, pid=os.getpid()
                ) from exc
        self._is_ready = True

    def _as_worker(self, run: Callable[[], Any]) -> Any:
        """Call user code, which sees `get_worker_info` as in a worker."""
        before = worker_info.get_worker_info()
        try:
            worker_info.set_worker_info(self._info)
            return run()
        finally:
            worker_info._worker_info = before  # no call, in which an interrupt could strike
