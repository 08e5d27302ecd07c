"""At each step A to C and G to H, in the consumer: all workers are killed, or that and a Ctrl-C at the same moment.

Right before and right after the step. The loop catches the Ctrl-C and goes on with the same iterator; every item then
arrives exactly once and in order. (Ctrl-C alone is at C only: `test_interrupts` has it between any two bytecodes.)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from mploader import Loader
from mploader.engine import stream
from mploader.engine.feed import Feed
from mploader.engine.ledger import Ledger
from mploader.engine.opened import Opened
from mploader.engine.process import Pool
from mploader.engine.reorder import ReorderBuffer
from mploader.engine.results import Results
from mploader.engine.task_pipe import TaskPipe
from mploader.engine.window import Window
from mploader.transport import codec
from mploader.transport.codec import SpanWriter
from mploader.transport.lease import Leases
from tests.fault.harness import kill, pids, until_waiting

N = 40
CALL = 5  # which call of the step's function is struck
STEPS: dict[str, list[tuple[Any, str]]] = {
    "A": [(Feed, "admit"), (Feed, "_draw")],
    "B": [(Window, "room"), (Window, "admit")],
    "C": [
        (Pool, "submit"),
        (SpanWriter, "write"),
        (Ledger, "add"),
        (TaskPipe, "send"),
        (TaskPipe, "_write"),
        (Ledger, "wrote"),
    ],
    "G": [(Pool, "file_records"), (Pool, "_file"), (Ledger, "complete"), (ReorderBuffer, "park"), (Window, "park")],
    "H": [
        (Results, "open"),
        (codec, "read"),
        (Leases, "lease"),
        (Opened, "fill"),
        (Results, "_settle"),
        (ReorderBuffer, "advance"),
        (Window, "deliver"),
        (Leases, "arm"),
    ],
}
OF_CHUNKS: dict[str, list[tuple[Any, str]]] = {
    "C": [(Pool, "submit"), (Ledger, "add"), (Ledger, "wrote")],
    "G": [(Pool, "_file"), (Ledger, "complete_chunk"), (ReorderBuffer, "park")],
    "H": [
        (Results, "open"),
        (codec, "chunk_parts"),
        (codec, "read_part"),
        (Opened, "fill"),
        (Results, "_settle"),
        (ReorderBuffer, "advance"),
    ],
}
ONLY_STREAMS = ["_draw", "write"]


class Trap:
    """Wraps a function of the consumer's; strikes at one of its calls in this thread, before or after it."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: Any, name: str, strike: Callable[[], None]) -> None:
        self.strike = strike
        self.calls = self.hits = 0
        self.after = False
        self.thread = threading.get_ident()
        inner = getattr(owner, name)

        def wrapped(*args: Any, **options: Any) -> Any:
            self.calls += threading.get_ident() == self.thread
            now = self.calls == CALL and threading.get_ident() == self.thread
            if now and not self.after:
                self._hit()
            found = inner(*args, **options)
            if now and self.after:
                self._hit()
            return found

        self.remove: Callable[[], None] = lambda: setattr(owner, name, inner)
        patch.setattr(owner, name, wrapped)

    def set(self, *, after: bool) -> None:
        """Strike at the next round."""
        self.calls, self.after = 0, after

    def _hit(self) -> None:
        self.hits += 1
        self.strike()


def make(i: int) -> tuple[int, Any]:
    """Every other item is leased memory, the rest is copied out."""
    return i, np.full(5_000 if i % 2 else 5, i)


def collect(loader: Loader[Any]) -> list[int]:
    """One epoch; a Ctrl-C is caught and the iteration goes on. Checks what the items hold."""
    iterator: Iterator[Any] = iter(loader)
    held = []
    while True:
        try:
            held.append(next(iterator))
        except StopIteration:
            break
        except KeyboardInterrupt:
            pass
    assert all((array == i).all() for i, array in held)
    return [i for i, _ in held]


@pytest.mark.parametrize(
    ("owner", "name", "chunk", "act"),
    [
        pytest.param(owner, name, chunk, act, id=f"{letter}_{owner.__name__.split('.')[-1]}.{name}-{chunk}-{act}")
        for chunk, steps in [(1, STEPS), (2, OF_CHUNKS)]
        for letter, places in steps.items()
        for owner, name in places
        for act in (["interrupt"] if letter == "C" else []) + ["kill", "both"]
    ],
)
def test_strike_at_step(owner: Any, name: str, chunk: int, act: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost, doubled, reordered or altered; the epoch after is whole, and no memory stays leased."""
    monkeypatch.setattr(stream, "LOOK_AROUND_S", 1e6)  # which would hide what is lost, a second late

    def strike() -> None:
        if act != "interrupt":
            for pid in pids(loader):
                kill(pid)
        if act != "kill":
            raise KeyboardInterrupt

    source: Any = range(N)
    if name in ONLY_STREAMS:
        source = lambda: iter(range(N))  # noqa: E731
    options: dict[str, Any] = {"num_workers": 2, "prefetch": 4, "chunk": chunk, "retries": 5, "start_method": "fork"}
    with Loader(source, make, **options) as loader:
        assert collect(loader) == list(range(N))
        until_waiting(loader)
        if name == "write":  # else in the thread of the feeder, where no interrupt strikes
            tasks: Any = loader._stream
            tasks._feed._is_bound = True
        trap = Trap(monkeypatch, owner, name, strike)
        for after in (False, True):
            trap.set(after=after)
            assert collect(loader) == list(range(N)), f"after={after}"
        trap.remove()
        assert trap.hits == 2
        assert collect(loader) == list(range(N))
        assert loader.stats().errors == 0
        assert loader.stats().parked == loader.stats().in_flight == 0
        assert loader.stats().leased_bytes == 0
