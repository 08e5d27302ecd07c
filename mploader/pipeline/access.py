"""Random access: the nodes whose element i is found from i alone, without what comes before it.

Order, choice and slicing are arithmetic on i: they cost O(1) memory and move no data. Runs in: worker, or the
process that indexes a pipeline. Must never know: engines, the loader, how a source is told from another.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from time import perf_counter_ns
from typing import Any

import numpy as np

from mploader.pipeline import rng
from mploader.pipeline.choice import Choice
from mploader.pipeline.interleave import Interleave
from mploader.pipeline.node import ENDLESS, UNKNOWN, Node
from mploader.pipeline.permutation import Permutation
from mploader.pipeline.sources import Indexed


class Source(Node):
    """The elements of something with ``len()`` and ``[]``."""

    name = "from_sequence"

    def __init__(self, source: Indexed, name: str = "from_sequence") -> None:
        super().__init__()
        self.source = source
        self.name = name  # type: ignore[misc]
        if not isinstance(source.source, range | list | tuple | np.ndarray):  # these cost less than to look at a clock
            self.cost = [0, 0]

    def measure(self) -> int | None:
        return self.source.length()

    def get(self, i: int, draw: int, turn: int) -> Any:
        runtime = self.runtime
        runtime.place, runtime.element = i, UNKNOWN
        if self.reseeds and runtime.seeds is not None:
            runtime.seeds.apply(rng.derive(self.key, turn, draw))
        cost = self.cost
        before = perf_counter_ns() if cost is not None else 0
        try:
            element = runtime.element = self.source.fetch(self.source.source, i)
        except BaseException:
            runtime.stage = self
            raise
        if cost is not None:
            cost[0] += perf_counter_ns() - before
            cost[1] += 1
        return element

    @property
    def label(self) -> str:
        return f"{self.name}({type(self.source.source).__name__})"

    def user_parts(self) -> Iterator[tuple[str, Any]]:
        yield "source", self.source.source


class Reorder(Node):
    """Elements of the child in another order, or some of them: element i is the child's element ``at(i)``."""

    def at(self, i: int, turn: int) -> int:
        raise NotImplementedError

    def get(self, i: int, draw: int, turn: int) -> Any:
        return self.child.get(self.at(i, turn), draw, turn)

    def reach(self, i: int, draw: int, turn: int) -> int:
        return self.child.reach(self.at(i, turn), draw, turn)


class Shuffle(Reorder):
    """All elements in an order of its own for each pass, by a keyed bijection."""

    name = "shuffle"

    def __init__(self, child: Node, seed: int | None, *, reshuffle: bool) -> None:
        super().__init__(child)
        self.seed = seed
        self.reshuffle = reshuffle
        self._order: tuple[int, Permutation] | None = None

    def measure(self) -> int | None:
        return self.child.length

    def at(self, i: int, turn: int) -> int:
        order = self._order
        if order is None or order[0] != turn:
            seed = self.key if self.seed is None else rng.derive(self.seed)
            assert self.length is not None
            permutation = Permutation(self.length, rng.derive(seed, turn if self.reshuffle else -1))
            order = self._order = turn, permutation
        return order[1][i]

    @property
    def label(self) -> str:
        given = [f"seed={self.seed}"] * (self.seed is not None) + ["reshuffle=False"] * (not self.reshuffle)
        return f"shuffle({', '.join(given)})"


class Slice(Reorder):
    """Some of the child's elements, evenly spaced: take, skip, slices, shards, parts of a split.

    A place in the slice is a place in the child's stream, for all draws: ``pipe.skip(5)[0]`` is ``pipe[5]``, and
    ``pipe.map(fn).skip(5)`` is ``pipe.skip(5).map(fn)``.
    """

    name = "slice"
    is_part = True

    def __init__(self, child: Node, cut: slice | tuple[float, float], label: str) -> None:
        """``cut`` is a slice, or two shares of the child's length between 0 and 1."""
        super().__init__(child)
        self.cut = cut
        self._label = label

    def measure(self) -> int | None:
        inner = self.child.length
        if inner is None:
            return None
        cut = self.cut
        if isinstance(cut, tuple):
            cut = slice(*(round(share * inner) for share in cut))
        places = self._places = range(inner)[cut]
        step = abs(places.step)
        # what is left out at an end is another part's
        self.is_short = bool(places) and (
            min(places[0], places[-1]) >= step or max(places[0], places[-1]) < inner - step
        )
        return ENDLESS if inner == ENDLESS and cut.stop is None else len(self._places)

    def at(self, i: int, turn: int) -> int:
        return self._places[i]

    def reach(self, i: int, draw: int, turn: int) -> int:
        places = self._places
        if self.is_short or places.step < 0:  # repeated, it stays in its own places of each repetition of the whole
            again, place = divmod(draw, len(places))
            assert self.child.length is not None
            place = places[place] + again * self.child.length
        else:
            place = places[i] + (draw - i) * abs(places.step)
        return self.child.reach(places[i], place, turn)

    def own_cut(self) -> tuple[int, ...]:
        places = self._places
        return () if (places.start, places.step) == (0, 1) else (places.start, places.step)

    @property
    def label(self) -> str:
        return self._label


