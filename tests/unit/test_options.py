"""Options: defaults, what is refused and with which advice; and what machine and container leave."""

from __future__ import annotations

import dataclasses
import functools
import linecache
import math
import os
import sys
import warnings
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mploader import limits, options
from mploader.limits import memory_left_bytes, usable_cores
from mploader.options import MIN_MEMORY_LIMIT_BYTES, Options

GB = 10**9


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 4 cores with 8 GB left, and no cgroups."""
    monkeypatch.setattr(options, "usable_cores", lambda: 4)
    monkeypatch.setattr(options, "memory_left_bytes", lambda: 8 * GB)


# --- defaults ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("four_cores")
def test_defaults() -> None:
    """What is left out is filled in, from the machine where it depends on it."""
    assert Options.make() == Options(
        num_workers=4,
        prefetch=8,
        in_order=True,
        start_method="forkserver" if sys.platform == "linux" else "spawn",
        retries=1,
        retry_on=(),
        on_error="raise",
        task_timeout_s=None,
        memory_limit_bytes=2 * GB,
        worker_init_fn=None,
        hide_gpus=True,
        threads_per_worker=1,
        chunk="auto",
    )


@pytest.mark.usefixtures("four_cores")
def test_none_is_the_default_where_it_means_so() -> None:
    """None for an option whose default is None is as if it were left out."""
    names = "num_workers prefetch start_method task_timeout_s memory_limit_bytes worker_init_fn".split()
    assert Options.make(**dict.fromkeys(names)) == Options.make()


@pytest.mark.parametrize(("workers", "prefetch"), [(0, 8), (1, 8), (4, 8), (5, 10), (64, 128)])
def test_default_prefetch_is_two_a_worker_and_at_least_eight(workers: int, prefetch: int) -> None:
    """prefetch follows num_workers."""
    assert Options.make(num_workers=workers).prefetch == prefetch


@pytest.mark.parametrize(("platform", "method"), [("linux", "forkserver"), ("darwin", "spawn")])
def test_default_start_method(monkeypatch: pytest.MonkeyPatch, platform: str, method: str) -> None:
    """forkserver on Linux, spawn elsewhere."""
    monkeypatch.setattr(sys, "platform", platform)
    assert options._start_method(None) == method


def test_default_memory_limit_has_a_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is full right now still gets a limit that an image batch fits in."""
    monkeypatch.setattr(options, "memory_left_bytes", lambda: 0)
    assert Options.make().memory_limit_bytes == MIN_MEMORY_LIMIT_BYTES


def test_an_explicit_limit_does_not_look_at_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given is not measured."""
    monkeypatch.setattr(options, "usable_cores", lambda: 1 / 0)
    monkeypatch.setattr(options, "memory_left_bytes", lambda: 1 / 0)
    made = Options.make(num_workers=2, memory_limit_bytes=1)
    assert (made.num_workers, made.memory_limit_bytes) == (2, 1)


def test_options_are_frozen() -> None:
    """Nobody changes an option of a running loader."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options.make().prefetch = 3  # type: ignore[misc]


# --- values --------------------------------------------------------------------------------------------------------


def init(worker_id: int) -> None: ...


ACCEPTED = [
    ("num_workers", 0, 0),
    ("num_workers", np.int64(3), 3),
    ("prefetch", 1000, 1000),
    ("in_order", False, False),
    ("in_order", np.True_, True),
    ("hide_gpus", np.bool_(False), False),
    ("start_method", "fork", "fork"),
    ("start_method", "spawn", "spawn"),
    ("retries", 0, 0),
    ("retry_on", OSError, (OSError,)),
    ("retry_on", (OSError, ValueError), (OSError, ValueError)),
    ("on_error", "skip", "skip"),
    ("on_error", print, print),
    ("on_error", init, init),
    ("task_timeout_s", 3, 3.0),
    ("task_timeout_s", np.float32(0.5), 0.5),
    ("task_timeout_s", Fraction(1, 4), 0.25),
    ("memory_limit_bytes", 2**40, 2**40),
    ("worker_init_fn", init, init),
    ("worker_init_fn", print, print),
    ("hide_gpus", False, False),
    ("threads_per_worker", 2, 2),
    ("threads_per_worker", None, None),
]


