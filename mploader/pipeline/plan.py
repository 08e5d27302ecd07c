"""Plan: a pipeline cut into what runs before the workers, in them, and behind them.

    before   in the consumer: the order of what is drawn, and for a stream the drawing
    program  in the workers: fetch, map, filter, collate; one task is one draw
    behind   in the consumer: what has to see several results, and all that follows it

Where the whole pipeline has random access there is only a program. Else the lowest part that has it, or the
stream, is the bottom; steps right above it that look at no element run before; the functions above these run
in the workers up to the next step of the sequence; the rest runs behind.

Runs in: consumer; a `Program` in the worker. Must never know: engines, the loader.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

from mploader.pipeline import rng
from mploader.pipeline.access import Batch, Repeat, Slice, Source
from mploader.pipeline.chain import Chain, Judge, Mark, Origin, keep
from mploader.pipeline.elements import Collate, Enumerate
from mploader.pipeline.fetch import short_repr
from mploader.pipeline.node import Node
from mploader.pipeline.passes import Passes, first_passes
from mploader.pipeline.program import Program
from mploader.pipeline.seeds import Seeds
from mploader.pipeline.steps import Every, Group, Skip, Take

BEFORE = "before: in this process"
WORKERS = "in the workers"
BEHIND = "behind: in this process"


class Plan:
    """A pipeline, compiled.

    Attributes:
      length: tasks of an epoch, which are the indices 0 to length - 1; None if they are drawn.
      items: outputs of an epoch; None if nobody knows.
      origin: where an epoch begins.
      runtime: of the steps behind the workers.
      places: where the nodes above the bottom run, by their ids.
    """

    def __init__(self, root: Node, *, single: bool = False) -> None:
        """Compile.

        Args:
          root: a bound tree.
          single: every sample is a task of its own: batches are put together behind the workers.

        Raises:
          TypeError: ``single``, and above a batch there is what only works in the workers.
        """
        bottom, above = _descend(root, single=single)
        if single and any(isinstance(node, Batch) for node in bottom.walk()):
            raise TypeError(
                f'on_error="skip" or a callable fills batches up with the next samples, which cannot be done below '
                f'{bottom.label}: batch above it, or on_error="raise"'
            )
        times = tuple(node.times for node in above if isinstance(node, Repeat))
        turns = None if None in times else prod(t for t in times if t is not None)
        self.origin = Origin(0, first_passes(times))
        steps, levels, origins = _steps(above)
        self.items = root.length
        is_indexed = bottom.length is not None
        n_before = 0
        while n_before < len(steps) and _runs_before(steps[n_before], is_indexed=is_indexed, single=single):
            n_before += 1
            if isinstance(steps[n_before - 1], Group):
                break
        n_spread = n_before
        while n_spread < len(steps) and steps[n_spread].is_elementwise:
            n_spread += 1
        self.before, self.before_levels = steps[:n_before], levels[:n_before]
        self.behind, self._behind_levels = steps[n_spread:], levels[n_spread:]
        where = [BEFORE] * n_before + [WORKERS] * (n_spread - n_before) + [BEHIND] * (len(steps) - n_spread)
        self.places = {id(origin): place for origin, place in zip(origins, where, strict=True)}
        self.reseeds = root.reseeds
        self.runtime = root.runtime  # of what runs behind
        if root.reseeds and self.behind:
            nodes = self.behind if root.length is None else root.walk()  # as random access finds their generators
            self.runtime.seeds = Seeds([part for node in nodes for _, part in node.user_parts()])
        self._bottom = bottom
        self._pass_length = bottom.length
        grouped = is_indexed and n_before > 0 and isinstance(steps[n_before - 1], Group)
        index: Node | None = None
        if is_indexed:
            index = bottom
            if turns != 1:
                index = Repeat(bottom, turns)
                index.length = index.measure()
                index.cuts, index.sealed = bottom.cuts, bottom.sealed
        self.length = index.length if index is not None and not n_before else None
        spread = steps[n_before:n_spread]
        # a shard of a stream, or of a buffered shuffle: tasks are numbered in it
        is_part = n_before > 0 and origins[n_before - 1].cuts != bottom.cuts
        key = rng.derive(bottom.key, *origins[n_before - 1].cuts) if is_part else bottom.key
        self.program = Program(index, spread, grouped=grouped, key=key, reseeds=bottom.reseeds, is_part=is_part)

    @property
    def is_plain(self) -> bool:
        """Whether a task's result is the item: nothing runs behind the workers."""
        return not self.behind and not self.program.many

    def describe(self, task: int) -> str:
        """Show the element of a task that nobody has fetched; reads nothing that may be slow or fail."""
        if self._pass_length is None:
            return f"element {task} of {self._bottom.label}"
        node = self.program.root
        while node is not None and node.is_elementwise:
            node = node.child
        if self.length is not None and isinstance(node, Source):
            source: Any = node.source.source
            return short_repr(source[task]) if type(source) in (range, list, tuple) else f"source[{task}]"
        return f"item {task}"

    def open(self, turn: int, passes: Passes) -> Iterator[Any]:
        """Start a pass over what is drawn."""
        number = passes.begun[0] if passes.begun else 0
        if self._pass_length is None:
            return self._bottom.draw((turn << 32) + number)  # type: ignore[attr-defined,no-any-return]
        first = number * self._pass_length
        return iter(range(first, first + self._pass_length))

    @property
    def merges(self) -> bool:
        """Whether whole pipelines run before the workers, whose errors end nothing."""
        return self._pass_length is None and bool(self._bottom.children)

    def is_bound(self, innermost: Iterator[Any]) -> bool:
        """Whether the thread that opened what is drawn should draw from it too: it must, or it costs nothing."""
        if self._pass_length is not None:
            return True
        if self.merges and any(node.reseeds and any(node.user_parts()) for node in self._bottom.walk()):
            return True  # it seeds the process's generators, which the thread that consumes may draw from
        leaves = [node for node in self._bottom.walk() if not node.children]
        bound = [leaf.is_bound(innermost) for leaf in leaves if leaf.length is None]  # type: ignore[attr-defined]
        return any(bound)

    def chain(self, turn: int, mark: Mark | None = None, judge: Judge = keep) -> Chain:
        """The steps behind the workers, for one epoch."""
        pass_length = self._pass_length if self.length is not None else 0
        origin = self.origin_of(mark)
        chain = Chain(self.behind, self._behind_levels, origin, turn, mark, judge, pass_length=pass_length or 0)
        if self.items == 0:  # known beforehand: no pass will ever give anything
            chain.finish()
        return chain

    def origin_of(self, mark: Mark | None) -> Origin:
        """Where the inputs before a mark begin."""
        if mark is None or not mark.origin:
            return self.origin
        return Origin(mark.origin[0], self.origin.passes.restored(mark.origin[1:]))


