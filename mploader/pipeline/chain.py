"""Chain: steps one above the other, through which the elements of a sequence go one at a time.

Runs in: consumer. What it has done is one attribute, replaced as a whole: an interrupt anywhere leaves it as it
was, and the same input is pushed again. Must never know: where inputs come from, who takes the outputs.

To go on in another process it tells a `Mark`: the input from which a new chain, told the steps' brief states,
gives the same outputs, and how many of those were out already. While a step holds elements there is no new
mark, so the way back to the last one is as long as a batch, or where a step always holds some, as the pass.

Where a `take` below a `repeat` has what it wants, the pass is over before its source is: an `Origin` tells where
the inputs begin anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mploader.pipeline.node import Node, Outputs
from mploader.pipeline.passes import Passes


class Failure(NamedTuple):
    """An output that is an error: it takes its place in the sequence, and no further step sees it."""

    error: BaseException


Judge = Callable[[BaseException, Node, int], Outputs]


def keep(error: BaseException, _step: Node, _number: int) -> Outputs:
    """The error itself takes its place."""
    return (Failure(error),)


class Origin(NamedTuple):
    """Where the inputs begin, as if there were none before: at the epoch's beginning, or anew.

    Attributes:
      at: number of the first input.
      passes: those that begin with it.
    """

    at: int
    passes: Passes


class Mark(NamedTuple):
    """Where to start again.

    Attributes:
      at: number of the input.
      inner: how many of that input's elements are behind the mark already.
      states: the steps' states in brief.
      emitted: outputs before the mark.
      passes: those that run there, in brief; empty for those with which an epoch begins.
      origin: number of the input with which the inputs began last, and the passes that began there, in brief.
    """

    at: int
    inner: int
    states: list[list[int]]
    emitted: int
    passes: list[int] = []  # noqa: RUF012  never written to
    origin: list[int] = []  # noqa: RUF012


class _Now(NamedTuple):
    pushed: int  # number of the input that is expected next
    states: tuple[Any, ...]
    outputs: list[Any]  # of the last push
    first: int  # number of the first of these
    marks: list[Mark]
    passes: Passes | None  # None: no input gives another output
    origin: Origin
    last: Outputs  # what was pushed last, itself


class Chain:
    """The steps of a pipeline behind a given point, over one epoch.

    Args:
      steps: bottom first.
      levels: of each step, how many repeats are below it.
      origin: where the inputs begin.
      turn: the epoch.
      mark: where to start; None for the origin.
      judge: what takes the place of an element for which a step raised: error, step and the number of the
        output in; outputs out.
      pass_length: inputs of each pass of the source, where their numbers follow from it; else 0.
    """

    def __init__(
        self,
        steps: Sequence[Node],
        levels: Sequence[int],
        origin: Origin,
        turn: int,
        mark: Mark | None = None,
        judge: Judge = keep,
        *,
        pass_length: int = 0,
    ) -> None:
        self._steps = tuple(steps)
        self._levels = tuple(levels)
        self._turn = turn
        self._judge = judge
        self._pass_length = pass_length
        self._first = 0
        passes = origin.passes
        if mark is None:
            states = tuple(self._initial(at, passes) for at in range(len(self._steps)))
            (mark,) = self._marks(origin.at, 0, 0, states, passes, origin)
        else:
            passes = passes.restored(mark.passes)
            states = tuple(step.restore(brief) for step, brief in zip(self._steps, mark.states, strict=True))
        self._skip = mark.inner
        self._start = mark.at
        # one that takes nothing at all takes nothing in any pass
        is_over = any(step.is_over(state) for step, state in zip(self._steps, states, strict=True))
        self._now = _Now(mark.at, states, [], mark.emitted, [mark], None if is_over else passes, origin, ())

    @property
    def n_pushed(self) -> int:
        """Number of the next input."""
        return self._now.pushed

    @property
    def last(self) -> Outputs:
        """The very object that was pushed last."""
        return self._now.last

    @property
    def is_over(self) -> bool:
        """Whether no input gives another output."""
        return self._now.passes is None

    @property
    def passes(self) -> Passes | None:
        """The passes that run; None where no input gives another output."""
        return self._now.passes

    @property
    def origin(self) -> Origin:
        """Where the inputs begin; another one than before where a pass has ended before its inputs did."""
        return self._now.origin

    def output(self, number: int) -> tuple[Any] | None:
        """Output ``number`` of the epoch, as a tuple of one; None before it is out. Only those of the last push."""
        now = self._now
        at = number - now.first
        return (now.outputs[at],) if at < len(now.outputs) else None

    def push(self, elements: Outputs, *, begins: Passes | None = None) -> None:
        """Take one input: its elements, of which there may be none.

        Args:
          begins: the passes that begin with it; None if none do, or its number tells.
        """
        now = self._now
        assert now.passes is not None
        outputs: list[Any] = []
        first = self._first = now.first + len(now.outputs)
        marks = [self.mark(first)]
        states = [step.settle(state) for step, state in zip(self._steps, now.states, strict=True)]
        skip = self._skip if now.pushed == self._start else 0
        passes: Passes | None = now.passes
        length = self._pass_length
        if begins is None and length and now.passes.begun and now.pushed // length > now.passes.begun[0]:
            begins = now.passes.following()
        is_cut = False  # a pass is over, and the rest of its inputs is not wanted
        if begins is not None:
            passes = self._go_on(now.passes, begins, 0, states, outputs)
            is_cut = passes is not begins
        for inner, x in enumerate(elements):
            if inner < skip or passes is None or is_cut:
                continue
            over = self._run(0, states, x, outputs)
            if over >= 0:
                is_cut = True
                passes = self._go_on(passes, passes.following(self._levels[over]), over + 1, states, outputs)
            else:
                marks += self._marks(now.pushed, inner + 1, first + len(outputs), states, passes, now.origin)
        pushed, origin = now.pushed + 1, now.origin
        if is_cut and passes is not None:
            pushed = passes.begun[0] * length if length else pushed
            if not length or pushed != now.pushed + 1:
                origin = Origin(pushed, passes)
        marks += self._marks(pushed, 0, first + len(outputs), states, passes or now.passes, origin)
        self._now = _Now(pushed, tuple(states), outputs, first, marks, passes, origin, elements)

    def finish(self) -> None:
        """The source has ended."""
        now = self._now
        if now.passes is None:
            return
        outputs: list[Any] = []
        first = self._first = now.first + len(now.outputs)
        self._go_on(now.passes, None, 0, list(now.states), outputs)
        self._now = now._replace(outputs=outputs, first=first, marks=[self.mark(first)], passes=None)

    def mark(self, delivered: int) -> Mark:
        """The last mark of which at most ``delivered`` outputs were out before."""
        for mark in reversed(self._now.marks):
            if mark.emitted <= delivered:
                return mark
        raise AssertionError(f"no mark before output {delivered}")

    def _run(self, at: int, states: list[Any], x: Any, outputs: list[Any]) -> int:
        """Take ``x`` through the steps from ``at`` on; returns the step whose pass is over by it, else -1."""
        if at == len(self._steps) or isinstance(x, Failure):
            outputs.append(x)
            return -1
        step = self._steps[at]
        try:
            states[at], made = step.step(states[at], x)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  whatever the user's function raises takes the element's place
            states[at] = step.missed(states[at])
            outputs.extend(self._judge(error, step, self._first + len(outputs)))
            return -1
        for y in made:
            over = self._run(at + 1, states, y, outputs)
            if over >= 0:
                return over
        return at if step.is_over(states[at]) else -1

    def _flush(self, at: int, states: list[Any], outputs: list[Any]) -> int:
        """End the pass of one step; returns the step above whose pass is over by it, else -1."""
        for y in self._steps[at].finish(states[at]):
            over = self._run(at + 1, states, y, outputs)
            if over >= 0:
                return over
        return -1

    def _go_on(
        self, passes: Passes, begins: Passes | None, at: int, states: list[Any], outputs: list[Any]
    ) -> Passes | None:
        """End the passes that are over when ``begins`` do, and begin these, or others if what comes out ends more.

        Args:
          at: the steps below it hold nothing that is wanted.
        """
        while at < len(self._steps) and passes.differs(begins, self._levels[at]):
            over = self._flush(at, states, outputs)
            if over >= 0 and not passes.differs(begins, self._levels[over]):
                begins = passes.following(self._levels[over])
            at = max(at, over) + 1
        if begins is not None:
            for at, level in enumerate(self._levels):
                if passes.differs(begins, level):
                    states[at] = self._initial(at, begins)
        return begins

    def _initial(self, at: int, passes: Passes) -> Any:
        level, step = self._levels[at], self._steps[at]
        if level == len(passes.begun):
            # one with a length, which is here for the sake of on_error, draws what it draws with random access
            return step.initial(self._turn if step.length is not None else self._turn << 32)
        return step.initial((self._turn << 32) + passes.begun[level])

    def _marks(
        self, at: int, inner: int, emitted: int, states: Sequence[Any], passes: Passes, origin: Origin
    ) -> list[Mark]:
        """The mark there; none while a step holds elements."""
        briefs = [step.brief(state) for step, state in zip(self._steps, states, strict=True)]
        told = [brief for brief in briefs if brief is not None]
        if len(told) < len(briefs):
            return []
        return [Mark(at, inner, told, emitted, passes.brief(), [origin.at, *origin.passes.brief()])]
