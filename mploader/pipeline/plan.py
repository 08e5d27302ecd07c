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

import inspect
import logging
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from math import prod
from typing import Any

from mploader.errors import MploaderError
from mploader.pipeline import rng
from mploader.pipeline.access import Batch, Repeat, Slice, Source
from mploader.pipeline.chain import Chain, Failure, Judge, Mark, keep
from mploader.pipeline.elements import Collate, Enumerate
from mploader.pipeline.fetch import short_repr
from mploader.pipeline.node import Node, Outputs, Raised
from mploader.pipeline.program import Program
from mploader.pipeline.seeds import Seeds
from mploader.pipeline.steps import Every, Group, Skip, Take

BEFORE = "before: in this process"
WORKERS = "in the workers"
BEHIND = "behind: in this process"

_logger = logging.getLogger("mploader")


class Draws:
    """What is drawn in the consumer for one epoch: stream elements, or indices in an order that has no formula.

    An iterator, no generator: an exception of the source's, or Ctrl-C, does not end it.

    Attributes:
      innermost: the iterator it draws from now.
      ends: the draws with which a pass of the source begins, and which pass, for those after the first.
    """

    def __init__(self, plan: Plan, turn: int, n_past: int = 0) -> None:
        """Start the epoch; ``n_past`` draws were made before and are passed over."""
        self._plan = plan
        self._chain = Chain(plan.before, plan.before_periods, turn)
        self._turn = turn
        self._passes = 0
        self._number = self._n_errors = 0
        self._drawn: deque[tuple[Any]] = deque()
        self._boundary: tuple[int, int, int] | None = None  # pass to begin; inputs pushed, and the draw, before it
        self._done = self._has_drawn = False
        self._is_broken = False  # the source has raised: the epoch ends with what was drawn
        self._was_ended = False  # the source's generator, by Ctrl-C
        self.ends: dict[int, int] = {}
        self.innermost: Iterator[Any] = plan.open(turn, 0)
        if n_past:
            _logger.info("resuming: %s elements of the epoch are drawn again and passed over", f"{n_past:,}")
        for _ in range(n_past):
            try:
                next(self, None)
            except KeyboardInterrupt:
                raise
            except BaseException:  # noqa: BLE001  it was raised at its place then
                pass

    def __iter__(self) -> Draws:
        return self

    def __next__(self) -> Any:
        while True:
            if self._boundary is None:
                found = self._chain.output(self._number)
                if found is not None:
                    self._number += 1
                    return found[0]
                if self._done or self._chain.is_over:
                    raise StopIteration
            try:
                if self._boundary is not None:
                    self._begin_pass(*self._boundary)
                else:
                    self._advance()
            except KeyboardInterrupt:
                raise
            except BaseException:
                self._n_errors += 1
                self._boundary, self._is_broken = None, True
                raise

    def _advance(self) -> None:
        drawn, chain = self._drawn, self._chain
        if self._is_broken:
            chain.finish()
            self._done = True
            return
        if not drawn:
            try:
                drawn.extend(islice(zip(self.innermost), 1))  # one C call: an interrupt cannot lose it
            except KeyboardInterrupt as interrupt:
                self._was_ended = _was_ended(self.innermost, interrupt)
                raise
        if not drawn and self._was_ended:
            raise MploaderError(
                f"the source's generator was ended by Ctrl-C at index {self._number}, it cannot go on; "
                "iterate the loader anew"
            )
        if drawn:
            self._has_drawn = True
            if chain.last is not drawn[0]:
                chain.push(drawn[0])
            drawn.clear()
            return
        passes = self._passes + 1
        is_last = not self._has_drawn if self._plan.turns is None else passes >= self._plan.turns
        if is_last:
            chain.finish()
            self._done = True
            return
        self._boundary = passes, chain.n_pushed, self._number

    def _begin_pass(self, passes: int, n_pushed: int, number: int) -> None:
        """Done again where it was interrupted; what the steps give at a pass's end, they give once."""
        chain = self._chain
        if chain.n_pushed == n_pushed:
            self.innermost = self._plan.open(self._turn, passes)
            self._has_drawn = False
            chain.push((), turn=passes)
        while chain.output(number) is not None:
            number += 1
        if self._plan.behind:
            self.ends[number + self._n_errors] = passes
        self._passes = passes
        self._boundary = None


def _was_ended(iterator: object, interrupt: KeyboardInterrupt) -> bool:
    """Whether an interrupt ended a generator: it was raised inside, and not just after the generator had ended."""
    if not inspect.isgenerator(iterator) or iterator.gi_frame is not None:
        return False
    return any(frame.f_code is iterator.gi_code for frame, _ in traceback.walk_tb(interrupt.__traceback__))


def turn_at(ends: dict[int, int], task: int) -> int:
    """Number of the pass that begins with a task, of `Draws.ends`; 0 for none. Forgets the passes before it."""
    for number in list(islice(ends, 2)):  # one C call, since another thread may add some
        if number < task:
            ends.pop(number, None)
    return ends.get(task, 0)


