"""Tasks that name their worker: what an integration needs whose framework promises which worker makes what."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mploader.engine import alive
from mploader.engine.contract import Elements, For, WaitedTooLong
from mploader.engine.epoch import EpochIterator
from mploader.engine.stream import Stream
from mploader.engine.work import Work
from mploader.options import Options
from mploader.pipeline.elements import Map
from mploader.pipeline.node import Node
from mploader.pipeline.program import Program
from mploader.worker_info import get_worker_info
from tests.contract.engines import Gate

N = 60


class Elementary:
    """What is iterated over has to be there, and have a length."""

    def __len__(self) -> int:
        return N


@contextmanager
def running(fn: Callable[[Any], Any], **options: Any) -> Iterator[Stream]:
    """A stream of workers that run ``fn``."""
    made = Options.make(**{"num_workers": 3, "prefetch": 9, "start_method": "fork", **options})
    program = Program(None, [Map(Node(), fn)], grouped=False, key=0, reseeds=False)
    stream = Stream(made, Work(program, worker_init_fn=None, retry_on=made.retry_on), 0)
    finalizer = alive.add(stream, program)
    try:
        yield stream
    finally:
        stream.close()
        finalizer.detach()


def begin(stream: Stream, elements: Iterator[Any]) -> EpochIterator[Any]:
    """Begin an epoch over them."""
    run = stream.begin(stream.epoch + 1, lambda: Elements(-1, elements, str, is_bound=True))
    return EpochIterator(Elementary(), stream, stream, run, stream.opened.ready, lambda _: None)


def whose(element: Any) -> tuple[Any, int]:
    info = get_worker_info()
    assert info is not None
    return element, info.id


@pytest.mark.parametrize("in_order", [True, False])
def test_each_goes_to_the_worker_it_names(in_order: bool) -> None:
    """Also where that one has much to do and others nothing, beside tasks that name none."""
    wanted = [i % 3 if i < 30 else 1 for i in range(N)]
    with running(whose, in_order=in_order) as stream:
        for _ in range(2):
            elements = (For(wanted[i], i) if i % 10 else i for i in range(N))
            found = dict(begin(stream, elements))
            assert sorted(found) == list(range(N))
            assert all(found[i] == wanted[i] for i in range(N) if i % 10)


@pytest.mark.parametrize("prefetch", [3, 3000])
def test_a_mailbox_that_is_full_loses_nothing(prefetch: int) -> None:
    """Nor is the order of one worker's tasks another than that in which they were sent."""
    with running(Numbered(), num_workers=1, prefetch=prefetch) as stream:
        found = list(begin(stream, (For(0, i) for i in range(4000))))
    assert found == [(i, i) for i in range(4000)]


class Numbered:
    """Says how many calls there were before."""

    def __init__(self) -> None:
        self.n = -1

    def __call__(self, element: int) -> tuple[int, int]:
        self.n += 1
        return element, self.n


@pytest.mark.parametrize("retries", [0, 1])
def test_what_a_dead_worker_had_goes_to_its_successor(tmp_path: Path, retries: int) -> None:
    """In the same order; what it had in hand is charged."""
    flag = tmp_path / "flag"
    flag.touch()

    def fn(element: int) -> tuple[Any, int]:
        if element == 22 and flag.exists():
            flag.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return whose(element)

    with running(fn, retries=retries) as stream:
        iterator = begin(stream, (For(i % 3, i) for i in range(N)))
        found: list[Any] = []
        while len(found) < N:
            try:
                found.append(next(iterator))
            except Exception as error:  # noqa: BLE001
                found.append(error)
    dead = found.pop(22)
    assert found == [(i, i % 3) for i in range(N) if i != 22]
    assert dead == (22, 1) if retries else dead.index == 22


def test_a_worker_that_starts_late_gets_its_tasks(tmp_path: Path) -> None:
    """And the others do not do them meanwhile."""
    gate = Gate(tmp_path / "gate")

    def init(worker_id: int) -> None:
        if worker_id == 2:
            gate.wait()

    made = {"worker_init_fn": init, "prefetch": 30}
    options = Options.make(**{"num_workers": 3, "start_method": "fork", **made})
    program = Program(None, [Map(Node(), whose)], grouped=False, key=0, reseeds=False)
    stream = Stream(options, Work(program, worker_init_fn=init, retry_on=()), 0)
    try:
        iterator = begin(stream, (For(i % 3, i) for i in range(30)))
        assert [next(iterator), next(iterator)] == [(0, 0), (1, 1)]
        gate.open()
        assert list(iterator) == [(i, i % 3) for i in range(2, 30)]
    finally:
        stream.close()


def test_a_limit_for_waiting(tmp_path: Path) -> None:
    """Nothing came in time: that is said, and a later call goes on waiting for the same item."""
    gate = Gate(tmp_path / "gate")

    def fn(element: int) -> int:
        if element == 1:
            gate.wait()
        return element

    with running(fn) as stream:
        stream.wait_limit_s = 0.2
        iterator = begin(stream, iter(range(3)))
        assert next(iterator) == 0
        with pytest.raises(WaitedTooLong):
            next(iterator)
        gate.open()
        stream.wait_limit_s = None
        assert list(iterator) == [1, 2]
