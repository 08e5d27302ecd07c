"""Records are of one size, whole, and come out as they went in."""

from __future__ import annotations

import contextlib
import os
import select
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mploader.transport import records
from mploader.transport.records import RECORD_BYTES, Kind, Result, Task, Verb

U16, U32, U64 = (1 << 16) - 1, (1 << 32) - 1, (1 << 64) - 1
I64 = (1 << 63) - 1

TASK_LIMITS = Task(U64, I64, U64, U64, U64, U32, U32, U32, U16, U32, U32, U16)
RESULT_LIMITS = Result(U64, U64, U64, U64, U64, U32, U32, U32, U16, U16, U32)

TASKS = st.builds(Task, st.integers(0, U64), st.integers(-1, I64), *[st.integers(0, n) for n in TASK_LIMITS[2:]])
RESULTS = st.builds(Result, *[st.integers(0, limit) for limit in RESULT_LIMITS])


def test_one_write_is_atomic() -> None:
    """A record is a power of two far below what a pipe passes whole, so that a pipe never ends within one."""
    assert RECORD_BYTES & (RECORD_BYTES - 1) == 0
    assert RECORD_BYTES <= 512 <= select.PIPE_BUF  # 512: the least that POSIX grants
    assert len(records.pack_task(*Task(0, 0))) == RECORD_BYTES
    assert len(records.pack_result(*RESULT_LIMITS)) == RECORD_BYTES


@settings(max_examples=100)
@given(task=TASKS)
def test_tasks_come_back(task: Task) -> None:
    """Every task of any numbers is itself after the way through a pipe."""
    assert Task._make(records.unpack_task(records.pack_task(*task))) == task


@settings(max_examples=100)
@given(results=st.lists(RESULTS, max_size=5))
def test_results_come_back_in_order(results: list[Result]) -> None:
    """Records read at once come apart again, in the order in which they were written."""
    stream = b"".join(records.pack_result(*result) for result in results)
    assert list(map(Result._make, records.iter_results(stream))) == results


def test_the_largest_numbers_fit() -> None:
    """Each field holds what its type can, and the start record's position of -1."""
    assert Task._make(records.unpack_task(records.pack_task(*TASK_LIMITS))) == TASK_LIMITS
    assert next(map(Result._make, records.iter_results(records.pack_result(*RESULT_LIMITS)))) == RESULT_LIMITS
    assert records.unpack_task(records.pack_task(*Task(0, -1)))[1] == -1


@pytest.mark.parametrize("at", range(len(TASK_LIMITS)), ids=Task._fields)
def test_a_number_too_large_is_an_error(at: int) -> None:
    """What does not fit is refused by the writer, not cut."""
    too_large = [*Task(0, 0)]
    too_large[at] = TASK_LIMITS[at] + 1
    with pytest.raises(struct.error):
        records.pack_task(*too_large)


@pytest.mark.parametrize("at", range(len(RESULT_LIMITS)), ids=Result._fields)
def test_a_result_too_large_is_an_error(at: int) -> None:
    """What does not fit is refused by the writer, not cut."""
    too_large = [0] * len(RESULT_LIMITS)
    too_large[at] = RESULT_LIMITS[at] + 1
    with pytest.raises(struct.error):
        records.pack_result(*too_large)


@pytest.mark.parametrize("nbytes", [1, RECORD_BYTES - 1, RECORD_BYTES + 1])
def test_a_part_of_a_record_is_an_error(nbytes: int) -> None:
    """What is no whole number of records is never read as one."""
    torn = records.pack_result(*RESULT_LIMITS).ljust(2 * RECORD_BYTES, b"x")[:nbytes]
    with pytest.raises(struct.error):
        list(records.iter_results(torn))


def test_a_full_pipe_takes_all_of_a_record_or_nothing() -> None:
    """Written until the pipe is full and read until it is empty: only whole records, none short, none changed."""
    read_fd, write_fd = os.pipe()
    try:
        os.set_blocking(write_fd, False)
        os.set_blocking(read_fd, False)
        written = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                assert os.write(write_fd, records.pack_task(*Task(written, -1))) == RECORD_BYTES
                written += 1
        assert written > 0
        for seq in range(written):
            assert records.unpack_task(os.read(read_fd, RECORD_BYTES))[0] == seq
        with pytest.raises(BlockingIOError):
            os.read(read_fd, 1)
    finally:
        os.close(read_fd)
        os.close(write_fd)


def test_a_task_says_run_unless_told() -> None:
    """The index alone makes a task: nothing in the arena, first attempt, to be run; kinds are told apart."""
    assert Task(7, 3) == Task(7, 3, 0, 0, 0, 0, 0, 0, Verb.RUN, 0)
    assert len(set(Verb)) == len(Verb.__members__)
    assert len(set(Kind)) == len(Kind.__members__)
    assert all(kind > Kind.ERROR for kind in (Kind.READY, Kind.START_ERROR, Kind.SKIPPED))  # the rare ones
