"""The host program's own signal handlers, children and threads: they do not disturb, and are not disturbed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mploader import Loader
from mploader.errors import WorkerDiedError
from tests.fault.faults import exits_at_5
from tests.fault.harness import ROOT, drain, kill, kill_and_see, launcher_pid, pids, program, said, until_waiting

N = 20
METHODS = ["forkserver", "fork"]


@contextlib.contextmanager
def handling(signum: signal.Signals, handler: Any) -> Iterator[None]:
    """Another handler for a while."""
    before = signal.signal(signum, handler)
    try:
        yield
    finally:
        signal.signal(signum, before)


def reap_all(*_: Any) -> None:
    """What a careless program does with its children."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("handler", [reap_all, signal.SIG_IGN], ids=["waitpid(-1)", "SIG_IGN"])
def test_somebody_else_reaps(handler: Any, method: str) -> None:
    """A SIGCHLD handler that reaps every child, or a SIGCHLD ignored: deaths are seen all the same, with their code."""
    with handling(signal.SIGCHLD, handler):
        with Loader(range(N), exits_at_5, num_workers=2, start_method=method, retries=0) as loader:
            iterator = iter(loader)
            found = [next(iterator) for _ in range(5)] + drain(iterator)
            reap_all()
            error = found[5]
            assert isinstance(error, WorkerDiedError)
            assert error.exitcode == 3
            assert found == [*range(5), error, *range(6, N)]
            kill(launcher_pid(loader))
            kill_and_see(loader, 0)
            reap_all()
        reap_all()


@pytest.mark.parametrize("method", METHODS)
def test_handlers_are_untouched(method: str) -> None:
    """Loading, a worker's death and closing change no signal handler, no mask, no wakeup descriptor of the host."""

    def now() -> tuple[Any, ...]:
        handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        wakeup = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(wakeup)
        return handlers, wakeup, signal.pthread_sigmask(signal.SIG_BLOCK, ()), signal.getitimer(signal.ITIMER_REAL)[1]

    before = now()
    with Loader(range(N), exits_at_5, num_workers=2, start_method=method, retries=0) as loader:
        drain(loader)
        assert now() == before
    assert now() == before


def test_from_a_thread() -> None:
    """The same promises where signals are not to be had: made, iterated, struck and closed outside the main thread."""
    found: list[Any] = []

    def work() -> None:
        with Loader(range(N), exits_at_5, num_workers=2, start_method="fork", retries=0) as loader:
            iterator = iter(loader)
            found.extend(next(iterator) for _ in range(3))
            until_waiting(loader)  # who dies with an item in hand loses it: there are no retries
            kill_and_see(loader, 0, 1)
            found.extend(drain(iterator))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert isinstance(found[5], WorkerDiedError)
    assert found == [*range(5), found[5], *range(6, N)]


def test_iterator_made_in_one_thread_and_used_in_another() -> None:
    """A death is seen by whoever waits, also in a thread that is not the one that began (torch: 5 s late)."""
    with Loader(range(N), exits_at_5, num_workers=2, start_method="fork", retries=0) as loader:
        iterator = iter(loader)
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.extend(drain(iterator)))
        thread.start()
        thread.join(30)
        assert isinstance(found[5], WorkerDiedError)
        assert found == [*range(5), found[5], *range(6, N)]


SIGPIPE = """
import os, select, signal, sys, time
from mploader import Loader
from mploader.engine.supervisor import Supervisor
signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as programs do that write to `head`

def kill_workers(loader):
    for worker in loader.stats().workers:
        pidfd = os.pidfd_open(worker.pid)
        os.kill(worker.pid, signal.SIGKILL)
        select.select([pidfd], [], [])
        os.close(pidfd)

with Loader(range(40), lambda i: i, num_workers=2, start_method=sys.argv[1], prefetch=4) as loader:
    iterator = iter(loader)
    found = [next(iterator)]
    while "starting" in (worker.state for worker in loader.stats().workers):
        time.sleep(0.001)
    launcher = loader._stream.supervisor._launcher.pid
    os.kill(launcher, signal.SIGKILL)
    os.waitid(os.P_PID, launcher, os.WEXITED | os.WNOWAIT)
    kill_workers(loader)
    found += iterator
    while "starting" in (worker.state for worker in loader.stats().workers):
        time.sleep(0.001)
    Supervisor._on_death = lambda self, life: None  # so that close() is the first to speak to the dead
    kill_workers(loader)
print(found == list(range(40)), flush=True)
"""


