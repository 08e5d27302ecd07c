"""Few file descriptors: a clear error at any limit, never a hang, nothing left; and what is held takes none."""

from __future__ import annotations

import gc
import json
import os
import resource
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest

from mploader import Loader
from mploader.errors import WorkerStartError
from tests.fault.faults import until
from tests.fault.harness import drain, kill, pids, program, said, until_waiting

SWEEP = """
import gc, json, os, resource, sys
from mploader import Loader

def held():
    return len(os.listdir("/proc/self/fd"))

def once():
    try:
        with Loader(range(8), lambda i: i, num_workers=2, start_method=sys.argv[1]) as loader:
            return list(loader)
    except Exception as error:
        return [type(error).__name__, str(error)]

once()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
for more in range(int(sys.argv[2]), int(sys.argv[3])):
    gc.collect()
    before = held()  # the listing itself takes one
    resource.setrlimit(resource.RLIMIT_NOFILE, (before - 1 + more, hard))
    found = once()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    gc.collect()
    print(json.dumps([more, found, held() - before]), flush=True)
"""


@pytest.mark.parametrize(("method", "first"), [("forkserver", 12), ("fork", 0)])
def test_every_limit(method: str, first: int) -> None:
    """From no descriptor left up to enough: an error that says what to raise, or the whole epoch; nothing leaks."""
    with program(SWEEP, method, str(first), "36") as process:
        outcomes = [json.loads(said(process)) for _ in range(first, 36)]
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    whole = list(range(8))
    assert outcomes[0][1] != whole
    assert outcomes[-1][1] == whole
    assert [leaked for _, _, leaked in outcomes] == [0] * len(outcomes)
    for more, found, _ in outcomes:
        if found != whole:
            kind, text = found
            assert kind in ("OSError", "WorkerStartError"), (more, found)
            assert "ulimit -n" in text or "Too many open files" in text, (more, found)


@pytest.fixture
def few() -> Iterator[None]:
    """A limit little above what is open now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 60, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few")
def test_held_results() -> None:
    """Holding a thousand results takes no descriptor (torch: one each), also across deaths of their workers."""

    def make(i: int) -> Any:
        return np.full(5_000, i)

    with Loader(range(300), make, num_workers=2, start_method="fork") as loader:
        held = []
        count = 0
        loader.start()
        until_waiting(loader)
        for epoch in range(3):
            for array in loader:
                held.append(array)
                if len(held) == 20:
                    count = psutil.Process().num_fds()
            until_waiting(loader)
            kill(pids(loader)[epoch % 2])
            until(lambda wanted=epoch + 1: loader.stats().restarts == wanted, "replaced")  # type: ignore[misc]
        until_waiting(loader)
        assert psutil.Process().num_fds() <= count + 3  # the memory of each dead worker
        assert all((array == at % 300).all() for at, array in enumerate(held))
    assert all((array == at % 300).all() for at, array in enumerate(held))


def test_none_left_for_a_successor() -> None:
    """A dead worker whose successor gets no descriptors is one clear error; with descriptors again, all is well."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Loader(range(40), lambda i: i, num_workers=2, start_method="fork", prefetch=4) as loader:
        iterator = iter(loader)
        assert next(iterator) == 0
        until_waiting(loader)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            for pid in pids(loader):
                kill(pid)
            found = drain(iterator)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        error = found[-1]
        assert isinstance(error, WorkerStartError)
        assert "Too many open files" in str(error)
        assert found[:-1] == list(range(1, len(found)))
        del found, error
        assert drain(loader) == list(range(40))


def test_a_hundred_breaks() -> None:
    """Epochs left in the middle pile nothing up: no descriptor, thread, process or memory more than after the first."""

    def make(i: int) -> Any:
        return np.full(5_000, i)

    def now() -> tuple[int, int, int, int]:
        memories = [
            os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if os.path.islink(f"/proc/self/fd/{fd}")
        ]
        children = psutil.Process().children(recursive=True)
        return len(memories), sum("memfd" in name for name in memories), threading.active_count(), len(children)

    with Loader(range(1_000), make, num_workers=2, start_method="fork") as loader:
        loader.start()
        until_waiting(loader)
        gc.collect()  # what earlier tests have left to it
        counts = set()
        for epoch in range(100):
            for i, array in enumerate(loader):
                assert (array == i).all()
                if i == epoch % 7:
                    break
            del array
            counts.add(now())
        until_waiting(loader)
        assert len(counts) == 1
        assert loader.stats().restarts == 0
        assert loader.stats().leased_bytes < 10 * 40_000
