"""The ways of `mploader/platform/portable.py`, which a Mac would take, are as good as Linux's own, run on Linux.

A part of the suite runs in interpreters from which all was taken that macOS lacks (`no_linux/sitecustomize.py`). What
that cannot show is what macOS does otherwise without our knowledge: this was never run on a Mac.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mploader import platform
from mploader.platform import linux, portable

ROOT = Path(__file__).parents[2]
NO_LINUX = str(Path(__file__).with_name("no_linux"))

# What may differ, in a time that can be paid: each start method, death, timeout, break, held items, full pipes, an end
# of the program at any place. Not C code with the GIL (nothing ends it before it returns), not a small /dev/shm.
SUITE = """
tests/contract/test_order.py::test_each_item_once_and_in_order
tests/contract/test_epochs.py::test_breaks_leak_nothing[fork]
tests/contract/test_epochs.py::test_refresh_publishes_what_changed
tests/contract/test_fork.py::test_results_are_good_in_both[forkserver]
tests/contract/test_memory.py::test_what_is_held_never_makes_a_result_too_large
tests/fault/test_ctrl_c.py::test_caught[fork]
tests/fault/test_full_pipes.py::test_window_larger_than_the_pipes
tests/fault/test_full_pipes.py::test_workers_wait_while_the_consumer_is_away
tests/fault/test_kills.py::test_idle_and_busy[fork]
tests/fault/test_kills.py::test_all_at_once[fork]
tests/fault/test_kills.py::test_again_and_again_while_streaming[elements-True]
tests/fault/test_launcher.py::test_killed[fork]
tests/fault/test_parent_death.py::test_killed[python-fork]
tests/fault/test_parent_death.py::test_a_helper_lives_on[fork_in_c-forkserver]
tests/fault/test_surroundings.py::test_broken_pipes_do_not_kill_the_host[fork]
tests/fault/test_timeouts.py::test_while_the_consumer_is_away
"""


def run(*arguments: str, timeout_s: float = 55, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python from the repository's root."""
    environment = {**os.environ, **variables}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_suite_without_linux() -> None:
    """Order, errors, deaths, deadlines, breaks, full pipes, held items and the program's end, without Linux's calls."""
    # MPLOADER_PORTABLE for the programs that tests start with a path of their own
    options = ["-q", "--no-header", "-p", "no:cacheprovider"]
    done = run("-m", "pytest", *options, *SUITE.split(), timeout_s=180, PYTHONPATH=NO_LINUX, MPLOADER_PORTABLE="1")
    assert done.returncode == 0, done.stdout + done.stderr


EVERYTHING = """
import fcntl, importlib, pkgutil, sys
del fcntl.F_SETPIPE_SZ
import mploader, psutil
names = [found.name for found in pkgutil.walk_packages(mploader.__path__, "mploader.")]
for name in names:
    if name != "mploader.platform.linux" and not name.startswith("mploader.integrations."):  # which need frameworks
        importlib.import_module(name)
print(mploader.platform.IS_PORTABLE, "mploader.platform.linux" in sys.modules, len(names) > 30)
"""


def test_everything_can_be_imported_without_linux() -> None:
    """No module touches what only Linux has when it is imported, and Linux's own ways are not among what it imports."""
    done = run("-c", EVERYTHING, PYTHONPATH=NO_LINUX)
    assert (done.stdout, done.stderr) == ("True False True\n", "")


def test_linux_takes_its_own_ways() -> None:
    """By itself, Linux takes none of the weaker ways; the switch is for the tests, and is seen by all processes."""
    script = (
        "from mploader import Loader, platform\n"
        "def chosen(_): from mploader import platform; return platform.Poller.__module__\n"
        "for method in ('forkserver', 'spawn', 'fork'):\n"
        "    with Loader(range(1), chosen, num_workers=1, start_method=method) as loader: print(*loader)\n"
    )
    assert run("-c", script, MPLOADER_PORTABLE="").stdout.split() == ["select"] * 3
    assert run("-c", script, MPLOADER_PORTABLE="1").stdout.split() == ["mploader.platform.portable"] * 3


