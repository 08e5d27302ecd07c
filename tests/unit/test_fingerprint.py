"""Fingerprints: equal for what is equal in any process, and different as soon as anything that decides a value is."""

from __future__ import annotations

import collections
import copy
import enum
import functools
import json
import logging
import operator
import os
import pathlib
import pickle
import re
import subprocess
import sys
import textwrap
import threading
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mploader.pipeline import fingerprint as fingerprint_module
from mploader.pipeline.fingerprint import fingerprint, fingerprint_of
from mploader.worker_info import per_worker

ROOT = Path(__file__).parents[2]

# A user's program with two modules. What stands in <...> is what the tests change.
HELPERS = """
import math
LIMIT = 5
unused = object()

def shrink(x):
    return x / LIMIT + math.pi

def grow(x):
    return 1 / shrink(x)
"""
PROGRAM = """
import functools, json, logging, re, sys, threading
from dataclasses import dataclass, field
import enum
import numpy as np
import helpers
from helpers import shrink
from mploader import per_worker
from mploader.pipeline.fingerprint import fingerprint

SCALE = 3
TABLE = np.arange(6.0).reshape(2, 3)
NAMES = {"b", "a", "cc", "ddd"}
log = logging.getLogger(__name__)
lock = threading.Lock()

class Color(enum.Enum):
    RED = 1

@dataclass
class Options:
    size: int = 224
    names: list = field(default_factory=list)

class Base:
    def scale(self, x):
        return x * 2

class Augment(Base):
    kinds = frozenset({"x", "y", "z"})
    def __init__(self, options):
        self.options = options
    def __call__(self, x, rng=None):
        with lock:
            log.debug("x")
        return self.scale(x) + SCALE if x in {"left", "right", "up"} else None
    @staticmethod
    def fixed(x): return x
    @property
    def size(self): return self.options.size

def make(factor):
    def closes(x, offset=1, *, last=None):
        inner = lambda y: y * factor
        return inner(x) + offset
    return closes

def reads(x):
    def inside():
        return helpers.grow(x)
    return inside() * TABLE.sum() + len(NAMES)

@functools.lru_cache
def cached(x): return shrink(x)

@functools.wraps(cached)
def recursive(x):
    return recursive(x - 1) if x else other(x)

def other(x):
    return recursive(x)

PARTS = {
    "closure": make(2), "reads": reads, "cached": cached, "recursive": recursive,
    "object": Augment(Options()), "method": Augment(Options(5)).scale, "class": Augment, "enum": Color.RED,
    "partial": functools.partial(make(3), offset=4), "regex": re.compile("a+"), "handle": per_worker(lambda: open("x")),
    "names": NAMES, "array": TABLE, "ufunc": np.sqrt, "function": np.mean, "builtin": len, "dtype": np.dtype("f4"),
}
print(json.dumps({name: fingerprint(part) for name, part in PARTS.items()}))
"""


def run(folder: Path, *arguments: str, hash_seed: str = "0") -> str:
    """What Python prints in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, env=environment, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def names(folder: Path, program: str = PROGRAM, helpers: str = HELPERS, hash_seed: str = "0") -> dict[str, str]:
    """What a run of the program prints."""
    (folder / "program.py").write_text(program)
    (folder / "helpers.py").write_text(helpers)
    found: dict[str, str] = json.loads(run(folder, str(folder / "program.py"), hash_seed=hash_seed))
    return found


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return names(tmp_path_factory.mktemp("first"))


def test_same_in_every_process(first: dict[str, str], tmp_path: Path) -> None:
    """Other hash seeds, another folder, another place of the lines, other comments: nothing changes."""
    assert names(tmp_path, hash_seed="1") == first
    assert names(tmp_path, "\n\n# a comment\n" + PROGRAM, HELPERS + "\n# another\n", hash_seed="2") == first
    assert len(set(first.values())) == len(first)


EDITS: list[tuple[str, str, set[str]]] = [
    ("SCALE = 3", "SCALE = 4", {"object", "method", "class"}),
    ("x * 2", "x * 3", {"object", "method", "class"}),
    ('"up"}', '"down"}', {"object", "method", "class"}),
    ('{"x", "y", "z"}', '{"x", "y"}', {"object", "method", "class"}),
    ("return x\n", "return -x\n", {"object", "method", "class"}),
    ("self.options.size", "self.options.names", {"object", "method", "class"}),
    ("size: int = 224", "size: int = 225", {"object", "method"}),
    ("default_factory=list", "default_factory=dict", {"object", "method"}),
    ("Options(5)", "Options(6)", {"method"}),
    ("RED = 1", "RED = 2", {"enum"}),
    ("y * factor", "y + factor", {"closure", "partial"}),
    ("offset=1", "offset=2", {"closure", "partial"}),
    ("last=None", "last=0", {"closure", "partial"}),
    ("make(2)", "make(2.0)", {"closure"}),
    ("offset=4", "offset=5", {"partial"}),
    ("arange(6.0)", "arange(1.0, 7.0)", {"reads", "array"}),
    ("reshape(2, 3)", "reshape(3, 2)", {"reads", "array"}),
    ('"ddd"', '"e"', {"reads", "names"}),
    ("return recursive(x)", "return recursive(x + 1)", {"recursive"}),
    ("a+", "b+", {"regex"}),
    ('open("x")', 'open("y")', {"handle"}),
]

# Each program in a process of its own, forked where what takes the time is imported already.
FORKS = """
import os, runpy, sys
import mploader.pipeline.fingerprint
for program in sys.argv[1:]:
    if os.fork() == 0:
        runpy.run_path(program, run_name="__main__")
        break
    assert os.wait()[1] == 0
