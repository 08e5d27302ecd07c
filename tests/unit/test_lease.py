"""Leases: when a span is free, who says so, and what an interrupt, a fork or a collection does to it."""

from __future__ import annotations

import gc
import os
import signal
import threading
import weakref
from collections import deque
from typing import Any

import numpy as np
import pytest

from mploader.transport import lease
from mploader.transport.lease import FREED, Leases
from mploader.transport.segment import PAGE_BYTES
from tests.unit.spans import Array, fresh, is_free, leased, leased_at, resident_bytes, span_writer


def test_one_array_of_many_keeps_all() -> None:
    """A span is one lease: it is free when the last of its arrays is gone, in whatever order they go."""
    leases = Leases()
    with span_writer() as writer:
        batch = leased(writer, leases, [np.full(10_000, n) for n in range(4)])
        for number in (2, 0, 3):
            batch[number] = None
            assert not is_free(writer, leases)
        assert batch[1].sum() == 10_000
        batch[1] = None
        assert is_free(writer, leases)


def test_spans_go_in_any_order() -> None:
    """Many leases at a time: each is freed by the death of its own views, and no other."""
    leases = Leases()
    with span_writer() as writer:
        arrays: dict[int, Array] = {}
        starts = []
        for number in range(6):
            arrays[number], start = leased_at(writer, leases, np.full(10_000, number))
            starts.append(start)
        for number in (4, 1, 5, 0, 3, 2):
            del arrays[number]
            assert [not is_free(writer, leases, start) for start in starts] == [n in arrays for n in range(6)]
        assert (len(leases), leases.nbytes) == (0, 0)


def test_a_cycle_keeps_the_span_until_it_is_collected() -> None:
    """In a cycle the span lives until the collector comes, also where it sees the array before the last reader."""
    leases = Leases()
    read: list[float] = []

    class Reader:
        def __init__(self, array: Array) -> None:
            self.array = array
            self.me = self

        def __del__(self) -> None:
            read.append(float(self.array[7, 7]))

    with span_writer() as writer:
        reader = Reader(fresh(writer, leases))
        expected = float(reader.array[7, 7])
        gc.collect()
        del reader
        assert not is_free(writer, leases)
        gc.collect()
        assert read == [expected], "the last reader saw the span as it was"
        assert is_free(writer, leases)


def test_nothing_is_freed_inside_a_collection() -> None:
    """The death of a view only notes it: no word is written until `reap`, whoever collects and when."""
    leases = Leases()
    with span_writer() as writer:
        array = fresh(writer, leases)
        thread = threading.Thread(target=lambda: gc.collect())
        del array
        thread.start()
        thread.join()
        assert writer.segment.words[0] != FREED
        assert len(leases.dead) == 1
        assert is_free(writer, leases)


def test_reap_twice_frees_once() -> None:
    """A second `reap` does nothing: the span may be somebody else's by then."""
    leases = Leases()
    with span_writer() as writer:
        array = fresh(writer, leases)
        del array
        assert is_free(writer, leases)
        again = fresh(writer, leases)
        assert not is_free(writer, leases)
        del again
        assert is_free(writer, leases)
        assert leases.nbytes == 0


def test_a_reap_interrupted_at_its_end_is_repeated() -> None:
    """Struck when all is done but the last line, the second `reap` finds nothing to do, and raises nothing."""

    class Struck(deque[Any]):
        def popleft(self) -> Any:
            if not struck:
                struck.append(True)
                raise KeyboardInterrupt
            return super().popleft()

    struck: list[bool] = []
    leases = Leases()
    leases.dead = Struck()
    with span_writer() as writer:
        array = fresh(writer, leases)
        del array
        with pytest.raises(KeyboardInterrupt):
            leases.reap()
        again = fresh(writer, leases)  # the span is somebody else's now
        assert not is_free(writer, leases)
        assert len(leases) == 1
        del again
        assert is_free(writer, leases)


def test_an_unarmed_lease_frees_nothing() -> None:
    """Until the hand-over is done, the death of the views leaves the span: the next try reads it again."""
    leases = Leases()
    with span_writer() as writer:
        span = writer.write(np.ones(20_000))
        view = leases.lease(writer.segment, span.offset, span.span_nbytes)
        del view
        assert not is_free(writer, leases)
        assert leases.nbytes == 0, "but it is leased no more"
        view = leases.lease(writer.segment, span.offset, span.span_nbytes)
        leases.arm()
        leases.arm()
        del view
        assert is_free(writer, leases)


def test_arming_is_for_what_was_leased_since_the_beginning() -> None:
    """A lease that was read in vain is not armed by those after it."""
    leases = Leases()
    with span_writer() as writer:
        spans = [writer.write(np.ones(20_000)) for _ in range(3)]
        vain = leases.lease(writer.segment, spans[0].offset, spans[0].span_nbytes)
        leases.begin()
        good = [leases.lease(writer.segment, span.offset, span.span_nbytes) for span in spans[1:]]
        leases.arm()
        del vain, good
        assert not is_free(writer, leases, spans[0].offset)
        assert all(is_free(writer, leases, span.offset) for span in spans[1:])