@pytest.mark.parametrize(("name", "value", "expected"), ACCEPTED)
def test_accepted(name: str, value: object, expected: object) -> None:
    """Each good value is kept, as the type that the rest of the program counts on."""
    given_too = {} if name == "num_workers" else {"num_workers": 2}
    kept = getattr(Options.make(**{name: value}, **given_too), name)
    assert kept == expected
    assert type(kept) is type(expected)


REFUSED = [
    ("num_workers", True, TypeError, r"num_workers must be an int, not True \(bool\): 0 runs in this process"),
    ("num_workers", np.True_, TypeError, r"must be an int"),
    ("num_workers", 2.0, TypeError, r"not 2.0 \(float\): write 2$"),
    ("num_workers", 2.5, TypeError, r"not 2.5 \(float\): 0 runs in this process, None takes every usable core"),
    ("num_workers", "auto", TypeError, r"not 'auto' \(str\).*None takes every usable core"),
    ("num_workers", -1, ValueError, r"num_workers must be at least 0, not -1; .*None takes every usable core"),
    ("prefetch", 0, ValueError, r"prefetch must be at least 1, not 0; None for 8"),
    ("prefetch", 1.5, TypeError, r"prefetch must be an int"),
    ("prefetch", False, TypeError, r"prefetch must be an int"),
    ("in_order", 1, TypeError, r"in_order must be True or False, not 1 \(int\)"),
    ("in_order", None, TypeError, r"in_order must be True or False"),
    ("hide_gpus", "yes", TypeError, r"hide_gpus must be True or False, not 'yes' \(str\)"),
    ("start_method", "thread", ValueError, r"one of 'forkserver', 'spawn', 'fork', or None, not 'thread'"),
    ("start_method", 3, TypeError, r"start_method must be one of"),
    ("start_method", np.zeros(2), TypeError, r"not <ndarray shape \(2,\)"),
    ("retries", -1, ValueError, r"retries must be at least 0, not -1; 0 for none"),
    ("retries", None, TypeError, r"retries must be an int.*0 for none"),
    ("retries", True, TypeError, r"retries must be an int"),
    ("retry_on", OSError(), TypeError, r"give its class, OSError"),
    ("retry_on", [OSError], TypeError, r"an exception class or a tuple of them.*\(OSError, TimeoutError\)"),
    ("retry_on", (OSError, "x"), TypeError, r"not 'x'"),
    ("retry_on", None, TypeError, r"an exception class or a tuple"),
    ("retry_on", KeyboardInterrupt, TypeError, r"KeyboardInterrupt.*only subclasses of Exception"),
    ("retry_on", int, TypeError, r"not <class 'int'>"),
    ("on_error", "ignore", ValueError, r"\"raise\", \"skip\", or a callable.*'ignore'"),
    ("on_error", None, TypeError, r"on_error must be"),
    ("on_error", lambda: 1, TypeError, r"on_error is called with one argument, the error: too many positional"),
    ("on_error", lambda a, b: 1, TypeError, r"on_error is called with one argument, the error: missing.*'b'"),
    ("task_timeout_s", 0, ValueError, r"above 0 and finite, not 0; None for no limit"),
    ("task_timeout_s", -1.0, ValueError, r"above 0"),
    ("task_timeout_s", math.inf, ValueError, r"finite, not inf"),
    ("task_timeout_s", 10**400, ValueError, r"above 0 and finite"),
    ("task_timeout_s", math.nan, ValueError, r"finite, not nan"),
    ("task_timeout_s", True, TypeError, r"a number of seconds.*True \(bool\)"),
    ("task_timeout_s", "3", TypeError, r"a number of seconds.*'3' \(str\)"),
    ("memory_limit_bytes", 0, ValueError, r"at least 1, not 0; 4 \* 1024\*\*3 for 4 GiB"),
    ("memory_limit_bytes", 4e9, TypeError, r"write 4000000000$"),
    ("memory_limit_bytes", "4GB", TypeError, r"4 \* 1024\*\*3 for 4 GiB"),
    ("worker_init_fn", 3, TypeError, r"a callable that takes the worker_id, or None, not 3 \(int\)"),
    ("worker_init_fn", lambda: None, TypeError, r"called with one argument, the worker_id: too many"),
    ("worker_init_fn", lambda a, b: None, TypeError, r"called with one argument, the worker_id: missing .*'b'"),
    ("threads_per_worker", 0, ValueError, r"at least 1, not 0; None to leave the environment alone"),
    ("threads_per_worker", 1.0, TypeError, r"write 1$"),
]


