"""The one line that is logged when an item is long in coming."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable

import numpy as np
import pytest

from mploader.engine import lookout, stream
from mploader.transport import payload
from tests.contract.engines import Engine, Gate, pids_of


class Listener(logging.Handler):
    """Keeps what is logged; calls a function at the first line."""

    def __init__(self, then: Callable[[], None]) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.then = then

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.then()


@pytest.fixture
def listener(gate: Gate) -> Listener:
    """Opens the gate at the first line."""
    return Listener(gate.open)


@pytest.fixture(autouse=True)
def _listens(monkeypatch: pytest.MonkeyPatch, listener: Listener) -> None:
    monkeypatch.setattr(logging.getLogger("mploader"), "handlers", [listener])


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on 60 s are 0.3 s. Called after the first item: the start of the workers is no slow item."""

    def shorten() -> None:
        assert lookout.SLOW_LOG_S == 60
        monkeypatch.setattr(lookout, "SLOW_LOG_S", 0.3)
        monkeypatch.setattr(stream, "LOOK_AROUND_S", 0.05)

    return shorten


def test_slow_item_is_logged_once(
    forkserver: Engine, gate: Gate, listener: Listener, hurry: Callable[[], None]
) -> None:
    """The line says which index is waited for, which worker has it, for how long, and names ``task_timeout_s``."""

    def wait_at_3(i: int) -> int:
        if i == 3:
            gate.wait()
            time.sleep(0.5)  # and goes on being slow: no second line
        return i

    with forkserver.loader(range(6), wait_at_3) as loader:
        iterator = iter(loader)
        assert next(iterator) == 0
        hurry()
        assert list(iterator) == list(range(1, 6))
        pids = pids_of(loader)
    (line,) = [line for line in listener.lines if "index 3" in line]
    found = re.fullmatch(
        r"no item for \d+ s: waiting for index 3, which worker [01] \(pid (\d+)\) has run for \d+ s; "
        r"task_timeout_s ends an item that takes too long",
        line,
    )
    assert found, line
    assert int(found[1]) in pids


def test_slow_item_is_logged_while_others_arrive(
    forkserver: Engine, gate: Gate, listener: Listener, hurry: Callable[[], None]
) -> None:
    """The line comes too where results behind the slow item keep arriving all the time."""

    def second_waits(i: int) -> int:
        if i == 1:
            gate.wait()
        time.sleep(0.015)
        return i

    with forkserver.loader(range(60), second_waits, prefetch=40) as loader:
        iterator = iter(loader)
        assert next(iterator) == 0
        hurry()
        assert list(iterator) == list(range(1, 60))
    assert len([line for line in listener.lines if "waiting for index 1" in line]) == 1


def test_each_slow_item_has_its_line(forkserver: Engine, listener: Listener, hurry: Callable[[], None]) -> None:
    """Two slow items are two lines."""

    def slow(i: int) -> int:
        if i in (1, 4):
            time.sleep(0.5)
        return i

    with forkserver.loader(range(6), slow, prefetch=2) as loader:
        iterator = iter(loader)
        assert next(iterator) == 0
        hurry()
        assert list(iterator) == list(range(1, 6))
    assert [sum(f"index {i}," in line for line in listener.lines) for i in (1, 4)] == [1, 1]


def test_large_python_objects_are_logged(
    forkserver: Engine, monkeypatch: pytest.MonkeyPatch, listener: Listener
) -> None:
    """A source whose Python objects every worker has to copy is logged with its size; one of arrays is not."""
    monkeypatch.setattr(payload, "LARGE_STREAM_BYTES", 1_000_000)
    logger = logging.getLogger("mploader")
    monkeypatch.setattr(logger, "level", logging.INFO)
    monkeypatch.setattr(logger, "_cache", {})  # what it was asked before at another level
    with forkserver.single.loader(np.zeros((3, 400_000)), lambda row: row.nbytes) as loader:
        assert list(loader) == [3_200_000] * 3
    assert listener.lines == []
    with forkserver.single.loader(["x" * 500_000 + str(i) for i in range(4)], len) as loader:
        assert list(loader) == [500_001] * 4
    (line,) = listener.lines
    assert re.match(r"source and fn hold 2 MB of Python objects, which every worker copies", line)
