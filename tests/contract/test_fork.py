"""The user's program forks: the loader stays the parent's, what was delivered is good in both."""

from __future__ import annotations

import gc
import os
import pickle
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mploader import Loader
from tests.contract.engines import Engine


def in_child(function: Callable[[], Any]) -> Any:
    """Run a function in a forked child; return what it returned, or what it raised."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        signal.alarm(30)
        try:
            os.close(reading)
            try:
                answer = function()
            except BaseException as error:  # noqa: BLE001  it is the answer
                answer = error
            with open(writing, "wb") as file:
                pickle.dump(answer, file)
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        data = file.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return pickle.loads(data)


def outcome(function: Callable[[], Any]) -> str:
    """Result or error of a call, as text."""
    try:
        return repr(function())
    except Exception as error:  # noqa: BLE001  whatever it is
        return f"{type(error).__name__}: {error}"


def test_loader_is_the_parents(processes: Engine) -> None:
    """In a forked child the loader says that it belongs to the parent; the parent's epoch goes on as if nothing was."""
    with processes.loader(range(60), lambda i: np.full(50_000, i), prefetch=4) as loader:
        iterator = iter(loader)
        assert [int(next(iterator)[0]) for _ in range(3)] == [0, 1, 2]

        def use() -> list[str]:
            calls = [lambda: iter(loader), lambda: next(iterator), loader.start, loader.refresh]
            return [outcome(call) for call in (*calls, lambda: len(loader), loader.close)]

        *refusals, length, closed = in_child(use)
        for refusal in refusals:
            assert refusal.startswith("ClosedError: "), refusal
            assert "fork" in refusal
            assert "make one in this process" in refusal
        assert (length, closed) == ("60", "None")
        for i, item in enumerate(iterator, 3):
            assert (item == i).all()
        assert i == 59
        assert [int(item[0]) for item in loader] == list(range(60))


def test_inline_loader_is_everybodys() -> None:
    """No process is involved inline: a forked child goes on with a copy of its own."""
    with Loader(range(6), lambda i: -i, num_workers=0) as loader:
        iterator = iter(loader)
        assert next(iterator) == 0
        assert in_child(lambda: list(iterator)) == [-1, -2, -3, -4, -5]
        assert in_child(lambda: list(loader)) == [0, -1, -2, -3, -4, -5]
        assert list(iterator) == [-1, -2, -3, -4, -5]


def test_results_are_good_in_both(processes: Engine) -> None:
    """What the child drops is not taken from the parent, and what the parent drops is not taken from the child."""
    with processes.single.loader(range(60), lambda i: np.full(50_000, i), prefetch=2) as loader:
        iterator = iter(loader)
        held = [next(iterator) for _ in range(4)]
        reading, writing = os.pipe()

        def read_late() -> list[bool]:
            os.close(writing)
            del held[:2]
            gc.collect()
            os.read(reading, 1)  # until the parent has dropped the others, and gone on
            return [bool((array == i).all()) for i, array in enumerate(held, 2)]

        def parent_goes_on() -> None:
            del held[2:]
            gc.collect()
            for i, item in enumerate(iterator, 4):
                assert (item == i).all()
                if i == 40:
                    break
            os.close(writing)

        answer = _in_child_meanwhile(read_late, parent_goes_on)
        os.close(reading)
        assert answer == [True, True]
        assert [bool((array == i).all()) for i, array in enumerate(held)] == [True, True]
        assert sum(1 for _ in iterator) == 60 - 41


def _in_child_meanwhile(function: Callable[[], Any], meanwhile: Callable[[], None]) -> Any:
    answers, writing = os.pipe()
    pid = os.fork()
    if not pid:
        signal.alarm(30)
        try:
            os.close(answers)
            os.write(writing, pickle.dumps(function()))
        finally:
            os._exit(0)
    os.close(writing)
    meanwhile()
    with open(answers, "rb") as file:
        data = file.read()
    os.waitpid(pid, 0)
    return pickle.loads(data)


def test_child_makes_its_own(forkserver: Engine) -> None:
    """A forked child makes and closes loaders of its own beside the one it inherited."""
    with forkserver.single.loader(range(10)) as loader:
        iterator = iter(loader)
        next(iterator)

        def own() -> list[int]:
            with forkserver.single.loader(range(5), lambda i: i * i) as mine:
                return [x for _ in range(2) for x in mine]

        assert in_child(own) == [0, 1, 4, 9, 16] * 2
        assert list(iterator) == list(range(1, 10))


def test_loader_not_started_yet(forkserver: Engine) -> None:
    """A loader that had no workers when the program forked is refused in the child too, and good in the parent."""
    loader = forkserver.loader(range(3))
    assert "ClosedError" in in_child(lambda: outcome(lambda: iter(loader)))
    assert list(loader) == [0, 1, 2]
    loader.close()


def test_fork_in_the_midst_of_loaders(forkserver: Engine) -> None:
    """Starting a loader by ``fork`` while another has results in the user's hands disturbs neither."""
    with forkserver.single.loader(range(30), lambda i: np.full(50_000, i), prefetch=2) as one:
        iterator = iter(one)
        held = [next(iterator) for _ in range(3)]
        assert list(Engine("fork", 1).loader(range(5))) == list(range(5))
        del held[0]
        rest = [int(item[-1]) for item in iterator]
    assert rest == list(range(3, 30))
    assert all((array == i).all() for i, array in enumerate(held, 1))


@pytest.mark.parametrize("times", [20])
def test_many_forks(forkserver: Engine, times: int) -> None:
    """Forking again and again in mid-epoch loses nothing."""
    with forkserver.loader(range(times), lambda i: np.full(20_000, i)) as loader:
        for i, item in enumerate(loader):
            assert in_child(lambda: int(item[7])) == i  # noqa: B023  called at once
            assert (item == i).all()


def test_close_leaves_the_child_what_it_reads(forkserver: Engine) -> None:
    """What was delivered before a fork stays good in the child, though the parent lets go of it and closes."""
    to_child, to_parent = os.pipe(), os.pipe()
    with forkserver.loader(range(8), lambda i: np.full(100_000, i)) as loader:
        items = list(loader)
        pid = os.fork()
        if not pid:
            try:
                signal.alarm(30)
                os.read(to_child[0], 1)
                os.write(to_parent[1], b"y" if all((x == i).all() for i, x in enumerate(items)) else b"n")
            finally:
                os._exit(0)
        del items[:4]
        next(iter(loader))
    items.clear()
    os.write(to_child[1], b".")
    assert os.read(to_parent[0], 1) == b"y"
    os.waitpid(pid, 0)
    for fd in (*to_child, *to_parent):
        os.close(fd)


def test_a_child_writes_into_what_its_parent_holds(forkserver: Engine) -> None:
    """Held items are shared memory: a forked process that must not be heard of copies before it writes."""
    with forkserver.loader(range(2), lambda i: np.full(50_000, i)) as loader:
        first, second = loader
        pid = os.fork()
        if pid == 0:
            first[:] = 7
            second = second.copy()
            second[:] = 7
            os._exit(0)
        os.waitpid(pid, 0)
        assert (first == 7).all()
        assert (second == 1).all()
