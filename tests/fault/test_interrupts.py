"""Ctrl-C between any two bytecodes of ``next()`` loses nothing, doubles nothing, reorders nothing.

A KeyboardInterrupt is raised at every place where the interpreter can raise one (behind a call, at a function's
start, at a backward jump) in mploader's own code, one place after the other, and the loop goes on.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import linecache
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest

import mploader
from mploader import Loader, MploaderError, Pipeline
from tests.pipelines import told

PACKAGE = str(Path(mploader.__file__).parent)
N = 700  # about twice as many as a call of next() has places
CHECKS = ("CALL", "RESUME")  # where the eval loop looks for signals, beside the jump backward

_places: dict[CodeType, set[int]] = {}


def places(code: CodeType) -> set[int]:
    """Offsets of the instructions before which an interrupt can strike.

    The interpreter raises it as part of the instruction before: where a ``with`` block ends between the two, the
    one before is inside and the one after is not, and a strike here would be one that cannot happen.
    """
    found = _places.get(code)
    if found is None:
        instructions = list(dis.get_instructions(code))
        handlers = dict(handlers_of(code))
        found = set()
        for before, after in pairwise(instructions):
            if before.opname.startswith(CHECKS) and handlers.get(before.offset) == handlers.get(after.offset):
                found.add(after.offset)
            elif before.opname.startswith("JUMP_BACKWARD"):
                found.add(before.argval)
        _places[code] = found
    return found


def handlers_of(code: CodeType) -> Iterator[tuple[int, int]]:
    """Every offset that an exception handler covers, with the handler's."""
    for entry in dis._parse_exception_table(code):  # type: ignore[attr-defined]
        for offset in range(entry.start, entry.end, 2):
            yield offset, entry.target


class Striker:
    """Traces one call, and raises at the ``number``-th place."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.struck = False

    def trace(self, frame: FrameType, event: str, _arg: Any) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and not self.struck and frame.f_lasti in places(frame.f_code):
            self.left -= 1
            if self.left < 0:
                self.struck = True
                raise KeyboardInterrupt
        return self.trace

    def call(self, function: Callable[[], Any]) -> Any:
        sys.settrace(self.trace)
        try:
            return function()
        finally:
            sys.settrace(None)


def run_with_strikes(iterator: Iterator[Any]) -> tuple[list[Any], int]:
    """All items, each ``next`` struck at another place, and the number of strikes that hit."""
    items: list[Any] = []
    number = hits = 0
    while True:
        striker = Striker(number)
        try:
            try:
                items.append(striker.call(iterator.__next__))
                number = 0 if not striker.struck else number
            except KeyboardInterrupt:
                hits += 1
                number += 1
                items.append(next(iterator))
        except StopIteration:
            return items, hits


def make(kind: str) -> Any:
    if kind == "stream":
        return lambda: ((i, "x" * 50) for i in range(N))
    if kind == "generator":  # drawn inside next()
        return ((i, "x" * 50) for i in range(N))
    return [(i, "x" * 50) for i in range(N)]


@pytest.mark.parametrize(
    ("in_order", "prefetch", "chunk", "size"),
    [(True, 8, "auto", 9000), (False, 1, 1, 9000), (True, 8, 3, 9000), (True, 8, 3, 5), (False, 9, 4, 9000)],
)
@pytest.mark.parametrize("kind", ["indexed", "stream", "generator"])
def test_an_interrupt_anywhere_in_next_costs_nothing(
    kind: str, in_order: bool, prefetch: int, chunk: Any, size: int
) -> None:
    """After an interrupt at any place of ``next()``, the same iterator goes on with exactly the items left."""
    options: dict[str, Any] = {"num_workers": 1, "prefetch": prefetch, "in_order": in_order, "chunk": chunk}
    with Loader(make(kind), lambda pair: (pair[0], np.full(size, pair[0])), **options) as loader:
        items, hits = run_with_strikes(iter(loader))
        numbers = [number for number, _ in items]
        assert all((array == number).all() for number, array in items)
        if not in_order:
            numbers.sort()
        assert numbers == list(range(N))
        assert hits > 100
        assert kind == "generator" or sum(1 for _ in loader) == N


@pytest.mark.parametrize("num_workers", [None, 0, 1])
@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_inside_a_generator_ends_it_and_is_told(num_workers: int | None, times: int) -> None:
    """Python has ended it for good: the loop gets an error where items are missing, no silent end, no next pass."""

    def interrupted() -> Iterator[int]:
        yield 0
        yield 1
        raise KeyboardInterrupt

    with contextlib.ExitStack() as stack:
        pipe: Any = Pipeline.from_generator(interrupted).repeat(times)
        if num_workers == 1:  # drawn in next()
            pipe = interrupted()
        if num_workers is not None:
            options: dict[str, Any] = {"prefetch": 1, "start_method": "fork", "on_error": "skip"}  # which judges items
            pipe = stack.enter_context(Loader(pipe, num_workers=num_workers, **options))
        iterator = iter(pipe)
        items: list[int] = []
        with pytest.raises(KeyboardInterrupt):
            items.extend(iterator)  # one by one: what came before an error is kept
        with pytest.raises(MploaderError, match="was ended by Ctrl-C at index 2, it cannot go on; iterate the"):
            items.extend(iterator)
        assert items == [0, 1]
        assert list(iterator) == []


class StrikerAt(Striker):
    """Raises behind the last call of the first line that contains a text."""

    def __init__(self, text: str) -> None:
        super().__init__(0)
        self.text = text

    def trace(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any] | None:
        code, at = frame.f_code, frame.f_lasti
        if event == "opcode" and at in places(code) and not self.struck:
            last = max(place for place in places(code) if lines_of(code)[place] == lines_of(code)[at])
            if at != last or self.text not in linecache.getline(code.co_filename, frame.f_lineno):
                return self.trace
        return super().trace(frame, event, arg)


@functools.cache
def lines_of(code: CodeType) -> dict[int, int | None]:
    return {one.offset: one.positions.lineno if one.positions else None for one in dis.get_instructions(code)}


def test_an_interrupt_after_an_interrupt() -> None:
    """One while a record is filed, on the heels of one just behind the record before: nothing comes twice."""
    with Loader(range(20), lambda i: i, num_workers=1, start_method="fork", prefetch=1, in_order=False) as loader:
        iterator = iter(loader)
        items = [next(iterator) for _ in range(5)]
        for text in ("self._raw.clear()", "self._arrived.append(Arrival("):
            striker = StrikerAt(text)
            with pytest.raises(KeyboardInterrupt):
                striker.call(iterator.__next__)
            items.append(next(iterator))
        items += iterator
        assert items == list(range(20))


def odd(x: int) -> int:
    return x % 2


def behind() -> Pipeline[Any]:
    return Pipeline.from_sequence(range(1500)).filter(odd).shuffle(seed=1, buffer=7).batch(2, collate_fn=list)


def numbers(n: int) -> Pipeline[int]:
    return Pipeline.from_indices(Numbers(n))


class Numbers:
    """A stream that an interrupt does not end, as it would a generator."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.n))


