"""Program: what a worker does with one task of a pipeline.

Runs in: worker; in the consumer where there are no workers. Must never know: how it was made, engines.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from mploader.pipeline import rng
from mploader.pipeline.node import Node, Outputs, Raised, Runtime
from mploader.pipeline.seeds import Seeds


class Program:
    """What a worker does with one task.

    Attributes:
      root: gives the element for an index; None where the elements travel.
      spread: the functions over it, bottom first.
      reseeds: tasks seed the process's generators; some of a merged pipeline's children may, and others not.
      many: the result is a list of outputs, else it is the output.
    """

    def __init__(
        self,
        root: Node | None,
        spread: Sequence[Node],
        *,
        grouped: bool,
        key: int,
        reseeds: bool,
        is_part: bool = False,
    ) -> None:
        self.root = root
        self.spread = [_detached(node) for node in spread]
        self.grouped = grouped
        self.many = any(node.name in ("filter", "flat_map", "unbatch") for node in spread)
        self._key = key
        self._is_part = is_part  # of what is drawn: the functions over it have draws of their own
        self._is_cut = root is not None and root.is_cut
        self._reseeds = reseeds and bool(spread)  # else nothing of the user's runs
        nodes = root.walk() if root is not None else ()
        self.reseeds = self._reseeds or any(node.reseeds for node in nodes)
        self.runtime = Runtime()

    def parts(self) -> Iterator[tuple[str, Any]]:
        """What of the user's is in it: what to call it, and the object."""
        nodes = [*(self.root.walk() if self.root is not None else ()), *self.spread]
        return chain.from_iterable(node.user_parts() for node in nodes)

    def timed(self) -> list[Node]:
        """The nodes whose cost is measured, in an order that is the same in each process."""
        nodes = [*(self.root.walk() if self.root is not None else ()), *self.spread]
        return [node for node in nodes if node.cost is not None]

    def attach(self, runtime: Runtime | None = None) -> Runtime:
        """Get ready to run in this process: find the generators in the user's objects."""
        runtime = self.runtime = runtime or Runtime()
        for node in [*(self.root.walk() if self.root is not None else ()), *self.spread]:
            node.runtime = runtime
        runtime.seeds = Seeds([part for _, part in self.parts()])
        return runtime

    @property
    def is_simple(self) -> bool:
        """Whether a task is one call of one function with one element: then its index says where it failed."""
        root = self.root
        if root is None:
            return not self.many and len(self.spread) < 2
        return not self.spread and not (root.children and root.child.children) and root.name != "batch"

    def run(self, x: Any, draw: int, turn: int) -> Any:
        """The output for a task, or the list of its outputs.

        Args:
          x: an index into `root`, or a stream's element; a list of these where they are `grouped`.
          draw: number of the task in its epoch.
          turn: the epoch.
        """
        root, runtime = self.root, self.runtime
        runtime.stage, runtime.is_spent = None, False  # of an element that failed before
        if root is None:
            runtime.place, runtime.element = draw, x
            if self._reseeds and runtime.seeds is not None:
                runtime.seeds.apply(rng.derive(self._key, turn, draw))
        elif self.grouped:
            x = runtime.several(root, ((i, (draw << 32) + k) for k, i in enumerate(x)), turn)
        else:
            if self._is_cut:
                draw = root.reach(x, draw, turn)
            x = root.get(x, draw, turn)
        if self._is_part and root is not None and self._reseeds and runtime.seeds is not None:
            runtime.seeds.apply(rng.derive(self._key, turn, draw))
        if not self.many:
            for node in self.spread:
                (x,) = node.spread(x, draw, turn)
            return x
        outputs: Outputs = (x,)
        for node in self.spread:
            outputs = self._spread(node, outputs, draw, turn)
        return outputs

    def _spread(self, node: Node, elements: Outputs, draw: int, turn: int) -> list[Any]:
        if len(elements) == 1 and type(elements[0]) is not Raised:
            return list(node.spread(elements[0], draw, turn))
        found: list[Any] = []
        for number, x in enumerate(elements):
            if type(x) is Raised:
                found.append(x)
                continue
            try:
                # its number is part of an element's draw: those of one task must not share their randomness
                found.extend(self.runtime.try_again(node.spread, x, draw + (number << 48), turn))
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001  it costs this output, and no other
                found.append(Raised(error, self.runtime.where()))
        return found


def _detached(node: Node) -> Node:
    """Without what is below it: that stays here, or travels by itself."""
    alone = copy.copy(node)
    alone.children = ()
    alone.runtime = Runtime()
    return alone
