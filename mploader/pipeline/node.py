"""Node: one operation of a pipeline, above the nodes that it reads from.

A pipeline is a tree of nodes; they are never changed. What a node can do decides where it runs (`plan.py`):

    get(i, draw, turn)       random access: element i of this node, for nodes with a length. Runs in: worker
    spread(x, draw, turn)    element by element: what x becomes, 0 to many. Runs in: worker
    step(state, x)           over the sequence: what x adds to it. Pure: state in, state out. Runs in: consumer

``turn`` numbers the pass: the epoch, and below a `repeat` the passes within it. ``draw`` is the place of this
draw in the epoch's global stream, before any shard: with the turn it keys all randomness, so that an index
that comes twice gets fresh draws. `bind` gives a copy of the tree with its lengths asked, its keys derived
from the seed, and what it needs of the process that runs it.

Must never know: engines, the loader.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, ClassVar

from mploader.pipeline import rng
from mploader.pipeline.fetch import short_repr
from mploader.pipeline.seeds import Seeds

UNKNOWN = object()  # an element that was not fetched yet
ENDLESS = 1 << 62  # length of an endless node: more than anybody draws, and it fits in 64 bits

Outputs = Sequence[Any]

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Raised:
    """Takes the place of one output, among several of a task, whose function raised."""

    __slots__ = ("error", "where")

    def __init__(self, error: Any, where: str) -> None:
        self.error = error
        self.where = where


class Runtime:
    """What the nodes of one tree know of the process that they run in.

    Attributes:
      seeds: the generators in the user's work, and the global ones.
      place: index of the element drawn last in its source, for an error; -1 before the first.
      element: that element; `UNKNOWN` until it is fetched.
      stage: what raised last.
      is_spent: what was raised was raised by an element that has had all its tries.
    """

    def __init__(
        self,
        begin: Callable[[int | None], None] | None = None,
        retries: int = 0,
        retry_on: tuple[type[BaseException], ...] = (),
    ) -> None:
        """Make one.

        Args:
          begin: is told each of several elements of one task, before it is made, and None behind the last.
          retries: how often one of these is tried again after an exception of a type in ``retry_on``.
        """
        self._begin = begin
        self._retries, self._retry_on = retries, retry_on
        self.is_spent = False
        self.seeds: Seeds | None = None
        self.place = -1
        self.element: Any = UNKNOWN
        self.stage: Node | None = None

    def where(self) -> str:
        """Which operation raised, and for which element of its source."""
        return f"in {self.stage.said} for source[{self.place}]" if self.stage is not None else ""

    def several(self, node: Node, places: Iterable[tuple[int, int]], turn: int) -> list[Any]:
        """Make several elements of one task. Each has its own time and its own tries.

        Args:
          places: index and draw of each.
        """
        made, is_cut, stays = [], node.is_cut, node.cuts == node.sealed
        for i, draw in places:
            tries = 0
            if is_cut and not (stays and draw == i):  # of a part that begins where the whole does, one in its place
                draw = node.reach(i, draw, turn)
            while True:
                if self._begin is not None:
                    self._begin(i)
                try:
                    made.append(node.get(i, draw, turn))
                    break
                except self._retry_on:
                    if tries == self._retries or self.is_spent:
                        self.is_spent = True
                        raise
                    tries += 1
        if self._begin is not None:
            self._begin(None)
        return made

    def try_again(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function, again where it raises what is to be tried again."""
        for tries in range(self._retries + 1):
            try:
                return function(*args)
            except self._retry_on:
                if tries == self._retries:
                    raise
        raise AssertionError("unreachable")

    def save(self, reseeds: bool) -> Any:
        """The state of all generators that elements are going to seed; None if they do not."""
        return self.seeds.save() if self.seeds is not None and reseeds else None

    def restore(self, saved: Any) -> None:
        """Put the generators back."""
        if self.seeds is not None and saved is not None:
            self.seeds.restore(saved)


