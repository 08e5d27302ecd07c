"""Behind: the steps of a pipeline that see several results, over one epoch of a stream of tasks.

Runs in: consumer. It has the face of a stream, with items for tasks. A result goes into the chain before the
stream is told that it was taken, and the chain takes each task once: an interrupt anywhere costs nothing. Must
never know: what a step does, where tasks run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from mploader.engine import blame
from mploader.engine.contract import Delivery
from mploader.errors import TaskInfo
from mploader.options import OnError
from mploader.pipeline.chain import Failure, Origin
from mploader.pipeline.node import Node, Raised
from mploader.pipeline.passes import Passes
from mploader.pipeline.plan import Plan
from mploader.pipeline.state import Saved

TAKER = -1  # who takes from the stream: one for all threads, which take turns here


class Tasks(Protocol):
    """The stream below."""

    handouts: dict[int, Delivery]
    skipped: int

    def check(self, run: int) -> None: ...  # noqa: D102
    def take(self, run: int, thread: int) -> Delivery: ...  # noqa: D102
    def abandon(self, run: int) -> None: ...  # noqa: D102


class Behind:
    """The items of one epoch."""

    def __init__(
        self,
        tasks: Tasks,
        plan: Plan,
        epoch: int,
        on_error: OnError,
        *,
        run: int,
        begins_at: Callable[[int], Passes | None],
        begin_anew: Callable[[Origin], int],
        saved: Saved,
    ) -> None:
        """Begin.

        Args:
          tasks: the stream, at the first task that is wanted.
          plan: what to do.
          epoch: number of the epoch.
          on_error: what takes the place of an error.
          run: the stream's.
          begins_at: the passes that begin with a task; None if none do, or its number tells.
          begin_anew: has the stream begin with another task; returns its new run.
          saved: where to start.
        """
        self.handouts: dict[int, Delivery] = {}
        self._tasks = tasks
        self._many = plan.program.many
        self._on_error = on_error
        self._epoch = epoch
        self._runtime = plan.runtime
        self._reseeds = plan.reseeds
        self._run = run
        self._begins_at = begins_at
        self._begin_anew = begin_anew
        self._is_beginning = False
        self._chain = plan.chain(epoch, saved.mark, self._judge_step)
        self._origin = self._chain.origin
        self._number = saved.mark.emitted if saved.mark is not None else 0
        self._past = saved.delivered  # these are made again, and passed over
        self._turn = threading.RLock()
        self._inside = False

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
            self._inside = True
            try:
                return self._take(run, thread)
            finally:
                self._inside = False

    def progress(self) -> Saved:
        """Where to start again."""
        with self._turn:
            delivered = max(self._number, self._past) - sum(not made.is_end for made in self.handouts.values())
            mark = self._chain.mark(delivered)
            return Saved(mark.at, frozenset(), mark, delivered)

    def abandon(self) -> None:
        """Give the epoch up: its iterator is garbage. Takes no lock."""
        self._tasks.abandon(self._run)

    def _take(self, run: int, thread: int) -> Delivery:
        if not self._is_beginning:
            self._tasks.check(self._run)
        for made in self.handouts.values():  # after an interrupt: handed out, perhaps not counted
            self._number = max(self._number, made.seq + 1)
        delivery = self.handouts.get(thread)
        while delivery is None:
            number = self._number
            found = self._chain.output(number)
            if found is not None:
                if number >= self._past:
                    failed = isinstance(found[0], Failure)
                    delivery = Delivery(run, number, *((None, found[0].error) if failed else found))
                    self.handouts[thread] = delivery  # from here on it is handed out, whatever interrupts
                self._number = number + 1
            elif self._chain.is_over:
                self.abandon()
                delivery = self.handouts[thread] = Delivery(run, is_end=True)
            elif self._chain.origin is not self._origin:  # the tasks that are under way are not wanted
                self._is_beginning = True
                self._run = self._begin_anew(self._chain.origin)
                self._origin = self._chain.origin
                self._is_beginning = False  # an interrupt up to here: it is done again
            else:
                task = self._tasks.take(self._run, TAKER)
                saved = self._runtime.save(self._reseeds)
                try:
                    self._push(task)
                finally:
                    self._runtime.restore(saved)
                if TAKER in self._tasks.handouts:  # else the loader was closed meanwhile, by another thread
                    del self._tasks.handouts[TAKER]
        return delivery

    def _push(self, task: Delivery) -> None:
        chain = self._chain
        if task.is_end:
            chain.finish()
        elif task.task >= chain.n_pushed:  # else it was interrupted just after this
            outputs = task.value if self._many else (task.value,)
            if task.error is not None:
                outputs = (Failure(task.error),) if task.is_source else self._judge(task.error)
            elif self._many and any(type(part) is Raised for part in outputs):
                outputs = list(self._rebuilt(outputs, task))
            chain.push(outputs, begins=self._begins_at(task.task))

    def _rebuilt(self, outputs: Iterable[Any], task: Delivery) -> Iterator[Any]:
        info = TaskInfo(index=task.task, seq=task.seq, epoch=self._epoch)
        for part in outputs:
            if type(part) is Raised:
                yield from self._judge(blame.failed_output(part, info))
            else:
                yield part

    def _judge_step(self, error: BaseException, step: Node, number: int) -> tuple[Any, ...]:
        return self._judge(blame.raised(error, TaskInfo(index=number, epoch=self._epoch), what=step.label))

    def _judge(self, error: BaseException) -> tuple[Any, ...]:
        """What takes the place of an error: itself, nothing, or what the user's function makes of it."""
        if self._on_error == "skip":
            self._tasks.skipped += 1
            return ()
        if callable(self._on_error):
            try:
                return (self._on_error(error),)
            except Exception as raised:  # noqa: BLE001  it takes the item's place
                return (Failure(blame.by_on_error(raised, error)),)
        return (Failure(error),)