class Repeat(Node):
    """The child's pass again and again, each a turn of its own."""

    name = "repeat"

    def __init__(self, child: Node, times: int | None) -> None:
        super().__init__(child)
        self.times = times

    def measure(self) -> int | None:
        inner = self.child.length
        if not inner:
            return inner
        return ENDLESS if self.times is None else min(ENDLESS, inner * self.times)

    def get(self, i: int, draw: int, turn: int) -> Any:
        inner = self.child.length
        assert inner is not None
        again, at = divmod(i, inner)
        return self.child.get(at, draw, self._first(turn) + again)

    def reach(self, i: int, draw: int, turn: int) -> int:
        assert self.child.length is not None
        again, at = divmod(i, self.child.length)
        return self.child.reach(at, draw, self._first(turn) + again)

    def _first(self, turn: int) -> int:
        return turn << 32 if self.times is None else turn * self.times

    @property
    def label(self) -> str:
        return f"repeat({'' if self.times is None else self.times})"


def get_part(node: Node, i: int, draw: int, turn: int) -> Any:
    """Element i of a part: what is put together from several, each with draws of its own."""
    return node.get(i, node.reach(i, draw, turn) if node.is_cut else draw, turn)


def get_one(node: Node, i: int, draw: int, turn: int) -> Any:
    """Element i of one of several parts; with a seed of its own it draws what it draws alone, where i is its place."""
    return get_part(node, i, i if node.has_own_seed else draw, turn)


class Zip(Node):
    """Tuples of the children's elements; as long as the shortest."""

    name = "zip"

    def measure(self) -> int | None:
        lengths = [child.length for child in self.children]
        return None if None in lengths else min(length for length in lengths if length is not None)

    def get(self, i: int, draw: int, turn: int) -> Any:
        return tuple([get_part(child, i, draw, turn) for child in self.children])


class Concat(Node):
    """The children one after the other."""

    name = "concat"

    def measure(self) -> int | None:
        lengths = [child.length for child in self.children]
        if None in lengths:
            return None
        self._ends = list(accumulate(length for length in lengths if length is not None))
        return min(ENDLESS, self._ends[-1])

    def get(self, i: int, draw: int, turn: int) -> Any:
        which = bisect_right(self._ends, i)
        return get_one(self.children[which], i - (self._ends[which - 1] if which else 0), draw, turn)


class Interleaved(Node):
    """``block_length`` elements of each of ``cycle_length`` children in turn, as tf.data.Dataset.interleave."""

    name = "interleave"

    def __init__(self, children: Sequence[Node], cycle_length: int, block_length: int) -> None:
        super().__init__(*children)
        self.cycle_length, self.block_length = cycle_length, block_length

    def measure(self) -> int | None:
        lengths = [child.length for child in self.children]
        if None in lengths:
            return None
        known = [None if length == ENDLESS else length for length in lengths]
        self._table = Interleave(known, self.cycle_length, self.block_length)
        return ENDLESS if ENDLESS in lengths else sum(length for length in lengths if length is not None)

    def get(self, i: int, draw: int, turn: int) -> Any:
        which, at = self._table[i]
        return get_one(self.children[which], at, draw, turn)

    @property
    def label(self) -> str:
        return f"interleave(cycle_length={self.cycle_length}, block_length={self.block_length})"


class Mixed(Node):
    """At each place one of the children is drawn by weight; ends where the one to draw has no more."""

    name = "sample_from"

    def __init__(self, children: Sequence[Node], weights: Sequence[float], seed: int | None) -> None:
        super().__init__(*children)
        self.weights = tuple(weights)
        self.seed = seed

    def measure(self) -> int | None:
        lengths = [child.length for child in self.children]
        if None in lengths:
            return None
        # not keyed by the turn: a pass must not be longer or shorter than another
        self._choice = Choice(self.weights, self.key if self.seed is None else rng.derive(self.seed))
        available = self._choice.available([None if length == ENDLESS else length for length in lengths])
        return ENDLESS if available is None else available

    def get(self, i: int, draw: int, turn: int) -> Any:
        which, at = self._choice[i]
        return get_one(self.children[which], at, draw, turn)

    @property
    def label(self) -> str:
        seed = "" if self.seed is None else f", seed={self.seed}"
        return f"sample_from(weights={list(self.weights)}{seed})"


class Batch(Node):
    """``size`` elements at a time, collated in one place."""

    name = "batch"
    is_barrier = True

    def __init__(
        self, child: Node, size: int, collate_fn: Callable[[list[Any]], Any], *, drop_last: bool, label: str
    ) -> None:
        super().__init__(child)
        self.size = size
        self.collate_fn = collate_fn
        self.drop_last = drop_last
        self.cost: list[int] | memoryview[int] = [0, 0]
        self._label = label

    def measure(self) -> int | None:
        return self._of(self.child.length)

    def told_length(self) -> int | None:
        return self._of(self.child.told_length())

    def _of(self, inner: int | None) -> int | None:
        if inner is None or inner == ENDLESS:
            return inner
        return inner // self.size if self.drop_last else -(-inner // self.size)

    def get(self, i: int, draw: int, turn: int) -> Any:
        child, size = self.child, self.size
        assert child.length is not None
        first = i * size
        shift = draw * size - first
        runtime = self.runtime
        samples = runtime.several(child, ((j, j + shift) for j in range(first, min(first + size, child.length))), turn)
        if self.reseeds and runtime.seeds is not None:
            runtime.seeds.apply(rng.derive(self.key, turn, draw))
        before = perf_counter_ns()
        try:
            made = self.collate_fn(samples)
        except BaseException:
            runtime.stage = self
            raise
        self.cost[0] += perf_counter_ns() - before
        self.cost[1] += 1
        return made

    @property
    def label(self) -> str:
        return self._label

    def user_parts(self) -> Iterator[tuple[str, Any]]:
        yield "collate_fn", self.collate_fn
