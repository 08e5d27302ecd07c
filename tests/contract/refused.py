"""What cannot make the way between processes. Imported in workers: the standard library only."""

from __future__ import annotations

import threading
from typing import Any, NoReturn


class Example:
    def __init__(self) -> None:
        self.meta = {"name": "a", "lock": threading.Lock()}


class Raises:
    """Can be pickled; raises when it is rebuilt."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        return self.rebuild, (self.kind,)

    @staticmethod
    def rebuild(kind: type[BaseException]) -> NoReturn:
        raise kind("cannot be rebuilt")


class RaisesAtPickle:
    def __reduce__(self) -> NoReturn:
        raise LookupError("not today")


class BadReduce(Exception):
    def __reduce__(self) -> Any:
        return int, ("5",)


class RaisesInReduce(Exception):
    def __reduce__(self) -> NoReturn:
        raise RuntimeError("no")


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class NeedsKeyword(ValueError):
    """Its constructor refuses what pickle gives it."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(f"{message}: {code}")
        self.code = code


class Handle(Exception):
    """Holds what cannot travel."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(f"{message}: {code}")
        self.code, self.lock = code, threading.Lock()


class Opened:
    """Can be pickled, and not be rebuilt, by anybody."""

    def __init__(self) -> None:
        self.path = "photos.lmdb"

    def __setstate__(self, state: object) -> None:
        raise OSError("it is open already")


class Base:
    count = 0
