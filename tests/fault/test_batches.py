"""Of a batch, each element has its own time and its own tries: a batch fails no sooner than one of its elements would.

Times in here are the subject, not a way to wait: each limit is far from what it is compared with.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mploader import Loader, Pipeline, TaskTimeoutError, WorkerDiedError
from tests.fault.faults import FaultHere, How
from tests.fault.harness import drain

N, SIZE = 24, 8
BATCHES = [list(range(first, first + SIZE)) for first in range(0, N, SIZE)]


def batches(fn: Callable[[int], Any], **options: Any) -> Loader[Any]:
    given = {"num_workers": 1, "start_method": "fork", "batch_size": SIZE, "collate_fn": list, **options}
    return Loader(range(N), fn, **given)


class Failing:
    """Fails at some indices, the first few times that each is called for."""

    def __init__(self, folder: Path, at: list[int], times: int, how: How) -> None:
        self.folder, self.at, self.times, self.how = str(folder), at, times, how

    def __call__(self, i: int) -> int:
        with Path(self.folder, "calls").open("a") as calls:
            calls.write(f"{i}\n")
        for time_ in range(self.times if i in self.at else 0):
            flag = Path(self.folder, f"{i}-{time_}")
            if not flag.exists():
                flag.touch()
                fault = FaultHere(self.how, flag)
                fault()
        return i

    @property
    def calls(self) -> Counter[int]:
        return Counter(map(int, Path(self.folder, "calls").read_text().split()))


def test_the_time_limit_is_an_elements_and_not_the_batchs() -> None:
    """A batch whose elements take a tenth of the limit each arrives, though it takes longer than the limit itself."""

    def slow(i: int) -> int:
        time.sleep(0.15 if i in BATCHES[1] else 0)
        return i

    with batches(slow, task_timeout_s=1.0, retries=0) as loader:
        assert drain(loader) == BATCHES


def test_a_hanging_element_is_named() -> None:
    """The error is that of the batch, and says at which of its elements; the others arrive."""

    def hang(i: int) -> int:
        time.sleep(600 if i == 11 else 0)
        return i

    with batches(hang, task_timeout_s=0.4, retries=0) as loader:
        first, error, last = drain(loader)
        assert [first, last] == [BATCHES[0], BATCHES[2]]
        assert isinstance(error, TaskTimeoutError)
        assert error.index == 1
        assert "index 1 (a batch, at its element 11) took longer than task_timeout_s=0.4" in str(error)


@pytest.mark.parametrize("how", [How.SIGKILL, How.EXIT_0])
@pytest.mark.parametrize("shuffled", [False, True])
def test_deaths_are_charged_to_the_element_in_hand(how: How, shuffled: bool, tmp_path: Path) -> None:
    """Every element of a batch may cost a worker as often as ``retries`` says, and the batch is whole."""
    fn = Failing(tmp_path, [8, 10, 13, 15], 1, how)
    with batches(fn, retries=1, shuffle=shuffled, seed=3) as loader:
        found = drain(loader)
        assert sorted(i for batch in found for i in batch) == list(range(N))
        assert shuffled or found == BATCHES
        assert loader.stats().restarts == 4


def test_an_element_that_kills_again_and_again(tmp_path: Path) -> None:
    """Its tries are counted, not those of the elements beside it."""
    fn = Failing(tmp_path, [9], 99, How.SIGKILL)
    also = Failing(tmp_path, [12], 1, How.SIGKILL)
    with batches(lambda i: fn(also(i)), retries=2) as loader:
        first, error, last = drain(loader)
    assert [first, last] == [BATCHES[0], BATCHES[2]]
    assert isinstance(error, WorkerDiedError)
    assert "index 1 (a batch, at its element 9)" in str(error)
    assert "It was tried 3 times (retries=2)" in str(error)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_exceptions_are_tried_again_by_element(num_workers: int, tmp_path: Path) -> None:
    """Where each element fails once, as a server would, one retry is enough for a batch of any size."""
    fn = Failing(tmp_path, list(range(N)), 1, How.RAISE)
    with batches(fn, num_workers=num_workers, retries=1, retry_on=(ValueError,)) as loader:
        assert drain(loader) == BATCHES
    assert fn.calls == dict.fromkeys(range(N), 2)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("nested", [False, True])
def test_an_element_is_tried_no_more_often_than_said(num_workers: int, nested: bool, tmp_path: Path) -> None:
    """Not for each batch around it once more."""
    fn = Failing(tmp_path, [9], 99, How.RAISE)
    pipe = Pipeline.from_sequence(range(N)).map(fn).batch(4, collate_fn=list)
    if nested:
        pipe = pipe.batch(2, collate_fn=list)
    options: dict[str, Any] = {"retries": 2, "retry_on": (ValueError,), "start_method": "fork"}
    with Loader(pipe, num_workers=num_workers, **options) as loader:
        errors = [item for item in drain(loader) if isinstance(item, ValueError)]
    assert fn.calls[9] == 3
    assert len(errors) == 1
    assert errors[0].mploader_task.attempt == 2  # type: ignore[attr-defined]


def test_a_function_behind_the_batch_has_its_own_time() -> None:
    """What is done with the batch begins when its last element is there."""

    def slow(x: Any) -> Any:
        time.sleep(0.5)
        return x

    pipe = Pipeline.from_sequence(range(2)).map(slow).batch(2, collate_fn=list).map(slow)
    with Loader(pipe, num_workers=1, start_method="fork", task_timeout_s=1.1, retries=0) as loader:
        assert drain(loader) == [[0, 1]]


def test_a_death_behind_the_last_element_is_the_batchs() -> None:
    """Behind the last element of a batch, none is in hand: a death in the function behind it is the batch's."""

    def kill(batch: list[int]) -> list[int]:
        if batch[0] == 8:
            os._exit(3)
        return batch

    pipe = Pipeline.from_sequence(range(N)).batch(SIZE, collate_fn=list).map(kill)
    with Loader(pipe, num_workers=1, start_method="fork", retries=1) as loader:
        first, error, last = drain(loader)
    assert [first, last] == [BATCHES[0], BATCHES[2]]
    assert "while it ran index 1: it exited with code 3" in str(error)