class Node:
    """An operation over its children.

    Attributes:
      children: the nodes that it reads from.
      length: elements of a pass; `ENDLESS`, or None where nobody knows: then there is no random access.
      key: what its randomness is derived from; 0 until it is bound.
      cuts: the parts of longer streams that it is, or is made of: shards, slices, parts of a split.
      sealed: of these, those that `reach` does not see; they are part of ``key``.
      is_short: `reach` sees a part that leaves out one end of its child, though it may begin where that does.
      has_own_seed: of the parts of a merge, it is one with a seed of its own.
      cost: nanoseconds spent in what the user gave, and elements made by it; one list for all copies in this process,
        and in a worker two words of memory that the consumer reads. None where it is not measured.
    """

    name: ClassVar[str]
    is_elementwise: ClassVar[bool] = False  # has `spread`
    is_opaque: ClassVar[bool] = False  # a step that never looks at its elements: it may as well move their indices
    is_part: ClassVar[bool] = False  # some of its child's elements, as they are
    is_barrier: ClassVar[bool] = False  # above it, a draw is no place in the streams below
    length: int | None = None
    cuts: tuple[int, ...] = ()
    sealed: tuple[int, ...] = ()
    is_short: bool = False
    has_own_seed: bool = False
    cost: list[int] | memoryview[int] | None = None

    def __init__(self, *children: Node) -> None:
        self.children = children
        self.key = 0
        self.reseeds = False
        self.runtime = Runtime()

    # -- random access -----------------------------------------------------------------------------

    def measure(self) -> int | None:
        """Elements of a pass, from the children's `length`; None if that cannot be known."""
        return None

    def get(self, i: int, draw: int, turn: int) -> Any:
        """Element i, 0 <= i < `length`."""
        raise NotImplementedError

    def reach(self, i: int, draw: int, turn: int) -> int:
        """The place of element i in the stream that was cut up below, so that no two parts share their draws."""
        return self.children[0].reach(i, draw, turn) if len(self.children) == 1 and not self.is_barrier else draw

    @property
    def is_cut(self) -> bool:
        """Whether `reach` may give another number than it is given."""
        return self.cuts != self.sealed or self.is_short

    def told_length(self) -> int | None:
        """Elements of a pass, as far as a source tells that has no random access."""
        return self.length

    def own_cut(self) -> tuple[int, ...]:
        """Which part of its child it is, () for all of it."""
        return ()

    # -- element by element ------------------------------------------------------------------------

    def spread(self, x: Any, draw: int, turn: int) -> Outputs:
        """What one element becomes."""
        raise NotImplementedError

    # -- over the sequence -------------------------------------------------------------------------

    def initial(self, turn: int) -> Any:
        """The state before the first element of a pass."""
        return turn, 0

    def step(self, state: Any, x: Any) -> tuple[Any, Outputs]:
        """The state after ``x``, and what comes out. Changes nothing: a step that is interrupted is done again."""
        turn, seen = state
        if self.length is not None:  # it draws what it draws with random access, behind what seeded the generators
            draw = self.reach(seen, seen, turn) if self.is_cut else seen
            return (turn, seen + 1), self.spread(x, draw, turn)
        if self.reseeds and self.runtime.seeds is not None:
            self.runtime.seeds.apply(rng.derive(self.key, turn, seen))
        return (turn, seen + 1), self.spread(x, seen, turn)

    def missed(self, state: Any) -> Any:
        """The state after an element for which `step` raised."""
        turn, seen = state
        return turn, seen + 1

    def settle(self, state: Any) -> Any:
        """The same state; from here on no step before it is done again."""
        return state

    def finish(self, state: Any) -> Outputs:
        """What comes out when the sequence has ended."""
        return ()

    def brief(self, state: Any) -> list[int] | None:
        """The state as a few numbers, from which `restore` makes it again; None while it holds elements."""
        return list(state)

    def restore(self, numbers: list[int]) -> Any:
        """The state that `brief` told."""
        return tuple(numbers)

    def is_over(self, state: Any) -> bool:
        """Whether nothing can come out any more, whatever comes in."""
        return False

    # -- the tree ----------------------------------------------------------------------------------

    @property
    def said(self) -> str:
        """What a message calls it."""
        return self.label

    @property
    def label(self) -> str:
        """How it is written, such as ``map(decode)``."""
        return self.name

    def walk(self) -> Iterator[Node]:
        """All nodes, the children before their parent."""
        for child in self.children:
            yield from child.walk()
        yield self

    def user_parts(self) -> Iterator[tuple[str, Any]]:
        """What the user gave to this node: what to call it, and the object."""
        return iter(())

    def bind(self, runtime: Runtime, seed: int, *, reseeds: bool, branch: tuple[int, ...] = ()) -> Node:
        """Copy the tree for one run.

        Args:
          runtime: of the process it will run in, or a new one where it travels.
          seed: everything random is derived from it.
          reseeds: whether Python's and NumPy's global generators are seeded for each element.
          branch: which child was taken at each fork above: tells apart nodes of equal height.
        """
        bound = copy.copy(self)
        bound.runtime = runtime
        bound.reseeds = reseeds
        many = len(self.children) > 1
        bound.children = tuple(
            child.bind(self._lend(runtime), seed, reseeds=reseeds, branch=(*branch, number) if many else branch)
            for number, child in enumerate(self.children)
        )
        below = tuple(chain.from_iterable(child.cuts for child in bound.children))
        seen = tuple(chain.from_iterable(child.sealed for child in bound.children))
        bound.sealed = below if many or bound.is_barrier else seen
        bound.is_short = len(bound.children) == 1 and bound.child.is_short and not bound.is_barrier
        bound.key = rng.derive(seed, self._height(), *branch, *bound.sealed)
        bound.length = bound.measure()
        bound.cuts = (*below, *bound.own_cut())
        if bound.length is None and not bound.is_elementwise:  # a step over the sequence: it counts what arrives
            bound.sealed = bound.cuts
            bound.key = rng.derive(seed, self._height(), *branch, *bound.sealed)
        return bound

    def _lend(self, runtime: Runtime) -> Runtime:
        """What a child knows of its process: the same, unless it runs by itself."""
        return runtime

    def _height(self) -> int:
        """Steps above the nearest fork or leaf: what is added on top of a pipeline changes no key below.

        What only leaves out elements is none of them: a function draws the same before and behind a shard.
        """
        return (not self.is_part) + self.children[0]._height() if len(self.children) == 1 else 0

    @property
    def child(self) -> Node:
        """The only child."""
        return self.children[0]


def function_name(fn: Callable[..., Any]) -> str:
    """How a function is called in a label."""
    inner = getattr(fn, "func", fn)  # functools.partial
    name = getattr(inner, "__qualname__", "").rpartition("<locals>.")[2]
    # without an address: a state and a cache know a pipeline by what it says of itself, in every process the same
    return name or _ADDRESS.sub("", short_repr(fn))


class Seeded(Node):
    """Everything below follows from a seed of its own, whatever that of the whole is."""

    name = "seed"

    def __init__(self, child: Node, seed: int) -> None:
        super().__init__(child)
        self.seed = seed

    @property
    def label(self) -> str:  # noqa: D102
        return f"seed({self.seed})"

    def measure(self) -> int | None:  # noqa: D102
        return self.child.length

    def bind(self, runtime: Runtime, seed: int, *, reseeds: bool, branch: tuple[int, ...] = ()) -> Node:  # noqa: D102
        bound = self.child.bind(runtime, rng.derive(self.seed), reseeds=True)  # in a merge as alone
        bound.has_own_seed = True
        return bound

    def _height(self) -> int:
        return self.child._height()
