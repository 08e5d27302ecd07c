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
from mploader.pipeline.chain import Chain, Origin
from mploader.pipeline.passes import Passes
from mploader.pipeline.plan import Plan

_logger = logging.getLogger("mploader")


class Draws:
    """What is drawn in the consumer for one epoch: stream elements, or indices in an order that has no formula.

    An iterator, no generator: an exception of the source's, or Ctrl-C, does not end it.

    Attributes:
      innermost: the iterator it draws from now.
      begins: the draws with which passes begin, and these passes, but for the first.
    """

    def __init__(self, plan: Plan, turn: int, origin: Origin, n_past: int = 0) -> None:
        """Start an epoch at ``origin``; ``n_past`` draws from there on were made before and are passed over."""
        self._plan = plan
        self._chain = Chain(plan.before, plan.before_levels, Origin(0, origin.passes), turn)
        self._turn = turn
        self._passes = origin.passes
        self._n_empty = origin.passes.n_new  # levels whose passes have got nothing yet
        self._origin = origin.at
        self._number = self._n_errors = 0
        self._drawn: deque[tuple[Any]] = deque()
        self._boundary: tuple[Passes, int, int] | None = None  # passes to begin; inputs pushed, and the draw, before
        self._done = False
        self._is_broken = False  # the source has raised: the epoch ends with what was drawn
        self._was_ended = False  # the source's generator, by Ctrl-C
        self.begins: dict[int, Passes] = {}
        self.innermost: Iterator[Any] = plan.open(turn, origin.passes)
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
        if chain.passes is not None and chain.passes != self._passes:  # a pass was over before the source's was
            drawn.clear()  # what ended it was pushed
            self._boundary = chain.passes, chain.n_pushed, self._number
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
            self._n_empty = 0
            if chain.last is not drawn[0]:
                chain.push(drawn[0])
            drawn.clear()
            return
        passes = self._passes.following(n_empty=self._n_empty)
        if passes is None:
            chain.finish()
            self._done = True
            return
        self._boundary = passes, chain.n_pushed, self._number

    def _begin_pass(self, passes: Passes, n_pushed: int, number: int) -> None:
        """Done again where it was interrupted; what the steps give at a pass's end, they give once."""
        chain = self._chain
        if chain.n_pushed == n_pushed:
            chain.push((), begins=passes)
        now = chain.passes
        if now is not None:  # others, where a step above had what it wanted by what came out at the end
            self.innermost = self._plan.open(self._turn, now)
            self._n_empty = max(self._n_empty, now.n_new)
            while chain.output(number) is not None:
                number += 1
            if self._plan.behind:
                self.begins[self._origin + number + self._n_errors] = now
            self._passes = now
        self._boundary = None


def _was_ended(iterator: object, interrupt: KeyboardInterrupt) -> bool:
    """Whether an interrupt ended a generator: it was raised inside, and not just after the generator had ended."""
    if not inspect.isgenerator(iterator) or iterator.gi_frame is not None:
        return False
    return any(frame.f_code is iterator.gi_code for frame, _ in traceback.walk_tb(interrupt.__traceback__))


def begins_at(begins: dict[int, Passes], task: int) -> Passes | None:
    """The passes that begin with a task, of `Draws.begins`; None if none do. Forgets those before it."""
    for number in list(islice(begins, 2)):  # one C call, since another thread may add some
        if number < task:
            begins.pop(number, None)
    return begins.get(task)
