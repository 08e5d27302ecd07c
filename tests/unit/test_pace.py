"""Pace: how much goes together follows from what tasks cost, and from the window."""

from __future__ import annotations

from typing import Any

import pytest

from mploader.engine.pace import CHEAP_NS, LOOK_EVERY, Pace


def paced(prefetch: int, num_workers: int, chunk: Any, *run_ns: int) -> Pace:
    """A pace that has seen enough tasks of each cost, one after the other."""
    pace = Pace(prefetch, num_workers, chunk)
    for cost in run_ns:
        for _ in range(300):
            pace.note(cost, 1)
    return pace


def test_nothing_goes_together_before_anything_is_known() -> None:
    """The first tasks go one by one, and count as dear."""
    pace = Pace(256, 2, "auto")
    assert (pace.chunk, pace.burst, pace.is_cheap) == (1, 1, False)
    for _ in range(LOOK_EVERY - 1):
        pace.note(1, 1)
        assert (pace.chunk, pace.burst) == (1, 1)
    pace.note(1, 1)
    assert pace.chunk > 1
    assert pace.burst > 1


@pytest.mark.parametrize(
    ("prefetch", "num_workers", "run_ns", "chunk", "burst"),
    [
        (256, 2, 5_000, 32, 128),  # a quarter of a worker's share of the window
        (256, 8, 5_000, 8, 128),
        (8, 2, 5_000, 1, 4),  # too small a window for chunks
        (4096, 2, 100_000, 10, 1024),  # a millisecond
        (4096, 2, 400_000, 2, 1),
        (4096, 2, 3_000_000, 1, 1),
        (1, 1, 1, 1, 1),
    ],
)
def test_what_follows_from_the_cost(prefetch: int, num_workers: int, run_ns: int, chunk: int, burst: int) -> None:
    """A chunk takes a millisecond at most and leaves each worker some; bursts are for what is cheap."""
    pace = paced(prefetch, num_workers, "auto", run_ns)
    assert pace.run_ns == pytest.approx(run_ns, rel=0.01)
    assert (pace.chunk, pace.burst) == (chunk, burst)
    assert pace.is_cheap == (run_ns < CHEAP_NS)


def test_it_follows_a_change() -> None:
    """Tasks that become dear go one by one again, and those that become cheap together."""
    assert paced(256, 2, "auto", 5_000, 5_000_000).chunk == 1
    assert paced(256, 2, "auto", 5_000_000, 5_000).chunk == 32


@pytest.mark.parametrize("run_ns", [10, 10_000_000])
def test_a_number_that_was_given_stands(run_ns: int) -> None:
    """Whatever tasks cost, but for a window that is smaller."""
    assert paced(64, 2, 7, run_ns).chunk == 7
    assert paced(4, 2, 7, run_ns).chunk == 4


def test_a_chunk_is_as_many_tasks() -> None:
    """The mean is of one task, however they came."""
    pace = Pace(256, 2, "auto")
    for _ in range(300):
        pace.note(80_000, 8)
    assert pace.run_ns == pytest.approx(10_000, rel=0.01)
