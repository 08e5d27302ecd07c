"""Inline: a pipeline's elements made in the process that asks for them.

The caller's own random generators are put back after each element. Must never know: engines, the loader.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from mploader.pipeline.chain import Failure
from mploader.pipeline.items import Items
from mploader.pipeline.node import Node
from mploader.pipeline.plan import Plan


class Inline:
    """A bound pipeline, ready to run here.

    Attributes:
      root: the bound tree.
      plan: what a Loader makes of it.
    """

    def __init__(self, root: Node) -> None:
        self.root = root
        self.plan = Plan(root)
        self._runtime = self.plan.program.attach()
        self._reseeds = self.plan.program.reseeds
        self._lengths = _lengths(root)
        leaves: list[Any] = [node for node in root.walk() if not node.children]
        sources = [leaf.source.source for leaf in leaves]
        # by id: one source may be read in several places
        self._told = list({id(s): s for s in sources if callable(getattr(type(s), "set_epoch", None))}.values())

    @property
    def is_current(self) -> bool:
        """Whether the sources still have the lengths that they had."""
        return self._lengths == _lengths(self.root)

    def get(self, i: int, turn: int) -> Any:
        """Element i, where there is random access."""
        saved = self._runtime.save(self._reseeds)
        try:
            return self.plan.program.run(i, i, turn)
        finally:
            self._runtime.restore(saved)

    def items(self, turn: int) -> Iterator[Any]:
        """All elements of a pass."""
        return Loop(Borrowing(Items(self.plan, turn), self._runtime, reseeds=self.plan.reseeds or self._reseeds))

    def tell(self, turn: int) -> bool:
        """Make sources that change with the epoch those of this one, as a Loader does; returns if there are any."""
        for source in self._told:
            source.set_epoch(turn)
        return bool(self._told)


class Borrowing(Iterator[Any]):
    """Items of a plan; after each the random generators are as they were before it."""

    def __init__(self, inner: Iterator[Any], runtime: Any, *, reseeds: bool) -> None:
        self._inner, self._runtime, self._reseeds = inner, runtime, reseeds
        self._made: list[Any] = []

    def __next__(self) -> Any:
        if not self._made:
            saved = self._runtime.save(self._reseeds)
            try:
                self._made.extend(islice(self._inner, 1))  # one C call: an interrupt cannot lose it
            finally:
                self._runtime.restore(saved)
            if not self._made:
                raise StopIteration
        made, self._made = self._made, []
        return made[0]


class Loop(Iterator[Any]):
    """What a loop gets: items, and errors raised in their place."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items
        self._made: list[Any] = []

    def __next__(self) -> Any:
        if not self._made:
            self._made.extend(islice(self._items, 1))  # one C call: an interrupt cannot lose it
            if not self._made:
                raise StopIteration
        is_failure = type(self._made[0]) is Failure
        made, self._made = self._made, []  # from here on there is no call, behind which an interrupt may strike
        if is_failure:
            raise made[0].error
        return made[0]


def _lengths(root: Node) -> list[int | None]:
    return [node.measure() for node in root.walk() if not node.children]