class Plan:
    """A pipeline, compiled.

    Attributes:
      length: tasks of an epoch, which are the indices 0 to length - 1; None if they are drawn.
      items: outputs of an epoch; None if nobody knows.
      turns: passes over the bottom in an epoch; None for endless.
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
        times = [node.times for node in above if isinstance(node, Repeat)]
        self.turns = None if None in times else prod(t for t in times if t is not None)
        steps, periods, origins = _steps(above)
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
        self.before, self.before_periods = steps[:n_before], periods[:n_before]
        self.behind, self.behind_periods = steps[n_spread:], periods[n_spread:]
        where = [BEFORE] * n_before + [WORKERS] * (n_spread - n_before) + [BEHIND] * (len(steps) - n_spread)
        self.places = {id(origin): place for origin, place in zip(origins, where, strict=True)}
        self.reseeds = root.reseeds
        self.runtime = root.runtime  # of what runs behind
        if root.reseeds and self.behind:
            self.runtime.seeds = Seeds([part for step in self.behind for _, part in step.user_parts()])
        self._bottom = bottom
        self._pass_length = bottom.length
        grouped = is_indexed and n_before > 0 and isinstance(steps[n_before - 1], Group)
        index: Node | None = None
        if is_indexed:
            index = bottom
            if self.turns != 1:
                index = Repeat(bottom, self.turns)
                index.length = index.measure()
                index.cuts, index.sealed = bottom.cuts, bottom.sealed
        self.length = index.length if index is not None and not n_before else None
        spread = steps[n_before:n_spread]
        key = bottom.key
        if n_before and origins[n_before - 1].cuts != bottom.cuts:  # a shard of a stream: tasks are numbered in it
            key = rng.derive(key, *origins[n_before - 1].cuts)
        self.program = Program(index, spread, grouped=grouped, key=key, reseeds=bottom.reseeds)

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

    def turn_of(self, task: int) -> int:
        """Number of the pass of the bottom that begins with an indexed task; 0 if none does, or the first."""
        if not task or not self._pass_length or task % self._pass_length:
            return 0
        return task // self._pass_length

    def open(self, turn: int, passes: int) -> Iterator[Any]:
        """Start a pass over what is drawn."""
        if self._pass_length is None:
            return self._bottom.draw((turn << 32) + passes)  # type: ignore[attr-defined,no-any-return]
        first = passes * self._pass_length
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
        return Chain(self.behind, self.behind_periods, turn, mark, judge)


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
    """The nodes above the bottom as steps, after how many turns of the bottom each begins anew (0: never), its node."""
    steps: list[Node] = []
    periods: list[int] = []
    origins: list[Node] = []
    turns = 1
    n_repeats = sum(isinstance(node, Repeat) for node in above)
    for node in above:
        if isinstance(node, Repeat):
            n_repeats -= 1
            turns = turns * node.times if node.times is not None else 0
            continue
        for step in _as_steps(node):
            steps.append(step)
            periods.append(turns if n_repeats else 0)
            origins.append(node)
    return steps, periods, origins


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
        step.key, step.reseeds, step.runtime = node.key, node.reseeds, node.runtime
    return made


def _is_forward(cut: slice) -> bool:
    return all(number is None or number >= 0 for number in (cut.start, cut.stop, cut.step))


def _runs_before(step: Node, *, is_indexed: bool, single: bool) -> bool:
    if single and isinstance(step, Group):
        return False
    return step.is_opaque or (isinstance(step, Enumerate) and not is_indexed)


class Items:
    """The items of an epoch, made in this process: what a loop over a pipeline gives; errors are `Failure`.

    They are raised by who takes them: an error that is under way would be lost to an interrupt.
    """

    def __init__(self, plan: Plan, turn: int) -> None:
        self._plan, self._turn = plan, turn
        self._draws = Draws(plan, turn) if plan.length is None else None
        self._chain = plan.chain(turn)
        self._drawn: deque[Any] = deque()
        self._drawn_for = -1  # the task; one that was pushed already is not run again
        self._number = 0

    def __iter__(self) -> Items:
        return self

    def __next__(self) -> Any:
        chain = self._chain
        while True:
            found = chain.output(self._number)
            if found is not None:
                made = found[0]
                if isinstance(made, Failure):
                    made = _no_end(made)
                self._number += 1  # from here to the return there is no call, behind which an interrupt may strike
                return made
            if chain.is_over:
                raise StopIteration
            self._advance()

    def _advance(self) -> None:
        plan, chain = self._plan, self._chain
        task = chain.n_pushed
        if self._draws is None:
            assert plan.length is not None
            if task >= plan.length:
                chain.finish()
                return
            x, turn = task, plan.turn_of(task)
        else:
            if self._drawn_for != task:
                self._drawn.clear()
                self._drawn_for = task
            if not self._drawn:
                try:
                    self._drawn.extend(islice(self._draws, 1))  # one C call: an interrupt cannot lose it
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # noqa: BLE001  it is a task, as in a Loader
                    self._drawn.append(Failure(error))
            if not self._drawn:
                chain.finish()
                return
            x, turn = self._drawn[0], turn_at(self._draws.ends, task)
            if isinstance(x, Failure):  # of the source, or of a pipeline that was merged into this one
                self._push((x,), turn)
                return
        try:
            result = plan.program.run(x, task, self._turn)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  at its place
            self._push((Failure(error),), turn)
            return
        if not plan.program.many:
            result = (result,)
        elif any(type(part) is Raised for part in result):
            result = [Failure(part.error) if type(part) is Raised else part for part in result]
        self._push(result, turn)

    def _push(self, outputs: Outputs, turn: int) -> None:
        self._chain.push(outputs, turn=turn)
        self._drawn.clear()


def _no_end(failed: Failure) -> Failure:
    """The error of an item, which is never taken for the end of the loop."""
    if not isinstance(failed.error, StopIteration):
        return failed
    ended = RuntimeError("a function of the pipeline raised StopIteration, which would have ended the loop")
    ended.__cause__ = failed.error
    return Failure(ended)
