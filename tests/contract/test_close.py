"""How a loader ends: by ``with``, by ``close()``, forgotten; at once, whole, and without a word."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest

from mploader import ClosedError, Pipeline
from mploader.engine import stream
from mploader.engine.launch import Launcher
from tests.contract.engines import DEADLINE_S, Engine, Gate, Tally, pids_of, until


def processes_of(loader: Any) -> list[psutil.Process]:
    """Handles on a loader's workers, all of them."""
    until(lambda: len(pids_of(loader)) == loader.num_workers, "for the workers")
    return [psutil.Process(pid) for pid in pids_of(loader)]


def assert_gone(workers: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(workers, timeout=DEADLINE_S / 2)
    assert not alive


def test_end_of_with(engine: Engine) -> None:
    """At the end of the block, by an error too, the workers are gone, and what is used afterwards says ClosedError."""
    loader = engine.loader(range(100), lambda i: i)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        with loader as entered:
            assert entered is loader
            iterator = iter(loader)
            assert next(iterator) == 0
            workers = [] if engine.is_inline else processes_of(loader)
            raise ZeroDivisionError
    assert not any(worker.is_running() for worker in workers)
    for use in (lambda: iter(loader), lambda: next(iterator), loader.start, loader.refresh, loader.__enter__):
        with pytest.raises(ClosedError, match="closed"):
            use()


def test_close_in_the_middle_of_a_start(forkserver: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was about to be started when the loader was closed leaves nothing for the collector to find."""
    is_closing = threading.Event()

    class Slow(Launcher):
        def start(self, config: dict[str, Any], fds: dict[str, int]) -> int:
            assert is_closing.wait(DEADLINE_S)
            return super().start(config, fds)

        def abort_start(self) -> None:
            super().abort_start()
            is_closing.set()

    monkeypatch.setattr(stream, "Launcher", Slow)
    loader = forkserver.loader(range(3))
    gc.collect()
    gc.disable()
    try:
        descriptors = psutil.Process().num_fds()
        loader.start()
        assert psutil.Process().num_fds() > descriptors
        loader.close()
        assert psutil.Process().num_fds() == descriptors
    finally:
        gc.enable()


def test_close_while_another_thread_begins(forkserver: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """``close()`` while an ``iter()`` is making the workers ends them too; that ``iter()`` says so."""
    is_making, was_closed = threading.Event(), threading.Event()

    class Slow(Launcher):
        def __init__(self, *args: Any, **options: Any) -> None:
            is_making.set()
            assert was_closed.wait(DEADLINE_S)
            super().__init__(*args, **options)

    monkeypatch.setattr(stream, "Launcher", Slow)
    loader = forkserver.loader(range(3))
    said: list[Any] = []

    def begin() -> None:
        try:
            said.append(iter(loader))
        except ClosedError as error:
            said.append(error)

    thread = threading.Thread(target=begin)
    thread.start()
    assert is_making.wait(DEADLINE_S)
    loader.close()
    was_closed.set()
    thread.join(DEADLINE_S)
    assert isinstance(said[0], ClosedError)
    assert not psutil.Process().children()


def test_close_is_idempotent(engine: Engine) -> None:
    """``close()`` may come any number of times, before the start too; ``len``, ``stats``, ``repr`` still answer."""
    never = engine.loader(range(3))
    never.close()
    never.close()
    for use in (lambda: iter(never), never.start, never.refresh, never.__enter__):
        with pytest.raises(ClosedError):
            use()
    loader = engine.loader(range(3))
    assert list(loader) == [0, 1, 2]
    for _ in range(3):
        loader.close()
    assert len(loader) == 3
    assert loader.stats().delivered == 3
    assert loader.epoch == 0
    assert "closed" in repr(loader)


def test_close_ends_a_repeat_that_gives_nothing(quick: Engine) -> None:
    """A loop that will never get an item is ended by ``close()`` from another thread, as any other that waits."""
    pipe = Pipeline.from_sequence(range(10)).filter(lambda x: x > 10).repeat()
    outcome: list[BaseException] = []

    def draw(iterator: Iterator[int]) -> None:
        try:
            next(iterator)
        except Exception as error:  # noqa: BLE001  it is what the test looks at
            outcome.append(error)

    loader = quick.loader(pipe)
    thread = threading.Thread(target=draw, args=(iter(loader),))
    thread.start()
    until(lambda: loader.stats().delivered > 50, "several passes")
    loader.close()
    thread.join(DEADLINE_S)
    assert isinstance(outcome[0], ClosedError)


@pytest.mark.parametrize("behind", [False, True])
def test_close_at_the_very_moment_of_a_delivery(quick: Engine, behind: bool) -> None:
    """Another thread closes the loader when an item was taken and not yet handed out: it is, and the loop ends."""
    pipe = Pipeline.from_sequence(range(5))
    with quick.loader(pipe.filter(lambda x: True) if behind else pipe) as loader:
        iterator: Any = iter(loader)
        assert next(iterator) == 0
        owner, name = (loader._stream, "take") if behind else (iterator, "_fill")
        take = getattr(owner, name)

        def taken(epoch: int, thread: int) -> Any:
            delivery = take(epoch, thread)
            closer = threading.Thread(target=loader.close)
            closer.start()
            closer.join()
            return delivery

        setattr(owner, name, taken)
        found: list[int] = []
        with pytest.raises(ClosedError):
            found.extend(iterator)
        assert found in ([], [1])


def test_close_while_another_thread_waits(
    forkserver: Engine, gate: Gate, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that waits in ``next()`` gets ClosedError, and ``close()`` ends, though the item would take for ever."""
    monkeypatch.setattr(stream, "LOOK_AROUND_S", 300)  # it is woken, it does not find out by chance
    outcome: list[BaseException] = []

    def never(i: int) -> None:
        tally.add(i)
        gate.wait()

    def draw(iterator: Iterator[None]) -> None:
        try:
            next(iterator)
        except Exception as error:  # noqa: BLE001  it is what the test looks at
            outcome.append(error)

    loader = forkserver.single.loader(range(5), never)
    thread = threading.Thread(target=draw, args=(iter(loader),))
    thread.start()
    tally.wait_for(1)
    workers = processes_of(loader)
    closer = threading.Thread(target=loader.close)
    closer.start()
    thread.join(DEADLINE_S / 2)
    closer.join(DEADLINE_S / 2)
    assert not thread.is_alive()
    assert not closer.is_alive()
    assert isinstance(outcome[0], ClosedError)
    assert not any(worker.is_running() for worker in workers)


def test_close_from_another_thread_between_items(forkserver: Engine) -> None:
    """A loop over a loader that another thread closes ends with ClosedError, never silently, never in a hang."""
    for number in range(6):
        loader = forkserver.single.loader(range(100_000), prefetch=16)
        iterator = iter(loader)
        closer = threading.Thread(target=loader.close)
        with pytest.raises(ClosedError):  # noqa: PT012
            for i in iterator:
                if i == number * 5:
                    closer.start()
        closer.join()


def test_close_frees_what_was_in_flight(forkserver: Engine) -> None:
    """Results that wait when the loader is closed are gone with it; those that the user holds stay."""
    loader = forkserver.loader(range(30), lambda i: np.full(100_000, i), prefetch=8)
    iterator = iter(loader)
    held = [next(iterator) for _ in range(3)]
    loader.close()
    for i, array in enumerate(held):
        assert (array == i).all()
        array += 1


def test_forgotten_loader(processes: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    """A loader that nobody refers to any more ends its workers, in mid-epoch too, and says nothing."""
    loader = processes.loader(range(1000), lambda i: i)
    iterator = iter(loader)
    assert next(iterator) == 0
    workers = processes_of(loader)
    del loader
    assert next(iterator) == 1  # the iterator keeps it alive
    assert all(worker.is_running() for worker in workers)
    del iterator
    assert_gone(workers)
    assert capfd.readouterr() == ("", "")


def test_forgotten_loader_in_a_cycle(processes: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    """A loader in a cycle of references ends at the next collection, though its own options refer to it."""

    class Trainer:
        def __init__(self) -> None:
            self.loader = processes.single.loader(self.draw, on_error=self.handle)
            self.iterator = iter(self.loader)

        def draw(self) -> Iterator[int]:
            yield from range(100)

        def handle(self, error: Exception) -> None:
            raise error

    trainer = Trainer()
    assert next(trainer.iterator) == 0
    workers = processes_of(trainer.loader)
    del trainer
    gc.collect()
    assert_gone(workers)
    assert capfd.readouterr() == ("", "")


def test_closed_loader_in_a_cycle_keeps_nothing_open(forkserver: Engine) -> None:
    """After ``close()`` and a collection no descriptor is left, though ``on_error`` refers to the loader's iterator."""
    before = psutil.Process().num_fds()

    def run() -> None:
        iterators: list[Any] = []
        with forkserver.single.loader(range(3), on_error=lambda error: next(iterators[0])) as loader:
            iterators.append(iter(loader))
            assert list(iterators[0]) == [0, 1, 2]

    run()
    gc.collect()
    assert psutil.Process().num_fds() == before


def test_forgotten_while_a_thread_started_it(processes: Engine) -> None:
    """The workers do not end with the thread that started them: they live as long as the loader."""
    made: list[Any] = []

    def start() -> None:
        loader = processes.single.loader(range(50), lambda i: i)
        iterator = iter(loader)
        assert next(iterator) == 0
        made.extend((loader, iterator))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    loader, iterator = made
    assert list(iterator) == list(range(1, 50))
    assert loader.stats().restarts == 0
    loader.close()
