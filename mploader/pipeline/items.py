"""Items: the items of an epoch, made in this process.

Runs in: consumer. Must never know: engines, the loader.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Any

from mploader.pipeline.chain import Failure
from mploader.pipeline.draws import Draws, begins_at
from mploader.pipeline.node import Outputs, Raised
from mploader.pipeline.passes import Passes
from mploader.pipeline.plan import Plan


class Items:
    """The items of an epoch, made in this process: what a loop over a pipeline gives; errors are `Failure`.

    They are raised by who takes them: an error that is under way would be lost to an interrupt.
    """

    def __init__(self, plan: Plan, turn: int) -> None:
        self._plan, self._turn = plan, turn
        self._origin = plan.origin
        self._draws = Draws(plan, turn, plan.origin) if plan.length is None else None
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
        if chain.origin is not self._origin:
            if self._draws is not None:
                self._draws = Draws(plan, self._turn, chain.origin)
            self._origin = chain.origin
        task = chain.n_pushed
        if self._draws is None:
            assert plan.length is not None
            if task >= plan.length:
                chain.finish()
                return
            x, begins = task, None
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
            x, begins = self._drawn[0], begins_at(self._draws.begins, task)
            if isinstance(x, Failure):  # of the source, or of a pipeline that was merged into this one
                self._push((x,), begins)
                return
        try:
            result = plan.program.run(x, task, self._turn)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  at its place
            self._push((Failure(error),), begins)
            return
        if not plan.program.many:
            result = (result,)
        elif any(type(part) is Raised for part in result):
            result = [Failure(part.error) if type(part) is Raised else part for part in result]
        self._push(result, begins)

    def _push(self, outputs: Outputs, begins: Passes | None) -> None:
        self._chain.push(outputs, begins=begins)
        self._drawn.clear()


def _no_end(failed: Failure) -> Failure:
    """The error of an item, which is never taken for the end of the loop."""
    if not isinstance(failed.error, StopIteration):
        return failed
    ended = RuntimeError("a function of the pipeline raised StopIteration, which would have ended the loop")
    ended.__cause__ = failed.error
    return Failure(ended)
