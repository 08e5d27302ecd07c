"""Explain: a pipeline in words: its operations from the source on, where a Loader runs each, what each has cost.

Must never know: engines, the loader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mploader.pipeline.access import Concat, Interleaved, Mixed, Reorder, Repeat, Zip
from mploader.pipeline.node import ENDLESS, Node
from mploader.pipeline.plan import BEFORE, WORKERS, Plan
from mploader.pipeline.streams import Drawn

ORDER = "arithmetic on the index"

before_reading: list[Callable[[], None]] = []  # called before costs are read: what was spent elsewhere is added then


def one_line(node: Node) -> str:
    """The operations, from the source on."""
    if len(node.children) == 1:
        below = one_line(node.child)
        return f"{below} > {node.label}"
    if node.children:
        return f"{node.label} of [{', '.join(one_line(child) for child in node.children)}]"
    return node.label


def count(length: int | None) -> str:
    """A length in words."""
    if length is None:
        return "nobody knows how many elements"
    return "endless" if length >= ENDLESS else f"{length:,} elements"


def explain(root: Node, plan: Plan) -> str:
    """A table of the operations, one a line.

    Args:
      root: the bound tree.
      plan: what a Loader makes of it.
    """
    for call in before_reading:
        call()
    rows = [(depth, node, _place(node, plan, is_drawn)) for depth, node, is_drawn in _rows(root, 0, False)]
    width = max(len("  " * depth + node.label) for depth, node, _ in rows) + 2
    lines = []
    for depth, node, place in rows:
        name = "  " * depth + node.label
        lines.append(f"{name:<{width}}{place:<26}{_cost(node)}".rstrip())
    return "\n".join([f"{count(root.length)} a pass", *lines])


def _rows(node: Node, depth: int, is_drawn: bool) -> Iterator[tuple[int, Node, bool]]:
    is_drawn = is_drawn or isinstance(node, Drawn)
    for child in node.children:
        yield from _rows(child, depth + (len(node.children) > 1), is_drawn)
    yield depth, node, is_drawn


def _place(node: Node, plan: Plan, is_drawn: bool) -> str:
    if is_drawn:
        return BEFORE
    place = plan.places.get(id(node))
    if place is not None:
        return place
    return ORDER if isinstance(node, Reorder | Repeat | Zip | Concat | Interleaved | Mixed) else WORKERS


def _cost(node: Node) -> str:
    if node.cost is None or not node.cost[1]:
        return ""
    spent_ns, calls = node.cost
    return f"{spent_ns / calls / 1e6:,.3g} ms an element, {calls:,} so far"