def _descend(root: Node, *, single: bool) -> tuple[Node, list[Node]]:
    """The bottom, and the nodes above it, lowest first."""
    above: list[Node] = []
    node = root
    while (node.length is None or (single and _has_batch(node))) and len(node.children) == 1:
        above.append(node)
        node = node.child
    return node, above[::-1]


def _has_batch(node: Node) -> bool:
    while len(node.children) == 1:
        if isinstance(node, Batch):
            return True
        node = node.child
    return False


def _steps(above: Sequence[Node]) -> tuple[list[Node], list[int], list[Node]]:
    """The nodes above the bottom as steps, how many repeats are below each, its node."""
    steps: list[Node] = []
    levels: list[int] = []
    origins: list[Node] = []
    n_repeats = 0
    for node in above:
        if isinstance(node, Repeat):
            n_repeats += 1
            continue
        for step in _as_steps(node):
            steps.append(step)
            levels.append(n_repeats)
            origins.append(node)
    return steps, levels, origins


def _as_steps(node: Node) -> list[Node]:
    """A node as steps over a sequence."""
    made: list[Node]
    if isinstance(node, Batch):
        collate = Collate(node, node.collate_fn)
        collate.cost = node.cost
        made = [Group(node, node.size, drop_last=node.drop_last), collate]
    elif isinstance(node, Slice) and isinstance(node.cut, slice) and _is_forward(node.cut):
        start, stop, stride = node.cut.start or 0, node.cut.stop, node.cut.step or 1
        made = [Skip(node, start)] * (start > 0)
        if stride > 1:
            made.append(Every(node, 0, stride))
        if stop is not None:
            made.append(Take(node, len(range(start, stop, stride))))
    elif node.length is not None and not node.is_elementwise and not isinstance(node, Enumerate):
        raise TypeError(
            f'{node.label} cannot be above a batch with on_error="skip" or a callable, which fill batches up with the '
            f"next samples: place it before the batch"
        )
    else:
        return [node]
    for step in made:
        step.key, step.length, step.reseeds, step.runtime = node.key, node.length, node.reseeds, node.runtime
    return made


def _is_forward(cut: slice) -> bool:
    return all(number is None or number >= 0 for number in (cut.start, cut.stop, cut.step))


def _runs_before(step: Node, *, is_indexed: bool, single: bool) -> bool:
    if single and isinstance(step, Group):
        return False
    return step.is_opaque or (isinstance(step, Enumerate) and not is_indexed)
