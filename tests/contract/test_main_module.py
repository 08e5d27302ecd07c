"""What a program's ``__main__`` is in a worker: its functions and classes have their names, its script is not run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.test_scripts import run, run_script

HEAD = """
import sys
sys.stdout.write("ran\\n")
import collections, enum, functools, multiprocessing, os, pickle
from dataclasses import dataclass
import numpy as np
from mploader import Loader

SCALE = 3
DATA = np.zeros(1_000_000)

class Base:
    def twice(self):
        return Sample(self.i * 2)

@dataclass
class Sample(Base):
    i: int

class Kind(enum.Enum):
    ODD = 1

Point = collections.namedtuple("Point", "x y")

def scaled(x):
    return x * SCALE + int(np.zeros(1)[0])

@functools.lru_cache
def cached(x):
    return scaled(x)

def reads_data(x):
    return DATA[x]

def run(source, fn, **options):
    with Loader(source, fn, num_workers=1, start_method=METHOD, **options) as loader:
        return list(loader)
"""


def check(tmp_path: Path, body: str, method: str = "forkserver", way: str = "file") -> None:
    """Run a program; it is silent, but for the one line that says that its script ran once."""
    source = HEAD.replace("METHOD", repr(method)) + body
    if way == "file":
        done = run_script(tmp_path, source)
    else:
        done = run(["-"], tmp_path, source) if way == "stdin" else run(["-c", source], tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("ran\n", "", 0)


UNPICKLED = """
kinds = [Kind.ODD, Point(1, 2), [Sample(1), Sample], scaled]
things = [Sample(0), Sample(1), *kinds]
blobs = [pickle.dumps(thing) for thing in things]
for source in (blobs, iter(blobs[::-1])):
    got = run(source, pickle.loads)
    got = got if source is blobs else got[::-1]
    assert got == things, got
    assert [type(x) for x in got] == [type(x) for x in things], got
assert run([pickle.dumps(kinds)], lambda blob: pickle.loads(blob)[2][0].twice()) == [Sample(2)]
"""

PICKLED = """
assert run(range(2), lambda i: pickle.loads(pickle.dumps(Sample(i))).twice()) == [Sample(0), Sample(2)]
assert run(range(1), lambda i: [pickle.loads(pickle.dumps(f)) is f for f in (scaled, cached)]) == [[True, True]]
class Holder:
    def __init__(self, function):
        self.function = function
    def __call__(self, i):
        import __main__
        return __main__.scaled is self.function, pickle.loads(pickle.dumps(self.function)) is self.function
assert run(range(1), Holder(scaled)) == [(True, True)]
"""


@pytest.mark.parametrize(
    ("method", "way"),
    [("forkserver", "file"), ("forkserver", "stdin"), ("forkserver", "-c"), ("spawn", "file"), ("fork", "stdin")],
)
def test_objects_of_main_by_name(tmp_path: Path, method: str, way: str) -> None:
    """What was pickled by name in the program is unpickled in ``fn``, and the other way, as the program's own."""
    check(tmp_path, UNPICKLED + PICKLED, method, way)


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_functions_of_main_in_a_pool(tmp_path: Path, method: str) -> None:
    """``multiprocessing`` inside ``fn`` finds functions of ``__main__``, and what these read."""
    check(
        tmp_path,
        """
def in_pool(i):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.map(scaled, [i, 2]) + pool.map(cached, [3]) + pool.map(Sample, [4])
assert run(range(2), in_pool) == [[0, 6, 9, Sample(4)], [3, 6, 9, Sample(4)]]
""",
        method,
    )


def test_a_cache_on_disk(tmp_path: Path) -> None:
    """Files that one worker wrote by name are read by the next, and by the program."""
    check(
        tmp_path,
        """
def load(i):
    if not os.path.exists(f"{i}.pickle"):
        with open(f"{i}.pickle", "wb") as file:
            pickle.dump(Sample(i), file)
    with open(f"{i}.pickle", "rb") as file:
        return pickle.load(file)
for _ in range(2):
    assert run(range(3), load) == [Sample(0), Sample(1), Sample(2)]
with open("2.pickle", "rb") as file:
    assert pickle.load(file) == Sample(2)
""",
    )


def test_functions_find_what_they_read(tmp_path: Path) -> None:
    """A function that only its name was known of runs: with modules, constants, other functions, also in a circle."""
    check(
        tmp_path,
        """
import xml.dom.minidom
def even(n):
    return True if n == 0 else odd(n - 1)
def odd(n):
    return False if n == 0 else even(n - 1)
def parse(text):
    return xml.dom.minidom.parseString(text).documentElement.tagName
def default(x, kind=Kind.ODD, *, scale=SCALE):
    return kind, x * scale
blobs = [pickle.dumps(function) for function in (even, parse, default)]
def call(pair):
    blob, argument = pair
    return pickle.loads(blob)(argument)
assert run(list(zip(blobs, (10, "<a/>", 2))), call) == [True, "a", (Kind.ODD, 6)]
""",
    )


