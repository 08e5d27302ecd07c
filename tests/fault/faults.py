"""Tiny objects that fail at one certain moment of an item's way.

Imported in workers: the standard library only. A fault is armed as long as its flag, a file, exists; one that fires
once takes the flag down first, so that whoever runs the item again survives it.
"""

from __future__ import annotations

import contextlib
import enum
import gc
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self


class How(enum.Enum):
    """How it fails."""

    RAISE = "raise ValueError"
    SYSTEM_EXIT = "raise SystemExit"
    EXIT_0 = "os._exit(0)"
    EXIT_3 = "os._exit(3)"
    SIGKILL = "SIGKILL"
    SIGSEGV = "SIGSEGV"

    @property
    def kills(self) -> bool:
        """The process ends, whatever handlers it has."""
        return self not in (How.RAISE, How.SYSTEM_EXIT)

    @property
    def exitcode(self) -> int:
        """Of the process it kills, as the standard library tells it."""
        return {How.EXIT_0: 0, How.EXIT_3: 3, How.SIGKILL: -signal.SIGKILL, How.SIGSEGV: -signal.SIGSEGV}[self]

    @property
    def signal(self) -> str | None:
        """Name of the signal that ends the process, None if it is none."""
        return self.value if self.value.startswith("SIG") else None


def fail(how: How) -> None:
    """Fail now."""
    if how is How.RAISE:
        raise ValueError("boom")
    if how is How.SYSTEM_EXIT:
        raise SystemExit(5)
    if how is How.EXIT_0:
        os._exit(0)
    if how is How.EXIT_3:
        os._exit(3)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGKILL if how is How.SIGKILL else signal.SIGSEGV)


def exits_at_5(i: int) -> int:
    """Item 5 ends its worker."""
    if i == 5:
        os._exit(3)
    return i


class Fault:
    """Fails when called, in any process but the one that made it."""

    def __init__(self, how: How, flag: Path, *, once: bool = False) -> None:
        self.how = how
        self.flag = str(flag)
        self.once = once
        self.home = os.getpid()

    def __call__(self) -> None:
        if os.getpid() == self.home or not os.path.exists(self.flag):
            return
        if self.once:
            try:
                os.unlink(self.flag)
            except FileNotFoundError:  # another process was first
                return
        fail(self.how)


class FaultHere(Fault):
    """The same, in the process that made it too."""

    def __call__(self) -> None:
        self.home = -1
        super().__call__()


def rebuild(fault: Fault) -> str:
    """What objects that fail at unpickling are rebuilt by."""
    fault()
    return "fine"


class AtUnpickle:
    """Fails while it is unpickled; else it comes out as "fine"."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault

    def __reduce__(self) -> tuple[Callable[[Fault], str], tuple[Fault]]:
        return rebuild, (self.fault,)


class AtPickle:
    """Fails while it is pickled; else it comes out as "fine"."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault

    def __reduce__(self) -> tuple[Callable[[object], str], tuple[str]]:
        self.fault()
        return str, ("fine",)


class AtDel:
    """Fails when its last reference goes; it comes out as "fine"."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault

    def __reduce__(self) -> tuple[Callable[[object], str], tuple[str]]:
        return str, ("fine",)

    def __del__(self) -> None:
        self.fault()


class AtCollect:
    """Fails when the garbage collector finds it; `drop` leaves it there to be found."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.me = self

    @classmethod
    def drop(cls, fault: Fault) -> None:
        """Make one and forget it; nothing collects until the next ``gc.collect()``."""
        gc.disable()
        cls(fault)

    def __del__(self) -> None:
        self.fault()


class PickleRaises(Exception):
    """An exception that fails while it is pickled."""

    def __init__(self, fault: Fault) -> None:
        super().__init__("told anyway")
        self.fault = fault

    def __reduce__(self) -> Any:
        self.fault()
        return PickleRaises, (self.fault,)


class RebuildRaises(Exception):
    """An exception that fails while it is unpickled."""

    def __init__(self, fault: Fault) -> None:
        super().__init__("told anyway")
        self.fault = fault

    def __reduce__(self) -> Any:
        return rebuild, (self.fault,)


class StrRaises(Exception):
    """An exception that fails when it is asked for its text."""

    def __init__(self, fault: Fault) -> None:
        super().__init__("never told")
        self.fault = fault

    def __str__(self) -> str:
        self.fault()
        return "fine"


class Source:
    """The numbers below ``length``; getting number ``at`` calls ``fault``."""

    def __init__(self, length: int, at: int, fault: Fault) -> None:
        self.length = length
        self.at = at
        self.fault = fault

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> int:
        if i == self.at:
            self.fault()
        return i


class Event:
    """A file that stands for something that has happened, seen by all processes."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = str(folder / name)

    def set(self) -> None:
        """It has happened; by whom is written into the file."""
        temporary = f"{self.path}.{os.getpid()}"
        Path(temporary).write_text(str(os.getpid()))
        os.rename(temporary, self.path)

    def clear(self) -> None:
        """It has not happened."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def is_set(self) -> bool:
        """Whether it has happened."""
        return os.path.exists(self.path)

    def pid(self) -> int:
        """Who set it."""
        return int(Path(self.path).read_text())

    def wait(self, seconds: float = 30.0) -> Self:
        """Wait for it, at most so long."""
        until(self.is_set, self.path, seconds)
        return self


class Journal:
    """A file into which processes write a number each time something happens."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def note(self, number: int) -> None:
        """Add one entry; whole, or not at all."""
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, b"%d\n" % number)
        os.close(fd)

    def read(self) -> list[int]:
        """All entries, in their order."""
        with contextlib.suppress(FileNotFoundError), open(self.path) as file:
            return [int(line) for line in file]
        return []


def until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Wait until a condition holds that nothing announces.

    Raises:
      TimeoutError: it does not hold after so long; the text is ``what``.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:g} s not yet: {what}")
        time.sleep(0.001)
