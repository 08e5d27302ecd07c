"""One iteration is one epoch; the pool lives on between them, and whatever was cut short, the next is whole."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil
import pytest

from mploader import ClosedError
from mploader.engine import stream
from tests.contract.engines import DEADLINE_S, Engine, Gate, Tally, collect, pids_of, until


def test_pool_lives_on(processes: Engine) -> None:
    """All epochs, short ones and whole ones, are run by the same processes."""
    with processes.loader(range(12), lambda i: os.getpid()) as loader:
        loader.start()
        until(lambda: len(pids_of(loader)) == 2, "for two processes")
        pids = pids_of(loader)
        for length in (12, 3, 12):
            assert {pid for _, pid in zip(range(length), loader, strict=False)} <= pids
        assert pids_of(loader) == pids


def test_epoch_counts(quick: Engine) -> None:
    """``loader.epoch`` is -1 before the first pass and counts each ``iter()``, also one that was cut short."""

    def fails(i: int) -> int:
        raise ValueError(i)

    with quick.loader(range(3), fails) as loader:
        assert loader.epoch == -1
        for epoch in range(3):
            with pytest.raises(ValueError, match="0") as caught:
                next(iter(loader))
            assert loader.epoch == loader.stats().epoch == caught.value.mploader_task.epoch == epoch  # type: ignore[attr-defined]


def test_breaks_leak_nothing(engine: Engine) -> None:
    """300 epochs that are left in the middle keep no memory and no descriptor, and the one after them is whole."""
    with engine.loader(range(40), lambda i: np.full(60_000, i), prefetch=8) as loader:
        whole = [int(item[-1]) for item in loader]
        assert whole == list(range(40))
        descriptors = psutil.Process().num_fds()
        for number in range(300):
            for i, item in enumerate(loader):
                assert (item == i).all()
                if i == number % 3:
                    break
        assert psutil.Process().num_fds() <= descriptors
        assert [int(item[-1]) for item in loader] == whole
        del item
        next(iter(loader))
        assert loader.stats().leased_bytes <= 480_000 + 4096
        for worker in loader.stats().workers:
            assert worker.pid is not None
            shared = psutil.Process(worker.pid).memory_info().shared
            assert shared < 80e6, "its ring has grown: 300 epochs times a window of 8 are 1.1 GB"


def test_break_frees_what_waits_for_its_turn(forkserver: Engine) -> None:
    """Results that had arrived behind the one in hand when the loop was left are given back too."""

    def slow_head(i: int) -> np.ndarray[Any, Any]:
        time.sleep(0.02 if i == 0 else 0)
        return np.full(60_000, i)

    with forkserver.loader(range(100), slow_head, prefetch=8) as loader:
        parked = 0
        for _ in range(60):
            next(iter(loader))
            parked += loader.stats().parked_bytes
        assert parked > 100e6
        shared = [psutil.Process(pid).memory_info().shared for pid in pids_of(loader)]
        assert max(shared) < 40e6


def test_dropped_iterator_gives_its_epoch_up(forkserver: Engine, tally: Tally, gate: Gate) -> None:
    """An iterator that is garbage runs no further: what nobody has begun is not begun."""

    def note(i: int) -> int:
        tally.add(i)
        if i == 2:
            gate.wait()
        return i

    with forkserver.single.loader(range(1000), note, prefetch=100) as loader:
        iterator = iter(loader)
        assert [next(iterator), next(iterator)] == [0, 1]
        tally.wait_for(3)
        del iterator
        running = loader._stream
        assert isinstance(running, stream.Stream)
        until(lambda: running.pool.floor > 0, "for the epoch to be given up")
        gate.open()
        assert list(loader)[:3] == [0, 1, 2]
    assert tally.lines[:5] == ["0", "1", "2", "0", "1"]


def test_newer_iterator_supersedes(quick: Engine) -> None:
    """After a new ``iter()`` the older iterator raises ClosedError, each time, and the newer one is whole."""
    with quick.loader(range(10)) as loader:
        older = iter(loader)
        assert next(older) == 0
        newer = iter(loader)
        assert next(newer) == 0
        for _ in range(2):
            with pytest.raises(ClosedError, match=r"superseded by a newer iter\(loader\); use two Loaders"):
                next(older)
        assert list(newer) == list(range(1, 10))
        newest = iter(loader)
        for iterator in (older, newer):
            with pytest.raises(ClosedError, match="superseded"):
                next(iterator)
        assert list(newest) == list(range(10))


def test_zip_with_itself_does_not_end_silently(quick: Engine) -> None:
    """``zip(loader, loader)`` raises instead of giving nothing, also where the source is empty."""
    for size in (5, 0):
        with quick.loader(range(size)) as loader:
            with pytest.raises(ClosedError, match="superseded"):
                list(zip(loader, loader, strict=False))


def test_waiting_thread_is_told_of_a_newer_iterator(
    forkserver: Engine, gate: Gate, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that waits in ``next()`` gets ClosedError as soon as another thread begins an epoch."""
    monkeypatch.setattr(stream, "LOOK_AROUND_S", 300)  # it is woken, it does not find out by chance
    outcome: list[BaseException] = []

    def wait_once(i: int) -> int:
        tally.add(i)
        gate.wait()
        return i

    def draw(iterator: Iterator[int]) -> None:
        try:
            next(iterator)
        except ClosedError as error:
            outcome.append(error)

    with forkserver.loader(range(2), wait_once) as loader:
        thread = threading.Thread(target=draw, args=(iter(loader),))
        thread.start()
        tally.wait_for(2)  # the workers are at the gate, the thread waits for them
        began = time.monotonic()
        newer = iter(loader)
        thread.join()  # although nothing has arrived
        assert time.monotonic() - began < DEADLINE_S / 2
        assert "superseded" in str(outcome[0])
        gate.open()
        assert list(newer) == [0, 1]


