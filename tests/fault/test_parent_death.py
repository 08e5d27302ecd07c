"""The consumer ends, in any way, at any time: its workers and its launcher are gone within two seconds.

The consumer here is a program of its own. It prints its launcher, its workers and a helper it made, and stays.
"""

from __future__ import annotations

import signal
import subprocess
import time

import psutil
import pytest

from tests.fault.harness import gone, kill, program, said

DEADLINE_S = 2.0  # torch: workers orphaned, alive after 15 s in 6 of 6 runs, with results in the pipe
METHODS = ["forkserver", "spawn", "fork"]

CONSUMER = """
import ctypes, fcntl, os, signal, subprocess, sys, threading, time, warnings
from mploader import Loader, platform

method, what, helper_kind, ending = sys.argv[1:]

def fn(i):
    if what == "python":
        while True:
            pass
    if what == "C":
        pow(7, 10**9)
    return i

def init(worker_id):
    if what == "starting":
        time.sleep(600)

def fork_in_c():
    pid = ctypes.CDLL(None).fork()  # none of Python's hooks run: it keeps every descriptor open
    if pid == 0:
        while True:
            ctypes.CDLL(None).pause()
    return pid

def fork_and_stop():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on: of threads
        pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    return pid

def until_both(state, times=1):
    seen = 0
    while seen < times:
        time.sleep(0.002)
        workers = loader.stats().workers
        seen = seen + 1 if len(workers) == 2 and all(w.state == state and w.pid for w in workers) else 0

if what == "full":  # the pipe of tasks is as large as it may be, the pipe of results holds 64
    sizes = iter([1 << 20, 4096])
    platform.enlarge_pipe = lambda fd, nbytes: fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, next(sizes))
loader = Loader(range(4000), fn, num_workers=2, start_method=method, worker_init_fn=init, prefetch=4000)
if what in ("idle", "full"):
    loader.start()
    until_both("waiting")
    iterator = iter(loader)
    next(iterator)
    if what == "idle":
        for _ in iterator:
            pass
        until_both("waiting")
    else:
        until_both("writing", 20)  # in a row: a worker that writes may be about to take the next
else:
    threading.Thread(target=lambda: next(iter(loader)), daemon=True).start()
    until_both("starting" if what == "starting" else "running")
helper = 0
if helper_kind == "fork_in_c":
    helper = fork_in_c()
elif helper_kind == "fork_and_stop":
    helper = fork_and_stop()
elif helper_kind == "exec":
    helper = subprocess.Popen(["sleep", "600"], close_fds=False, start_new_session=True).pid
launcher = loader._stream.supervisor._launcher.pid
print(helper, launcher, *[worker.pid for worker in loader.stats().workers], flush=True)
if ending == "os._exit":
    os._exit(3)
if ending == "raise":
    raise RuntimeError("the training loop fails")
if ending != "end":
    signal.pause()
"""


def run(method: str, what: str, helper_kind: str = "none", ending: str = "kill") -> subprocess.CompletedProcess[str]:
    """Start the consumer, end it, and look what of its processes lives on."""
    with program(CONSUMER, method, what, helper_kind, ending) as process:
        helper, launcher, *workers = map(int, said(process).split())
        try:
            assert all(psutil.pid_exists(pid) for pid in (launcher, *workers)) or ending != "kill"
            if ending == "kill":
                process.kill()
            process.wait(20)
            ended = time.monotonic()
            assert gone([launcher, *workers], DEADLINE_S) == []
            assert time.monotonic() - ended < DEADLINE_S
        finally:
            if helper:
                kill(helper)
        stdout, stderr = process.communicate(timeout=20)
    return subprocess.CompletedProcess(CONSUMER, process.returncode, stdout, stderr)


@pytest.mark.parametrize(
    ("what", "method"),
    [
        *[("C", method) for method in METHODS],
        ("idle", "forkserver"),
        ("python", "fork"),
        ("full", "fork"),
        ("full", "forkserver"),
        ("starting", "forkserver"),
        ("starting", "spawn"),
    ],
)
def test_killed(what: str, method: str) -> None:
    """SIGKILL of the consumer while its workers are idle, busy, deaf in C with the GIL, in a full pipe, or starting."""
    done = run(method, what)
    assert done.returncode == -signal.SIGKILL
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("helper_kind", "method"),
    [
        *[("fork_and_stop", method) for method in METHODS],
        ("exec", "forkserver"),
        *[("fork_in_c", method) for method in METHODS],
    ],
)
def test_a_helper_lives_on(helper_kind: str, method: str) -> None:
    """A process that the consumer had forked, and that outlives it, keeps nobody: not even one that kept all open."""
    run(method, "idle", helper_kind)


def test_a_helper_lives_on_and_workers_are_busy() -> None:
    """The same while C code in the workers holds the GIL."""
    run("forkserver", "C", "fork_and_stop")


@pytest.mark.parametrize(("what", "ending"), [("idle", "os._exit"), ("full", "raise"), ("full", "end")])
def test_ended(what: str, ending: str) -> None:
    """A program that ends by itself with a loader open: the same, with its own exit code and no other word."""
    done = run("fork", what, ending=ending)
    assert done.returncode == {"os._exit": 3, "raise": 1, "end": 0}[ending]
    if ending == "raise":
        assert done.stderr.endswith("RuntimeError: the training loop fails\n")
        assert done.stderr.count("Traceback") == 1
    else:
        assert done.stderr == ""