def test_retired_spans_are_never_used_again() -> None:
    """What was leased when the process forked is not freed: the child reads it too. What is leased later is."""
    leases = Leases()
    with span_writer() as writer:
        before, first = leased_at(writer, leases, np.ones(20_000))
        leases.retire()
        after, second = leased_at(writer, leases, np.ones(20_000))
        del before, after
        assert not is_free(writer, leases, first)
        assert is_free(writer, leases, second)
        assert leases.nbytes == 0


def test_forget_frees_nothing_and_hears_nothing() -> None:
    """In a forked child all is the parent's: what dies after `forget` is not even noted."""
    leases = Leases()
    with span_writer() as writer:
        array, other = fresh(writer, leases), fresh(writer, leases)
        del other
        leases.forget()
        del array
        assert len(leases.dead) == 0
        assert not is_free(writer, leases)
        assert leases.nbytes == len(leases) == 0


def test_a_view_outlives_everything() -> None:
    """With leases, writer and descriptor gone, an array is still readable and writable: it holds the mapping."""
    leases = Leases()
    with span_writer() as writer:
        array = fresh(writer, leases)
        mapping = weakref.ref(writer.segment.mapping)
    del writer, leases
    gc.collect()
    array += 1
    assert array[99, 299] == 30_000
    assert mapping() is not None
    del array
    gc.collect()
    assert mapping() is None


def test_close_gives_back_what_no_lease_covers() -> None:
    """Of a closed loader's memory the pages of living leases stay, with what is in them; each goes with its lease."""
    leases = Leases()
    with span_writer() as writer:
        arrays = [leased(writer, leases, np.full(1_000_000, n, np.uint8)) for n in range(5)]
        del arrays[1]
        writer.write(np.full(1_000_000, 9, np.uint8))  # nobody reads it
        leases.close([])
        assert resident_bytes(writer) < 4 * 1_010_000
        for expected, array in zip((0, 2, 3, 4), arrays, strict=True):
            assert (array == expected).all()
        part = arrays[2][500_000:]
        del arrays, array
        assert resident_bytes(writer) < 1_030_000
        assert (part == 3).all()
        assert (leases.reap(), len(leases), leases.nbytes) == (True, 1, 1_000_208)
        del part
        assert resident_bytes(writer) <= 6 * PAGE_BYTES  # those that lie in two spans
        assert (leases.reap(), len(leases), leases.nbytes) == (True, 0, 0)
        assert not lease._outliving


@pytest.mark.parametrize("forked_first", [True, False], ids=["before", "after"])
def test_close_takes_nothing_from_a_forked_process(forked_first: bool) -> None:
    """What was leased at a fork, before or after the close, keeps its pages: the other process may read them."""
    leases = Leases()
    with span_writer() as writer:
        array = leased(writer, leases, np.full(1_000_000, 7, np.uint8))
        if forked_first:
            leases.retire()
        leases.close([writer.segment])
        if not forked_first:
            lease._retire_outliving()
        del array
        assert resident_bytes(writer) > 1_000_000


def test_what_is_not_armed_yet_is_left_alone() -> None:
    """Another thread that reaps between the read and the hand-over does not lose the span."""
    leases = Leases()
    with span_writer() as writer:
        leased(writer, leases, np.zeros(100_000))
        gone = leases.lease(writer.segment, 0, 6400)
        del gone
        assert leases.reap(between=False)  # the first
        assert len(leases) == 1
        leases.arm()
        assert is_free(writer, leases)
        assert len(leases) == 0


def test_threads_may_reap_at_a_time() -> None:
    """While one thread leases and lets go, others reap: every lease is counted out once."""
    leases = Leases()
    done = threading.Event()

    def reap() -> None:
        while not done.is_set():
            leases.reap(between=False)

    threads = [threading.Thread(target=reap) for _ in range(3)]
    with span_writer() as writer:
        for thread in threads:
            thread.start()
        for number in range(3_000):
            view = leases.lease(writer.segment, 64 * number, 64)
            leases.arm()
            del view
        done.set()
        for thread in threads:
            thread.join()
        leases.reap()
        assert (leases.nbytes, len(leases), len(leases.dead)) == (0, 0, 0)
        assert all(writer.segment.words[8 * number] == FREED for number in range(3_000))


def test_a_forked_child_waits_for_no_thread_of_its_parent() -> None:
    """A lock that another thread held at the fork stays locked in the child: `forget` takes a new one."""
    leases, held, done = Leases(), threading.Event(), threading.Event()

    def hold() -> None:
        with leases._lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    pid = os.fork()
    if not pid:
        signal.alarm(10)
        leases.forget()
        leases.reap()
        os._exit(0)
    done.set()
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0