@pytest.mark.parametrize(("name", "value", "error", "message"), REFUSED)
def test_refused(name: str, value: object, error: type[Exception], message: str) -> None:
    """Each bad value is refused by name, with the value and what would be right."""
    with pytest.raises(error, match=message) as raised:
        Options.make(**{name: value})
    assert str(raised.value).startswith(name)


def test_worker_init_fn_that_takes_one_argument_in_any_way() -> None:
    """Methods, partials and callable objects are asked what they take, too."""
    taker = SimpleNamespace(f=functools.partial(lambda config, worker_id, *rest: None, "config"))
    assert Options.make(worker_init_fn=taker.f).worker_init_fn is taker.f
    with pytest.raises(TypeError, match="worker_id"):
        Options.make(worker_init_fn=functools.partial(init, 3))


@given(st.integers(-5, 300), st.integers(-5, 300))
def test_any_two_ints(num_workers: int, prefetch: int) -> None:
    """Over all ints: accepted and kept, or refused by the bounds, and warned of exactly below num_workers."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            made = Options.make(num_workers=num_workers, prefetch=prefetch, memory_limit_bytes=1)
        except ValueError:
            assert num_workers < 0 or prefetch < 1
            return
    assert (made.num_workers, made.prefetch) == (num_workers, prefetch)
    assert num_workers >= 0
    assert prefetch >= 1
    assert len(caught) == (prefetch < num_workers)


def test_prefetch_below_num_workers_warns_at_the_users_line() -> None:
    """The warning has both numbers and points at the line where the constructor was called."""

    class Loader:
        def __init__(self, **given: object) -> None:
            self.options = Options.make(**given)

    numbers = r"prefetch=2 is less than num_workers=6.*prefetch=12 or num_workers=2"
    with pytest.warns(UserWarning, match=numbers) as caught:
        Loader(num_workers=6, prefetch=2)
    assert linecache.getline(caught[0].filename, caught[0].lineno).strip() == "Loader(num_workers=6, prefetch=2)"
    with pytest.warns(UserWarning, match="prefetch=1 is less") as caught:
        Options.make(2, num_workers=2, prefetch=1)
    assert caught[0].filename == __file__


@pytest.mark.usefixtures("four_cores")
def test_prefetch_below_the_default_num_workers_warns_too() -> None:
    """Also workers that nobody asked for stand idle."""
    with pytest.warns(UserWarning, match="prefetch=3 is less than num_workers=4"):
        Options.make(prefetch=3)


# --- names ---------------------------------------------------------------------------------------------------------

FOREIGN = {
    "num_workers": "workers n_jobs worker_count num_parallel_calls concurrency max_workers processes",
    "prefetch": "prefetch_factor max_queue_size worker_buffer_size buffer_size",
    "close": "persistent_workers",
    "num_workers=0": "use_multiprocessing",
    "start_method": "multiprocessing_context",
    "task_timeout_s": "timeout",
    "source": "dataset",
    "fn": "func map_fn",
    "in_order": "ordered deterministic preserve_order",
    "worker_init_fn": "worker_init initializer",
    "in the loop": "pin_memory",
}


@pytest.mark.parametrize(("name", "ours"), [(name, ours) for ours, names in FOREIGN.items() for name in names.split()])
def test_foreign_names_are_answered_with_ours(name: str, ours: str) -> None:
    """A name of another library is a TypeError that says what to write here."""
    with pytest.raises(TypeError, match=rf"Loader has no option '{name}': .*{ours}"):
        Options.make(**{name: 1})


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("prefech", "did you mean prefetch?"),
        ("num_worker", "did you mean num_workers?"),
        ("numWorkers", "did you mean num_workers?"),
        ("memory_limits_bytes", "did you mean memory_limit_bytes?"),
        ("prefetch_factors", "if prefetch_factor is meant: it is prefetch here"),
        ("sourc", "did you mean source?"),
        ("xyzzy", "it has batch_size, collate_fn, drop_last, shuffle, seed, num_workers, prefetch"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(name: str, answer: str) -> None:
    """A slip of the pen is answered with the option it is nearest to, anything else with all of them."""
    with pytest.raises(TypeError) as raised:
        Options.make(**{name: 1})
    assert answer in str(raised.value)


def test_several_wrong_names_are_told_at_once() -> None:
    """A call moved over from another library is put right in one go, before its values are judged."""
    with pytest.raises(TypeError, match=r"'persistent_workers'.*; .*'pin_memory'"):
        Options.make(persistent_workers=True, num_workers=-1, pin_memory=True)


def test_no_foreign_name_is_ours() -> None:
    """An option that comes to be is taken off the list of foreign names."""
    ours = {"source", "fn", *(field.name for field in dataclasses.fields(Options))}
    assert not ours & options._REMEDIES.keys()


# --- what machine and container leave ------------------------------------------------------------------------------


@pytest.fixture
def big_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 cores, 100 GB."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=100 * GB))


def system(root: Path, cgroup: str, mountinfo: list[str], **files: dict[str, str]) -> Path:
    """Write a system's cgroup files below ``root``; the keys of ``files`` are directories with "_" for "/"."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    (root / "proc/self/mountinfo").write_text("\n".join(mountinfo))
    for directory, contents in files.items():
        folder = root / "sys/fs/cgroup" / directory.replace("_", "/")
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            (folder / name).write_text(text + "\n")
    return root


