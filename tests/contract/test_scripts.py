"""Whole programs: no ``__main__`` guard, what they print, how they end. Each runs in an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 40


def run(arguments: list[str], folder: Path, source: str = "") -> subprocess.CompletedProcess[str]:
    """Run Python with warnings as errors."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    return subprocess.run(
        [sys.executable, *arguments],
        input=source,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=environment,
        cwd=folder,
        check=False,
    )


def run_script(folder: Path, source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script from a file."""
    (folder / "script.py").write_text(source)
    return run(["script.py", *arguments], folder)


UNGUARDED = """
import dataclasses, enum, functools, sys
import numpy as np
from mploader import Loader, get_worker_info

SCALE = 3
sys.stdout.write("started\\n")

class Kind(enum.Enum):
    ODD = 1
    EVEN = 0

@dataclasses.dataclass
class Sample:
    i: int
    kind: Kind
    image: object

class Corrupt(Exception):
    pass

@functools.lru_cache
def scaled(i):
    return i * SCALE

def make(i):
    assert get_worker_info() is not None
    if i == 3:
        raise Corrupt(i)
    return Sample(scaled(i), Kind(i % 2), np.full(50_000, i))

for method in ("forkserver", "spawn"):
    with Loader(range(5), make, num_workers=2, start_method=method) as loader:
        iterator = iter(loader)
        for i in range(5):
            try:
                x = next(iterator)
            except Corrupt as error:
                assert (i, type(error), error.args) == (3, Corrupt, (3,))
                continue
            assert type(x) is Sample and isinstance(x, Sample) and x.kind is Kind(i % 2), x
            assert x.i == i * SCALE and (x.image == i).all()
        assert list(iterator) == []
    sys.stdout.write(method + "\\n")
with Loader(lambda: (Sample(i, Kind.ODD, None) for i in range(3)), lambda s: s, num_workers=1) as loader:
    assert [type(s) is Sample and s.kind is Kind.ODD for s in loader] == [True] * 3
"""


@pytest.mark.parametrize("way", ["file", "stdin", "-c"])
def test_no_main_guard(tmp_path: Path, way: str) -> None:
    """A program without a guard runs once, by file, on stdin and by ``-c``; its own classes come back as themselves."""
    if way == "file":
        done = run_script(tmp_path, UNGUARDED)
    else:
        done = run(["-"], tmp_path, UNGUARDED) if way == "stdin" else run(["-c", UNGUARDED], tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("started\nforkserver\nspawn\n", "", 0)


PRINTING = """
import sys, threading
from mploader import Loader

def say(i):
    print("item", i)
    if i == 4:
        sys.stdout.write("without an end")
    return i

print("before")
with Loader(range(5), say, num_workers=1, start_method=sys.argv[1]) as loader:
    for i in loader:
        assert i in range(5)
print("after", threading.active_count())
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_print_appears(tmp_path: Path, method: str) -> None:
    """What ``fn`` prints is on the program's standard output, once; a good run says nothing on standard error."""
    done = run_script(tmp_path, PRINTING, method)
    assert (done.stderr, done.returncode) == ("", 0)
    text = done.stdout
    assert text.count("before\n") == 1
    assert text.count("after 1\n") == 1
    assert [text.count(f"item {i}\n") for i in range(5)] == [1] * 5
    assert text.count("without an end") == 1


def test_print_appears_at_once(tmp_path: Path) -> None:
    """A line that ``fn`` prints is there while the item still runs."""
    source = """
from mploader import Loader
import os, sys, time
def fn(i):
    print("begun")
    while not os.path.exists("go"):
        time.sleep(0.005)
    return i
with Loader(range(1), fn, num_workers=1) as loader:
    assert list(loader) == [0]
"""
    (tmp_path / "script.py").write_text(source)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "script.py"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        (tmp_path / "go").touch()
        assert process.stdout.read() == ""
        assert process.wait(TIMEOUT_S) == 0


LEAVING = """
import gc, os, sys, threading, time
from mploader import Loader

def slow(i):
    if i >= 3:
        time.sleep(HOW_LONG)
    return i

loader = Loader(range(1000), slow, num_workers=2, start_method=METHOD)
iterator = iter(loader)
assert [next(iterator) for _ in range(3)] == [0, 1, 2]
while None in (worker.pid for worker in loader.stats().workers):
    time.sleep(0.001)
print(*(worker.pid for worker in loader.stats().workers), flush=True)
"""

ENDS = {
    "exit": ("sys.exit(3)", 3, ""),
    "error": ("raise LookupError('mine')", 1, "LookupError: mine\n"),
    "thread": ("threading.Thread(target=lambda: next(iterator), daemon=True).start()", 0, ""),
    "cycle": ("loader.me = loader; del loader, iterator; gc.disable()", 0, ""),
}


@pytest.mark.parametrize("end", ENDS)
def test_exit_with_items_in_flight(tmp_path: Path, end: str) -> None:
    """A program may end in mid-epoch, in any way: no word of ours on standard error, no worker left, its own status."""
    statement, status, last = ENDS[end]
    source = LEAVING.replace("HOW_LONG", "0.05").replace("METHOD", repr("forkserver")) + statement + "\n"
    done = run_script(tmp_path, source)
    assert (done.returncode, "mploader" in done.stderr) == (status, False), done.stderr
    assert done.stderr.endswith(last)
    assert (done.stderr == "") == (last == "")
    _assert_gone(done.stdout)


def test_exit_does_not_wait_for_items(tmp_path: Path) -> None:
    """A program ends within seconds though its workers have items that take an hour."""
    began = time.monotonic()
    done = run_script(tmp_path, LEAVING.replace("HOW_LONG", "3600").replace("METHOD", repr("fork")))
    assert time.monotonic() - began < 15
    assert (done.stderr, done.returncode) == ("", 0)
    _assert_gone(done.stdout)


def _assert_gone(pids: str) -> None:
    assert len(pids.split()) == 2
    deadline = time.monotonic() + 5
    while left := [pid for pid in pids.split() if _is_alive(pid)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.01)


def _is_alive(pid: str) -> bool:
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_users_modules_do_not_shadow_ours(tmp_path: Path, method: str) -> None:
    """Files called json.py, random.py or types.py in the working directory are not what the workers' start imports."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for name in ("json", "random", "types", "select", "socket", "signal", "mploader"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemError('{name}.py of the user was imported')\n")
    (scripts / "train.py").write_text(
        "from mploader import Loader\n"
        f"with Loader(range(3), lambda i: -i, num_workers=1, start_method={method!r}) as loader:\n"
        "    assert list(loader) == [0, -1, -2]\n"
    )
    done = run(["scripts/train.py"], tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_package_run_by_m(tmp_path: Path) -> None:
    """A module run by ``python -m`` may use relative imports in ``fn``; its classes come back as themselves."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "other.py").write_text("VALUE = 5\n")
    (package / "train.py").write_text("""
from mploader import Loader
class Sample:
    def __init__(self, i):
        self.i = i
def make(i):
    from .other import VALUE
    return Sample(i + VALUE)
for method in ("forkserver", "fork"):
    with Loader(range(3), make, num_workers=1, start_method=method) as loader:
        assert [(type(x) is Sample, x.i) for x in loader] == [(True, 5), (True, 6), (True, 7)]
""")
    done = run(["-m", "package.train"], tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


@pytest.mark.parametrize("handling", ["signal.SIG_IGN", "reap"])
def test_users_child_handling(tmp_path: Path, handling: str) -> None:
    """A program that ignores SIGCHLD, or reaps whatever child has ended, is told a worker's exit code all the same."""
    source = f"""
import os, signal
from mploader import Loader, WorkerDiedError
def reap(*args):
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        pass
signal.signal(signal.SIGCHLD, {handling})
def dies_at_1(i):
    if i == 1:
        os._exit(7)
    return i
for method in ("forkserver", "fork"):
    with Loader(range(3), dies_at_1, num_workers=1, start_method=method, retries=0) as loader:
        iterator = iter(loader)
        assert next(iterator) == 0
        try:
            next(iterator)
        except WorkerDiedError as error:
            assert error.exitcode == 7, error
        assert next(iterator) == 2
"""
    done = run_script(tmp_path, source)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_forked_child_ends_quietly(tmp_path: Path) -> None:
    """A forked child of the user's program that ends in the ordinary way says nothing and leaves the workers be."""
    source = """
import os, sys, multiprocessing, warnings
import numpy as np
from mploader import Loader
warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads
loader = Loader(range(20), lambda i: np.full(50_000, i), num_workers=2)
iterator = iter(loader)
held = [next(iterator) for _ in range(3)]
pid = os.fork()
if pid == 0:
    assert [int(x[0]) for x in held] == [0, 1, 2]
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
with multiprocessing.get_context("fork").Pool(1) as pool:
    assert pool.map(abs, [-1]) == [1]
assert [int(x[0]) for x in iterator] == list(range(3, 20))
assert loader.stats().restarts == 0
"""
    done = run_script(tmp_path, source)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


RETURNS_FUNCTIONS = """
import json
from mploader import Loader
count = 0
def helper():
    global count
    count += 1
    return count
with Loader(range(2), lambda i: (helper, json.loads), num_workers=1) as loader:
    first, second = loader
print(first[0] is helper, first[0](), first[0](), second[0](), count, first[1] is json.loads)
"""


def test_function_in_a_result_is_the_programs_own(tmp_path: Path) -> None:
    """A function of the program itself goes by its name, as one of a module does: what comes back is that function."""
    done = run_script(tmp_path, RETURNS_FUNCTIONS)
    assert (done.stdout, done.stderr) == ("True 1 2 3 3 True\n", "")