def pairs(x: int) -> list[tuple[int, int]]:
    return [(x, k) for k in range(7)]


PIPELINES: dict[str, Callable[[], Pipeline[Any]]] = {
    "behind": behind,
    "many outputs": lambda: Pipeline.from_sequence(range(100)).flat_map(pairs).shuffle(seed=1, buffer=5),
    "passes": lambda: numbers(10).filter(odd).batch(2, collate_fn=list).repeat(150),
    "passes before": lambda: Pipeline.from_sequence(range(10)).shuffle(seed=1, buffer=6).repeat(60).map(int),
    "cut passes": lambda: Pipeline.from_sequence(range(50)).filter(odd).repeat().take(3).repeat(100),
    "cut passes of a stream": lambda: numbers(50).filter(odd).batch(2, collate_fn=list).take(2).repeat(100),
    "cut passes before": lambda: numbers(50).take(3).repeat(100).filter(odd),
    "zip": lambda: Pipeline.zip(numbers(600), range(600)),
    "interleave": lambda: Pipeline.interleave([numbers(400), range(400), numbers(90)], 2, block_length=3),
    "sample_from": lambda: Pipeline.sample_from([numbers(400), range(400)], [0.5, 0.5], seed=1),
}


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("kind", PIPELINES)
def test_an_interrupt_anywhere_in_a_pipeline_costs_nothing(kind: str, num_workers: int) -> None:
    """Nor in what runs in this process: steps behind the workers, merged streams, passes of a source."""
    pipe = PIPELINES[kind]()
    expected = list(pipe)
    with Loader(pipe, num_workers=num_workers, prefetch=4, start_method="fork") as loader:
        items, hits = run_with_strikes(iter(loader))
    assert items == expected
    assert hits > 100


@pytest.mark.parametrize("kind", PIPELINES)
def test_an_interrupt_anywhere_in_a_loop_without_a_loader(kind: str) -> None:
    """The same where a pipeline is iterated itself."""
    pipe = PIPELINES[kind]()
    items, hits = run_with_strikes(iter(pipe))
    assert items == list(pipe)
    assert hits > 50


def sour(x: Any) -> Any:
    if x == 1:
        raise ValueError(x)
    return x


FAILING: dict[str, Callable[[], Pipeline[Any]]] = {
    "zip": lambda: Pipeline.zip(numbers(4).map(sour), range(4)),
    "concat": lambda: numbers(4).map(sour).concat([7]),
    "sample_from": lambda: Pipeline.sample_from([numbers(4).map(sour), range(4)], seed=1),
    "several": lambda: Pipeline.from_sequence([[0, 1], [2]]).unbatch().map(sour),
    "behind": lambda: numbers(4).filter(lambda _: True).batch(1, collate_fn=list).map(lambda x: sour(x[0])),
}


@pytest.mark.parametrize("kind", FAILING)
def test_an_interrupt_while_an_error_is_under_way(kind: str) -> None:
    """Neither the error is lost, nor do the parts of a merge get out of step."""
    pipe = FAILING[kind]().seed(1)
    expected = told(pipe)
    hits = 0
    for number in range(0, 400, 3):
        iterator = iter(pipe)
        items: list[Any] = []
        while not items or items[-1] != "end":
            striker = Striker(number)
            try:
                items.append(striker.call(lambda: next(iterator, "end")))  # noqa: B023
            except ValueError:
                items.append(ValueError)
            except KeyboardInterrupt:
                hits += 1
                items += [*told(iterator), "end"]
        assert items == [*expected, "end"]
    assert hits > 20


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_state_saved_after_an_interrupt(num_workers: int, in_order: bool) -> None:
    """Counts what the loop was given: not the item that was on its way when Ctrl-C struck."""
    options: dict[str, Any] = {"num_workers": num_workers, "in_order": in_order, "prefetch": 4, "start_method": "fork"}
    with Loader(range(500), odd, **options) as loader:
        iterator = iter(loader)
        for n_given in range(450):
            striker = Striker(n_given % 300)
            try:
                striker.call(iterator.__next__)
            except KeyboardInterrupt:
                assert loader.state_dict()["delivered"] == n_given
                next(iterator)
            assert loader.state_dict()["delivered"] == n_given + 1
