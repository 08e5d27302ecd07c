"""What ``loader.stats()`` tells of workers and consumer, at any time, from any thread."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from typing import Any

import numpy as np
import psutil
import pytest

from mploader import Loader, LoaderStats, WorkerStats
from tests.contract.engines import Engine, Gate, until, until_idle


def test_before_during_and_after(engine: Engine) -> None:
    """Figures are there before the start, count what was handed out, and stay after ``close()``; all are frozen."""
    with engine.loader(range(30), lambda i: i) as loader:
        stats = loader.stats()
        assert isinstance(stats, LoaderStats)
        assert (stats.workers, stats.epoch, stats.delivered, stats.elapsed_s) == ((), -1, 0, 0)
        assert stats.first_item_s is None
        iterator = iter(loader)
        for count in range(1, 11):
            next(iterator)
            assert loader.stats().delivered == count
        stats = loader.stats()
        assert stats.epoch == 0
        assert 0 <= stats.in_flight + stats.parked <= loader.prefetch
        assert 0 <= stats.ready_share <= 1
        assert stats.first_item_s is not None
        assert 0 < stats.first_item_s < stats.elapsed_s
        assert len(stats.workers) == engine.num_workers
        assert list(loader) == list(range(30))
        with pytest.raises(dataclasses.FrozenInstanceError):
            stats.delivered = 0  # type: ignore[misc]
    closed = loader.stats()
    assert (closed.delivered, closed.epoch, closed.errors, closed.skipped) == (40, 1, 0, 0)
    assert json.loads(json.dumps(closed.as_dict()))["delivered"] == 40


def test_each_worker_has_its_entry_before_it_has_a_process() -> None:
    """One entry a worker from the start on, for whoever looks at ``workers[i]`` early."""
    with Loader(range(3), num_workers=3) as loader:
        loader.start()
        workers = loader.stats().workers
        assert [worker.worker_id for worker in workers] == [0, 1, 2]
        assert {worker.state for worker in workers} == {"starting"}
        assert list(loader) == [0, 1, 2]


def test_errors_and_skips(quick: Engine) -> None:
    """Errors are counted where they happen, skipped items are errors that were not delivered."""

    def every_third_fails(i: int) -> int:
        if i % 3 == 0:
            raise ValueError(i)
        return i

    for on_error, delivered, skipped in (("skip", 20, 10), (lambda error: None, 30, 0)):
        with quick.loader(range(30), every_third_fails, on_error=on_error) as loader:
            assert len(list(loader)) == delivered
            stats = loader.stats()
        assert (stats.delivered, stats.errors, stats.skipped) == (delivered, 10, skipped)
        assert quick.is_inline or sum(worker.errors for worker in stats.workers) == 10


def test_workers_count_their_time(processes: Engine) -> None:
    """Of each worker: a living pid, items, bytes, and its seconds in user code, without a task, and writing."""

    def work(i: int) -> np.ndarray[Any, Any]:
        end = time.monotonic() + 0.004
        while time.monotonic() < end:
            pass
        return np.zeros(10_000)

    with processes.loader(range(30), work, prefetch=4) as loader:
        loader.start()
        until_idle(loader)
        began = time.monotonic()
        count = sum(1 for _ in loader)
        elapsed_s = time.monotonic() - began
        stats = loader.stats()
        assert {worker.worker_id for worker in stats.workers} == {0, 1}
        children = {child.pid for child in psutil.Process().children(recursive=True)}
        assert {worker.pid for worker in stats.workers} <= children
        until_idle(loader)
        stats = loader.stats()
        assert sum(worker.items for worker in stats.workers) == count == 30
        assert sum(worker.nbytes for worker in stats.workers) >= 30 * 80_000
        assert sum(worker.busy_s for worker in stats.workers) >= 30 * 0.004
        for worker in stats.workers:
            assert isinstance(worker, WorkerStats)
            assert (worker.errors, worker.restarts, worker.index) == (0, 0, None)
            assert 0 < worker.busy_s <= elapsed_s
            assert 0 < worker.writing_s <= elapsed_s
            assert 0 < worker.starting_s <= stats.elapsed_s
            assert 0 < worker.waiting_s <= stats.elapsed_s
        assert 0 < stats.consumer_wait_s <= stats.elapsed_s


def test_consumer_counts_its_time(quick: Engine) -> None:
    """``consumer_wait_s`` is what ``next()`` waited, ``consumer_busy_s`` what the loop took between two calls."""

    def slow(i: int) -> int:
        time.sleep(0.01 if i < 5 else 0)
        return i

    with quick.single.loader(range(10), slow, prefetch=2) as loader:
        for i in loader:
            if i >= 5:
                time.sleep(0.01)
        stats = loader.stats()
    assert stats.consumer_wait_s >= 0.01
    assert stats.consumer_busy_s >= 0.05
    assert stats.consumer_wait_s + stats.consumer_busy_s <= stats.elapsed_s


def test_what_a_worker_does_now(forkserver: Engine, gate: Gate) -> None:
    """Another thread sees which item each worker has in hand, and that it is in user code, while the consumer waits."""

    def hold(i: int) -> int:
        gate.wait()
        return i

    with forkserver.loader(range(2), hold) as loader:
        got: list[int] = []
        thread = threading.Thread(target=lambda: got.extend(loader))
        thread.start()

        def hands() -> list[int]:
            return sorted(w.index for w in loader.stats().workers if w.state == "running" and w.index is not None)

        until(lambda: hands() == [0, 1], "for both items to be in hand")
        assert loader.stats().in_flight == 2
        before = loader.stats()
        until(lambda: loader.stats().workers[0].busy_s > before.workers[0].busy_s, "for the running item to count")
        gate.open()
        thread.join()
    assert got == [0, 1]


def test_after_close_figures_stand_still(processes: Engine) -> None:
    """No time of a worker shrinks when it ends, nor grows after; it is "stopped", also one that was killed."""
    loader = processes.loader(range(30), lambda i: i)
    assert list(loader) == list(range(30))
    until_idle(loader)
    before = loader.stats().workers
    loader.close()
    after = loader.stats().workers
    for worker, ended in zip(before, after, strict=True):
        assert ended.state == "stopped"
        assert (ended.items, ended.nbytes, ended.index) == (worker.items, worker.nbytes, None)
        for name in ("waiting_s", "busy_s", "writing_s", "starting_s"):
            assert getattr(ended, name) >= getattr(worker, name)
    assert loader.stats().workers == after


def test_leases_that_ended_count_no_more(forkserver: Engine) -> None:
    """``leased_bytes`` is what is held now, though nobody called ``next()`` since the rest was let go of."""
    with forkserver.loader(range(6), lambda i: np.full(100_000, i)) as loader:
        held = list(loader)
        assert loader.stats().leased_bytes > 6 * 800_000
        del held[1:]
        assert 800_000 < loader.stats().leased_bytes < 900_000
        held.clear()
        assert loader.stats().leased_bytes == 0