"""


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What the program prints after each edit, by what the edit removed."""
    folder = tmp_path_factory.mktemp("edited")
    (folder / "helpers.py").write_text(HELPERS)
    for number, (old, new, _) in enumerate(EDITS):
        (folder / f"{number}.py").write_text(PROGRAM.replace(old, new))
    printed = run(folder, "-c", FORKS, *[f"{number}.py" for number in range(len(EDITS))])
    return {old: json.loads(line) for (old, _, _), line in zip(EDITS, printed.splitlines(), strict=True)}


@pytest.mark.parametrize(("old", "new", "changed"), EDITS)
def test_a_change_changes_what_it_decides(
    first: dict[str, str], edited: dict[str, dict[str, str]], old: str, new: str, changed: set[str]
) -> None:
    """One edit of a user's program: the fingerprints of all that it decides change, and no others."""
    assert PROGRAM.count(old) == 1
    assert {name for name in first if first[name] != edited[old][name]} == changed


@pytest.mark.parametrize(("old", "new"), [("LIMIT = 5", "LIMIT = 6"), ("x / LIMIT", "x // LIMIT")])
def test_a_change_in_another_module(first: dict[str, str], tmp_path: Path, old: str, new: str) -> None:
    """What a function calls in the user's own modules counts as its own code."""
    second = names(tmp_path, helpers=HELPERS.replace(old, new))
    # recursive: functools.wraps keeps `cached` as its __wrapped__
    assert {name for name in first if first[name] != second[name]} == {"reads", "cached", "recursive"}


class Point(NamedTuple):
    x: int


@dataclass
class Box:
    label: str
    sides: Any = None


class Kind(enum.Enum):
    A = "a"


ZOO: list[Any] = [
    *(None, True, 1, 1.0, 1j, 0.0, -0.0, float("nan"), "1", b"1", bytearray(b"1"), 2**70, ..., NotImplemented),
    *((), [], {}, set(), frozenset(), (1,), [1], {1}, frozenset({1}), {1: 1}, {"1": 1}, ((1,),), ([1],), [[1]], (1, 1)),
    *({1: 2, 3: 4}, {3: 4, 1: 2}, [1, "a"], ["1a"], ["1", "a"], range(3), range(4), slice(1), slice(2)),
    *(
        int,
        float,
        len,
        print,
        operator.add,
        operator.itemgetter(1),
        operator.itemgetter(2),
        os.path.join,
        math_pi := 3.14,
    ),
    *(np.float32(1), np.float64(1), np.int64(1), np.zeros(1), np.zeros(2), np.zeros((1, 2)), np.zeros((2, 1))),
    *(np.zeros(2, "f4"), np.zeros(1, "i8"), np.zeros(0), np.array(["a"]), np.array(["a"], object)),
    *(np.array([b"a"], object), np.zeros(2, "i4,f4"), np.dtype("i4"), np.array(0.0), np.datetime64("2020-01-01")),
    *(Point(1), Point(2), Box("a"), Box("b"), Box("a", [1]), Box, Point, Kind, Kind.A),
    *(pathlib.PurePosixPath("a"), pathlib.PurePosixPath("b"), re.compile("a"), re.compile("a", re.IGNORECASE)),
    *(collections.OrderedDict(a=1), collections.Counter("ab"), collections.deque([1]), collections.deque([1], 5)),
    *(types.SimpleNamespace(a=1), types, os, logging.getLogger("a"), logging.getLogger("b"), threading.Lock()),
    *(functools.partial(len), functools.partial(len, "a"), np.random.default_rng(1), np.random.default_rng(2)),
]


def test_different_things_have_different_names() -> None:
    """Values, types, shapes, nesting and order all count."""
    found: dict[str, Any] = {}
    for thing in ZOO:
        name = fingerprint(thing)
        assert name not in found, (thing, found[name])
        assert re.fullmatch("[0-9a-f]{32}", name)
        found[name] = thing


