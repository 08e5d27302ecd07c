"""A worker dies right before and right after each step D to F, and what happens to its item is exact.

Charged is only who has claimed: a worker that dies between reading a task and claiming it costs no attempt, although
the consumer cannot tell such a task from one that nobody has read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mploader import Loader
from mploader.engine import stream
from mploader.errors import WorkerDiedError
from tests.fault.faults import Fault, How, Journal
from tests.fault.harness import drain, until_restarts
from tests.fault.letters import STEPS, EveryLine, Hook

N = 40
AT = 11
CASES = [
    pytest.param(name, after, id=f"{when}_{name}".replace(" ", "_"))
    for name in STEPS
    for after, when in ((False, "before"), (True, "after"))
    if (name, after) != ("begin", True)
]


def hook(folder: Path, step: str, after: bool, how: How = How.SIGKILL) -> Hook:
    """A hook that strikes once."""
    flag = folder / "armed"
    flag.touch()
    return Hook(step, after, AT, Fault(how, flag, once=True), Journal(folder / "runs"))


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize(("step", "after"), CASES)
def test_kill_at_step(step: str, after: bool, retries: int, tmp_path: Path) -> None:
    """The item fails if it was claimed, not announced, and may not be tried again; all else arrives once, in order."""
    trap = hook(tmp_path, step, after)
    options: dict[str, Any] = {"num_workers": 2, "start_method": "fork", "chunk": 1}
    with Loader(range(N), trap.fn, worker_init_fn=trap, retries=retries, **options) as loader:
        found = drain(loader)
        until_restarts(loader, 1)
        assert not Path(trap.fault.flag).exists()
        where = STEPS[step]
        announced = after and where.announced
        charged = where.claimed[after] and not announced
        error = found[AT]
        assert found == [*range(AT), error, *range(AT + 1, N)]
        if charged and retries == 0:
            assert isinstance(error, WorkerDiedError)
            assert (error.index, error.attempt, error.signal) == (AT, 0, "SIGKILL")
        else:
            assert error == AT
        runs = trap.runs.read()
        ran_before = where.letter != "D"
        expected = int(ran_before) + int(error == AT and not announced)
        assert runs.count(AT) == expected
        assert set(runs) | {AT} == set(range(N))
        assert drain(loader) == list(range(N))


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_kill_between_read_and_claim(method: str, tmp_path: Path) -> None:
    """Under every start method, the gap between reading and claiming is charged to nobody: retries=0 delivers."""
    trap = hook(tmp_path, "take", after=True)
    with Loader(range(N), trap.fn, num_workers=2, worker_init_fn=trap, retries=0, start_method=method) as loader:
        assert drain(loader) == list(range(N))
        until_restarts(loader, 1)
        assert loader.stats().errors == 0


@pytest.mark.parametrize("step", ["take", "write", "send"])
def test_every_try_dies(step: str, tmp_path: Path) -> None:
    """A worker that dies at the same step each time ends the item after ``retries`` more, and the row of deaths anyway.

    Before the claim nobody is charged: what stops the row there is that the dead did no item.
    """
    trap = hook(tmp_path, step, after=False)
    trap.fault.once = False
    options: dict[str, Any] = {"num_workers": 1, "start_method": "fork", "chunk": 1}
    with Loader(range(N), trap.fn, worker_init_fn=trap, retries=2, **options) as loader:
        found = drain(loader)
        if step == "take":
            assert type(found[-1]).__name__ == "WorkerStartError"
            assert "without one item" in str(found[-1])
        else:
            error = found[AT]
            assert found == [*range(AT), error, *range(AT + 1, N)]
            assert isinstance(error, WorkerDiedError)
            assert error.attempt == 2
            assert "tried 3 times" in str(error)


def test_elements_of_a_stream_survive_the_gap(tmp_path: Path) -> None:
    """A stream's element that a dead worker had read is still in the arena for the one after it."""
    trap = hook(tmp_path, "take", after=True)
    elements = [bytes([i]) * 40_000 for i in range(N)]
    with Loader(
        lambda: iter(elements), lambda e: e[:1], num_workers=2, worker_init_fn=trap, retries=0, start_method="fork"
    ) as loader:
        assert drain(loader) == [element[:1] for element in elements]
        until_restarts(loader, 1)


def test_gap_is_seen_at_the_death_not_by_looking_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a dead worker had read is issued again at once, not when the waiting consumer next looks around."""
    monkeypatch.setattr(stream, "LOOK_AROUND_S", 1e6)
    trap = hook(tmp_path, "take", after=True)
    with Loader(range(N), trap.fn, num_workers=2, worker_init_fn=trap, retries=0, start_method="fork") as loader:
        assert drain(loader) == list(range(N))


@pytest.mark.parametrize(("chunk", "every", "which"), [(1, 2, 1), (4, 4, 0), (4, 4, 3)])
@pytest.mark.parametrize("retries", [0, 1])
def test_kill_at_every_line(retries: int, chunk: int, every: int, which: int, tmp_path: Path) -> None:
    """Whichever line of the worker's code is its last, nothing is lost or doubled.

    And without a retry, that item fails that was claimed and not announced, no other of its chunk.
    """
    stride = 4 if retries else 1
    length = every * 240 // stride
    trap = EveryLine(tmp_path, stride, every, which)
    options: dict[str, Any] = {"num_workers": 1, "start_method": "fork", "chunk": chunk}
    with Loader(range(length), lambda i: i, worker_init_fn=trap, retries=retries, **options) as loader:
        found = drain(loader)
        died, charged = trap.died.read(), trap.charged.read()
        until_restarts(loader, len(died))
    assert len(found) == length
    assert 60 // stride < len(died) < length // every, "every line of an item's way, and some to spare"
    assert died[: 60 // stride] == list(range(which, every * (60 // stride), every))
    failed = [i for i, value in enumerate(found) if value != i]
    assert failed == ([] if retries else charged)
    assert all(isinstance(found[i], WorkerDiedError) and found[i].index == i for i in failed)
