"""Chain: steps one above the other, through which the elements of a sequence go one at a time.

Runs in: consumer. What it has done is one attribute, replaced as a whole: an interrupt anywhere leaves it as it
was, and the same input is pushed again. Must never know: where inputs come from, who takes the outputs.

To go on in another process it tells a `Mark`: the input from which a new chain, told the steps' brief states,
gives the same outputs, and how many of those were out already. While a step holds elements there is no new
mark, so the way back to the last one is as long as a batch, or where a step always holds some, as the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mploader.pipeline.node import Node, Outputs


class Failure(NamedTuple):
    """An output that is an error: it takes its place in the sequence, and no further step sees it."""

    error: BaseException


Judge = Callable[[BaseException, Node, int], Outputs]


def keep(error: BaseException, _step: Node, _number: int) -> Outputs:
    """The error itself takes its place."""
    return (Failure(error),)


class Mark(NamedTuple):
    """Where to start again.

    Attributes:
      at: number of the input.
      inner: how many of that input's elements are behind the mark already.
      states: the steps' states in brief.
      emitted: outputs before the mark.
    """

    at: int
    inner: int
    states: list[list[int]]
    emitted: int


class _Now(NamedTuple):
    pushed: int  # number of the input that is expected next
    states: tuple[Any, ...]
    outputs: list[Any]  # of the last push
    first: int  # number of the first of these
    marks: list[Mark]
    is_over: bool
    last: Outputs  # what was pushed last, itself


class Chain:
    """The steps of a pipeline behind a given point, over one epoch.

    Args:
      steps: bottom first.
      periods: for each step, after how many turns of the source it begins anew; 0 for never.
      turn: the epoch.
      mark: where to start; None for the beginning.
      judge: what takes the place of an element for which a step raised: error, step and the number of the
        output in; outputs out.
    """

    def __init__(
        self, steps: Sequence[Node], periods: Sequence[int], turn: int, mark: Mark | None = None, judge: Judge = keep
    ) -> None:
        self._steps = tuple(steps)
        self._periods = tuple(periods)
        self._turn = turn
        self._judge = judge
        self._first = 0
        if mark is None:
            states = tuple(step.initial(turn << 32) for step in self._steps)
            mark = Mark(0, 0, [step.brief(state) or [] for step, state in zip(self._steps, states, strict=True)], 0)
        else:
            states = tuple(step.restore(brief) for step, brief in zip(self._steps, mark.states, strict=True))
        self._skip = mark.inner
        self._start = mark.at
        over = [step.is_over(state) for step, state in zip(self._steps, states, strict=True)]
        is_over = any(is_over and not period for is_over, period in zip(over, self._periods, strict=True))
        self._now = _Now(mark.at, states, [], mark.emitted, [mark], is_over, ())

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
        return self._now.is_over

    def output(self, number: int) -> tuple[Any] | None:
        """Output ``number`` of the epoch, as a tuple of one; None before it is out. Only those of the last push."""
        now = self._now
        at = number - now.first
        return (now.outputs[at],) if at < len(now.outputs) else None

    def push(self, elements: Outputs, *, turn: int = 0) -> None:
        """Take one input: its elements, of which there may be none.

        Args:
          turn: number of the pass of the source that begins with it; 0 if none does, or the first.
        """
        now = self._now
        outputs: list[Any] = []
        first = self._first = now.first + len(now.outputs)
        marks = [self.mark(first)]
        states = [step.settle(state) for step, state in zip(self._steps, now.states, strict=True)]
        skip = self._skip if now.pushed == self._start else 0
        is_over = now.is_over
        if turn and not skip:
            is_over = self._end_turn(turn, states, outputs)
        for inner, x in enumerate(elements):
            if inner < skip or is_over:
                continue
            over = self._run(0, states, x, outputs)
            is_over = over >= 0
            if is_over:
                self._flush_from(over + 1, states, outputs)
            self._add_mark(marks, Mark(now.pushed, inner + 1, [], first + len(outputs)), states)
        self._add_mark(marks, Mark(now.pushed + 1, 0, [], first + len(outputs)), states)
        self._now = _Now(now.pushed + 1, tuple(states), outputs, first, marks, is_over, elements)

    def finish(self) -> None:
        """The source has ended."""
        now = self._now
        if now.is_over:
            return
        outputs: list[Any] = []
        first = self._first = now.first + len(now.outputs)
        self._flush_from(0, list(now.states), outputs)
        self._now = now._replace(outputs=outputs, first=first, marks=[self.mark(first)], is_over=True)

    def mark(self, delivered: int) -> Mark:
        """The last mark of which at most ``delivered`` outputs were out before."""
        for mark in reversed(self._now.marks):
            if mark.emitted <= delivered:
                return mark
        raise AssertionError(f"no mark before output {delivered}")

    def _run(self, level: int, states: list[Any], x: Any, outputs: list[Any]) -> int:
        """Take ``x`` through the steps from ``level`` on; returns the step that gives nothing any more, else -1."""
        if level == len(self._steps) or isinstance(x, Failure):
            outputs.append(x)
            return -1
        step = self._steps[level]
        try:
            states[level], made = step.step(states[level], x)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  whatever the user's function raises takes the element's place
            states[level] = step.missed(states[level])
            outputs.extend(self._judge(error, step, self._first + len(outputs)))
            return -1
        for y in made:
            over = self._run(level + 1, states, y, outputs)
            if over >= 0:
                return over
        return level if not self._periods[level] and step.is_over(states[level]) else -1

    def _flush(self, level: int, states: list[Any], outputs: list[Any]) -> int:
        """End the sequence of one step; returns the step above that gives nothing any more, else -1."""
        for y in self._steps[level].finish(states[level]):
            over = self._run(level + 1, states, y, outputs)
            if over >= 0:
                return over
        return -1

    def _flush_from(self, level: int, states: list[Any], outputs: list[Any]) -> None:
        while level < len(self._steps):
            level = max(level, self._flush(level, states, outputs)) + 1

    def _end_turn(self, turns: int, states: list[Any], outputs: list[Any]) -> bool:
        """End the passes that end with this one of the source; returns whether no input gives another output."""
        for level, period in enumerate(self._periods):
            if period and turns % period == 0:
                over = self._flush(level, states, outputs)
                if over >= 0:
                    self._flush_from(over + 1, states, outputs)
                    return True
                states[level] = self._steps[level].initial((self._turn << 32) + turns // period)
        return False

    def _add_mark(self, marks: list[Mark], mark: Mark, states: list[Any]) -> None:
        briefs = [step.brief(state) for step, state in zip(self._steps, states, strict=True)]
        told = [brief for brief in briefs if brief is not None]
        if len(told) == len(briefs):
            marks.append(mark._replace(states=told))