def test_classes_that_refer_to_each_other(tmp_path: Path) -> None:
    """Bases, attributes and methods in a circle of classes lead to the same classes."""
    check(
        tmp_path,
        """
class Node:
    def make(self):
        return Leaf()
class Leaf(Node):
    class Inner:
        pass
Node.leaf, Leaf.root = Leaf, Node
def look(blob):
    leaf, inner = pickle.loads(blob)
    node, made = type(leaf).__base__, leaf.make()
    return (node.leaf is type(leaf) is type(made), type(leaf).root is node, type(inner) is node.leaf.Inner, made, inner)
((*same, leaf, inner),) = run([pickle.dumps((Leaf(), Leaf.Inner()))], look)
assert same == [True] * 3 and type(leaf) is Leaf and type(inner) is Leaf.Inner
""",
    )


def test_no_data(tmp_path: Path) -> None:
    """Data that ``fn`` does not use does not travel, nor what holds it: the rest is not the poorer for it."""
    check(
        tmp_path,
        """
import threading
class Heavy:
    table = bytes(10_000_000)
class Locked:
    lock = threading.Lock()
def look(i):
    import __main__
    return [hasattr(__main__, name) for name in ("DATA", "Heavy", "Locked", "__file__", "no", "Sample", "scaled")]
from mploader.transport.main_module import definitions
assert sum(map(len, definitions().values())) < 30_000
assert run(range(1), look) == [[False] * 5 + [True] * 2]
try:
    run([pickle.dumps(reads_data)], lambda blob: pickle.loads(blob)(0))
except NameError as error:
    assert "DATA" in str(error)
assert run([pickle.dumps(reads_data)], lambda blob: (pickle.loads(blob)(0), DATA[1])) == [(0, 0)]
""",
    )


@pytest.mark.parametrize("method", ["forkserver", "fork"])
def test_a_cell_that_was_run_again(tmp_path: Path, method: str) -> None:
    """After a definition was made anew, ``refresh()`` has names mean the new one; what is there keeps its class."""
    check(
        tmp_path,
        f"""
old, blob = Sample, pickle.dumps(Sample(1))
with Loader([blob] * 3, pickle.loads, num_workers=1, start_method={method!r}) as loader:
    before = list(loader)
    @dataclass
    class Sample(Base):
        i: int
        def twice(self):
            return "new"
    loader.refresh()
    after = list(loader)
assert [type(x) is old for x in before] == [True] * 3
assert [type(x) is Sample for x in after] == [True] * 3
assert [x.twice() for x in after] == ["new"] * 3
""",
        method,
    )


def test_forked_main_is_whole(tmp_path: Path) -> None:
    """A forked worker has all that the program had, in the module's dict too, with the functions that ``fn`` uses."""
    check(
        tmp_path,
        """
import threading, typing
LOCK = threading.Lock()
class Locked:
    lock = LOCK
@dataclass
class Pair:
    kind: "Kind"
    locked: "Locked"
def look(i):
    import __main__
    hints = typing.get_type_hints(pickle.loads(blob))
    same = hints == {"kind": __main__.Kind, "locked": __main__.Locked}
    return same, __main__.scaled is scaled, __main__.reads_data(5), __main__.__file__
blob = pickle.dumps(Pair)
assert run(range(1), look) == [(True, True, 0, __file__)]
""",
        "fork",
    )


def test_loader_in_a_worker(tmp_path: Path) -> None:
    """Workers of a loader inside ``fn`` know the names too."""
    check(
        tmp_path,
        """
def nested(blob):
    return list(Loader([blob] * 2, pickle.loads, num_workers=1))
assert run([pickle.dumps((Sample(4), scaled))], nested) == [[(Sample(4), scaled)] * 2]
""",
    )


def test_results_of_classes_that_were_looked_up(tmp_path: Path) -> None:
    """An object whose class came by its name alone goes back by the class's identity, not its name."""
    check(
        tmp_path,
        """
blobs, old = [pickle.dumps(Sample(i)) for i in range(3)], Sample
with Loader(blobs, pickle.loads, num_workers=1) as loader:
    iterator = iter(loader)
    first = next(iterator)
    class Sample:
        pass
    assert [type(x) is old for x in (first, *iterator)] == [True] * 3
""",
    )
