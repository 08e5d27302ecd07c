"""A stream is drawn in a thread of its own: results never wait for the source, and it is left in peace otherwise."""

from __future__ import annotations

import contextvars
import gc
import os
import queue
import signal
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest

from mploader import ClosedError, Loader, NotPicklableError, Pipeline, RemoteError
from mploader.engine import stream
from tests.contract.engines import DEADLINE_S, Engine, collect, until
from tests.contract.test_scripts import run_script

NAME = "mploader-feeder"


def feeders() -> list[threading.Thread]:
    """The threads that draw."""
    return [thread for thread in threading.enumerate() if thread.name == NAME]


class Feed:
    """A live feed: an epoch's source waits in it for what a test puts."""

    def __init__(self) -> None:
        self.queue: queue.Queue[int | None] = queue.Queue()
        self.waits = threading.Event()  # the source has begun to wait for more
        self.ended = 0

    def __call__(self) -> Iterator[int]:
        try:
            while True:
                if self.queue.empty():
                    self.waits.set()
                element = self.queue.get()
                if element is None:
                    return
                yield element
        finally:
            self.ended += 1

    def put(self, *elements: int | None) -> None:
        for element in elements:
            self.queue.put(element)


@pytest.fixture
def feed() -> Iterator[Feed]:
    """A live feed; whoever is left in it at the end of a test is let go."""
    made = Feed()
    yield made

    def is_empty() -> bool:
        made.put(None)
        return not feeders()

    until(is_empty, "for those inside the feed")


