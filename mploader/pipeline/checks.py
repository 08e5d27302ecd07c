"""Checks: what is refused, or warned of, where an operation is written.

Every message names the operation, what was given, and what would be right. Must never know: engines, the loader.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

from mploader.pipeline import rng
from mploader.pipeline.access import Concat, Interleaved, Mixed, Reorder, Repeat, Shuffle
from mploader.pipeline.cached import Cached
from mploader.pipeline.collate import stack
from mploader.pipeline.elements import Filter
from mploader.pipeline.fetch import short_repr
from mploader.pipeline.node import Node
from mploader.pipeline.padding import pad_stack
from mploader.pipeline.steps import Buffered
from mploader.pipeline.streams import Drawn

N = TypeVar("N", int, float)


def function(what: str, fn: Any) -> Any:
    """Refuse what cannot be called."""
    if not callable(fn):
        raise TypeError(f"{what} takes a function, not {short_repr(fn)} ({type(fn).__name__})")
    return fn


def plain_function(what: str, name: str, fn: Any) -> Any:
    """Refuse what cannot be called with one argument and nothing else."""
    reason = rng.not_callable_with_one(function(what, fn)) or ("it has a parameter rng" if rng.takes_rng(fn) else "")
    if reason:
        raise TypeError(f"{what}'s {name} is called with one argument, and {reason}; draw in map(), which gives an rng")
    return fn


def integer(what: str, name: str, value: object, *, least: int | None) -> int:
    """Refuse what is no int, or less than ``least``."""
    try:
        number = operator.index(cast(Any, value))
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{what}'s {name} must be an int, not {short_repr(value)} ({type(value).__name__})")
    if least is not None and number < least:
        raise ValueError(f"{what}'s {name} must be at least {least}, not {number}")
    return number


def numbers(what: str, name: str, given: Any, kind: Callable[[Any], N], example: str) -> list[N]:
    """Refuse what is no list of numbers; the numbers by ``kind``."""
    try:
        if isinstance(given, str | bytes):
            raise TypeError
        return [kind(number) for number in given]
    except (TypeError, ValueError):
        raise TypeError(
            f"{what}'s {name} must be a list of numbers, such as {example}, not {short_repr(given)}"
        ) from None


def why_none(node: Node) -> str:
    """Since which operation there is no random access, as a clause."""
    while len(node.children) == 1 and node.child.length is None:
        node = node.child
    if isinstance(node, Drawn):
        return f"{node.label} is a stream, which has none"
    return f"behind {node.label} nobody knows how many elements there are"


def warn_of_leak(
    node: Node, what: str, way: str = "split([0.8, 0.2], seed=1) and shuffle(reshuffle=False) do not"
) -> None:
    """Warn whoever called the caller, where a part of this node is another one in each epoch."""
    while len(node.children) == 1 and not (isinstance(node, Repeat) and node.times is None):
        if isinstance(node, Shuffle | Buffered) and node.reshuffle:
            warnings.warn(
                f"{what} behind {node.label}: each epoch takes others, so a test set made so leaks into training; "
                f"{way}",
                stacklevel=3,
            )
            return
        node = node.child


def shown(cut: slice) -> str:
    """A slice as it is written."""
    return ":".join("" if part is None else str(part) for part in (cut.start, cut.stop, cut.step or ""))


def is_stacked(node: Node) -> bool:
    """Whether the elements of this node are batches as `stack` or `pad_stack` made them."""
    while node.is_opaque or isinstance(node, Reorder | Repeat | Cached | Filter):
        node = node.child
    if node.children and isinstance(node, Concat | Interleaved | Mixed):
        return all(map(is_stacked, node.children))
    made = getattr(node, "collate_fn", None)
    made = getattr(made, "func", made)  # functools.partial
    return made is stack or made is pad_stack
