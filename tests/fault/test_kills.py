"""Kills from outside, at any time: of workers that are idle or busy, one or all, once or again and again.

Always: every item once and in order, the dead replaced, the next epoch whole.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from mploader import Loader
from mploader.errors import WorkerDiedError, WorkerStartError
from tests.fault.faults import Event, Fault, How, Journal, until
from tests.fault.harness import (
    drain,
    hold_at,
    kill,
    kill_and_see,
    pids,
    stats,
    until_restarts,
    until_waiting,
)

METHODS = ["forkserver", "spawn", "fork"]


def ready(loader: Loader[Any]) -> list[int]:
    """Workers past their start: three deaths in a row before that are another test's."""
    return [worker.pid for worker in loader.stats().workers if worker.pid and worker.state != "starting"]


@pytest.mark.parametrize("method", METHODS)
def test_idle_and_busy(method: str, tmp_path: Path) -> None:
    """A worker killed while idle costs nothing; one killed while busy, one more run of its item."""
    at, go, fn = hold_at(tmp_path, 20)
    with Loader(range(40), fn, num_workers=2, start_method=method, prefetch=4) as loader:
        iterator = iter(loader)
        found = [next(iterator) for _ in range(5)]
        until_waiting(loader)
        kill_and_see(loader, 0)
        for item in iterator:
            found.append(item)
            if len(found) == 19:
                kill(at[20].wait().pid())
                go.set()
        assert found == list(range(40))
        until_restarts(loader, 2)
        assert drain(loader) == list(range(40))


@pytest.mark.parametrize("method", METHODS)
def test_all_at_once(method: str, tmp_path: Path) -> None:
    """With every worker killed at the same moment, busy ones over their items, nothing is lost."""
    at, _, fn = hold_at(tmp_path, 7, 8)
    with Loader(range(30), fn, num_workers=2, start_method=method, prefetch=6) as loader:
        iterator = iter(loader)
        found = [next(iterator) for _ in range(7)]
        holders = {event.wait().pid() for event in at.values()}
        until(lambda: holders == set(pids(loader)), "every worker's pid known here too")
        kill_and_see(loader, 0, 1)
        assert found + drain(iterator) == list(range(30))
        assert loader.stats().errors == 0


def test_all_at_once_without_retries(tmp_path: Path) -> None:
    """What all the dead had in hand is an error each, that names the signal and its likely cause; the rest arrives."""
    at, _, fn = hold_at(tmp_path, 7, 8)
    with Loader(range(30), fn, num_workers=2, start_method="fork", prefetch=6, retries=0) as loader:
        iterator = iter(loader)
        found: list[Any] = [next(iterator) for _ in range(7)]
        holders = {number: event.wait().pid() for number, event in at.items()}
        kill_and_see(loader, 0, 1)
        found += drain(iterator)
        for number, pid in holders.items():
            error = found[number]
            assert isinstance(error, WorkerDiedError)
            assert (error.index, error.pid, error.signal, error.attempt) == (number, pid, "SIGKILL", 0)
            assert "memory ran out" in str(error)
            found[number] = number
        assert found == list(range(30))


def test_while_the_consumer_is_away(tmp_path: Path) -> None:
    """A dead worker is replaced, and its item run again, without any call of ``next()``."""
    at, go, fn = hold_at(tmp_path, 3)
    runs = Journal(tmp_path / "runs")

    def noted(i: int) -> int:
        runs.note(i)
        return int(fn(i))

    with Loader(range(8), noted, num_workers=2, start_method="fork") as loader:
        iterator = iter(loader)
        assert next(iterator) == 0
        kill(at[3].wait().pid())
        until(lambda: runs.read().count(3) >= 2, "item 3 run again")
        go.set()
        until_waiting(loader)
        until_restarts(loader, 1)
        assert set(runs.read()) == set(range(8))
        assert drain(iterator) == list(range(1, 8))


def test_error_while_the_consumer_is_away(tmp_path: Path) -> None:
    """A consumer that comes back finds the error at its place, and what came after it ready."""

    def fn(i: int) -> int:
        if i == 3:
            psutil.Process().kill()
        return i

    with Loader(range(8), fn, num_workers=2, start_method="fork") as loader:
        iterator = iter(loader)
        assert next(iterator) == 0
        until_restarts(loader, 2)
        until_waiting(loader)
        found = drain(iterator)
        assert isinstance(found[2], WorkerDiedError)
        assert found == [1, 2, found[2], 4, 5, 6, 7]


