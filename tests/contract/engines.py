"""The engines that one contract holds for, and the signals by which tests and workers tell each other what happened.

Imported in workers, as what functions there refer to. Must never know: how an engine works.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a worker that imports this has no use for it
    from mploader import Loader

DEADLINE_S = 20.0  # a test that waits that long has failed; nothing here takes a tenth of it
LOOK_S = 0.001


@dataclass(frozen=True)
class Engine:
    """One way to run items.

    Attributes:
      name: "inline", or a start method.
      num_workers: 0 inline.
    """

    name: str
    num_workers: int

    @property
    def is_inline(self) -> bool:
        """Items run in the consumer."""
        return self.num_workers == 0

    @property
    def single(self) -> Engine:
        """The same with one worker at most."""
        return Engine(self.name, min(1, self.num_workers))

    def loader(self, source: Any, fn: Any = None, **options: Any) -> Loader[Any]:
        """Make a loader that runs in this way."""
        from mploader import Loader

        method = {} if self.is_inline else {"start_method": self.name}
        return Loader(source, fn, **{"num_workers": self.num_workers, **method, **options})


METHODS = ("forkserver", "spawn", "fork")
ENGINES = (Engine("inline", 0), *(Engine(method, 2) for method in METHODS))


def collect(items: Iterable[Any], limit: int = 1000) -> list[Any]:
    """Every item of an epoch, an error in the place of the item that failed; `limit` ends one that never ends."""
    iterator: Iterator[Any] = iter(items)
    got: list[Any] = []
    while len(got) < limit:
        try:
            got.append(next(iterator))
        except StopIteration:
            return got
        except Exception as error:  # noqa: BLE001  whatever it is, it is what the test looks at
            got.append(error)
    raise AssertionError(f"no end after {limit} items, the last: {got[-1]!r}")


def until(condition: Any, what: str) -> None:
    """Look again and again until a condition holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE_S:g} s in vain: {what}"
        time.sleep(LOOK_S)


def pids_of(loader: Loader[Any]) -> set[int]:
    """The processes of a loader's workers, those that are there by now."""
    return {worker.pid for worker in loader.stats().workers if worker.pid is not None}


def until_idle(loader: Loader[Any]) -> None:
    """Wait until all workers of a loader are there and have no task."""
    workers = loader.num_workers
    until(lambda: [w.state for w in loader.stats().workers] == ["waiting"] * workers, f"for {workers} workers")


class Gate:
    """What one process waits at until another opens it: a file that comes to be."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    @property
    def is_open(self) -> bool:
        """Somebody opened it."""
        return os.path.exists(self.path)

    def open(self) -> None:
        """Let everybody through."""
        Path(self.path).touch()

    def wait(self) -> None:
        """Wait until it is open."""
        until(lambda: self.is_open, f"for {self.path}")


class Tally:
    """What was noted by any process, a line each, in the order of the notes."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        path.touch()

    def add(self, what: object) -> None:
        """Note something; one write, so that lines never mix."""
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, f"{what}\n".encode())
        os.close(fd)

    @property
    def lines(self) -> list[str]:
        """All notes so far."""
        return Path(self.path).read_text().splitlines()

    def clear(self) -> None:
        """Forget all notes."""
        os.truncate(self.path, 0)

    def wait_for(self, count: int) -> None:
        """Wait until there are that many."""
        until(lambda: len(self.lines) >= count, f"for {count} lines in {self.path}, there are {len(self.lines)}")
