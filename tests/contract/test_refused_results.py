"""What cannot make the way between processes costs one item, and says why: results, exceptions."""

from __future__ import annotations

import os
import threading
import urllib.error
from collections.abc import Callable
from email.message import Message
from typing import Any

import pytest

from mploader import NotPicklableError, RemoteError, TaskError
from tests.contract.engines import Engine, collect
from tests.contract.refused import (
    BadReduce,
    Example,
    Handle,
    NeedsKeyword,
    NoText,
    Raises,
    RaisesAtPickle,
    RaisesInReduce,
)


@pytest.mark.parametrize("in_order", [True, False])
def test_result_that_cannot_be_pickled(forkserver: Engine, in_order: bool) -> None:
    """An unpicklable result is NotPicklableError of that item, with the path to the culprit; the next items come."""
    results: list[Callable[[], Any]] = [
        lambda: 0,
        Example,
        lambda: (x for x in "ab"),
        lambda: {"big": b"x" * 100_000, "parts": [1, (2, RaisesAtPickle())]},
        lambda: 4,
    ]
    with forkserver.loader(range(5), lambda i: results[i](), in_order=in_order) as loader:
        got = sorted(collect(loader), key=lambda item: item if isinstance(item, int) else item.index)
        pids = {worker.pid for worker in loader.stats().workers}
    assert (got[0], got[4]) == (0, 4)
    culprits = [("result.meta['lock']", "_thread.lock"), ("result", "generator"), ("result['parts'][1][1]", None)]
    for index, (path, type_name) in enumerate(culprits, 1):
        error = got[index]
        assert isinstance(error, NotPicklableError)
        assert (error.index, error.element, error.epoch, error.attempt) == (index, str(index), 0, 0)
        assert error.path == path
        assert type_name is None or error.type_name == type_name
        assert path in str(error)
        assert error.pid in pids
    assert "not today" in str(got[3])


def test_result_that_cannot_be_rebuilt(forkserver: Engine) -> None:
    """A result that raises while it is unpickled is RemoteError of that item, with what it raised as its cause."""
    kinds: list[type[BaseException]] = [ValueError, SystemExit, StopIteration, MemoryError]

    def make(i: int) -> Any:
        return i if i % 2 else {"array": b"x" * 50_000, "bad": Raises(kinds[i // 2])}

    with forkserver.loader(range(8), make) as loader:
        got = collect(loader)
        pids = {worker.worker_id: worker.pid for worker in loader.stats().workers}
    assert got[1::2] == [1, 3, 5, 7]
    for index, kind in zip(range(0, 8, 2), kinds, strict=True):
        error = got[index]
        assert isinstance(error, RemoteError)
        assert type(error.__cause__) is kind
        assert (error.index, error.element, error.epoch, error.attempt) == (index, str(index), 0, 0)
        assert pids[error.worker_id or 0] == error.pid
        assert "could not be rebuilt" in str(error)


def test_exception_that_cannot_be_rebuilt(processes: Engine) -> None:
    """Its type, text, traceback and cause arrive in a RemoteError, which says what its class lacks."""

    def lock_in_args(i: int) -> None:
        raise ValueError("has a lock", threading.Lock()) from KeyError("k")

    def bad_reduce(i: int) -> None:
        raise BadReduce("an int after all")

    def raises_in_reduce(i: int) -> None:
        raise RaisesInReduce("hopeless")

    steps: list[Callable[[int], None]] = [lock_in_args, bad_reduce, raises_in_reduce]
    names = ["ValueError", "BadReduce", "RaisesInReduce"]
    texts = ["has a lock", "an int after all", "hopeless"]

    def step(i: int) -> int:
        steps[i](i) if i < len(steps) else None
        return i

    with processes.loader(range(4), step) as loader:
        *errors, last = collect(loader)
    assert last == 3
    for index, (error, name, text, function) in enumerate(zip(errors, names, texts, steps, strict=True)):
        assert error.mploader_task.index == index
        assert any(f"in {function.__name__}\n" in note for note in error.__notes__)
        assert text in str(error)
        assert isinstance(error, RemoteError)
        assert isinstance(error, TaskError)
        assert name in str(error)
        assert "__reduce__" in str(error)
    assert repr(errors[0].__cause__) == "KeyError('k')"


def test_exception_with_a_constructor_of_its_own(engine: Engine) -> None:
    """It arrives as what it was, whatever its constructor takes; of its attributes, only a lock stays behind."""

    class Local(Exception):
        def __init__(self, status: int, url: str) -> None:
            super().__init__(f"{status} for {url}")
            self.status, self.url = status, url

    def step(i: int) -> int:
        if i == 0:
            raise NeedsKeyword("bad photo", code=5) from Local(404, "http://x")
        if i == 1:
            raise Handle("has a lock", 6)
        if i == 2:
            raise Local(404, "http://x")
        if i == 3:
            raise urllib.error.HTTPError("http://x", 404, "not found", Message(), None)
        return i

    with engine.loader(range(5), step) as loader:
        keyword, handle, local, http, last = collect(loader)
    assert last == 4
    assert (type(keyword), str(keyword), keyword.code) == (NeedsKeyword, "bad photo: 5", 5)
    assert (type(keyword.__cause__), str(keyword.__cause__)) == (Local, "404 for http://x")
    assert (type(handle), str(handle), handle.code) == (Handle, "has a lock: 6", 6)
    assert hasattr(handle, "lock") == engine.is_inline
    assert (type(local), local.args, local.status, local.url) == (Local, ("404 for http://x",), 404, "http://x")
    assert (type(http), str(http)) == (urllib.error.HTTPError, "HTTP Error 404: not found")
    assert (http.code, http.msg, http.url, http.reason) == (404, "not found", "http://x", "not found")


def test_exception_without_text(quick: Engine) -> None:
    """An exception whose ``__str__`` raises is no trouble to anybody but who prints it."""

    def fails(i: int) -> int:
        if i == 1:
            raise NoText
        return i

    with quick.loader(range(3), fails) as loader:
        first, error, last = collect(loader)
    assert (first, last) == (0, 2)
    assert isinstance(error, NoText)
    assert error.mploader_task.index == 1  # type: ignore[attr-defined]


def test_chain_of_exceptions(forkserver: Engine) -> None:
    """Causes of causes arrive, each as itself; of one that cannot be rebuilt, the others do."""

    def deep(i: int) -> None:
        try:
            try:
                raise OSError(i)
            except OSError as error:
                raise RaisesInReduce("middle") from error
        except RaisesInReduce as error:
            raise ValueError("top") from error

    with forkserver.loader(range(1), deep) as loader:
        (error,) = collect(loader)
    assert (type(error), error.args) == (ValueError, ("top",))
    assert any("middle" in note and "OSError: 0" in note for note in error.__notes__)


def test_unpicklable_results_and_on_error(forkserver: Engine) -> None:
    """``on_error`` judges what could not travel like what ``fn`` raised."""

    def make(i: int) -> Any:
        return Example() if i == 1 else Raises(ValueError) if i == 2 else i

    with forkserver.loader(range(5), make, on_error="skip") as loader:
        assert list(loader) == [0, 3, 4]
        assert loader.stats().skipped == 2
    with forkserver.loader(range(5), make, on_error=lambda error: (error.index, os.getpid())) as loader:
        assert list(loader) == [0, (1, os.getpid()), (2, os.getpid()), 3, 4]