@pytest.mark.parametrize(("kind", "in_order"), [("indices", True), ("indices", False), ("elements", True)])
def test_again_and_again_while_streaming(kind: str, in_order: bool) -> None:
    """Under a hail of kills, of one worker or of both, a stream of 3,000 items is exact, and no element overwritten."""
    dice = random.Random(7)
    count = 3_000

    def elements() -> Iterator[Any]:
        return (np.full(1_000 if i % 5 == 0 else 6, i) for i in range(count))

    def make(element: Any) -> tuple[int, Any]:
        i = int(np.min(element))
        return i, np.full(6_000 if i % 7 == 0 else 6, np.max(element))

    source: Any = range(count) if kind == "indices" else elements
    with Loader(source, make, num_workers=2, start_method="fork", retries=30, prefetch=32, in_order=in_order) as loader:
        found = []
        kills = 0
        for i, array in loader:
            assert (array == i).all()
            found.append(i)
            if dice.random() < 0.012:
                for pid in ready(loader)[: dice.choice([1, 1, 2])]:
                    kill(pid)
                    kills += 1
        assert (found if in_order else sorted(found)) == list(range(count))
        assert kills > 20
        assert loader.stats().errors == 0
        assert loader.stats().restarts > 10


def test_again_and_again_from_a_thread() -> None:
    """The same with kills that do not wait for the loop: at any moment of the consumer's work."""
    dice = random.Random(11)
    over = threading.Event()

    def hail(loader: Loader[Any]) -> None:
        while not over.wait(dice.random() * 0.03):
            for pid in ready(loader)[dice.choice([0, 1]) :][:1]:
                kill(pid)

    with Loader(range(3_000), lambda i: (i, bytes(i)), num_workers=2, start_method="fork", retries=30) as loader:
        iterator = iter(loader)
        assert next(iterator) == (0, b"")
        thread = threading.Thread(target=hail, args=[loader])
        thread.start()
        try:
            found = drain(iterator)
        finally:
            over.set()
            thread.join()
        assert found == [(i, bytes(i)) for i in range(1, 3_000)]


def test_same_worker_dies_idle_for_ever() -> None:
    """A worker that dies again and again without having done one item is given up, with an error that says so."""
    with Loader(range(4), lambda i: i, num_workers=2, start_method="fork") as loader:
        iterator = iter(loader)
        until_waiting(loader)

        def struck() -> bool:
            pid = stats(loader, 1).pid
            if stats(loader, 1).state == "waiting" and pid is not None:
                kill(pid)
            stream: Any = loader._stream
            return stream.pool.fatal is not None

        until(struck, "given up")
        (error,) = drain(iterator)
        assert isinstance(error, WorkerStartError)
        assert "times in a row right after it was ready, without one item" in str(error)
        assert (error.worker_id, error.exitcode) == (1, -signal.SIGKILL)
        assert drain(loader) == list(range(4))


@pytest.mark.parametrize("method", METHODS)
def test_worker_with_children(method: str, tmp_path: Path) -> None:
    """A dead worker is seen at once although a child of its own lives on with all its descriptors."""
    at = Event(tmp_path, "at 5")

    def fn(i: int) -> int:
        if i == 5 and not at.is_set():
            child = os.fork()
            if child == 0:
                at.set()
                signal.pause()
            at.wait()
            os.kill(os.getpid(), signal.SIGKILL)
        return i

    with Loader(range(20), fn, num_workers=2, start_method=method) as loader:
        try:
            assert drain(loader) == list(range(20))
            until_restarts(loader, 1)
        finally:
            kill(at.wait().pid())


def test_successor_dies_before_it_reads_its_mail(tmp_path: Path) -> None:
    """An item whose next run was given to a worker that never became ready goes to the one after, uncharged."""
    flag = tmp_path / "armed"
    runs = Journal(tmp_path / "runs")
    fault = Fault(How.SIGKILL, flag, once=True)

    def fn(i: int) -> int:
        if i == 5:
            runs.note(i)
            if len(runs.read()) == 1:
                flag.touch()
                os._exit(3)
        return i

    with Loader(
        range(20), fn, num_workers=1, worker_init_fn=lambda _: fault(), start_method="fork", retries=1
    ) as loader:
        assert drain(loader) == list(range(20))
        until_restarts(loader, 2)
        assert runs.read() == [5, 5]


def test_on_error() -> None:
    """A death is an error as any other for ``on_error``: skipped and counted, or replaced by what a function says."""

    def fn(i: int) -> int:
        if i == 5:
            os._exit(3)
        return i

    with Loader(range(10), fn, num_workers=2, start_method="fork", on_error="skip") as loader:
        assert drain(loader) == [0, 1, 2, 3, 4, 6, 7, 8, 9]
        assert (loader.stats().skipped, loader.stats().errors) == (1, 1)

    def replace(error: BaseException) -> object:
        assert isinstance(error, WorkerDiedError)
        return "exit", error.exitcode

    with Loader(range(10), fn, num_workers=2, start_method="fork", on_error=replace) as loader:
        assert drain(loader) == [0, 1, 2, 3, 4, ("exit", 3), 6, 7, 8, 9]
