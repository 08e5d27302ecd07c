"""Mail: tasks that only one certain worker may do, on their way into its mailbox.

Runs in: consumer, under the pool's lock. Must never know: why a task names its worker. Invariant: those of one worker
keep their order, over its death too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from mploader.engine.ledger import Ledger
from mploader.engine.life import Life
from mploader.transport.records import Task


class Mail:
    """What could not be mailed yet: its worker has not started, or its mailbox is full."""

    def __init__(self, ledger: Ledger, lives: Mapping[int, Life]) -> None:
        self._ledger = ledger
        self._lives = lives
        self._waiting: deque[Task] = deque()

    def send(self, tasks: Iterable[Task]) -> None:
        """Write tasks into the mailboxes of the workers they name, or keep them."""
        behind = {task.worker for task in self._waiting}
        for task in tasks:
            if task.seq not in self._ledger.open:
                continue
            life = self._lives.get(task.worker - 1)
            if life is not None and task.worker not in behind and life.mail(task):
                self._ledger.wrote(task, life.incarnation)
            else:
                behind.add(task.worker)
                self._waiting.append(task)

    def send_rest(self) -> None:
        """A worker has started, or has read its mail."""
        if self._waiting:
            rest, self._waiting = self._waiting, deque()
            self.send(rest)

    def keep(self, tasks: Iterable[Task]) -> None:
        """Have tasks that died with the worker they name wait for its successor."""
        self._waiting = deque(sorted([*self._waiting, *tasks]))

    def give_up_below(self, floor: int) -> None:
        """Forget what waits here and has a smaller seq."""
        self._waiting = deque(task for task in self._waiting if task.seq >= floor)

    @property
    def waiting(self) -> list[Task]:
        """What was never written."""
        return list(self._waiting)
