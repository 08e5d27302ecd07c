"""Pipeline: a lazy, immutable list of examples, described step by step.

A description only: nothing is read before an element is asked for. `pipe[i]` and a loop over it run in this
process; `Loader(pipe)` runs the same in worker processes, and delivers the same. Must never know: engines, the
loader.
"""

from __future__ import annotations

import functools
import operator
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import isfinite
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from mploader.pipeline import rng, seeds
from mploader.pipeline.access import Batch, Concat, Interleaved, Mixed, Repeat, Shuffle, Slice, Source, Zip
from mploader.pipeline.cached import Cached, open_cache, randomness
from mploader.pipeline.checks import (
    function,
    integer,
    is_stacked,
    numbers,
    plain_function,
    shown,
    warn_of_leak,
    why_none,
)
from mploader.pipeline.collate import stack
from mploader.pipeline.elements import Collate, Enumerate, Filter, FlatMap, Map, Unbatch
from mploader.pipeline.explain import explain, one_line
from mploader.pipeline.fetch import short_repr
from mploader.pipeline.inline import Inline
from mploader.pipeline.node import ENDLESS, Node, Runtime, Seeded, function_name
from mploader.pipeline.origin import Origin
from mploader.pipeline.padding import pad_stack
from mploader.pipeline.slices import Slices
from mploader.pipeline.steps import Bucket, Buffered, Every, Skip, Take
from mploader.pipeline.streams import ConcatDrawn, Drawn, Generated, InterleavedDrawn, MixedDrawn, ZipDrawn

EPOCHS = 2**32  # what a task's record and the number of a pass have room for

T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")


