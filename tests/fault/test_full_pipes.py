"""Pipes as small as the system makes them (an unprivileged user's 1,025th), and windows far larger than they hold.

The consumer never blocks writing, so that it always comes to reading; a worker may block writing, and is let go when
the consumer reads, dies or closes.
"""

from __future__ import annotations

import fcntl
import time
from typing import Any

import pytest

from mploader import Loader, platform
from mploader.engine import supervisor
from tests.fault.faults import until
from tests.fault.harness import drain, gone, kill, pids, until_waiting

N = 6_000


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both pipes hold 64 records each."""
    monkeypatch.setattr(platform, "enlarge_pipe", lambda fd, _: fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 4096))


@pytest.fixture
def tiny_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipe of results holds 64 records; that of tasks as many as it can."""
    sizes = iter([1 << 20, 4096])
    monkeypatch.setattr(platform, "enlarge_pipe", lambda fd, _: fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, next(sizes)))


def until_blocked(loader: Loader[Any]) -> None:
    """Wait until all workers wait for room in the pipe of results."""
    seen: list[tuple[str, int]] = []

    def blocked() -> bool:
        now = [(worker.state, worker.items) for worker in loader.stats().workers]
        stays = now == seen and {state for state, _ in now} == {"writing"}
        seen[:] = now
        time.sleep(0.02)
        return stays

    until(blocked, "all workers blocked")


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("is_stream", [True, False])
def test_window_larger_than_the_pipes(is_stream: bool, in_order: bool) -> None:
    """4,096 items ahead over pipes of 64: no deadlock, every item once."""
    source: Any = (lambda: iter(range(N))) if is_stream else range(N)
    with Loader(source, lambda i: i, num_workers=2, start_method="fork", prefetch=4096, in_order=in_order) as loader:
        found = drain(loader)
        assert (found if in_order else sorted(found)) == list(range(N))


@pytest.mark.usefixtures("tiny_results")
@pytest.mark.parametrize("strike", [False, True], ids=["left_alone", "killed"])
def test_workers_wait_while_the_consumer_is_away(strike: bool) -> None:
    """Workers that wait in a full pipe go on when the consumer comes back; killed there, they lose nothing."""
    with Loader(range(N), lambda i: i, num_workers=2, start_method="fork", prefetch=4096) as loader:
        loader.start()
        until_waiting(loader)
        iterator = iter(loader)
        found = [next(iterator)]
        until_blocked(loader)
        if strike:
            for pid in pids(loader):
                kill(pid)
        found += drain(iterator)
        assert found == list(range(N))


@pytest.mark.usefixtures("tiny_results")
def test_limit_does_not_strike_who_waits_for_the_consumer() -> None:
    """``task_timeout_s`` is for the user's code: a worker in a full pipe is not ended, however long it waits."""
    with Loader(
        range(1_000), lambda i: i, num_workers=2, start_method="fork", prefetch=1_000, task_timeout_s=0.2
    ) as loader:
        loader.start()
        until_waiting(loader)
        iterator = iter(loader)
        found = [next(iterator)]
        until_blocked(loader)
        away = time.monotonic()
        until(lambda: time.monotonic() - away > 0.7, "three limits have passed")
        found += drain(iterator)
        assert found == list(range(1_000))
        assert loader.stats().restarts == 0


@pytest.mark.usefixtures("tiny_results")
def test_break_and_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full pipe delays neither the next epoch nor the end."""
    monkeypatch.setattr(supervisor, "CLOSE_GRACE_S", 0.5)
    loader = Loader(range(N), lambda i: i, num_workers=2, start_method="fork", prefetch=4096)
    loader.start()
    until_waiting(loader)
    first = iter(loader)
    assert next(first) == 0
    until_blocked(loader)
    iterator = iter(loader)
    assert [next(iterator) for _ in range(100)] == list(range(100))
    workers = pids(loader)
    started = time.monotonic()
    loader.close()
    assert time.monotonic() - started < 3
    assert not gone(workers, 0)
