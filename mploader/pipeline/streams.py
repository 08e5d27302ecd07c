"""Streams: the nodes whose elements can only be had one after the other, in the process that draws them.

Runs in: consumer. Must never know: engines, the loader.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from mploader.pipeline import rng
from mploader.pipeline.chain import Failure
from mploader.pipeline.choice import Choice
from mploader.pipeline.inline import Borrowing
from mploader.pipeline.items import Items
from mploader.pipeline.node import ENDLESS, Node, Runtime
from mploader.pipeline.plan import Plan
from mploader.pipeline.sources import Streamed


class Drawn(Node):
    """A node without length whose elements are drawn here."""

    def draw(self, turn: int) -> Iterator[Any]:
        """Start a pass; ``turn`` is the epoch's number times 2**32, plus the number of the pass in it."""
        raise NotImplementedError


class Generated(Drawn):
    """The elements of an iterable, or of a function that makes one for each pass."""

    name = "from_generator"

    def __init__(self, source: Streamed, name: str = "from_generator") -> None:
        super().__init__()
        self.source = source
        self.name = name  # type: ignore[misc]
        self.takes_rng = source.takes_rng

    def draw(self, turn: int) -> Iterator[Any]:
        return self.source.open(rng.generator(rng.derive(self.key, turn)) if self.takes_rng else None)

    def is_bound(self, innermost: Iterator[Any]) -> bool:
        return self.source.is_bound(innermost)

    def told_length(self) -> int | None:
        return self.source.length()

    @property
    def label(self) -> str:
        return f"{self.name}({getattr(self.source.source, '__qualname__', type(self.source.source).__name__)})"


class Merged(Drawn):
    """Several pipelines into one, of which at least one is a stream: each runs here.

    Its passes are iterators of their own class, no generators: an element that raises does not end them.
    """

    def _lend(self, runtime: Runtime) -> Runtime:
        return Runtime()  # each child is a plan of its own, with generators of its own

    def _open(self, turn: int) -> list[Iterator[Any]]:
        plans = [Plan(child) for child in self.children]
        for plan in plans:
            plan.program.attach()
        return [
            Borrowing(Items(plan, turn), plan.program.runtime, reseeds=plan.reseeds or plan.program.reseeds)
            for plan in plans
        ]


class ZipDrawn(Merged):
    """Tuples of the children's elements; ends with the shortest."""

    name = "zip"

    def draw(self, turn: int) -> Iterator[Any]:
        return _Zip(self._open(turn))


class ConcatDrawn(Merged):
    """The children one after the other."""

    name = "concat"

    def draw(self, turn: int) -> Iterator[Any]:
        return _Interleave(self._open(turn), 1, ENDLESS)


class InterleavedDrawn(Merged):
    """``block_length`` elements of each of ``cycle_length`` children in turn; one that ends makes room for the next."""

    name = "interleave"

    def __init__(self, children: Sequence[Node], cycle_length: int, block_length: int) -> None:
        super().__init__(*children)
        self.cycle_length, self.block_length = cycle_length, block_length

    def draw(self, turn: int) -> Iterator[Any]:
        return _Interleave(self._open(turn), self.cycle_length, self.block_length)

    @property
    def label(self) -> str:
        return f"interleave(cycle_length={self.cycle_length}, block_length={self.block_length})"


class MixedDrawn(Merged):
    """At each place one of the children is drawn by weight; ends where the one to draw has no more."""

    name = "sample_from"

    def __init__(self, children: Sequence[Node], weights: Sequence[float], seed: int | None) -> None:
        super().__init__(*children)
        self.weights = tuple(weights)
        self.seed = seed

    def draw(self, turn: int) -> Iterator[Any]:
        return _Mix(self._open(turn), Choice(self.weights, self.key if self.seed is None else rng.derive(self.seed)))

    @property
    def label(self) -> str:
        seed = "" if self.seed is None else f", seed={self.seed}"
        return f"sample_from(weights={list(self.weights)}{seed})"


# What was drawn is kept until it is handed out: an interrupt inside a child's next() costs no element, and puts none
# out of step with the others. It is moved by one C call, and let go where no call stands between that and the return.


class _Zip(Iterator[Any]):
    def __init__(self, iterators: list[Iterator[Any]]) -> None:
        self._iterators = iterators
        self._row: list[Any] = []

    def __next__(self) -> Any:
        row = self._row
        while len(row) < len(self._iterators):
            n_before = len(row)
            row.extend(islice(self._iterators[n_before], 1))
            if len(row) == n_before:
                raise StopIteration
        failure = next((part for part in row if type(part) is Failure), None)
        made = tuple(row)
        self._row = []
        return made if failure is None else failure


class _Interleave(Iterator[Any]):
    def __init__(self, iterators: list[Iterator[Any]], cycle_length: int, block_length: int) -> None:
        self._slots: list[Iterator[Any] | None] = list(iterators[:cycle_length])
        self._rest = iterators[cycle_length:]
        self._block_length = block_length
        self._at = 0, 0, 0  # slot, how many it has given at this turn, how many of the rest were opened
        self._drawn: list[Any] = []

    def __next__(self) -> Any:
        slots = self._slots
        while any(slots):
            slot, count, opened = self._at
            current = slots[slot]
            if current is not None and count < self._block_length:
                if not self._drawn:
                    self._drawn.extend(islice(current, 1))
                if self._drawn:
                    drawn, self._drawn = self._drawn, []
                    self._at = slot, count + 1, opened
                    return drawn[0]
                following = (slot + 1) % len(slots), 0, opened + 1
                slots[slot] = self._rest[opened] if opened < len(self._rest) else None
                self._at = following
                continue
            self._at = (slot + 1) % len(slots), 0, opened
        raise StopIteration


class _Mix(Iterator[Any]):
    def __init__(self, iterators: list[Iterator[Any]], choice: Choice) -> None:
        self._iterators = iterators
        self._choice = choice
        self._number = 0
        self._drawn: list[Any] = []

    def __next__(self) -> Any:
        if not self._drawn:
            self._drawn.extend(islice(self._iterators[self._choice[self._number][0]], 1))
        if not self._drawn:
            raise StopIteration
        drawn, self._drawn = self._drawn, []
        self._number += 1
        return drawn[0]
