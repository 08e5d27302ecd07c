"""State: where in which epoch a loader is, as a small dict that JSON takes.

Must never know: engines, the loader. A state counts what was delivered, never what was prefetched.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, NamedTuple

from mploader.errors import StateMismatchError
from mploader.pipeline.chain import Mark
from mploader.pipeline.fetch import short_repr

VERSION = 1
_FORM = {
    "version": int,
    "pipeline": str,
    "length": (int, type(None)),
    "sources": list,
    "seed": int,
    "epoch": int,
    "delivered": int,
    "task": int,
    "inner": int,
    "done": list,
    "steps": list,
    "emitted": int,
    "passes": list,
    "origin": list,
}
_SAID = {"sources": "length of the sources"}
_COUNTS = ("epoch", "delivered", "task", "inner", "emitted")


class Saved(NamedTuple):
    """How far an epoch has come.

    Attributes:
      task: the first task that is not wholly delivered.
      done: tasks behind it that are.
      mark: where the steps behind the workers start; None for the epoch's beginning.
      delivered: items delivered; those that come out between the mark and here are passed over.
    """

    task: int = 0
    done: frozenset[int] = frozenset()
    mark: Mark | None = None
    delivered: int = 0

    def without(self, tasks: Iterable[int]) -> Saved:
        """The same before these tasks: they are in a ``next()`` that has not returned, perhaps never will."""
        held = {task for task in tasks if task < self.task or task in self.done}
        if not held:
            return self
        first = min(self.task, *held)
        done = self.done.union(range(first, self.task)) - held
        return Saved(first, done, None, self.delivered - len(held))


def to_dict(
    pipeline: str, length: int | None, sources: list[int | None], seed: int, epoch: int, saved: Saved
) -> dict[str, Any]:
    """Make the state; ``pipeline`` is its line of operations, ``sources`` are the lengths of what it reads from."""
    mark = saved.mark or Mark(0, 0, [], 0)
    return {
        "version": VERSION,
        "pipeline": pipeline,
        "length": length,
        "sources": sources,
        "seed": seed,
        "epoch": epoch,
        "delivered": saved.delivered,
        "task": saved.task,
        "inner": mark.inner,
        "done": _runs(saved.done),
        "steps": [list(brief) for brief in mark.states],
        "emitted": mark.emitted,
        "passes": mark.passes,
        "origin": mark.origin if mark.passes else [],
    }


def checked(state: object) -> Mapping[str, Any]:
    """A state as `to_dict` makes it.

    Raises:
      TypeError: it is none.
      StateMismatchError: of another version.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"a state is the dict that state_dict() gave, not {short_repr(state)}")
    wrong = [name for name, kind in _FORM.items() if not isinstance(state.get(name), kind)]  # type: ignore[arg-type]
    wrong += [name for name in _COUNTS if name not in wrong and (state[name] is True or state[name] < 0)]
    if "done" not in wrong and not all(_is_run(run) for run in state["done"]):
        wrong.append("done")
    if wrong:
        raise TypeError(
            f"a state is the dict that state_dict() gave; in this one {', '.join(wrong)} is missing or wrong"
        )
    if state["version"] != VERSION:
        raise StateMismatchError(f"the state is of version {state['version']}, this mploader reads version {VERSION}")
    return state


def from_dict(
    state: Mapping[str, Any],
    pipeline: str,
    length: int | None,
    sources: list[int | None],
    seed: int,
    *,
    lengths_vary: bool,
    n_steps: int | None,
    n_repeats: int,
) -> Saved:
    """How far a `checked` state has come, for this pipeline.

    Args:
      state: of this pipeline, or another.
      pipeline, length, sources, seed: as for `to_dict`; of a pipeline without a seed they are those of the state's.
      lengths_vary: each epoch may have its own: those of a state between two epochs are of the one before.
      n_steps: how many steps run behind the workers; None where results are the items.
      n_repeats: how many repeats these have to do with.

    Raises:
      StateMismatchError: of another pipeline, length or seed; the message has the difference.
    """
    here: dict[str, Any] = {"pipeline": pipeline, "seed": seed}
    if state["delivered"] or not lengths_vary:
        here |= {"length": length, "sources": sources}
    differences = [
        f"{_SAID.get(name, name)} was {state[name]!r}, here {value!r}"
        for name, value in here.items()
        if state[name] != value
    ]
    expected = (n_steps or 0, 2 * n_repeats)
    if (len(state["steps"]), len(state["passes"])) != expected and state["delivered"]:
        differences.append("on_error was of another kind, by which batches are put together elsewhere")
    if differences:
        raise StateMismatchError(f"the state is of another loader: {'; '.join(differences)}")
    steps = [[operator.index(number) for number in brief] for brief in state["steps"]]
    if n_steps is None or not state["delivered"]:
        return Saved(state["task"], _expanded(state["done"]), None, state["delivered"])
    passes, origin = ([operator.index(number) for number in state[name]] for name in ("passes", "origin"))
    mark = Mark(state["task"], state["inner"], steps, state["emitted"], passes, origin)
    return Saved(mark.at, frozenset(), mark, state["delivered"])


def _runs(tasks: Iterable[int]) -> list[list[int]]:
    """Tasks as runs ``[first, behind the last]``: where one is late, those behind it are one run."""
    runs: list[list[int]] = []
    for task in sorted(tasks):
        if runs and runs[-1][1] == task:
            runs[-1][1] = task + 1
        else:
            runs.append([task, task + 1])
    return runs


def _is_run(run: object) -> bool:
    return isinstance(run, list) and len(run) == 2 and all(type(end) is int and end >= 0 for end in run)


def _expanded(runs: list[list[int]]) -> frozenset[int]:
    return frozenset(chain.from_iterable(range(first, stop) for first, stop in runs))
