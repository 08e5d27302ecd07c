"""What every test is held to: it leaves nothing behind, it ends, and it is the same test each time."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import hypothesis
import psutil
import pytest

RUN_VARIABLE = "MPLOADER_TEST_RUN"  # in the environment of all that is started here, so that an orphan is known
GRACE_S = 5.0  # for what is ending when a test returns; nothing of ours may take longer to close

hypothesis.settings.register_profile("same", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("explore", deadline=None)  # pytest --hypothesis-profile=explore
hypothesis.settings.load_profile("same")

# A forked child inherits the lock of faulthandler's watchdog (setup.cfg) but not the watchdog, and at exit it waits for
# it for ever. So a test that forks goes on without this second line; the timeout by signal stays.
os.register_at_fork(before=faulthandler.cancel_dump_traceback_later)

_left_behind: list[psutil.Process] = []


@dataclass(frozen=True)
class Held:
    """What can leak, at one moment. Linux only, for speed: 0.3 ms.

    Attributes:
      pids: all processes of the machine; `since` picks ours.
      threads: this process's Python threads.
      descriptors: what this process has open, by number.
      names: the entries of ``/dev/shm``.
    """

    pids: frozenset[int]
    threads: frozenset[threading.Thread]
    descriptors: dict[int, str]
    names: frozenset[str]

    @classmethod
    def now(cls) -> Held:
        """Look."""
        shm = frozenset(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else frozenset()
        if "SHM_NAME" not in os.environ:  # what the fixture's own tests leave behind, in another process
            shm = frozenset(name for name in shm if not name.startswith("leaked-by-test-"))
        return cls(frozenset(psutil.pids()), frozenset(threading.enumerate()), _descriptors(), shm)

    def since(self, before: Held) -> Held:
        """What is held now and was not held then, but for multiprocessing's own helpers."""
        helper_pids, helper_descriptors = _multiprocessing_helpers()
        new_pids = self.pids - before.pids - helper_pids
        new_descriptors = self.descriptors.keys() - before.descriptors.keys() - helper_descriptors
        return Held(
            frozenset(pid for pid in new_pids if _is_ours(pid)),
            self.threads - before.threads,
            {number: self.descriptors[number] for number in sorted(new_descriptors)},
            self.names - before.names,
        )

    def __bool__(self) -> bool:
        return bool(self.pids or self.threads or self.descriptors or self.names)

    def __str__(self) -> str:
        lines = [f"process {_describe(pid)}" for pid in sorted(self.pids)]
        lines += [f"thread {thread.name}" for thread in self.threads]
        lines += [f"descriptor {number} -> {target}" for number, target in self.descriptors.items()]
        lines += [f"/dev/shm/{name}" for name in sorted(self.names)]
        return "\n  ".join(lines)


def settle(before: Held, grace_s: float) -> Held:
    """Wait for what is about to end, at most ``grace_s``; return what is left."""
    deadline = time.monotonic() + grace_s
    for _ in range(2):  # what the collector drops may be closed by a thread, and a thread may keep what is dropped
        gc.collect()
        # Threads first: one of them may be closing a loader, and wants to reap its processes itself.
        for thread in Held.now().since(before).threads:
            with contextlib.suppress(RuntimeError, AssertionError):  # one that Python did not start cannot be joined
                thread.join(max(0.0, deadline - time.monotonic()))
    alive = [process for process in _processes(Held.now().since(before).pids) if not _is_zombie(process)]
    psutil.wait_procs(alive, timeout=max(0.0, deadline - time.monotonic()))
    return Held.now().since(before)


@pytest.fixture(autouse=True)
def _leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a process, thread, descriptor or name in ``/dev/shm`` behind."""
    if request.node.get_closest_marker("leaks_ok"):
        yield
        return
    failed_before = request.session.testsfailed
    before = Held.now()
    yield
    if request.session.testsfailed != failed_before:
        return  # its traceback keeps alive whatever it held
    if Held.now().since(before) and (left := settle(before, float(request.config.getini("leak_grace_s")))):
        _left_behind.extend(_processes(left.pids))
        pytest.fail(f"the test left behind:\n  {left}", pytrace=False)


def pytest_addoption(parser: pytest.Parser) -> None:
    """One option, for the tests of this file."""
    parser.addini("leak_grace_s", "seconds for what is ending when a test returns", default=str(GRACE_S))


def pytest_configure() -> None:
    """Mark all that is started from here on. Ctrl-C does what it does, also in a background job of a shell."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ[RUN_VARIABLE] = f"{os.getpid()}-{time.monotonic_ns()}"
    # BLAS has its threads spin before they sleep: 60 ms of a core for each program that imports NumPy. 4: 16 cycles.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    sys.dont_write_bytecode = False  # pytest keeps the tests as it rewrote them, 3 s in each of its processes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse an exception that gives no reason."""
    for item in items:
        for marker in item.iter_markers("leaks_ok"):
            if not marker.kwargs.get("reason"):
                raise pytest.UsageError(f"{item.nodeid}: leaks_ok needs reason='...'")


def pytest_collection_finish() -> None:
    """Take what is there for good from the collector, which would look through it for 0.13 s each time."""
    gc.collect()
    gc.freeze()
    sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)


def pytest_unconfigure() -> None:
    """End what was reported as left behind. Not earlier: a living loader would only start it again."""
    for process in _left_behind:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _descriptors() -> dict[int, str]:
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor of this listing itself
            found[int(number)] = os.readlink(f"/proc/self/fd/{number}")
    return found


def _multiprocessing_helpers() -> tuple[set[object], set[object]]:
    """Pids and descriptors of the two processes that multiprocessing starts once and keeps."""
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    pids = {getattr(tracker, "_pid", None), getattr(server, "_forkserver_pid", None)}
    return pids, {getattr(tracker, "_fd", None), getattr(server, "_forkserver_alive_fd", None)}


def _processes(pids: frozenset[int]) -> list[psutil.Process]:
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    return found


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_ours(pid: int) -> bool:
    """Whether this run started the process, directly or not, and it is more than somebody else's zombie."""
    try:
        process = psutil.Process(pid)
        if process.ppid() == os.getpid():
            return True
        if _is_zombie(process):
            return False  # dead, and to be reaped by its parent
        if process.environ().get(RUN_VARIABLE) == os.environ[RUN_VARIABLE]:
            return True  # also an orphan
        return any(parent.pid == os.getpid() for parent in process.parents())
    except psutil.Error:
        return False


def _describe(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        if _is_zombie(process):
            return f"{pid}, dead but never waited for"
        return f"{pid}: {' '.join(process.cmdline())[:160]}"
    except psutil.Error:
        return f"{pid}, gone by now"
