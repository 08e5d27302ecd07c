"""Ledger: which tasks are out, and where each may be.

Must never know: processes, pipes, time. Invariant: a seq is closed exactly once, by its first completion
(or by giving up); everything later is told apart as a second one.

Why it is needed: a worker that died may have read a task and not yet claimed it, which nobody can tell
from a task that was never read (301 of 1,500 kills hit that gap). So after a death, all that was taken from
the pipe, is not complete, and is claimed by no living worker is lost, and issued again as a duplicate.

An element of a stream lies in the arena until nobody reads it any more: every copy of its task that was
issued has been returned, or the worker that had it is dead. In doubt it stays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

from mploader.transport.records import Task

MANY = 64  # so many numbers may be kept of tasks that are complete: to look each time costs more than all else


@dataclass(slots=True)
class _Readers:
    """Who may still read the element of one task."""

    task: Task
    issued: int = 0
    returned: list[int] = field(default_factory=list)  # incarnations, once for each copy

    @property
    def are_done(self) -> bool:
        return len(self.returned) >= self.issued


class Ledger:
    """The open tasks of a pool, by seq.

    Attributes:
      open: admitted, not complete, not given up; each of a chunk's seqs leads to the chunk, see `task`.
    """

    def __init__(self) -> None:
        self.open: dict[int, Task] = {}
        self._mailed: dict[int, int] = {}  # seq to the incarnation whose mailbox it went to last
        self._deaths: dict[int, dict[int, int]] = {}  # of tasks with several elements: which, and how often
        self._readers: dict[int, _Readers] = {}  # of tasks with an element; outlives `open` while one may read
        self._order: deque[Task] = deque()  # what was written to the shared pipe, oldest first
        self._look_at = MANY

    def add(self, task: Task) -> None:
        """A task was admitted, or a chunk of them."""
        if task.n_tasks > 1:
            self.open.update(dict.fromkeys(task.seqs, task))
            return
        self.open[task.seq] = task
        if task.span_nbytes:
            self._readers[task.seq] = _Readers(task)

    def task(self, seq: int) -> Task | None:
        """An open task by itself, whatever chunk it was sent in."""
        task = self.open.get(seq)
        return None if task is None else task.single(seq)

    def wrote(self, task: Task, mailed_to: int | None = None) -> None:
        """Its record was written to the shared pipe, or to the mailbox of an incarnation."""
        seq = task.seq
        if self._readers and seq in self._readers:
            self._readers[seq].issued += 1
        if mailed_to is not None:
            self._mailed[seq] = mailed_to
            return
        if self._mailed:
            self._mailed.pop(seq, None)
        order = self._order
        order.append(task)
        if len(order) > self._look_at:
            while order and order[0].seq not in self.open:
                order.popleft()
            self._look_at = len(order) + MANY

    def are_open(self, seqs: range) -> bool:
        """Whether all of these are open."""
        return all(map(self.open.__contains__, seqs))

    def complete_chunk(self, seqs: range) -> None:
        """A worker is done with a chunk, all of which is open."""
        deque(map(self.open.__delitem__, seqs), maxlen=0)
        for seq in seqs if self._mailed or self._deaths else ():
            self._mailed.pop(seq, None)
            self._deaths.pop(seq, None)

    def complete(self, seq: int, incarnation: int) -> Task | None:
        """A worker is done with a task. Returns the task if nobody reads its element any more."""
        self.open.pop(seq, None)
        if not (self._readers or self._mailed or self._deaths):
            return None
        self._mailed.pop(seq, None)
        self._deaths.pop(seq, None)
        readers = self._readers.get(seq)
        if readers is None:
            return None
        readers.returned.append(incarnation)
        return self._settle(seq, readers)

    def close(self, seq: int) -> Task | None:
        """Give a task up. Returns the task if nobody reads its element any more."""
        self.open.pop(seq, None)
        self._deaths.pop(seq, None)
        readers = self._readers.get(seq)
        return None if readers is None else self._settle(seq, readers)

    def died(self, seq: int, incarnation: int) -> Task | None:
        """The worker that had claimed it, and perhaps finished it, is dead, or as good as. Returns as `complete`."""
        readers = self._readers.get(seq)
        if readers is None or incarnation in readers.returned:
            return None
        readers.returned.append(incarnation)
        return None if seq in self.open else self._settle(seq, readers)

    def forget_below(self, floor: int) -> list[Task]:
        """After a death: stop waiting for what was given up; whoever still finds it in a pipe skips it unread."""
        forgotten = [seq for seq in self._readers if seq < floor]
        return [self._readers.pop(seq).task for seq in forgotten]

    def charge(self, seq: int, attempt: int) -> Task:
        """Its worker died in this attempt. Returns the task of the next one."""
        task = self.open[seq] = self.open[seq].single(seq)._replace(attempt=attempt + 1)
        return task

    def charge_element(self, seq: int, element: int) -> int:
        """Its worker died with one of the task's several elements in hand. Returns how often that was so before."""
        deaths = self._deaths.setdefault(seq, {})
        deaths[element] = deaths.get(element, -1) + 1
        return deaths[element]

    def lost(self, in_pipe: int, waiting: Iterable[Task], claimed: Sequence[range], living: set[int]) -> list[int]:
        """After a death: the open tasks that no living worker has, and no pipe holds.

        Args:
          in_pipe: how many records the shared pipe still holds.
          waiting: tasks in the backlog, never written.
          claimed: seqs of what living workers have taken.
          living: incarnations whose mailbox will still be read.
        """
        held = [task.seqs for task in (*islice(reversed(self._order), in_pipe), *waiting)]
        known = set(chain.from_iterable(held))
        return [
            seq
            for seq in self.open
            if seq not in known and not any(seq in seqs for seqs in claimed) and self._mailed.get(seq) not in living
        ]

    def _settle(self, seq: int, readers: _Readers) -> Task | None:
        if not readers.are_done:
            return None
        del self._readers[seq]
        return readers.task