@pytest.mark.parametrize("method", METHODS)
def test_broken_pipes_do_not_kill_the_host(method: str) -> None:
    """A program that lets SIGPIPE kill it is not killed because a worker or the launcher is dead."""
    with program(SIGPIPE, method) as process:
        assert said(process) == "True"
        assert process.wait(20) == 0


SMALL_SHM = """
import numpy as np
from mploader import Loader
with Loader(range(6), lambda i: np.full(20_000_000, i, np.uint8), num_workers=2, start_method="fork") as loader:
    held = list(loader)
print(all((array == i).all() for i, array in enumerate(held)))
"""


def test_small_shm() -> None:
    """In a container whose ``/dev/shm`` has 1 MB, 120 MB of results arrive (named segments: SIGBUS)."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("no unshare(1) here to give a process a /dev/shm of its own")
    mount = ["sh", "-c", 'mount -t tmpfs -o size=1M tmpfs /dev/shm && exec "$@"', "sh"]
    allowed = subprocess.run([unshare, "-m", *mount, "true"], capture_output=True, text=True, check=False)
    if allowed.returncode:
        pytest.skip(f"not allowed to mount here: {allowed.stderr.strip()}")
    done = subprocess.run(
        [unshare, "-m", *mount, sys.executable, "-c", SMALL_SHM],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("True\n", "", 0)


def test_workers_are_nobodys_children() -> None:
    """No worker is a child of the host: its own ``waitpid(-1)`` never gets one, and blocks only for its own."""
    with Loader(range(N), lambda i: i, num_workers=2, start_method="fork") as loader:
        assert drain(loader) == list(range(N))
        for pid in pids(loader):
            with pytest.raises(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


@pytest.mark.parametrize("method", METHODS)
def test_after_threads_of_a_library(method: str) -> None:
    """A matrix product in the host, which starts threads, then one in the workers: no freeze, also by fork."""
    matrix = np.arange(250_000.0).reshape(500, 500)
    expected = (matrix @ matrix).sum()
    with Loader(range(4), lambda i: (matrix @ matrix).sum(), num_workers=2, start_method=method) as loader:
        assert drain(loader) == [pytest.approx(expected)] * 4


LIMITED = """
import resource, sys
import numpy as np
import psutil
from mploader import Loader, ResultTooLargeError
room = psutil.Process().memory_info().vms + (1500 << 20)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
method, held = sys.argv[1], []
with Loader(range(300), lambda i: np.full(10**6, i % 256, np.uint8), num_workers=2, start_method=method) as loader:
    for item in loader:
        held.append(item)
        np.empty(500 << 20, np.uint8)  # the program's own
assert all((item == i % 256).all() for i, item in enumerate(held))
large = lambda i: np.ones(200 << 20, np.uint8)
for source, fn in [(range(1), large), (map(large, range(1)), len)]:
    with Loader(source, fn, num_workers=1, start_method=method, memory_limit_bytes=1 << 30) as loader:
        try:
            print(next(iter(loader)))
        except ResultTooLargeError as error:
            print(error)
"""


@pytest.mark.parametrize("method", METHODS)
def test_limited_address_space(method: str) -> None:
    """Under ``ulimit -v`` the program keeps most of its room, holding results costs none, and errors name the limit."""
    with program(LIMITED, method) as process:
        result, element = said(process), said(process)
    for text, what in [(result, "result for"), (element, "element at")]:
        assert f"the {what} index 0 needs 209,7" in text
        assert "ulimit -v" in text
        assert "memory_limit_bytes" not in text
    assert "return less" in result
    assert "yield less" in element
