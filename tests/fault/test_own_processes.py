"""What user code forks inside a worker is a process of its own, however it ends, and never a second worker."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import pytest

from mploader import Loader
from tests.fault.harness import drain

N = 20
ENDS: dict[str, Callable[[], object]] = {
    "exit": lambda: sys.exit(7),
    "exit with words": lambda: sys.exit("no"),
    "error": lambda: 1 // 0,
    "return": lambda: None,
    "os._exit": lambda: os._exit(7),
}
STATUS = {"exit": 7, "exit with words": 1, "error": 1, "return": 0, "os._exit": 7}


@pytest.mark.parametrize("end", ENDS)
def test_a_child_that_comes_back_from_fn(end: str, capfd: pytest.CaptureFixture[str]) -> None:
    """It ends with its own status; the parent's results are its own, each once."""

    def fn(i: int) -> tuple[int, int]:
        pid = os.fork()
        if pid == 0:
            ENDS[end]()
            return i, -1
        return i, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    with Loader(range(N), fn, num_workers=2, start_method="fork") as loader:
        for _ in range(2):
            assert drain(loader) == [(i, STATUS[end]) for i in range(N)]
        assert loader.stats().errors == loader.stats().restarts == 0
    assert ("ZeroDivisionError" in capfd.readouterr().err) == (end == "error")