class Pipeline(Origin, Generic[T_co]):
    """A lazy list: a source, and what is done with its elements.

    Every operation gives a new pipeline and leaves this one as it is. Where the source has ``len()`` and ``[]``,
    so has the pipeline, up to the first operation that leaves out or adds elements (`filter`, `flat_map`,
    `unbatch`, `bucket_by_length`, a buffered `shuffle`).

    >>> from mploader import Pipeline
    >>> pipe = Pipeline.from_sequence(range(6)).map(lambda i: i * i).batch(4, collate_fn=list)
    >>> len(pipe), pipe[1], list(pipe)
    (2, [16, 25], [[0, 1, 4, 9], [16, 25]])
    """

    def __init__(self, node: Node, *, seed: int | None = None, drawn_seed: int | None = None, epoch: int = 0) -> None:
        """Not for users: begin with one of the ``from_`` methods."""
        if not isinstance(node, Node):
            raise TypeError("begin with Pipeline.from_sequence(source), or another of the from_ methods")
        self._node = node
        self._seed = seed
        self._drawn_seed = seeds.drawn_seed() if drawn_seed is None else drawn_seed
        self._epoch = epoch
        self._ready: Inline | None = None

    # -- elements ----------------------------------------------------------------------------------

    def map(self, fn: Callable[..., U], *, said: str = "") -> Pipeline[U]:
        """``fn`` of each element, in the workers; a parameter named ``rng`` is given a Generator of that element."""
        return self._with(Map(self._node, function("map", fn), said))

    def filter(self, fn: Callable[..., object]) -> Pipeline[T_co]:
        """The elements for which ``fn`` is true. Behind it nobody knows the length, and ``[i]`` is over."""
        return self._with(Filter(self._node, function("filter", fn)))

    def flat_map(self, fn: Callable[..., Iterable[U]]) -> Pipeline[U]:
        """All that ``fn`` of each element yields, in order."""
        return self._with(FlatMap(self._node, function("flat_map", fn)))

    def unbatch(self) -> Pipeline[Any]:
        """The rows of each element: arrays, lists, and dicts, tuples, dataclasses of them.

        Right behind a batch its samples, lists in them too; else a list is one column, as in `from_slices`.
        """
        rows = functools.partial(Slices, is_stacked=True) if is_stacked(self._node) else Slices
        return self._with(Unbatch(self._node, rows))

    def enumerate(self, start: int = 0) -> Pipeline[tuple[int, T_co]]:
        """``(number, element)``."""
        return self._with(Enumerate(self._node, integer("enumerate", "start", start, least=None)))

    # -- batches -----------------------------------------------------------------------------------

    def batch(
        self, size: int, *, drop_last: bool = False, collate_fn: Callable[[list[Any]], Any] = stack
    ) -> Pipeline[Any]:
        """``size`` elements at a time, made one object by ``collate_fn`` (`mploader.stack`; `list` keeps a list)."""
        size = integer("batch", "size", size, least=1)
        collate = plain_function("batch", "collate_fn", collate_fn)
        options = {} if collate is stack else {"collate_fn": function_name(collate)}
        return self._batch("batch", size, collate, options, drop_last=bool(drop_last))

    def padded_batch(self, size: int, *, drop_last: bool = False, **padding: Any) -> Pipeline[Any]:
        """Batches of arrays of different shapes, filled up to the largest; ``padding`` as for `mploader.pad_stack`."""
        unknown = padding.keys() - {"value", "pad_to"}
        if unknown:
            raise TypeError(
                f"padded_batch has no option {min(unknown)!r}: it has value and pad_to, as mploader.pad_stack"
            )
        pad_to = padding.get("pad_to")
        is_shape = isinstance(pad_to, Sequence) and all(
            to is None or (hasattr(to, "__index__") and to > 0) for to in pad_to
        )
        if not (pad_to is None or isinstance(pad_to, Mapping) or is_shape):
            raise TypeError(
                f"padded_batch's pad_to is a shape such as (224, None), by key or for all, not {short_repr(pad_to)}"
            )
        size = integer("padded_batch", "size", size, least=1)
        collate = functools.partial(pad_stack, **padding) if padding else pad_stack
        options = {name: short_repr(padding[name]) for name in sorted(padding)}
        return self._batch("padded_batch", size, collate, options, drop_last=bool(drop_last))

    def bucket_by_length(
        self,
        length_fn: Callable[[Any], int],
        boundaries: Sequence[int],
        batch_sizes: int | Sequence[int],
        *,
        drop_last: bool = False,
        collate_fn: Callable[[list[Any]], Any] = pad_stack,
    ) -> Pipeline[Any]:
        """Batches of elements of similar length, each padded to its longest only.

        Args:
          length_fn: an element's length.
          boundaries: increasing; below the first is one bucket, and one is above the last.
          batch_sizes: of each bucket, one more than there are boundaries, or one for all.
          drop_last: leave out buckets that are not full at the end.
          collate_fn: as for `batch`.
        """
        edges = numbers("bucket_by_length", "boundaries", boundaries, operator.index, "[10, 20]")
        if any(low >= high for low, high in pairwise(edges)):
            raise ValueError(f"bucket_by_length's boundaries must increase, not {short_repr(boundaries)}")
        sizes = list(batch_sizes) if isinstance(batch_sizes, Iterable) else [batch_sizes] * (len(edges) + 1)
        if len(sizes) != len(edges) + 1:
            raise ValueError(
                f"bucket_by_length has {len(edges)} boundaries, which make {len(edges) + 1} buckets, "
                f"and {len(sizes)} batch_sizes: give one for each bucket, or one int for all"
            )
        sizes = [integer("bucket_by_length", "each of batch_sizes", size, least=1) for size in sizes]
        fn = plain_function("bucket_by_length", "length_fn", length_fn)
        node = _measured(Bucket(self._node, fn, edges, sizes, drop_last=drop_last))
        return self._with(Collate(node, plain_function("bucket_by_length", "collate_fn", collate_fn)))

    # -- order and choice --------------------------------------------------------------------------

    def shuffle(self, seed: int | None = None, *, buffer: int | None = None, reshuffle: bool = True) -> Pipeline[T_co]:
        """All elements in random order: each pass in another (``reshuffle=False``: in the same).

        Costs no memory and moves no data: it is arithmetic on positions. A stream has no positions; there
        ``buffer`` elements are kept, and the order is random within these.

        Raises:
          TypeError: neither positions nor ``buffer``.
        """
        given = None if seed is None else integer("shuffle", "seed", seed, least=None)
        if buffer is not None:
            size = integer("shuffle", "buffer", buffer, least=1)
            return self._with(Buffered(self._node, size, given, reshuffle=reshuffle))
        if self._node.length is None:
            raise TypeError(
                f"shuffle() needs positions, and {why_none(self._node)}: place it before, or shuffle(buffer=1000)"
            )
        if self._node.length >= ENDLESS:
            raise TypeError("shuffle() needs an end, and repeat() has none: place it before, shuffle().repeat()")
        return self._with(Shuffle(self._node, given, reshuffle=reshuffle))

    def repeat(self, times: int | None = None) -> Pipeline[T_co]:
        """``times`` passes in one, without a seam; None for endless, up to a pass that finds its source empty.

        Raises:
          TypeError: a source is an iterator, which can be read once.
        """
        number = None if times is None else integer("repeat", "times", times, least=0)
        once = next((node for node in self._node.walk() if isinstance(node, Generated) and node.source.one_shot), None)
        if once is not None and number not in (0, 1):
            raise TypeError(
                f"repeat() of {once.label}, which is an iterator and can be read once: "
                "from_generator(function) makes a new one for each pass"
            )
        if number == 0 and self._node.length is None:
            return self._with(Take(self._node, 0))
        return self._with(Repeat(self._node, number))

    def take(self, count: int) -> Pipeline[T_co]:
        """The first ``count`` elements."""
        count = integer("take", "count", count, least=0)
        warn_of_leak(self._node, "take")
        if self._node.length is None:
            return self._with(Take(self._node, count))
        return self._with(Slice(self._node, slice(None, count), f"take({count})"))

    def skip(self, count: int) -> Pipeline[T_co]:
        """All but the first ``count`` elements."""
        count = integer("skip", "count", count, least=0)
        warn_of_leak(self._node, "skip")
        if self._node.length is None:
            return self._with(Skip(self._node, count))
        return self._with(Slice(self._node, slice(count, None), f"skip({count})"))

    def shard(self, rank: int, world: int) -> Pipeline[T_co]:
        """Every ``world``-th element from ``rank`` on: what one of several processes gets. Sizes differ by one at most.

        Raises:
          TypeError: behind a filter; place it before.
        """
        world = integer("shard", "world", world, least=1)
        rank = integer("shard", "rank", rank, least=0)
        if rank >= world:
            raise ValueError(f"shard's rank is {rank}, it must be below world, {world}")
        if self._node.length is not None:
            return self._with(Slice(self._node, slice(rank, None, world), f"shard({rank}, {world})"))
        if not isinstance(self._node, Drawn | Skip | Take):
            raise TypeError(f"shard() needs positions, and {why_none(self._node)}: place it before")
        warnings.warn(
            f"shard of a stream: each of the {world} processes draws every element and keeps one in {world}; "
            "from_sequence draws only its own",
            stacklevel=2,
        )
        return self._with(Every(self._node, rank, world))

    def split(self, shares: Sequence[float], *, seed: int) -> list[Pipeline[T_co]]:
        """Disjoint random parts, the same in every epoch, such as ``train, test = pipe.split([0.8, 0.2], seed=1)``."""
        if self._node.length is None:
            raise TypeError(f"split() needs positions, and {why_none(self._node)}: place it before")
        warn_of_leak(self._node, "split", "split below the shuffle, or shuffle(reshuffle=False), does not")
        given = numbers("split", "shares", shares, float, "[0.8, 0.2]")
        if not given or any(not (share >= 0 and isfinite(share)) for share in given) or not 0 < sum(given) <= 1 + 1e-9:
            raise ValueError(f"split's shares must be 0 or more and add up to 1 at most, not {short_repr(shares)}")
        if self._node.length == ENDLESS:
            raise TypeError("split() of an endless pipeline: it has no shares; place it before repeat()")
        mixed = self.shuffle(integer("split", "seed", seed, least=None), reshuffle=False)
        ends = [0.0]
        for share in given:
            ends.append(min(1.0, ends[-1] + share))
        if sum(given) > 1 - 1e-9:
            ends[-1] = 1.0
        return [mixed._with(Slice(mixed._node, part, f"split({part[0]}:{part[1]})")) for part in pairwise(ends)]

    @overload
    def __getitem__(self, key: int) -> T_co: ...
    @overload
    def __getitem__(self, key: slice) -> Pipeline[T_co]: ...
    def __getitem__(self, key: int | slice) -> T_co | Pipeline[T_co]:
        """Element ``key``, made in this process; or a pipeline of some elements.

        Raises:
          IndexError: there is no such element.
          TypeError: no random access; the message says since which operation.
        """
        if isinstance(key, slice):
            if self._node.length is None:
                raise TypeError(f"a slice needs positions, and {why_none(self._node)}: place it before")
            if self._node.length == ENDLESS and any(part is not None and part < 0 for part in _parts(key)):
                raise TypeError(f"[{shown(key)}] counts from the end, and the pipeline is endless: take(count) ends it")
            warn_of_leak(self._node, "a slice")
            return self._with(Slice(self._node, key, f"[{shown(key)}]"))
        ready = self._told()
        bound = ready.root
        if bound.length is None:
            raise TypeError(f"[i] needs positions, and {why_none(self._node)}: loop over it, or place it before")
        try:
            i = operator.index(key)
        except TypeError:
            raise TypeError(
                f"[i] of a pipeline takes a position or a slice, not {short_repr(key)} ({type(key).__name__})"
            ) from None
        if i < 0 and bound.length >= ENDLESS:
            raise IndexError(f"[{i}] counts from the end, and the pipeline is endless")
        at = i + bound.length if i < 0 and bound.length < ENDLESS else i
        if not 0 <= at < bound.length:
            raise IndexError(f"index {i} is out of range: the pipeline has {bound.length:,} elements")
        return cast(T_co, ready.get(at, self._epoch))

    def cache(
        self,
        path: str | os.PathLike[str] | None = None,
        limit_bytes: int | None = None,
        *,
        version: object = None,
        freeze: bool = False,
    ) -> Pipeline[T_co]:
        """Compute each element once: what is in the cache is read from it, by all workers and by later runs.

        It is filled as elements are asked for, in any order, and of use at once; what does not fit is computed each
        time. A kill while it is written costs nothing but that element.

        Args:
          path: a folder; several pipelines may share one. None: a temporary one, for this pipeline's life.
          limit_bytes: of the elements on disk; None: all but 2 % of the disk.
          version: of the data and of all code that is not a function of this pipeline; with it the source's content
            is not looked at.
          freeze: take the random draws of the first pass for all, where there are such below; each seed has its own.

        Raises:
          TypeError: there is no random access here; or something cannot be fingerprinted, and there is no ``version``.
          ValueError: an operation below is random, or a source changes with the epoch, and ``freeze`` is not set.
        """
        if self._node.length is None:
            raise TypeError(f"cache() needs positions, and {why_none(self._node)}: place it before")
        if path is not None and not isinstance(path, str | os.PathLike):
            raise TypeError(f"cache's path is a folder, or None, not {short_repr(path)}; its size is limit_bytes=")
        culprit = randomness(self._node)
        if culprit is not None and not freeze:
            raise ValueError(
                f"{culprit}, and a cache would keep what the first pass gives for ever: place it behind the cache, or "
                "cache(freeze=True)"
            )
        store = open_cache(self._node, path, limit_bytes, version=version)
        return self._with(Cached(self._node, store, is_frozen=culprit is not None))

    # -- several pipelines: of the class, `Pipeline.concat(a, b)`, and as methods, `a.concat(b)` ------

    def zip(*pipelines: Any) -> Pipeline[tuple[Any, ...]]:
        """Tuples of their elements; as long as the shortest."""
        nodes = _nodes("zip", pipelines)
        if len(nodes) == 1:
            return cast("Pipeline[tuple[Any, ...]]", Pipeline.of(nodes[0]).map(_one_tuple))
        return Pipeline.of(ZipDrawn(*nodes) if _has_stream(nodes) else Zip(*nodes))

    def concat(*pipelines: Any) -> Pipeline[Any]:
        """One after the other."""
        nodes = _nodes("concat", pipelines)
        if len(nodes) == 1:
            return Pipeline.of(nodes[0])
        return Pipeline.of(ConcatDrawn(*nodes) if _has_stream(nodes) else Concat(*nodes))

    def interleave(  # type: ignore[misc]  # not static: `a.interleave([b])`, which leaves out a, is refused
        pipelines: Sequence[Any], cycle_length: int | None = None, block_length: int = 1
    ) -> Pipeline[Any]:
        """``block_length`` elements of each of ``cycle_length`` pipelines (default: of all) in turn.

        One that ends makes room for the next, as in tf.data.
        """
        nodes = _nodes("interleave", pipelines)
        cycle = len(nodes) if cycle_length is None else integer("interleave", "cycle_length", cycle_length, least=1)
        block = integer("interleave", "block_length", block_length, least=1)
        if len(nodes) == 1:
            return Pipeline.of(nodes[0])
        return Pipeline.of((InterleavedDrawn if _has_stream(nodes) else Interleaved)(nodes, cycle, block))

    def sample_from(  # type: ignore[misc]
        pipelines: Sequence[Any], weights: Sequence[float] | None = None, *, seed: int | None = None
    ) -> Pipeline[Any]:
        """Elements of several pipelines mixed by weight; ends where the one to draw from has no more.

        The shares are exact within each block of draws, not only on average. `repeat` the shorter ones.
        """
        nodes = _nodes("sample_from", pipelines)
        given = [1.0] * len(nodes) if weights is None else numbers("sample_from", "weights", weights, float, "[2, 1]")
        if len(given) != len(nodes) or any(not (w >= 0 and isfinite(w)) for w in given) or sum(given) <= 0:
            raise ValueError(
                f"sample_from has {len(nodes)} pipelines, so weights must be {len(nodes)} numbers of 0 or more and not "
                f"all 0, not {short_repr(weights)}"
            )
        number = None if seed is None else integer("sample_from", "seed", seed, least=None)
        if len(nodes) == 1:
            return Pipeline.of(nodes[0])
        return Pipeline.of((MixedDrawn if _has_stream(nodes) else Mixed)(nodes, given, number))

    # -- the rest ----------------------------------------------------------------------------------

    def seed(self, seed: int) -> Pipeline[T_co]:
        """Everything random follows from ``seed``: orders, ``rng=``, and Python's, NumPy's and torch's generators."""
        return Pipeline(
            self._node,
            seed=integer("seed", "seed", seed, least=None),
            drawn_seed=self._drawn_seed,
            epoch=self._epoch,
        )

    def at_epoch(self, epoch: int, *, said: str = "at_epoch") -> Pipeline[T_co]:
        """The pipeline as of another epoch: its order and its random draws.

        Raises:
          ValueError: not from 0 to 2**32 - 1.
        """
        number = integer(said, "epoch", epoch, least=0)
        if number >= EPOCHS:
            raise ValueError(f"{said}'s epoch must be below 2**32, not {number}")
        return Pipeline(self._node, seed=self._seed, drawn_seed=self._drawn_seed, epoch=number)

    def apply(self, fn: Callable[[Pipeline[T_co]], Pipeline[U]]) -> Pipeline[U]:
        """``fn(self)``: to write several operations as one in a chain."""
        made = function("apply", fn)(self)
        if not isinstance(made, Pipeline):
            raise TypeError(f"apply's function must return a Pipeline, it returned {short_repr(made)}")
        return made

    def __len__(self) -> int:
        """Elements of a pass.

        Raises:
          TypeError: nobody knows, or it is endless.
        """
        length = self._inline().root.told_length()
        if length is None:
            raise TypeError(f"the pipeline has no len(): {why_none(self._node)}")
        if length >= ENDLESS:
            raise TypeError("the pipeline has no len(): it is endless; repeat(times) or take(count) end it")
        return length

    def __bool__(self) -> bool:
        """False for one that is known to be empty."""
        return self._inline().root.told_length() != 0

    if not TYPE_CHECKING:  # which would take every name for one that is there

        def __getattr__(self, name: str) -> Any:
            if name in ("prefetch", "num_workers"):
                raise AttributeError(f"{name} belongs to the Loader: Loader(pipe, {name}=...)")
            hint = ": it is of from_image_folder" if name == "class_names" else ""
            raise AttributeError(f"'Pipeline' object has no attribute {name!r}{hint}")

    def __iter__(self) -> Iterator[T_co]:
        """Run it in this process: the same items as a Loader's."""
        return self._told().items(self._epoch)

    def __repr__(self) -> str:
        return f"Pipeline({one_line(self._node)})"

    @property
    def class_names(self) -> list[str]:
        """The class of each label, where the elements come `from_image_folder`."""
        for node in self._node.walk():
            names = getattr(node.source.source, "class_names", None) if isinstance(node, Source) else None
            if names is not None:
                return list(names)
        raise AttributeError  # `__getattr__` says why

    def explain(self) -> str:
        """Each operation, where a Loader runs it, and what its function has cost so far, here and in workers."""
        ready = self._inline()
        return explain(ready.root, ready.plan)

    def __reduce__(self) -> Any:
        return Pipeline, (self._node,), {"_seed": self._seed, "_drawn_seed": self._drawn_seed, "_epoch": self._epoch}

    # -- inside ------------------------------------------------------------------------------------

    def _batch(
        self, name: str, size: int, collate: Callable[[list[Any]], Any], options: dict[str, str], *, drop_last: bool
    ) -> Pipeline[Any]:
        if drop_last:
            options = {**options, "drop_last": "True"}
        label = f"{name}({', '.join([str(size), *(f'{key}={value}' for key, value in options.items())])})"
        return self._with(Batch(self._node, size, collate, drop_last=drop_last, label=label))

    def _with(self, node: Node) -> Pipeline[Any]:
        return Pipeline(_measured(node), seed=self._seed, drawn_seed=self._drawn_seed, epoch=self._epoch)

    def bound(self) -> Node:
        """For the Loader: the tree for one run."""
        return self._node.bind(Runtime(), rng.derive(self.base_seed), reseeds=self._seed is not None)

    @property
    def base_seed(self) -> int:
        """For the Loader: what everything random follows from."""
        return self._drawn_seed if self._seed is None else self._seed

    @property
    def own_seed(self) -> int | None:
        """For the Loader: the seed that was given."""
        return self._seed

    @property
    def first_epoch(self) -> int:
        """For the Loader: the epoch that it begins with."""
        return self._epoch

    def with_drawn_seed(self, seed: int) -> Pipeline[T_co]:
        """For the Loader: the same, with the drawn seed of a saved state."""
        return Pipeline(self._node, seed=self._seed, drawn_seed=seed, epoch=self._epoch)

    def nodes(self) -> Iterator[Node]:
        """For the Loader: all operations and sources."""
        return self._node.walk()

    @classmethod
    def of(cls, node: Node) -> Pipeline[Any]:
        """For the constructors: a pipeline of one node."""
        return cls(_measured(node))

    def _inline(self) -> Inline:
        ready = self._ready
        if ready is None or not ready.is_current:
            ready = self._ready = Inline(self.bound())
        return ready

    def _told(self) -> Inline:
        """As `_inline`, after the sources were told the epoch, which may have given them other lengths."""
        ready = self._inline()
        return self._inline() if ready.tell(self._epoch) else ready


