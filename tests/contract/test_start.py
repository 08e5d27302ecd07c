"""When workers start, and what happens where they cannot."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from mploader import TaskError, WorkerStartError
from tests.contract.engines import Engine, Gate, Tally, pids_of, until
from tests.contract.refused import Base, Opened


def test_workers_start_at_first_iter(processes: Engine) -> None:
    """The constructor, ``len()`` and ``stats()`` start nothing; ``iter()`` does."""
    before = psutil.Process().children(recursive=True)
    with processes.loader(range(5)) as loader:
        assert len(loader) == 5
        assert loader.stats().workers == ()
        loader.refresh()
        assert psutil.Process().children(recursive=True) == before
        assert list(loader) == list(range(5))
        assert len(psutil.Process().children(recursive=True)) > len(before)


def test_start(engine: Engine, tally: Tally) -> None:
    """``start()`` makes the workers ahead of the first epoch, once; nothing is drawn or run before ``iter()``."""

    def note(i: int) -> int:
        tally.add(i)
        return i

    with engine.loader(range(5), note) as loader:
        for _ in range(2):
            loader.start()
        until(lambda: len(pids_of(loader)) == engine.num_workers, "for the workers")
        pids = pids_of(loader)
        assert (loader.epoch, tally.lines) == (-1, [])
        assert list(loader) == list(range(5))
        assert pids_of(loader) == pids


def test_items_are_made_from_iter_on(processes: Engine, tally: Tally) -> None:
    """``iter()`` fills the window: what is there at the first ``next()`` need not be waited for."""

    def note(i: int) -> int:
        tally.add(i)
        return i

    with processes.loader(range(20), note, prefetch=4) as loader:
        iterator = iter(loader)
        tally.wait_for(4)
        assert sorted(tally.lines) == ["0", "1", "2", "3"]
        assert list(iterator) == list(range(20))


def test_elements_are_drawn_from_iter_on(forkserver: Engine) -> None:
    """``iter()`` has the elements of a stream drawn, as many as the window takes."""
    drawn: list[int] = []

    def elements() -> Iterator[int]:
        for i in range(20):
            drawn.append(i)
            yield i

    with forkserver.loader(elements, prefetch=4) as loader:
        iterator = iter(loader)
        until(lambda: len(drawn) == 4, "for a window of elements")
        assert list(iterator) == list(range(20))


def test_worker_init_fn_that_raises(engine: Engine, gate: Gate) -> None:
    """What ``worker_init_fn`` raises is the cause of a WorkerStartError; a later ``iter()`` tries anew."""

    def init(worker_id: int) -> None:
        if not gate.is_open:
            raise LookupError("no licence")

    def fails(i: int) -> int:
        raise ValueError(i)

    with engine.single.loader(range(3), fails, worker_init_fn=init) as loader:
        with pytest.raises(WorkerStartError, match=r"worker_init_fn.*no licence") as caught:
            next(iter(loader))
        assert repr(caught.value.__cause__) == "LookupError('no licence')"
        assert not isinstance(caught.value, TaskError)
        if not engine.is_inline:
            assert caught.value.worker_id == 0
            assert any("in init\n" in note for note in caught.value.__notes__)
        gate.open()
        with pytest.raises(ValueError, match="0") as item_error:
            next(iter(loader))
        assert item_error.value.mploader_task.epoch == loader.epoch == loader.stats().epoch  # type: ignore[attr-defined]


def test_work_that_cannot_be_rebuilt(processes: Engine) -> None:
    """A part of the work that a worker cannot rebuild is named, with where it sits; the next ``iter()`` tries anew."""
    deep = {"handles": [1, Opened()], "array": np.zeros(100_000)}

    class Local(Base):
        def open(self) -> Any:
            return deep["handles"]

    opens = Local.open
    libc = ctypes.CDLL(None)
    cases = [
        (range(2), lambda i: libc.getpid(), r"fn closes over `libc` \(ctypes.CDLL\)"),
        (
            [1, Opened()],
            None,
            r"source\[1\] \(tests.contract.refused.Opened\) cannot be rebuilt.*it is open already",
        ),
        (range(2), lambda i: Local().open(), r"`handles`\]\[1\]|\['handles'\]\[1\]"),
    ]
    for source, fn, culprit in cases:
        with processes.single.loader(source, fn) as loader:
            for _ in range(2):
                with pytest.raises(WorkerStartError, match=culprit) as caught:
                    next(iter(loader))
                assert "per_worker" in str(caught.value)
                assert caught.value.__cause__ is not None
    assert Local.open is opens  # the user's own class is as it was
    assert deep["array"].flags.writeable  # type: ignore[attr-defined]


def test_worker_that_dies_at_start(processes: Engine, tally: Tally) -> None:
    """A worker that dies before it is ready three times in a row is WorkerStartError, no endless respawn."""

    def init(worker_id: int) -> None:
        tally.add(worker_id)
        os._exit(9)

    with processes.single.loader(range(3), worker_init_fn=init) as loader:
        with pytest.raises(WorkerStartError, match=r"died 3 times in a row before it was ready.*code 9") as caught:
            next(iter(loader))
    assert (caught.value.worker_id, caught.value.exitcode) == (0, 9)
    assert len(tally.lines) == 3


def test_work_that_cannot_be_loaded(processes: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function whose module a worker cannot import is WorkerStartError with the ImportError as its cause."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "here_only", raising=False)  # the search for the culprit imported it here
    (tmp_path / "here_only.py").write_text(
        f"import os\nif os.getpid() != {os.getpid()}: raise ImportError('not here')\n"
    )

    class Here:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return __import__, ("here_only",)

    with processes.single.loader([Here()]) as loader:
        with pytest.raises(WorkerStartError, match="not here") as caught:
            next(iter(loader))
    assert isinstance(caught.value.__cause__, ImportError)