def test_exhausted_iterator_stays_exhausted(quick: Engine) -> None:
    """After StopIteration comes StopIteration."""
    with quick.loader(range(2)) as loader:
        iterator = iter(loader)
        assert iter(iterator) is iterator
        assert list(iterator) == [0, 1]
        for _ in range(3):
            with pytest.raises(StopIteration):
                next(iterator)


def test_len(quick: Engine) -> None:
    """``len()`` is the whole epoch where the source knows it, and TypeError where it does not, never a guess."""
    source = [1, 2, 3]
    with quick.loader(source) as loader:
        assert len(loader) == 3
        next(iter(loader))
        assert len(loader) == 3
        source.append(4)
        assert len(loader) == 4
    for unknown in (lambda: iter(source), iter(source)):
        with quick.loader(unknown) as loader:
            with pytest.raises(TypeError, match="no len"):
                len(loader)
            assert list(loader) == source  # which asks for a length hint


@pytest.mark.parametrize("sizes", [(3, 5, 1, 0, 4)], ids=str)
def test_source_may_change_its_length(quick: Engine, sizes: tuple[int, ...]) -> None:
    """A list that grows or shrinks between epochs gives in each epoch what it holds then, as a stream does."""
    source: list[int] = []

    class Fresh:
        def __iter__(self) -> Iterator[int]:
            return iter(list(source))

    with quick.loader(source) as indexed, quick.loader(Fresh()) as streamed:
        for size in sizes:
            source[:] = range(size)
            assert collect(indexed) == collect(streamed) == source


def test_refresh_publishes_what_changed(quick: Engine) -> None:
    """After ``refresh()`` items come from source and ``fn`` as they are now; a large array too."""

    class Scale:
        factor = 1

        def __init__(self) -> None:
            self.factor = 1

        def __call__(self, row: np.ndarray[Any, Any]) -> float:
            return float(row.sum()) * self.factor

    source, scale = np.ones((6, 50_000)), Scale()
    with quick.loader(source, scale) as loader:
        loader.refresh()  # before the start: nothing to do
        assert list(loader) == [50_000.0] * 6
        source[2] = 2
        scale.factor = 10
        loader.refresh()
        assert list(loader) == [500_000.0, 500_000.0, 1_000_000.0, 500_000.0, 500_000.0, 500_000.0]


def test_refresh_in_mid_epoch(forkserver: Engine) -> None:
    """Items drawn after a ``refresh()`` in mid-epoch see the change, those before it do not; none is lost."""
    setting = {"value": 0}

    with forkserver.loader(range(100), lambda i: (i, setting["value"]), prefetch=4) as loader:
        got = []
        for item in loader:
            got.append(item)
            if len(got) == 50:
                setting["value"] = 1
                loader.refresh()
    assert [i for i, _ in got] == list(range(100))
    values = [value for _, value in got]
    assert values == sorted(values)
    assert values[49] == 0
    assert values[54] == 1  # at most the window was drawn before


class Batches:
    """As a Keras dataset does, it changes between epochs."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.order = np.arange(6_000)
        self.note = note

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> int:
        return int(self.order[index])

    def on_epoch_end(self) -> None:
        self.note("end")
        self.order = self.order + 100


def test_on_epoch_end(quick: Engine) -> None:
    """``on_epoch_end`` of a source runs in the consumer between epochs, never before the first; its changes arrive."""
    calls: list[str] = []
    source = Batches(lambda what: None)
    source.note = _Noting(calls)
    with quick.loader(source) as loader:
        for epoch in range(3):
            assert len(calls) == max(0, epoch - 1)
            assert [int(x) for x in loader] == [100 * epoch, 100 * epoch + 1, 100 * epoch + 2]
            assert len(calls) == epoch
        next(iter(loader))  # cut short
        assert next(iter(loader)) == 400
    assert calls == ["end"] * 4


class _Noting:
    """Notes in the process it was made in; its copies in workers note nothing that anybody reads."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def __call__(self, what: str) -> None:
        self.calls.append(what)


def test_an_older_iterator_never_ends_silently(engine: Engine) -> None:
    """Once the newer epoch is over, the older iterator still says that it was superseded, not that it is at its end."""
    with engine.loader(range(3), lambda x: x) as loader:
        older = iter(loader)
        next(older)
        assert list(loader) == [0, 1, 2]
        with pytest.raises(ClosedError, match="superseded"):
            next(older)


def test_a_hook_that_raises_stop_iteration_is_no_end(quick: Engine) -> None:
    """``iter(loader)`` says what happened; in a hand-written loop a StopIteration would read as the end."""

    class Source(list[int]):
        def on_epoch_end(self) -> None:
            raise StopIteration

    with quick.loader(Source(range(3))) as loader:
        assert list(loader) == [0, 1, 2]
        with pytest.raises(RuntimeError, match="raised StopIteration as the epoch began"):
            iter(loader)


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_epoch_that_is_run_again(engine: Engine, is_stream: bool) -> None:
    """An iterator of the same epoch that is superseded takes nothing from the new one, and its end gives up nothing."""
    source: Any = (lambda: iter(range(50))) if is_stream else range(50)
    with engine.loader(source, prefetch=4) as loader:
        old = iter(loader)
        assert next(old) == 0
        loader.set_epoch(0)
        new = iter(loader)
        with pytest.raises(ClosedError, match="superseded"):
            next(old)
        del old
        assert list(new) == list(range(50))