def _measured(node: Node) -> Node:
    node.length = node.measure()
    return node


def _nodes(what: str, pipelines: Sequence[Any]) -> list[Node]:
    if isinstance(pipelines, Pipeline | Mapping) or not isinstance(pipelines, Sequence):
        raise TypeError(f"{what} takes a list of pipelines, Pipeline.{what}([a, b]), not {short_repr(pipelines)}")
    if not pipelines:
        raise ValueError(f"{what} needs at least one pipeline")
    nodes = []
    for pipeline in pipelines:
        if isinstance(pipeline, list | tuple) and any(isinstance(part, Pipeline) for part in pipeline):
            raise TypeError(f"{what} takes the pipelines themselves, {what}(*pipelines), not a list of them")
        if not isinstance(pipeline, Pipeline):
            pipeline = Pipeline.from_sequence(pipeline)
        if pipeline._epoch:
            raise ValueError(
                f"{what} runs all parts in one epoch: {what}(...).at_epoch({pipeline._epoch}), not a part's"
            )
        nodes.append(pipeline._node if pipeline._seed is None else Seeded(pipeline._node, pipeline._seed))
    return [_measured(node) if isinstance(node, Seeded) else node for node in nodes]


def _one_tuple(x: Any) -> tuple[Any]:
    return (x,)


def _has_stream(nodes: Sequence[Node]) -> bool:
    return any(node.length is None for node in nodes)


def _parts(cut: slice) -> tuple[Any, Any, Any]:
    return cut.start, cut.stop, cut.step