def test_windows_is_told_what_to_do() -> None:
    """On native Windows the import is an error that names WSL2, before anything that Windows lacks is touched."""
    done = run("-c", "import sys; sys.platform = 'win32'; sys.modules['fcntl'] = None; import mploader")
    assert done.stderr.splitlines()[-1].startswith(
        "ImportError: mploader needs Linux or macOS; on Windows run it in WSL2"
    )


def offered(module: ModuleType) -> dict[str, Any]:
    """What the face takes from a module, and how each is called."""
    found: dict[str, Any] = {}
    for name in set(platform.__all__) - {"IS_PORTABLE", "closing_fds", "queued_bytes"}:
        value = getattr(module, name)
        found[name] = type(value) if isinstance(value, int) else None
        if inspect.isfunction(value):
            found[name] = inspect.signature(value)
        elif inspect.isclass(value) and value is not linux.Poller:
            found[name] = {
                key: inspect.signature(each) for key, each in vars(value).items() if inspect.isfunction(each)
            }
    return found


def test_both_offer_the_same() -> None:
    """Each name of the face is in both rooms, to be called in the same way; a Poller has what is used of epoll."""
    ours, theirs = offered(linux), offered(portable)
    poller = theirs.pop("Poller")
    for different in ("Process", "Wakeup"):  # what is private may differ
        for methods in (ours, theirs):
            methods[different] = {
                name: how for name, how in methods[different].items() if name[:1] != "_" or "init" in name
            }
    ours.pop("Poller")
    ours["file_fd"] = theirs["file_fd"]  # on Linux another name of memory_fd
    numbers = ("DUMP_SIGNAL", "READABLE", "READABLE_FOR_ONE", "WRITABLE", "PIPE_BUF")
    for name in numbers:
        assert issubclass(ours.pop(name), int)
        assert issubclass(theirs.pop(name), int)
    assert ours == theirs
    assert {name for name in poller if name[0] != "_"} == {"register", "unregister", "poll", "close"}


def test_a_signal_is_for_the_living_only() -> None:
    """A process that is dead gets no signal any more, before it is reaped too; closing is idempotent."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with child:
        watched = portable.Process(child.pid)
        poller = portable.Poller()
        poller.register(watched.fd, portable.READABLE)
        assert poller.poll(0) == []
        watched.signal(9)
        assert [fd for fd, _ in poller.poll(20)] == [watched.fd]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "kill", lambda *_: pytest.fail("a signal to the dead"))
            watched.signal(9)
            watched.close()
            watched.close()
            watched.signal(9)
        poller.close()
        with pytest.raises(ValueError, match="closed"):
            poller.poll(0)
    assert child.returncode == -9


def test_messages_are_whole() -> None:
    """On a stream too a message arrives as it was sent, however large, with its descriptors; an end is an end."""
    script = (
        "import os, threading\n"
        "from mploader.platform import portable\n"
        "ours, theirs = portable.socket_pair()\n"
        "sent = [(b'x' * nbytes, fds) for nbytes in (1, 5_000_000, 3) for fds in ([], [0, 1])]\n"
        "thread = threading.Thread(target=lambda: [portable.send_message(ours, *each) for each in sent])\n"
        "thread.start()\n"
        "for data, fds in sent:\n"
        "    got, got_fds, is_short = portable.receive_message(theirs, 16)\n"
        "    assert (got, len(got_fds), is_short) == (data, len(fds), False)\n"
        "thread.join()\n"
        "ours.send(b'\\0')  # a part of a length, and the end\n"
        "ours.close()\n"
        "assert portable.receive_message(theirs) == (b'', [], False)\n"
    )
    done = run("-c", script)
    assert (done.returncode, done.stderr) == (0, "")
