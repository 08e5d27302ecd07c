"""Faults amid a chunk: what travels together dies, waits and is freed each by itself."""

from __future__ import annotations

import atexit
import functools
import os
import signal
import sys
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mploader import ClosedError, Loader
from mploader.engine import stream
from mploader.engine.window import Window
from mploader.transport.lease import FREED
from tests.contract.engines import Gate, Tally, until
from tests.fault.harness import until_restarts


def shared_bytes(loader: Loader[Any]) -> int:
    """Shared memory that this process has seen of its workers' rings."""
    name = "mploader-worker"
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            inside = name in line
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) << 10
    return total


@pytest.mark.parametrize("kind", ["bytes", "by turns", "arrays beyond the limit"])
def test_memory_of_large_results_is_given_back(kind: str) -> None:
    """Those of a chunk that have a span of their own, with large buffers or without, leased or copied."""

    def fn(i: int) -> Any:
        if kind == "bytes" or (kind == "by turns" and i % 2):
            return bytes([i % 256]) * 40_000
        return np.full(5000, i) if kind == "arrays beyond the limit" else i

    limit = 60_000 if "limit" in kind else None
    options: dict[str, Any] = {"num_workers": 1, "prefetch": 32, "chunk": 4, "start_method": "fork"}
    with Loader(range(3000), fn, memory_limit_bytes=limit, **options) as loader:
        held = [item for i, item in enumerate(loader) if i % 100 == 0]
        assert len(held) == 30
        assert shared_bytes(loader) < 30 << 20


def test_a_dear_item_amid_cheap_ones_runs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came before it in its chunk is made again by another worker, and what it took long for is kept."""
    monkeypatch.setattr(stream, "LOOK_AROUND_S", 0.05)
    gate, runs = Gate(tmp_path / "gate"), Tally(tmp_path / "runs")

    def fn(i: int) -> Any:
        if i in (5, 6):
            runs.add(i)
        if i == 5:
            gate.wait()
            return np.full(9000, i)
        return i

    with Loader(range(16), fn, num_workers=2, chunk=8, prefetch=16, start_method="fork") as loader:
        iterator = iter(loader)
        assert [next(iterator) for _ in range(5)] == [0, 1, 2, 3, 4]
        gate.open()
        assert (next(iterator) == 5).all()
        assert list(iterator) == list(range(6, 16))
        assert runs.lines.count("5") == 1


def test_a_single_task_is_no_claim_of_the_chunk_before_it() -> None:
    """A worker that has taken a chunk, and then one task out of it, has that task alone."""
    with Loader(range(4), abs, num_workers=1, chunk=4, prefetch=8, start_method="fork") as loader:
        iterator = iter(loader)  # kept: else its epoch is given up
        assert list(iterator) == [0, 1, 2, 3]
        pool: Any = loader._stream.pool  # type: ignore[union-attr]
        assert pool.lives[0].taken() == range(4)
        pool.submit(range(2, 3), 0, 0)
        until(lambda: pool.lives[0].taken() == range(2, 3), "the worker to take it")


def test_an_interrupt_between_parking_and_leaving_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was parked and not yet taken off the pool's list is given back once: its worker writes there again."""
    park, is_armed = Window.park, [False]

    def struck(window: Window, nbytes: int, count: int = 1) -> None:
        park(window, nbytes, count)
        if is_armed[0] and count > 1:
            is_armed[0] = False
            raise KeyboardInterrupt

    def fn(i: int) -> bytes:
        time.sleep(0.0002)  # so that the window is not full when the strike comes
        return b"\1" * (30_000 if i % 40 == 33 else 300)

    monkeypatch.setattr(Window, "park", struck)
    with Loader(range(400), fn, num_workers=1, prefetch=128, chunk=32, start_method="fork") as loader:
        iterator = iter(loader)
        assert len(list(islice(iterator, 40))) == 40
        is_armed[0] = True
        with pytest.raises(KeyboardInterrupt):
            list(iterator)
        pool: Any = loader._stream.pool  # type: ignore[union-attr]
        arrival = pool._arrived[0]
        floor = pool.floor
        del iterator
        until(lambda: pool.floor > floor, "the supervisor to give the epoch up")
        time.sleep(0.2)  # and to do whatever else it may do
        assert arrival.segment.words[arrival.record.offset >> 3] != FREED, "it is the consumer's to free"
        assert [len(item) for item in loader] == [30_000 if i % 40 == 33 else 300 for i in range(400)]