@pytest.mark.parametrize("make", [lambda q: lambda: iter(q.get, None), lambda q: iter(q.get, None)], ids=["fn", "once"])
def test_ready_result_does_not_wait_for_the_source(
    processes: Engine, make: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result is delivered while the source waits for its next element, though that depends on the delivery."""
    monkeypatch.setattr(stream, "LOOK_AROUND_S", 300)  # the consumer is woken, it does not find out by chance
    elements: queue.Queue[int | None] = queue.Queue()
    elements.put(0)
    got = []
    with processes.loader(make(elements), lambda i: i + 1) as loader:
        for x in loader:
            got.append(x)
            elements.put(x if x < 4 else None)
    assert got == [1, 2, 3, 4]


def test_every_element_of_a_live_feed_is_delivered_at_once(forkserver: Engine, feed: Feed) -> None:
    """While the source waits for element ``i + 1``, element ``i`` is delivered: none comes one element late."""
    with forkserver.loader(feed, prefetch=8) as loader:
        iterator = iter(loader)
        for i in range(20):
            feed.waits.clear()
            feed.put(i)
            assert next(iterator) == i
            assert feed.waits.wait(DEADLINE_S)
        feed.put(None)
        assert list(iterator) == []


def test_source_is_drawn_while_the_consumer_is_away(forkserver: Engine) -> None:
    """A slow source makes its next element while the loop body runs: each waits for the other, in turn."""
    drawn, away = [threading.Semaphore(0) for _ in range(2)]

    def elements() -> Iterator[int]:
        for i in range(12):
            if i >= 2:
                assert away.acquire(timeout=DEADLINE_S)  # only a loop body lets it go on
            drawn.release()
            yield i

    with forkserver.loader(elements, prefetch=2) as loader:
        for i, item in enumerate(loader):
            assert item == i
            away.release()
            if i + 2 < 12:
                for _ in range(3 if i == 0 else 1):  # and only an element that is drawn meanwhile lets the body end
                    assert drawn.acquire(timeout=DEADLINE_S)
    assert i == 11


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("prefetch", [1, 3, 64])
def test_order_and_number(forkserver: Engine, prefetch: int, in_order: bool) -> None:
    """What a thread draws comes whole, in order, however deep the window is, also of cheap elements by the thousand."""
    with forkserver.single.loader(lambda: iter(range(1500)), prefetch=prefetch, in_order=in_order) as loader:
        for _ in range(2):
            got = list(loader)
            assert (got if in_order else sorted(got)) == list(range(1500))


def test_break_while_the_source_waits(forkserver: Engine, feed: Feed) -> None:
    """An epoch that is given up while the source waits leaves nothing to the next: its late element is gone with it."""
    feed.put(0)
    with forkserver.loader(feed) as loader:
        assert next(iter(loader)) == 0
        assert feed.waits.wait(DEADLINE_S)
        (old,) = feeders()
        waiters = feed.queue.not_empty._waiters  # type: ignore[attr-defined]
        until(lambda: len(waiters) == 1, "for its thread to wait")
        iterator = iter(loader)  # is not held up
        until(lambda: len(waiters) == 2, "for the next epoch's thread to wait behind it")
        assert old.is_alive()
        feed.put(1)  # to who waited first
        old.join(DEADLINE_S)
        assert not old.is_alive()
        feed.put(2, 3, None)
        assert list(iterator) == [2, 3]
        assert feed.ended == 2


def test_close_while_the_source_waits(forkserver: Engine, feed: Feed) -> None:
    """``close()`` ends the workers though the source waits for ever; what comes of it later goes nowhere."""
    feed.put(0)
    loader = forkserver.loader(feed)
    iterator = iter(loader)
    assert next(iterator) == 0
    assert feed.waits.wait(DEADLINE_S)
    (thread,) = feeders()
    loader.close()
    assert thread.is_alive()
    assert thread.daemon
    with pytest.raises(ClosedError):
        next(iterator)
    feed.put(1)
    thread.join(DEADLINE_S)
    assert feed.ended == 1


def test_waiting_thread_is_told_of_close(forkserver: Engine, feed: Feed) -> None:
    """Who waits in ``next()`` for a source that waits gets ClosedError when the loader is closed."""
    outcome: list[BaseException] = []
    loader = forkserver.loader(feed)

    def wait() -> None:
        try:
            next(iter(loader))
        except ClosedError as error:
            outcome.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert feed.waits.wait(DEADLINE_S)
    loader.close()
    waiter.join(DEADLINE_S)
    assert len(outcome) == 1


def test_source_at_rest_is_let_go_by_its_thread(forkserver: Engine) -> None:
    """A generator that a full window holds up is closed by a break, by ``close()``, and by dropping the iterator, in
    the thread that drew from it.
    """
    ended: list[str] = []

    def numbers() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            ended.append(threading.current_thread().name)

    with forkserver.loader(numbers, prefetch=4) as loader:
        assert next(iter(loader)) == 0
        until(lambda: len(ended) == 1, "for the generator whose iterator is garbage")
        iterator = iter(loader)
        assert next(iterator) == 0
        newer = iter(loader)
        assert len(ended) == 2
        assert next(newer) == 0
    assert ended == [NAME] * 3
    assert feeders() == []


class Trainer:
    """A loader in a cycle with its source."""

    def __init__(self, engine: Engine, feed: Feed) -> None:
        self.feed = feed
        self.loader = engine.single.loader(self.elements, prefetch=2)
        self.iterator = iter(self.loader)

    def elements(self) -> Iterator[int]:
        yield from (0, 1)
        yield from self.feed()


def test_forgotten_loader_ends_a_thread_at_rest(forkserver: Engine, feed: Feed) -> None:
    """A loader whose source refers to it is collected in mid-epoch, with workers and thread."""
    trainer = Trainer(forkserver, feed)
    assert next(trainer.iterator) == 0
    feed.put(2, 3, 4, 5, 6, 7, 8, 9)
    assert next(trainer.iterator) == 1  # the window is full: it rests now, or soon
    gone = weakref.ref(trainer.loader)
    del trainer
    until(lambda: gc.collect() and gone() is None, "for the loader to be collected")
    until(lambda: not feeders(), "for the thread")


def test_forgotten_loader_while_the_source_waits(forkserver: Engine, feed: Feed) -> None:
    """The thread inside a source keeps that alive, and nothing of the loader; with the next element it ends."""
    feed.put(0)
    loader = forkserver.single.loader(feed)
    iterator = iter(loader)
    assert next(iterator) == 0
    assert feed.waits.wait(DEADLINE_S)
    gone = weakref.ref(loader)
    del loader, iterator
    gc.collect()
    assert gone() is None
    (thread,) = feeders()
    feed.put(1)
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    until(lambda: feed.ended == 1, "for the source to be let go")


def test_ctrl_c_while_the_source_waits(forkserver: Engine, feed: Feed) -> None:
    """Ctrl-C ends the wait for a source, not the source: the same iterator goes on, and nothing is lost."""
    feed.put(0)
    with forkserver.single.loader(feed) as loader:
        iterator = iter(loader)
        assert next(iterator) == 0
        for i in range(1, 4):
            assert feed.waits.wait(DEADLINE_S)
            feed.waits.clear()
            struck = threading.Timer(0.05, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
            struck.start()
            with pytest.raises(KeyboardInterrupt):
                next(iterator)
            struck.join()
            feed.put(i)
            assert next(iterator) == i
        feed.put(None)
        assert list(iterator) == []
        assert feed.ended == 1


LEAVING = """
import queue, sys, threading
from mploader import Loader
elements, waits = queue.Queue(), threading.Event()
elements.put(0)
def feed():
    while True:
        if elements.empty():
            waits.set()
        yield elements.get()
loader = Loader(feed, num_workers=1)
iterator = iter(loader)
assert next(iterator) == 0
assert waits.wait(20)
"""


@pytest.mark.parametrize("end", ["", "loader.close()", "sys.exit(3)"])
def test_exit_while_the_source_waits(tmp_path: Any, end: str) -> None:
    """A program ends, with its own status and without a word, though a thread is in a source that waits for ever."""
    done = run_script(tmp_path, LEAVING + end)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 3 if "3" in end else 0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork_while_the_source_waits(forkserver: Engine, feed: Feed) -> None:
    """A forked child has no such thread, finds the loader closed and ends; the parent goes on."""
    feed.put(0)
    with forkserver.single.loader(feed) as loader:
        iterator = iter(loader)
        assert next(iterator) == 0
        assert feed.waits.wait(DEADLINE_S)
        pid = os.fork()
        if pid == 0:
            try:
                next(iterator)
            except ClosedError:
                os._exit(len(feeders()))
            os._exit(99)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        feed.put(1, None)
        assert list(iterator) == [1]


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, StopIteration])
@pytest.mark.parametrize("place", [0, 5])
def test_errors_at_their_place(forkserver: Engine, place: int, kind: type[BaseException]) -> None:
    """Whatever the source's own code raises comes behind its last element, and the next epoch is whole."""

    class Elements:
        def __init__(self) -> None:
            self.next = 0

        def __iter__(self) -> Elements:
            return self

        def __next__(self) -> int:
            if self.next == place:
                raise kind("bad")
            self.next += 1
            return self.next - 1

    with forkserver.single.loader(lambda: Elements()) as loader:
        for _ in range(2):
            iterator = iter(loader)
            assert [next(iterator) for _ in range(place)] == list(range(place))
            if kind is not StopIteration:
                with pytest.raises((kind, RemoteError)) as caught:
                    next(iterator)
                assert kind in (type(caught.value), type(caught.value.__cause__))
            assert list(iterator) == []


def test_next_inside_the_source(forkserver: Engine) -> None:
    """A source that asks its own loader for an item is told so, and nobody waits for ever."""

    def elements() -> Iterator[int]:
        yield next(iterator)

    with forkserver.single.loader(elements) as loader:
        iterator = iter(loader)
        with pytest.raises(RuntimeError, match="inside the source of the same loader"):
            next(iterator)


def test_context_is_the_callers(forkserver: Engine) -> None:
    """Context variables have in the source the values that they had at ``iter()``."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")

    def elements() -> Iterator[str]:
        yield variable.get()

    with forkserver.single.loader(elements) as loader:
        token = variable.set("mine")
        iterator = iter(loader)
        variable.reset(token)
        assert list(iterator) == ["mine"]


@pytest.fixture
def table() -> Iterator[sqlite3.Connection]:
    """A table whose connection belongs to this thread."""
    connection = sqlite3.connect(":memory:")
    connection.execute("create table t (i)")
    connection.executemany("insert into t values (?)", [(i,) for i in range(20)])
    yield connection
    connection.close()


ROWS = [(i,) for i in range(20)]


def select(table: sqlite3.Connection) -> sqlite3.Cursor:
    return table.execute("select i from t order by i")


def test_what_is_bound_to_its_thread_is_drawn_there(forkserver: Engine, table: sqlite3.Connection) -> None:
    """A source that uses a connection of the user's thread is drawn in that thread, in every epoch, from the start."""
    calls = []

    def rows() -> Iterator[tuple[int]]:
        calls.append(threading.current_thread().name)
        yield from select(table)

    class Rows:
        def __iter__(self) -> Iterator[tuple[int]]:
            return map(tuple, select(table))

    for source in (lambda: select(table), rows, Rows()):
        with forkserver.single.loader(source, prefetch=3) as loader:
            for _ in range(3):
                assert list(loader) == ROWS
                assert feeders() == []
    assert calls == [NAME, *["MainThread"] * 3]  # it was tried once
    for once in (select(table), rows(), (row for row in select(table))):
        with forkserver.single.loader(once, prefetch=3) as loader:
            assert list(loader) == ROWS


def test_what_cannot_be_begun_again_says_so(forkserver: Engine, table: sqlite3.Connection) -> None:
    """Where part of it may be lost, an iterator that fails in the other thread is an error with the way out."""

    def headed() -> Iterator[Any]:
        yield "head"
        yield from select(table)

    for source, head in ((zip("abc", select(table), strict=False), []), (headed, ["head"])):
        with forkserver.single.loader(source) as loader:
            *got, error = collect(loader)
        assert got == head
        assert isinstance(error, sqlite3.ProgrammingError)
        assert any("rows() instead of rows" in note for note in error.__notes__)


def test_a_true_error_is_not_tried_again(forkserver: Engine) -> None:
    """A source that fails at once for another reason is begun once, and its error raised."""
    calls = []

    def broken() -> Iterator[int]:
        calls.append(1)
        raise OSError("no such disk")
        yield 0

    with forkserver.single.loader(broken) as loader:
        (error,) = collect(loader)
    assert isinstance(error, OSError)
    assert calls == [1]


def test_no_thread_to_be_had(forkserver: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no thread left, a stream is drawn without one."""
    with forkserver.single.loader(lambda: iter(range(9))) as loader:
        assert list(loader) == list(range(9))

        def refuse(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert list(loader) == list(range(9))


def test_generators_are_drawn_by_who_iterates(forkserver: Engine) -> None:
    """A generator that the user made runs in the thread that calls ``next()``; a function's in one of its own."""

    def names() -> Iterator[str]:
        for _ in range(3):
            yield threading.current_thread().name

    with forkserver.single.loader(names()) as loader:
        assert list(loader) == [threading.current_thread().name] * 3
    with forkserver.single.loader(names) as loader:
        assert list(loader) == [NAME] * 3


def test_indices_need_no_thread(forkserver: Engine) -> None:
    """Random access is drawn by nobody: there is no thread for it."""
    with forkserver.single.loader(range(5)) as loader:
        iterator = iter(loader)
        assert next(iterator) == 0
        assert feeders() == []
    assert isinstance(loader, Loader)


@pytest.mark.parametrize("draws", [True, False])
def test_one_object_yielded_again_and_again(processes: Engine, draws: bool) -> None:
    """A source may fill the same row, or buffer, for each element: what arrives is what it was when it was yielded."""

    def rows() -> Iterator[dict[str, Any]]:
        row: dict[str, Any] = {"image": np.zeros(300_000, np.uint8)}
        for i in range(40):
            row["id"] = i
            row["image"][:] = i
            yield row

    with processes.loader(rows if draws else rows(), lambda row: (row["id"], set(row["image"].tolist()))) as loader:
        for _ in range(2 if draws else 1):
            assert list(loader) == [(i, {i}) for i in range(40)]


def test_what_was_drawn_and_not_wanted_is_given_back(forkserver: Engine) -> None:
    """Epochs that are broken off leave nothing in the memory that elements travel in."""
    with forkserver.single.loader(lambda: (np.zeros(100_000) for _ in range(100)), len, prefetch=8) as loader:
        for _ in range(30):
            assert next(iter(loader)) == 100_000
        assert list(loader) == [100_000] * 100
        stream: Any = loader._stream
        assert stream.pool.arena.ring.capacity < 40 * 800_000


def test_resumed_stream_is_drawn_no_further_ahead(forkserver: Engine) -> None:
    """The window counts from where the epoch goes on: what was passed over is no credit."""
    runs: list[list[int]] = []

    def elements() -> Iterator[int]:
        runs.append(drawn := [])
        for i in range(1000):
            drawn.append(i)
            yield i

    with forkserver.loader(elements, prefetch=4) as loader:
        iterator = iter(loader)
        assert [next(iterator) for _ in range(100)] == list(range(100))
        state = loader.state_dict()
        loader.load_state_dict(state)
        iterator = iter(loader)
        feeder: Any = loader._stream._feed._feeder  # type: ignore[union-attr]
        until(lambda: feeder.n_drawn >= 4 and feeder._is_resting, "for its thread to rest")
        assert len(runs[-1]) == 104
        assert list(iterator) == list(range(100, 1000))


def test_interrupt_while_a_bound_source_is_opened_again(forkserver: Engine) -> None:
    """Ctrl-C as a source is begun anew in the consumer's thread costs nothing."""
    opened: list[str] = []

    def rows() -> Iterator[int]:
        opened.append(threading.current_thread().name)
        if len(opened) == 2:
            raise KeyboardInterrupt
        return bound(range(5))

    def bound(elements: Iterable[int]) -> Iterator[int]:
        owner = threading.current_thread() if len(opened) > 1 else None
        for element in elements:
            if threading.current_thread() is not owner:
                raise RuntimeError("used in another thread")
            yield element

    with forkserver.loader(rows) as loader:
        iterator = iter(loader)
        with pytest.raises(KeyboardInterrupt):
            next(iterator)
        assert list(iterator) == list(range(5))
        assert len(opened) == 3


def test_index_behind_an_error_of_the_source(forkserver: Engine) -> None:
    """An element that cannot travel has its own place, also behind what the source raised."""

    def elements() -> Iterator[Any]:
        for i in range(5):
            yield i if i % 2 == 0 else threading.Lock()
        raise ValueError("v")

    with forkserver.loader(Pipeline.from_generator(elements).shuffle(1, buffer=100)) as loader:
        items = collect(loader)
    places = [(place, item.index) for place, item in enumerate(items) if isinstance(item, NotPicklableError)]
    assert len(places) == 2
    assert all(place == index for place, index in places)
