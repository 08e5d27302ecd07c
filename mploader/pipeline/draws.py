"""Draws: the elements, or indices, that are drawn in the consumer for one epoch, and where passes of the source begin.

Runs in: consumer. Must never know: engines, the loader.
"""

from __future__ import annotations

import inspect
import logging
import traceback
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

from mploader.errors import MploaderError
from mploader.pipeline.chain import Chain
from mploader.pipeline.plan import Plan

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
