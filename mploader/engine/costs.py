"""Costs: what the functions of a pipeline have cost in the workers, read from their status blocks.

Runs in: consumer, under the pool's lock. Must never know: what a function is.
"""

from __future__ import annotations

from collections.abc import Iterable

from mploader.engine.life import Life
from mploader.pipeline.program import Program
from mploader.stats.block import MAX_COSTS


class Costs:
    """What was read so far."""

    def __init__(self) -> None:
        self._read: dict[int, list[tuple[int, int]]] = {}  # by incarnation

    def collect(self, lives: Iterable[Life], program: Program) -> None:
        """Add what has come since the last call to the nodes of the user's pipeline."""
        nodes = program.timed()[:MAX_COSTS]
        for life in list(lives):
            read = self._read.setdefault(life.incarnation, [(0, 0)] * len(nodes))
            for number, (node, before) in enumerate(zip(nodes, list(read), strict=False)):
                now = read[number] = life.block.cost(number)
                assert node.cost is not None
                node.cost[0] += now[0] - before[0]
                node.cost[1] += now[1] - before[1]
