"""Elements: the nodes that look at one element at a time: map, filter, flat_map, unbatch, enumerate, cache.

Runs in: worker; behind a step of the sequence, in the consumer. Must never know: engines, the loader.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from time import perf_counter_ns
from typing import Any

from mploader.pipeline import rng
from mploader.pipeline.fetch import short_repr
from mploader.pipeline.node import Node, Outputs, Runtime, function_name
from mploader.pipeline.sources import elements


class Calls(Node):
    """A node that calls a function of the user's with an element.

    A function with a parameter named ``rng`` gets a `numpy.random.Generator` of that draw.
    """

    is_elementwise = True
    cost: list[int] | memoryview[int]

    def __init__(self, child: Node, fn: Callable[..., Any], said: str = "") -> None:
        """``said`` is what a message calls the function; by default as `label`."""
        super().__init__(child)
        self.fn = fn
        self._said = said
        self.cost = [0, 0]
        reason = rng.not_callable_with_one(fn)
        if reason:
            raise TypeError(f"{self.said} is called with one element, and {reason}")
        if inspect.iscoroutinefunction(fn):
            raise TypeError(
                f"{self.said} is async: it would give a coroutine; write lambda element: asyncio.run(fn(element))"
            )
        self.takes_rng = rng.takes_rng(fn)
        if self.takes_rng and rng.comes_first(fn):
            raise TypeError(
                f"{self.label}: rng is its first parameter, so the element would be passed as rng; "
                "write it behind: def fn(element, rng)"
            )

    def call(self, x: Any, draw: int, turn: int) -> Any:
        before = perf_counter_ns()
        try:
            if self.takes_rng:
                generator = rng.generator(rng.derive(self.key, turn, draw))
                y = self.fn(x, rng=generator)
            else:
                y = self.fn(x)
        except BaseException:
            self.runtime.stage = self
            raise
        cost = self.cost
        cost[0] += perf_counter_ns() - before
        cost[1] += 1
        return y

    @property
    def label(self) -> str:
        return f"{self.name}({function_name(self.fn)})"

    @property
    def said(self) -> str:
        return self._said or self.label

    def user_parts(self) -> Iterator[tuple[str, Any]]:
        yield self.said, self.fn


class Map(Calls):
    """``fn`` of each element."""

    name = "map"

    def measure(self) -> int | None:
        return self.child.length

    def get(self, i: int, draw: int, turn: int) -> Any:
        return self.call(self.children[0].get(i, draw, turn), draw, turn)

    def spread(self, x: Any, draw: int, turn: int) -> Outputs:
        return (self.call(x, draw, turn),)

    def told_length(self) -> int | None:
        return self.child.told_length()


class Filter(Calls):
    """The elements for which ``fn`` is true."""

    name = "filter"

    def spread(self, x: Any, draw: int, turn: int) -> Outputs:
        return (x,) if self.call(x, draw, turn) else ()


class FlatMap(Calls):
    """All that ``fn`` of each element yields."""

    name = "flat_map"

    def spread(self, x: Any, draw: int, turn: int) -> Outputs:
        made = self.call(x, draw, turn)
        try:
            return list(elements(made))
        except TypeError as error:
            if hasattr(type(made), "__iter__"):
                raise
            raise TypeError(
                f"{self.label} must return an iterable of elements, it returned {short_repr(made)}; "
                "use map for one element, filter to leave it out"
            ) from error


class Unbatch(Node):
    """The rows of each element: the inverse of a batch."""

    name = "unbatch"
    is_elementwise = True

    def __init__(self, child: Node, rows: Callable[[Any], Any]) -> None:
        super().__init__(child)
        self._rows = rows

    def spread(self, x: Any, draw: int, turn: int) -> Outputs:
        try:
            rows = self._rows(x)
        except TypeError as error:
            raise TypeError(
                f"unbatch takes a batch apart, and {short_repr(x)} is none: {error}; flat_map(fn) for what is no batch"
            ) from error
        return [rows[i] for i in range(len(rows))]


class Enumerate(Node):
    """``(number, element)``, counted from ``start``."""

    name = "enumerate"

    def __init__(self, child: Node, start: int) -> None:
        super().__init__(child)
        self.start = start

    def measure(self) -> int | None:
        return self.child.length

    def get(self, i: int, draw: int, turn: int) -> Any:
        return self.start + i, self.child.get(i, draw, turn)

    def told_length(self) -> int | None:
        return self.child.told_length()

    def step(self, state: Any, x: Any) -> tuple[Any, Outputs]:
        turn, seen = state
        return (turn, seen + 1), ((self.start + seen, x),)

    @property
    def label(self) -> str:
        return f"enumerate({self.start or ''})"


class Collate(Node):
    """A list of samples becomes a batch."""

    name = "collate"
    is_elementwise = True

    def __init__(self, child: Node, collate_fn: Callable[[list[Any]], Any]) -> None:
        super().__init__(child)
        self.collate_fn = collate_fn
        self.cost: list[int] | memoryview[int] = [0, 0]

    def spread(self, x: Any, draw: int, turn: int) -> Outputs:
        runtime: Runtime = self.runtime
        if self.reseeds and runtime.seeds is not None:
            runtime.seeds.apply(rng.derive(self.key, turn, draw))
        before = perf_counter_ns()
        try:
            made = self.collate_fn(x)
        except BaseException:
            runtime.stage = self
            raise
        self.cost[0] += perf_counter_ns() - before
        self.cost[1] += 1
        return (made,)

    @property
    def label(self) -> str:
        return f"collate({function_name(self.collate_fn)})"

    def user_parts(self) -> Iterator[tuple[str, Any]]:
        yield "collate_fn", self.collate_fn
