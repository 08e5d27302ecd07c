"""Steps: the nodes that have to see several elements of the sequence, one after the other.

Each is pure: the state that it is given and one element in, a new state and what comes out. So an interrupted
step is done again, and a state from which the rest follows can be told at any time. Elements that wait in a
state are kept in linked pairs, ``(rest, element)``: one is added without touching the state before.

Runs in: consumer. Must never know: engines, the loader, what an element is (but for a key function's sake).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from mploader.pipeline import rng
from mploader.pipeline.node import Node, Outputs, function_name

Chain = tuple[Any, Any] | None  # (rest, last)

_NONE = object()


def unlink(chain: Chain) -> list[Any]:
    """The elements of a chain, in the order in which they came."""
    found = []
    while chain is not None:
        chain, last = chain
        found.append(last)
    return found[::-1]


class Group(Node):
    """Lists of ``size`` successive elements."""

    name = "batch"
    is_opaque = True

    def __init__(self, child: Node, size: int, *, drop_last: bool) -> None:
        super().__init__(child)
        self.size = size
        self.drop_last = drop_last

    def initial(self, turn: int) -> Any:
        return None, 0

    def step(self, state: Any, x: Any) -> tuple[Any, Outputs]:
        chain, count = state
        if count + 1 < self.size:
            return ((chain, x), count + 1), ()
        return (None, 0), (unlink((chain, x)),)

    def finish(self, state: Any) -> Outputs:
        chain, count = state
        return (unlink(chain),) if count and not self.drop_last else ()

    def brief(self, state: Any) -> list[int] | None:
        return None if state[1] else []

    def restore(self, numbers: list[int]) -> Any:
        return None, 0

    @property
    def label(self) -> str:
        return f"batch({self.size}{', drop_last=True' * self.drop_last})"


class Take(Node):
    """The first ``count`` elements of each pass."""

    name = "take"
    is_opaque = True
    is_part = True

    def __init__(self, child: Node, count: int) -> None:
        super().__init__(child)
        self.count = count

    def step(self, state: Any, x: Any) -> tuple[Any, Outputs]:
        turn, seen = state
        return (turn, seen + 1), (x,) if seen < self.count else ()

    def is_over(self, state: Any) -> bool:
        return bool(state[1] >= self.count)

    @property
    def label(self) -> str:
        return f"take({self.count})"


class Skip(Node):
    """All but the first ``count`` elements of each pass."""

    name = "skip"
    is_opaque = True
    is_part = True

    def __init__(self, child: Node, count: int) -> None:
        super().__init__(child)
        self.count = count

    def step(self, state: Any, x: Any) -> tuple[Any, Outputs]:
        turn, seen = state
        return (turn, seen + 1), (x,) if seen >= self.count else ()

    def own_cut(self) -> tuple[int, ...]:
        return (self.count, 1) if self.count else ()

    @property
    def label(self) -> str:
        return f"skip({self.count})"


class Every(Node):
    """Elements ``rank``, ``rank + world``, ... of each pass: the shard of a stream, which draws them all."""

    name = "shard"
    is_opaque = True
    is_part = True

    def __init__(self, child: Node, rank: int, world: int) -> None:
        super().__init__(child)
        self.rank, self.world = rank, world

    def step(self, state: Any, x: Any) -> tuple[Any, Outputs]:
        turn, seen = state
        return (turn, seen + 1), (x,) if seen % self.world == self.rank else ()

    def own_cut(self) -> tuple[int, ...]:
        return (self.rank, self.world)

    @property
    def label(self) -> str:
        return f"shard({self.rank}, {self.world})"


class _Buffer(NamedTuple):
    """A shuffle buffer; ``late`` are the writes to ``slots`` that `settle` will do: new at the first step behind it."""

    turn: int
    seen: int
    slots: list[Any]
    late: dict[int, Any] | None


class Buffered(Node):
    """An order that is random within a buffer of ``size`` elements."""

    name = "shuffle"
    is_opaque = True

    def __init__(self, child: Node, size: int, seed: int | None, *, reshuffle: bool) -> None:
        super().__init__(child)
        self.size = size
        self.seed = seed
        self.reshuffle = reshuffle

    def _draw(self, turn: int, seen: int, below: int) -> int:
        key = self.key if self.seed is None else rng.derive(self.seed)
        # a 64-bit number scaled down: its bias is below 2**-40 for any buffer that fits into memory
        return rng.derive(key, turn if self.reshuffle else -1, seen) * below >> 64

    def initial(self, turn: int) -> Any:
        return _Buffer(turn, 0, [], None)

    def settle(self, state: _Buffer) -> _Buffer:
        # the list is shared by the states of a pass, so it is written where no step will be done again
        for at, x in (state.late or {}).items():
            state.slots[at] = x
        return state._replace(late=None)

    def step(self, state: _Buffer, x: Any) -> tuple[Any, Outputs]:
        turn, seen, slots, late = state
        if seen < self.size:
            del slots[seen:]  # what a step that was interrupted put there
            slots.append(x)
            return state._replace(seen=seen + 1), ()
        at = self._draw(turn, seen, self.size)
        late = {} if late is None else late  # shared from here on: steps are done again from where it was settled only
        drawn = late.get(at, _NONE)
        late[at] = x
        return _Buffer(turn, seen + 1, slots, late), (slots[at] if drawn is _NONE else drawn,)

    def finish(self, state: _Buffer) -> Outputs:
        left = state.slots[: state.seen]
        for at, x in (state.late or {}).items():
            left[at] = x
        for last in range(len(left) - 1, 0, -1):
            at = self._draw(state.turn, state.seen + last, last + 1)
            left[at], left[last] = left[last], left[at]
        return left

    def brief(self, state: _Buffer) -> list[int] | None:
        return [state.turn] if not state.seen else None

    def restore(self, numbers: list[int]) -> Any:
        return self.initial(numbers[0])

    @property
    def label(self) -> str:
        seed = f"seed={self.seed}, " if self.seed is not None else ""
        return f"shuffle({seed}buffer={self.size}{', reshuffle=False' * (not self.reshuffle)})"


class Bucket(Node):
    """Lists of elements of similar length: each has a bucket, which comes out when it is full."""

    name = "bucket_by_length"

    def __init__(
        self,
        child: Node,
        length_fn: Callable[[Any], int],
        boundaries: Sequence[int],
        sizes: Sequence[int],
        *,
        drop_last: bool,
    ) -> None:
        super().__init__(child)
        self.length_fn = length_fn
        self.boundaries = tuple(boundaries)
        self.sizes = tuple(sizes)
        self.drop_last = drop_last

    def initial(self, turn: int) -> Any:
        return turn, 0, (None,) * len(self.sizes), (0,) * len(self.sizes)

    def step(self, state: Any, x: Any) -> tuple[Any, Outputs]:
        turn, seen, chains, counts = state
        if self.reseeds and self.runtime.seeds is not None:
            self.runtime.seeds.apply(rng.derive(self.key, turn, seen))
        at = bisect_right(self.boundaries, self.length_fn(x))
        chain: Chain = (chains[at], x)
        count = counts[at] + 1
        outputs: Outputs = ()
        if count == self.sizes[at]:
            outputs, chain, count = (unlink(chain),), None, 0
        chains, counts = (*chains[:at], chain, *chains[at + 1 :]), (*counts[:at], count, *counts[at + 1 :])
        return (turn, seen + 1, chains, counts), outputs

    def missed(self, state: Any) -> Any:
        turn, seen, chains, counts = state
        return turn, seen + 1, chains, counts

    def finish(self, state: Any) -> Outputs:
        _, _, chains, _ = state
        return [] if self.drop_last else [unlink(chain) for chain in chains if chain is not None]

    def brief(self, state: Any) -> list[int] | None:
        turn, seen, _, counts = state
        return None if any(counts) else [turn, seen]

    def restore(self, numbers: list[int]) -> Any:
        turn, seen = numbers
        return turn, seen, *self.initial(turn)[2:]

    @property
    def label(self) -> str:
        sizes = self.sizes[0] if len(set(self.sizes)) == 1 else list(self.sizes)
        edges = f"{function_name(self.length_fn)}, {list(self.boundaries)}, {sizes}"
        return f"bucket_by_length({edges}{', drop_last=True' * self.drop_last})"

    def user_parts(self) -> Iterator[tuple[str, Any]]:
        yield "length_fn", self.length_fn
