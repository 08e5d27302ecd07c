"""The launcher process dies, stops answering, or cannot be made again: what is under way goes on.

Only births and the exit codes of the dead need it.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from mploader import Loader
from mploader.engine import launch
from mploader.errors import WorkerDiedError, WorkerStartError
from tests.fault.faults import until
from tests.fault.harness import (
    drain,
    gone,
    hold_at,
    kill,
    kill_and_see,
    launcher_pid,
    pids,
    until_restarts,
    until_waiting,
)

METHODS = ["forkserver", "spawn", "fork"]


@pytest.mark.parametrize("method", METHODS)
def test_killed(method: str) -> None:
    """With the launcher dead, workers go on; when one dies, a new launcher makes its successor."""
    with Loader(range(60), lambda i: i, num_workers=2, start_method=method, prefetch=4) as loader:
        iterator = iter(loader)
        found = [next(iterator) for _ in range(10)]
        first = launcher_pid(loader)
        kill(first)
        found += [next(iterator) for _ in range(10)]
        kill_and_see(loader, 0)
        assert launcher_pid(loader) != first
        found += [next(iterator) for _ in range(10)]
        kill_and_see(loader, 1, 0)
        found += drain(iterator)
        assert found == list(range(60))
        assert drain(loader) == list(range(60))


@pytest.mark.parametrize("method", METHODS)
def test_killed_with_all_workers(method: str, tmp_path: Path) -> None:
    """Launcher and all workers killed at once: the error of the item says that nobody knows how they died."""
    at, go, fn = hold_at(tmp_path, 7)
    go.clear()
    with Loader(range(30), fn, num_workers=2, start_method=method, prefetch=6, retries=0) as loader:
        iterator = iter(loader)
        found: list[Any] = [next(iterator) for _ in range(7)]
        at[7].wait()
        until(lambda: sorted(w.state for w in loader.stats().workers) == ["running", "waiting"], "one with no item")
        victims = [launcher_pid(loader), *pids(loader)]
        for pid in victims:
            kill(pid)
        found += drain(iterator)
        error = found[7]
        assert isinstance(error, WorkerDiedError)
        assert (error.index, error.attempt) == (7, 0)
        assert (error.exitcode, error.signal) in ((None, None), (-signal.SIGKILL, "SIGKILL"))
        assert found == [*range(7), error, *range(8, 30)]
        assert not set(victims) & {launcher_pid(loader), *pids(loader)}
        assert drain(loader) == list(range(30))


def test_cannot_be_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher that died and cannot be replaced is one clear error, also with an item waiting for its next run."""
    with Loader(range(30), lambda i: i, num_workers=2, prefetch=4) as loader:
        iterator = iter(loader)
        assert next(iterator) == 0
        monkeypatch.setattr("sys.executable", "/nonexistent/python")
        kill(launcher_pid(loader))
        kill(pids(loader)[0])
        stream: Any = loader._stream
        until(lambda: stream.pool.fatal is not None, "given up")
        found = drain(iterator)
        assert isinstance(found[-1], WorkerStartError)
        assert "launcher process could not be started" in str(found[-1])
        del found
        monkeypatch.undo()
        assert drain(loader) == list(range(30))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher that does not answer is given up after a moment instead of seconds."""
    monkeypatch.setattr(launch, "REAP_TIMEOUT_S", 0.1)
    monkeypatch.setattr(launch, "EXIT_TIMEOUT_S", 0.2)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("method", ["forkserver", "fork"])
@pytest.mark.parametrize("wakes", [False, True], ids=["for_good", "for_a_while"])
def test_stopped(wakes: bool, method: str) -> None:
    """A launcher that does not answer in time is replaced; an answer that comes late is taken for no other."""
    with Loader(range(60), lambda i: i, num_workers=2, start_method=method, prefetch=4) as loader:
        iterator = iter(loader)
        found = [next(iterator) for _ in range(5)]
        until_waiting(loader)
        stopped = launcher_pid(loader)
        kill(stopped, signal.SIGSTOP)
        before = time.monotonic()
        kill(pids(loader)[0])
        if wakes:
            until(lambda: time.monotonic() - before > 0.15, "the first answer is late")
            kill(stopped, signal.SIGCONT)
        until_restarts(loader, 1)
        found += drain(iterator)
        until_waiting(loader)
        kill_and_see(loader, 0, 1)
        assert found == list(range(60))
        assert drain(loader) == list(range(60))


def test_stopped_does_not_stop_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the launcher does not answer, the workers that live go on, and the loop with them."""
    monkeypatch.setattr(launch, "REAP_TIMEOUT_S", 3.0)
    with Loader(range(200), lambda i: i, num_workers=2, start_method="fork", prefetch=4) as loader:
        iterator = iter(loader)
        found = [next(iterator) for _ in range(5)]
        until_waiting(loader)
        stopped = launcher_pid(loader)
        kill(stopped, signal.SIGSTOP)
        victim = pids(loader)[0]
        kill(victim)
        assert not gone([victim], 5)
        started = time.monotonic()
        found += drain(iterator)
        seconds = time.monotonic() - started
        kill(stopped, signal.SIGCONT)
        assert found == list(range(200))
        assert seconds < 1.5


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("method", ["forkserver", "fork"])
def test_close_while_stopped(method: str) -> None:
    """Closing does not wait for a launcher that does not answer: it is killed."""
    loader = Loader(range(8), lambda i: i, num_workers=2, start_method=method)
    assert drain(loader) == list(range(8))
    everybody = [launcher_pid(loader), *pids(loader)]
    kill(everybody[0], signal.SIGSTOP)
    started = time.monotonic()
    loader.close()
    assert time.monotonic() - started < 3
    assert not gone(everybody, 0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("method", ["forkserver", "fork"])
def test_close_while_a_start_is_pending(method: str) -> None:
    """Closing does not wait for a worker that a stopped launcher will never start."""
    loader: Loader[int] = Loader(range(8), lambda i: i, num_workers=2, start_method=method)
    loader.start()
    launcher = launcher_pid(loader)
    kill(launcher, signal.SIGSTOP)
    started = time.monotonic()
    loader.close()
    assert time.monotonic() - started < 5
    assert not gone([launcher], 0)
