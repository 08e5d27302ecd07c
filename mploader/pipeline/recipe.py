"""Recipe: what a Loader runs: its arguments put together as one pipeline, with a seed.

Runs in: consumer. Must never know: engines, processes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mploader.pipeline.access import Source
from mploader.pipeline.collate import stack
from mploader.pipeline.fetch import short_repr
from mploader.pipeline.pipeline import Pipeline
from mploader.pipeline.plan import Plan
from mploader.pipeline.sources import Indexed, epoch_hook, resolve
from mploader.pipeline.streams import Generated

MAX_LINE = 500  # characters, of which a state has one line


class Recipe:
    """A pipeline, and what a Loader asks about it.

    Attributes:
      shown: what the user gave as source.
      pipeline: all of it, with the seed.
    """

    def __init__(self, shown: object, pipeline: Pipeline[Any]) -> None:
        self.shown = shown
        self.pipeline = pipeline

    def plan(self, *, single: bool) -> Plan:
        """Compile it anew: sources may have changed."""
        return Plan(self.pipeline.bound(), single=single)

    def __len__(self) -> int:
        return len(self.pipeline)

    @property
    def line(self) -> str:
        """The operations in one line; a long one by both its ends."""
        line = repr(self.pipeline)
        if len(line) <= MAX_LINE:
            return line
        return f"{line[: MAX_LINE // 2]}...{line[-MAX_LINE // 4 :]} ({zlib.crc32(line.encode()):08x})"

    @property
    def is_seeded(self) -> bool:
        """Whether every element has random draws of its own."""
        return self.pipeline.own_seed is not None

    @property
    def base_seed(self) -> int:
        """What everything random follows from."""
        return self.pipeline.base_seed

    def adopting(self, seed: int) -> Recipe:
        """The same with the drawn seed of a saved state, unless one was given."""
        return Recipe(self.shown, self.pipeline.with_drawn_seed(seed))

    def lengths(self) -> list[int | None]:
        """Of each source, as of now."""
        return [leaf.source.length() for leaf in self._leaves()]

    @property
    def one_shot(self) -> object:
        """A source that can be read once; None if there is none."""
        found = (leaf.source for leaf in self._leaves() if isinstance(leaf, Generated))
        return next((source.source for source in found if source.one_shot), None)

    def tell_sources(self, epoch: int, *, ended: bool) -> bool:
        """Call the sources' own ``on_epoch_end()``, if an epoch has ended, and ``set_epoch(epoch)``.

        Returns:
          Whether a source that was published may have changed.
        """
        changed = False
        told: set[int] = set()  # one source may be read in several places
        for leaf in self._leaves():
            source: Any = leaf.source.source
            if id(source) in told:
                continue
            told.add(id(source))
            hook = epoch_hook(source)
            if hook is not None and ended:
                hook()
                changed = True
            if callable(getattr(type(source), "set_epoch", None)):
                source.set_epoch(epoch)
                changed = True
        return changed

    def _leaves(self) -> Iterator[Source | Generated]:
        return (node for node in self.pipeline.nodes() if isinstance(node, Source | Generated))


def make_recipe(
    source: Any,
    fn: Callable[..., Any] | None,
    *,
    batch_size: int | None,
    collate_fn: Callable[[list[Any]], Any] | None,
    drop_last: bool,
    shuffle: bool,
    seed: int | None,
    stacklevel: int,
) -> Recipe:
    """Put a Loader's arguments together: source, shuffle, fn, batch.

    Raises:
      TypeError, ValueError: an argument is wrong, or does nothing without another.
    """
    if isinstance(source, Pipeline):
        pipeline = source
    else:
        kind = resolve(source, stacklevel=stacklevel)
        if isinstance(kind, Indexed) and kind.batches and batch_size is not None:
            raise ValueError(
                f"the source ({short_repr(source)}) is a Keras dataset, whose items are batches already: "
                "leave out batch_size"
            )
        pipeline = Pipeline.of(Source(kind) if isinstance(kind, Indexed) else Generated(kind))
    for name, value in (("shuffle", shuffle), ("drop_last", drop_last)):
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} must be True or False, not {short_repr(value)} ({type(value).__name__})")
    if shuffle:
        pipeline = pipeline.shuffle()
    if fn is not None:
        pipeline = pipeline.map(fn, said="fn")
    if batch_size is not None:
        pipeline = pipeline.batch(batch_size, drop_last=drop_last, collate_fn=collate_fn or stack)
    elif collate_fn is not None or drop_last:
        name = "collate_fn" if collate_fn is not None else "drop_last"
        raise ValueError(f"{name} does nothing without batch_size: Loader(source, fn, batch_size=32, {name}=...)")
    if seed is not None:
        if pipeline.own_seed not in (None, seed):
            raise ValueError(f"seed={seed}, and the pipeline has the seed {pipeline.own_seed}: give one of the two")
        pipeline = pipeline.seed(seed)  # refuses what is none
    return Recipe(source, pipeline)