def test_another_thread_goes_on_where_one_was_interrupted() -> None:
    """What was decided for the one waits for it; the other has the rest, and does not spin."""

    def fn(i: int) -> int:
        if i == 5:
            raise ValueError(i)
        return i

    with Loader(range(100), fn, num_workers=1, prefetch=64, on_error=lambda _: -1, start_method="fork") as loader:
        iterator: Any = iter(loader)
        fill, found = iterator._fill, []

        def struck(run: int, thread: int) -> Any:
            if fill(run, thread) is not None:
                raise KeyboardInterrupt

        is_struck, is_over = threading.Event(), threading.Event()

        def take() -> None:
            iterator._fill = struck
            try:
                found.extend(iterator)
            except KeyboardInterrupt:
                iterator._fill = fill
            is_struck.set()
            is_over.wait()

        first = threading.Thread(target=take)
        first.start()
        is_struck.wait()
        assert found == [0, 1, 2, 3, 4]
        second = threading.Thread(target=lambda: found.extend(iterator), daemon=True)
        second.start()
        second.join(30)
        is_over.set()
        first.join()
        assert not second.is_alive()
        assert found == [0, 1, 2, 3, 4, *range(6, 100)]


def test_a_state_taken_after_a_close_in_another_thread(request: pytest.FixtureRequest) -> None:
    """Counts what the loop was given till then, to the item."""
    request.addfinalizer(functools.partial(sys.setswitchinterval, sys.getswitchinterval()))
    sys.setswitchinterval(1e-6)

    for _ in range(30):
        with Loader(range(5000), abs, num_workers=1, chunk=64, prefetch=256, start_method="fork") as loader:
            given = 0
            closer = threading.Timer(0.03, loader.close)
            closer.start()
            try:
                for _item in loader:
                    given += 1
                    sum(range(10_000))  # so that it is busy with what was opened when the loader is closed
            except ClosedError:
                pass
            closer.join()
            assert loader.state_dict()["delivered"] == given


def test_closing_waits_for_an_item_not_for_its_chunk(tmp_path: Path) -> None:
    """Workers end by themselves, and run what they registered for that."""
    said = Tally(tmp_path / "said")

    def init(worker_id: int) -> None:
        atexit.register(lambda: said.add(f"bye {worker_id}"))

    def fn(i: int) -> int:
        time.sleep(0.02)
        return i

    options: dict[str, Any] = {"num_workers": 2, "prefetch": 400, "chunk": 200, "start_method": "fork"}
    with Loader(range(10_000), fn, worker_init_fn=init, **options) as loader:
        iterator = iter(loader)  # kept: else its epoch is given up, and the chunk with it
        next(iterator)
    assert sorted(said.lines) == ["bye 0", "bye 1"]


def test_what_is_opened_is_nobodys_yet() -> None:
    """Leased is what the user holds, not what was rebuilt with it."""
    with Loader(range(300), lambda i: np.full(5000, i), num_workers=1, chunk=16, prefetch=64) as loader:
        for number, item in enumerate(loader):
            if number in (3, 100, 200):
                assert loader.stats().leased_bytes < 3 * 41_000
            del item


def test_a_state_loaded_and_taken_again_before_what_was_done_has_come_anew(tmp_path: Path) -> None:
    """Without an order: those that were delivered before the first state are not forgotten by the second."""
    slow = Gate(tmp_path / "slow")

    def fn(i: int) -> int:
        if i == 0 or (i in (5, 6, 7) and slow.is_open):
            time.sleep(0.1)
        return i

    options: dict[str, Any] = {"num_workers": 3, "prefetch": 12, "in_order": False, "start_method": "fork"}
    with Loader(range(20), fn, **options) as loader:
        given = list(islice(loader, 11))
    state = loader.state_dict()
    slow.open()
    for in_order in (False, True):
        with Loader(range(20), fn, **{**options, "in_order": in_order}) as loader:
            loader.load_state_dict(state)
            more = list(islice(loader, 1))
        with Loader(range(20), fn, **options) as again:
            again.load_state_dict(loader.state_dict())
            assert sorted(given + more + list(again)) == list(range(20))


def test_killed_amid_chunks_again_and_again(tmp_path: Path) -> None:
    """Every item comes once and in order, with no try of its own."""

    def fn(i: int) -> Any:
        if i % 37 == 20 and not (tmp_path / str(i)).exists():
            (tmp_path / str(i)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return np.full(6000, i) if i % 3 else i

    with Loader(range(600), fn, num_workers=2, chunk=16, prefetch=64, retries=1, start_method="fork") as loader:
        found = [int(np.asarray(item).flat[0]) for item in loader]
        until_restarts(loader, 16)
    assert found == list(range(600))
