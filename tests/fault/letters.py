"""Ways to have a worker die right before or right after one certain step of an item's way.

Both are set in the worker by ``worker_init_fn``. `Hook` wraps one of the worker's own functions, and strikes once, when
the item in hand is the chosen one; `EveryLine` has each item strike one line later than the one before. Imported in
workers: mploader's worker side and the standard library only.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from mploader.engine.outbox import Outbox
from mploader.engine.worker import Worker
from mploader.stats.block import Word
from mploader.transport import records
from mploader.transport.codec import SpanWriter
from mploader.transport.ring import Ring
from mploader.worker_info import get_worker_info
from tests.fault.faults import Fault, Journal


class Step(NamedTuple):
    """A moment in a worker's life.

    Attributes:
      letter: of `mploader.engine.stream`'s docstring.
      owner: the object whose function is wrapped.
      name: of that function.
      claimed: the item is charged to a worker that dies before, and after, this step.
      announced: the result is out once this step is done.
    """

    letter: str
    owner: Any
    name: str
    claimed: tuple[bool, bool]
    announced: bool = False


STEPS = {
    "take": Step("D", Worker, "_take", (False, False)),
    "begin": Step("D", Worker, "_run_item", (False, True)),
    "write": Step("E", SpanWriter, "write", (True, True)),
    "find room": Step("E", Ring, "allocate", (True, True)),
    "store": Step("E", SpanWriter, "_store", (True, True)),
    "announce": Step("F", Outbox, "announce", (True, True)),
    "flush": Step("F", Outbox, "flush", (True, True), announced=True),
    "send": Step("F", os, "write", (True, True), announced=True),
}


class Hook:
    """Called as worker_init_fn: sets the trap."""

    def __init__(self, step: str, after: bool, index: int, fault: Fault, runs: Journal) -> None:
        self.step = step
        self.after = after
        self.index = index
        self.fault = fault
        self.runs = runs
        self.hand = -1

    def __call__(self, worker_id: int) -> None:
        step = STEPS[self.step]
        inner = getattr(step.owner, step.name)
        setattr(step.owner, step.name, self._wrap(inner))
        if step.name != "_take":
            Worker._take = self._watch(Worker._take)  # type: ignore[assignment, method-assign]

    def fn(self, i: int) -> int:
        """What the loader runs; notes that it ran."""
        self.runs.note(i)
        return i

    def _strikes(self) -> bool:
        return self.hand == self.index

    def _wrap(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        if inner is os.write:
            return self._wrap_write()
        takes = inner.__name__ == "_take"

        def wrapped(*args: Any, **options: Any) -> Any:
            if not self.after and (self._strikes() or (takes and self._idle())):
                self.fault()
            found = inner(*args, **options)
            if takes:
                self._see(found)
            if self.after and self._strikes():
                self.fault()
            return found

        return wrapped

    def _wrap_write(self) -> Callable[..., Any]:
        inner = os.write

        def write(fd: int, data: Any) -> int:
            is_record = len(data) == records.RECORD_BYTES and self._strikes()
            if is_record and not self.after:
                self.fault()
            done = inner(fd, data)
            if is_record and self.after:
                self.fault()
            return done

        return write

    def _watch(self, take: Callable[[Worker], bytes]) -> Callable[[Worker], bytes]:
        def watched(worker: Worker) -> bytes:
            data = take(worker)
            self._see(data)
            return data

        return watched

    def _see(self, data: bytes) -> None:
        self.hand = records.unpack_task(data)[1] if data else -1

    def _idle(self) -> bool:
        """This worker has not had any item yet, and is one of those that start with the pool."""
        info = get_worker_info()
        return self.hand == -1 and info is not None and info.id == 0


class EveryLine:
    """Called as worker_init_fn: item ``k * every + which`` kills its worker, once, at line ``k * stride`` of its way.

    Lines are counted from the moment the worker has read the task to the moment it has read the next one, or begins the
    next one of a chunk; the other items are spared, so that each worker does something before it dies.

    Attributes:
      died: items that killed their worker.
      charged: what was claimed and not announced then: the item itself, or the one before in its chunk.
    """

    def __init__(self, folder: Path, stride: int, every: int, which: int) -> None:
        self.folder = str(folder)
        self.stride, self.every, self.which = stride, every, which
        self.died = Journal(folder / "died")
        self.charged = Journal(folder / "charged")
        self.hand = -1
        self.count = 0
        self.begun: list[int] = []
        self.announced: set[int] = set()

    def __call__(self, worker_id: int) -> None:
        take, run, write = Worker._take, Worker._run_item, os.write

        def watched_take(worker: Worker) -> bytes:
            self.worker = worker
            data = take(worker)
            self.hand = records.unpack_task(data)[1] if data else -1
            self.count = -1
            return data

        def watched_run(worker: Worker, task: records.Task, seq: int, position: int, now: int) -> int:
            if position != self.hand:
                self.hand, self.count = position, -1
            self.begun.append(position)
            return run(worker, task, seq, position, now)

        def watched_write(fd: int, data: Any) -> int:
            done = write(fd, data)
            if len(data) % records.RECORD_BYTES == 0:
                self.announced.update(self.begun)
            return done

        Worker._take = watched_take  # type: ignore[assignment, method-assign]
        Worker._run_item = watched_run  # type: ignore[assignment, method-assign]
        os.write = watched_write
        sys.settrace(self._trace)

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        if "/mploader/" not in frame.f_code.co_filename:
            return None
        if event == "line" and self.hand % self.every == self.which:
            self.count += 1
            if self.count == self.hand // self.every * self.stride:
                self._die()
        return self._trace

    def _die(self) -> None:
        try:
            os.close(os.open(f"{self.folder}/{self.hand}", os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:  # it did so in its last life
            return
        hand, claim = self.hand, self.worker._words[Word.CLAIM]
        if claim >= 0 and claim not in self.announced:  # in the first epoch seq is the index
            self.charged.note(claim)
        self.died.note(hand)
        os.kill(os.getpid(), signal.SIGKILL)