V2 = [
    "24 1 0:5 / /proc rw - proc proc rw",
    "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate",
]


def v1(*controllers: str, root: str = "/") -> list[str]:
    return [
        f"3{i} 31 0:3{i} {root} /sys/fs/cgroup/{c.partition(',')[0]} rw,relatime - cgroup cgroup rw,{c}"
        for i, c in enumerate(controllers)
    ]


@pytest.mark.usefixtures("big_machine")
class TestLimits:
    def test_machine_without_cgroups(self, tmp_path: Path) -> None:
        """No files, no limit but the machine's."""
        assert (usable_cores(tmp_path), memory_left_bytes(tmp_path)) == (64, 100 * GB)

    def test_v2_container(self, tmp_path: Path) -> None:
        """In a container of its own namespace the limits are at the mount point."""
        files = {"cpu.max": "250000 100000", "memory.max": str(4 * GB), "memory.current": str(3 * GB)}
        system(tmp_path, "0::/\n", V2, **{"": files})
        assert (usable_cores(tmp_path), memory_left_bytes(tmp_path)) == (3, GB)

    def test_v2_without_limits(self, tmp_path: Path) -> None:
        """max is no limit."""
        files = {"cpu.max": "max 100000", "memory.max": "max", "memory.high": "max", "memory.current": "5"}
        system(tmp_path, "0::/\n", V2, **{"": files})
        assert (usable_cores(tmp_path), memory_left_bytes(tmp_path)) == (64, 100 * GB)

    def test_v2_parents_hold_too(self, tmp_path: Path) -> None:
        """Each group above has a limit of its own: the tightest holds, wherever it stands."""
        system(
            tmp_path,
            "0::/user/job/step\n",
            V2,
            user={"cpu.max": "800000 100000", "memory.max": str(50 * GB), "memory.current": str(48 * GB)},
            user_job={"cpu.max": "400000 100000", "memory.max": str(10 * GB), "memory.current": str(GB)},
            user_job_step={"cpu.max": "max 100000", "memory.max": "max", "memory.current": str(GB)},
        )
        assert (usable_cores(tmp_path), memory_left_bytes(tmp_path)) == (4, 2 * GB)

    def test_v2_memory_high_is_a_limit(self, tmp_path: Path) -> None:
        """Past memory.high the kernel slows a group to a crawl."""
        files = {"memory.max": str(8 * GB), "memory.high": str(4 * GB), "memory.current": str(3 * GB)}
        system(tmp_path, "0::/\n", V2, **{"": files})
        assert memory_left_bytes(tmp_path) == GB

    @pytest.mark.parametrize(
        "stat",
        ["inactive_file {}\nactive_file {}\nanon 5", "inactive_file 1\ntotal_inactive_file {}\ntotal_active_file {}"],
    )
    def test_page_cache_is_not_in_the_way(self, tmp_path: Path, stat: str) -> None:
        """Files read lately are given back by the kernel; counted as used, a job that reads has nothing left."""
        files = {"memory.max": str(4 * GB), "memory.current": str(4 * GB), "memory.stat": stat.format(GB, 2 * GB)}
        system(tmp_path, "0::/\n", V2, **{"": files})
        assert memory_left_bytes(tmp_path) == 3 * GB

    def test_over_the_limit_is_nothing_left(self, tmp_path: Path) -> None:
        """Usage may stand above a limit that was lowered."""
        system(tmp_path, "0::/\n", V2, **{"": {"memory.max": "1000", "memory.current": "2000"}})
        assert memory_left_bytes(tmp_path) == 0

    def test_v1_container(self, tmp_path: Path) -> None:
        """In a v1 container the path is the host's, and the mount begins at that very group."""
        system(
            tmp_path,
            "4:cpu,cpuacct:/docker/ab12\n9:memory:/docker/ab12\n1:name=systemd:/docker/ab12\n",
            v1("cpu,cpuacct", "memory", root="/docker/ab12"),
            cpu={"cpu.cfs_quota_us": "150000", "cpu.cfs_period_us": "100000"},
            memory={"memory.limit_in_bytes": str(6 * GB), "memory.usage_in_bytes": str(GB)},
        )
        assert (usable_cores(tmp_path), memory_left_bytes(tmp_path)) == (2, 5 * GB)

    def test_v1_host(self, tmp_path: Path) -> None:
        """On a host: -1 and a page short of 2**63 are no limits, and a group below may have one."""
        system(
            tmp_path,
            "4:cpu,cpuacct:/\n9:memory:/slurm/job\n0::/\n",
            [*v1("cpu,cpuacct", "memory"), *V2],
            cpu={"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"},
            memory={"memory.limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": str(GB)},
            memory_slurm_job={"memory.limit_in_bytes": str(3 * GB), "memory.usage_in_bytes": str(GB)},
        )
        assert (usable_cores(tmp_path), memory_left_bytes(tmp_path)) == (64, 2 * GB)

    @pytest.mark.parametrize("path", ["/../other", "/elsewhere", "/ab1234"])
    def test_group_outside_what_is_mounted(self, tmp_path: Path, path: str) -> None:
        """A path that is not below the mounted group says nothing: the mount point's own limit is taken."""
        mount = ["30 23 0:26 /ab12 /sys/fs/cgroup rw - cgroup2 cgroup2 rw"]
        system(tmp_path, f"0::{path}\n", mount, **{"": {"cpu.max": "100000 100000"}})
        assert usable_cores(tmp_path) == 1

    def test_less_than_a_core_is_one(self, tmp_path: Path) -> None:
        """A tenth of a core feeds one worker."""
        system(tmp_path, "0::/\n", V2, **{"": {"cpu.max": "10000 100000"}})
        assert usable_cores(tmp_path) == 1

    def test_affinity_is_a_limit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """taskset and cpuset count, and macOS, which has neither, counts its cores."""
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
        assert usable_cores(tmp_path) == 2
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr(os, "cpu_count", lambda: 10)
        assert usable_cores(tmp_path) == 10
        monkeypatch.setattr(os, "cpu_count", lambda: None)
        assert usable_cores(tmp_path) == 1

    @given(st.text(), st.text(), st.text())
    def test_files_that_say_anything_at_all(self, cgroup: str, mountinfo: str, content: str) -> None:
        """Nothing that stands in these files makes a loader fail."""
        texts = {"cgroup": cgroup, "mountinfo": mountinfo + "\n" + V2[1]}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(limits, "_read", lambda path: texts.get(path.name, content))
            assert usable_cores("/nowhere") >= 1
            assert memory_left_bytes("/nowhere") >= 0


def test_this_machine() -> None:
    """What is read here is what is possible."""
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    assert 0 <= memory_left_bytes() <= psutil.virtual_memory().total