def test_copies_have_the_same_name() -> None:
    """A copy, a pickle and a deep copy, whose parts are shared or not as it comes, are the same thing."""
    for thing in ZOO:
        if not isinstance(thing, types.ModuleType | type(threading.Lock())):
            assert fingerprint(pickle.loads(pickle.dumps(thing))) == fingerprint(thing) or thing != thing
            assert fingerprint(copy.deepcopy([thing, thing])) == fingerprint([thing, thing])
    shared = np.arange(5)
    assert fingerprint([shared, shared]) == fingerprint([shared, shared.copy()])
    assert fingerprint(["ab", "ab"]) == fingerprint(["ab", "".join(["a", "b"])])
    assert fingerprint(np.asfortranarray(np.eye(3))) == fingerprint(np.eye(3))


FLAT = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
ANYTHING = st.recursive(
    FLAT,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner) | st.sets(st.text()),
    max_leaves=10,
)


@given(ANYTHING, ANYTHING)
def test_equal_names_mean_equal_things(one: object, other: object) -> None:
    """Two values have one name if and only if they have one repr (sets apart, whose repr has no order)."""
    same = one == other and ("{" in repr(one) or repr(one) == repr(other))
    if fingerprint(one) == fingerprint(other):
        assert one == other
    elif same and "{" not in repr(one):
        raise AssertionError("equal things, different names")


def test_a_function_survives_cloudpickle() -> None:
    """A function that was sent by value has the name that it had."""
    offset = np.arange(3)

    def function(x: int) -> Any:
        return x + offset

    sent = cloudpickle.loads(cloudpickle.dumps(function))
    assert fingerprint(sent.__code__, sent.__defaults__) == fingerprint(function.__code__, function.__defaults__)
    assert fingerprint_of(functools.partial(function)) != fingerprint_of(function)


def test_circles_end() -> None:
    """What contains itself has a name, and another than what does not."""
    one: list[Any] = [1]
    one.append(one)
    two: list[Any] = [2]
    two.append(two)
    three: list[Any] = [1]
    three.append(three)
    assert fingerprint(one) == fingerprint(three) != fingerprint(two)
    assert fingerprint(one) != fingerprint([1, [1]])


def test_what_cannot_be_looked_into_is_an_error() -> None:
    """It is never left out: the message says where it is and what to do."""

    class Holder:
        file: Any = None

    holder = Holder()
    with open(__file__) as holder.file, pytest.raises(TypeError, match=r"holder.*\.file is a _io\.TextIOWrapper"):
        fingerprint_of(lambda: holder)
    with pytest.raises(TypeError, match=r"'numbers', which .*<lambda> closes over, is a builtins\.generator.*version="):
        (lambda numbers: fingerprint_of(lambda: numbers))(i for i in range(3))


def test_what_is_too_large_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many objects or bytes, or too deep: said with the number and the ways out; flat lists are no objects."""
    monkeypatch.setattr(fingerprint_module, "MAX_OBJECTS", 1000)
    fingerprint([str(number) for number in range(100_000)])
    with pytest.raises(ValueError, match=r"more than 1,000 objects.*version="):
        fingerprint([[number] for number in range(2000)])
    monkeypatch.setattr(fingerprint_module, "MAX_BYTES", 10**6)
    with pytest.raises(ValueError, match=r"0\.0 GB.*version="):
        fingerprint(np.zeros(10**6))
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match=r"too deep|more than"):
        fingerprint(deep)
    while deep:
        deep = deep[0]


def test_fingerprint_of_needs_a_callable() -> None:
    """Anything else is a mistake of the caller."""
    with pytest.raises(TypeError, match="got a int"):
        fingerprint_of(5)  # type: ignore[arg-type]


start = 0.0  # has the name of an attribute below


def reads_an_attribute(x: Any) -> Any:
    """Looks at ``x.start``, and not at the global of that name."""
    return x.start


def test_an_attribute_is_no_global(monkeypatch: pytest.MonkeyPatch) -> None:
    """A global that merely has the name of an attribute changes nothing, whatever it is."""
    before = fingerprint_of(reads_an_attribute)
    for value in (1.5, (i for i in range(3))):
        monkeypatch.setitem(globals(), "start", value)
        assert fingerprint_of(reads_an_attribute) == before


def test_a_handle_counts_by_its_factory() -> None:
    """Handles of `per_worker` are new objects in each run."""
    assert fingerprint([per_worker(dict)]) == fingerprint([per_worker(dict)]) != fingerprint([per_worker(list)])


def test_program_is_dedented() -> None:
    """The program above is one that runs, as it stands."""
    assert textwrap.dedent(PROGRAM) == PROGRAM
