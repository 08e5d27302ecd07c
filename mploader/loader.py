"""Loader: options and a source become a stream of items, epoch after epoch.

Must never know: pipes, rings, processes. Runs in: consumer.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Generic, Literal, NoReturn, TypeVar, Unpack, overload

from mploader.engine import alive
from mploader.engine.behind import Behind
from mploader.engine.contract import Elements
from mploader.engine.epoch import EpochIterator
from mploader.engine.inline import InlineStream
from mploader.engine.opened import Ready
from mploader.engine.stream import Stream
from mploader.engine.work import Work
from mploader.errors import ClosedError, MploaderError
from mploader.options import EngineOptions, OnError, Options
from mploader.pipeline import state
from mploader.pipeline.chain import Origin
from mploader.pipeline.draws import Draws, begins_at
from mploader.pipeline.fetch import short_repr
from mploader.pipeline.passes import Passes
from mploader.pipeline.recipe import make_recipe
from mploader.pipeline.state import Saved
from mploader.stats import read
from mploader.stats.snapshot import LoaderStats

T_co = TypeVar("T_co", covariant=True)


class Loader(Generic[T_co]):
    """Runs ``fn`` over the elements of ``source`` in worker processes; results come in order, prefetched.

    One iteration is one epoch; the workers live on between epochs, until `close`, the end of the ``with``
    block, or until the loader is garbage. Results are what ``fn`` returned, of any type; their large arrays
    are views of shared memory, writable, and valid as long as you keep them.

    >>> from mploader import Loader
    >>> with Loader(range(4), lambda i: {"square": i * i}, num_workers=2) as loader:
    ...     [example["square"] for example in loader]
    [0, 1, 4, 9]
    """

    @overload
    def __init__(
        self: Loader[Any],
        source: Any,
        fn: None = None,
        *,
        batch_size: int | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        drop_last: bool = False,
        shuffle: bool = False,
        seed: int | None = None,
        **options: Unpack[EngineOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        source: Any,
        fn: Callable[..., T_co],
        *,
        shuffle: bool = False,
        seed: int | None = None,
        **options: Unpack[EngineOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: Loader[Any],
        source: Any,
        fn: Callable[..., Any],
        *,
        batch_size: int | None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        drop_last: bool = False,
        shuffle: bool = False,
        seed: int | None = None,
        **options: Unpack[EngineOptions],
    ) -> None: ...
    def __init__(
        self,
        source: Any,
        fn: Callable[..., Any] | None = None,
        *,
        batch_size: int | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        drop_last: bool = False,
        shuffle: bool = False,
        seed: int | None = None,
        num_workers: int | None = None,
        prefetch: int | None = None,
        in_order: bool = True,
        start_method: str | None = None,
        retries: int = 1,
        retry_on: type[Exception] | tuple[type[Exception], ...] = (),
        on_error: OnError = "raise",
        task_timeout_s: float | None = None,
        memory_limit_bytes: int | None = None,
        worker_init_fn: Callable[[int], object] | None = None,
        hide_gpus: bool = True,
        threads_per_worker: int | None = 1,
        chunk: int | Literal["auto"] = "auto",
        **foreign: Any,
    ) -> None:
        """Check the arguments; no process is started before the first ``iter()`` or `start`.

        Args:
          source: a `Pipeline`; anything with ``len()`` and ``[]`` (the index travels), any iterable or a function
            that makes one (drawn in this process, in a thread of its own; the element travels).
          fn: called with each element, in a worker; None delivers the elements themselves. A parameter named
            ``rng`` is given a `numpy.random.Generator` of that element.
          batch_size: so many samples become one item; None for single items.
          collate_fn: makes an item of a list of samples, in a worker; default: `mploader.stack`.
          drop_last: leave out the last batch if it is not full.
          shuffle: another order in each epoch.
          seed: everything random follows from it: the order, ``rng``, and for each element anew the generators of
            Python, NumPy and torch. None: one is drawn (`seed`), and only worker processes are seeded.
          num_workers: worker processes; default: the cores this process may use; 0 runs ``fn`` in this process.
          prefetch: results ahead of the consumer, running ones included; default: 2 a worker, at least 8.
          in_order: False delivers results as they finish, each still exactly once.
          start_method: "forkserver" (default on Linux), "spawn" (default elsewhere) or "fork".
          retries: how often an item, and of a batch each element, is run again after its worker died or
            ``task_timeout_s`` passed.
          retry_on: exception types (of ``fn``) that are run again too.
          on_error: "raise"; "skip"; or a function of the error whose result takes the item's place.
          task_timeout_s: seconds one item, and of a batch each element, may take; its worker is killed and replaced.
          memory_limit_bytes: bound for results that wait to be consumed; default: a quarter of what machine
            and container leave.
          worker_init_fn: called once in each worker with its ``worker_id``.
          hide_gpus: workers see no GPU.
          threads_per_worker: threads of BLAS and OpenMP in each worker; None leaves the environment as it is.
          chunk: items that travel to a worker, and back, together; "auto": as many as take about a millisecond, and
            leave each worker two of ``prefetch``. It changes speed, never results.

        Raises:
          TypeError, ValueError: an argument is wrong; the message says what would be right.
        """
        if fn is not None and not callable(fn):
            raise TypeError(f"fn is {short_repr(fn)}, it must be a function of one element, or None")
        self._recipe = make_recipe(
            source,
            fn,
            batch_size=batch_size,
            collate_fn=collate_fn,
            drop_last=drop_last,
            shuffle=shuffle,
            seed=seed,
            stacklevel=4,
        )
        self._options = Options.make(
            3,
            num_workers=num_workers,
            prefetch=prefetch,
            in_order=in_order,
            start_method=start_method,
            retries=retries,
            retry_on=retry_on,
            on_error=on_error,
            task_timeout_s=task_timeout_s,
            memory_limit_bytes=memory_limit_bytes,
            worker_init_fn=worker_init_fn,
            hide_gpus=hide_gpus,
            threads_per_worker=threads_per_worker,
            chunk=chunk,
            **foreign,
        )
        self._single = self._options.on_error != "raise"
        self._plan = self._recipe.plan(single=self._single)  # what cannot be run is refused here
        self._pid = os.getpid()
        self._stream: Stream | InlineStream | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._closed = False
        self._opened = False
        self._published_lengths: list[int | None] = []
        self._lock = threading.RLock()
        self._next_epoch = self._recipe.pipeline.first_epoch
        self._epoch = -1
        self._n_begun = 0
        self._saved = Saved()  # where the next epoch begins
        self._items: Stream | InlineStream | Behind | None = None  # of the present epoch; None before it and behind it

    # -- iteration ---------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[T_co]:
        """Start the next epoch; an older iterator of this loader is over (its ``next`` raises ClosedError).

        Raises:
          NotPicklableError: source, fn or worker_init_fn cannot travel to the workers.
          ClosedError: the loader was closed.
        """
        try:
            return self._begin_epoch()
        except StopIteration as error:
            raise RuntimeError(
                "the source raised StopIteration as the epoch began, which would read as its end"
            ) from error

    def _begin_epoch(self) -> Iterator[T_co]:
        with self._lock:
            self._check_open()
            recipe, epoch = self._recipe, self._next_epoch
            if self._opened and recipe.one_shot is not None:
                raise MploaderError(
                    f"the source ({short_repr(recipe.one_shot)}) is an iterator, and an earlier epoch has drawn from "
                    "it: pass a function that makes a new one each epoch, such as a generator function without the call"
                )
            changed = recipe.tell_sources(epoch, ended=self._opened)
            # a source that has grown or shrunk: the workers' copy has not
            changed = changed or recipe.lengths() != self._published_lengths
            stream = self._started() if self._stream is None or not changed else self._refreshed(self._stream)
            self._opened = True
            saved = self._saved
            plan = self._plan
            begins: list[dict[int, Passes]] = []  # where passes begin; the draws themselves are let go early

            def elements(start: int, origin: Origin) -> Elements:
                if plan.length is not None:
                    return Elements(plan.length, None, plan.describe, start, saved.done)

                def draw() -> Draws:
                    draws = Draws(plan, epoch, origin, start - origin.at)
                    begins[:] = [draws.begins]
                    return draws

                draws = draw()
                reopen = draw if recipe.one_shot is None else None
                return Elements(-1, draws, plan.describe, start, saved.done, reopen, plan.is_bound(draws.innermost))

            self._n_begun += 1
            loader, number = weakref.ref(self), self._n_begun

            def begin_anew(origin: Origin) -> int:
                found = loader()
                assert found is not None, "the iterator holds it"
                with found._lock:
                    stream.check(stream.run if found._n_begun == number else -1)
                    return stream.begin(epoch, lambda: elements(origin.at, origin))

            run = stream.begin(epoch, lambda: elements(saved.task, plan.origin_of(saved.mark)))
            self._saved = Saved()  # not before: an iter() that failed may be tried again
            self._epoch, self._next_epoch = epoch, epoch + 1
            items: Stream | InlineStream | Behind = stream
            ready = stream.opened.ready if isinstance(stream, Stream) and plan.is_plain else Ready()
            if not plan.is_plain:
                items = Behind(
                    stream,
                    plan,
                    epoch,
                    self._options.on_error,
                    run=run,
                    begins_at=lambda task: begins_at(begins[0], task) if begins else None,
                    begin_anew=begin_anew,
                    saved=saved,
                )
            self._items = items
            iterator: EpochIterator[T_co] = EpochIterator(self, stream, items, run, ready, self._end_epoch)
            if isinstance(items, Behind):  # whose run changes
                weakref.finalize(iterator, items.abandon).atexit = False
            return iterator

    def __len__(self) -> int:
        """Items of an epoch.

        Raises:
          TypeError: the source does not know.
        """
        return len(self._recipe)

    @property
    def epoch(self) -> int:
        """Number of the present epoch, counted from 0; -1 before the first."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Number of the epoch that the next ``iter()`` begins; by itself it is one more than the last.

        Raises:
          TypeError, ValueError: not an int from 0 to 2**32 - 1.
        """
        self._next_epoch = self._recipe.pipeline.at_epoch(epoch, said="set_epoch").first_epoch
        self._saved = Saved()

    @property
    def seed(self) -> int:
        """What everything random follows from: given, or drawn."""
        return self._recipe.base_seed

    @property
    def num_workers(self) -> int:
        """Worker processes."""
        return self._options.num_workers

    @property
    def prefetch(self) -> int:
        """Results ahead of the consumer."""
        return self._options.prefetch

    # -- state -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where the loop is: counts what it was given, the item in its hand included. For JSON; below 1 kB mostly.

        Taken at an epoch's last item it stands for an empty rest, behind ``StopIteration`` for the next epoch.
        """
        with self._lock:
            items, recipe, length = self._items, self._recipe, self._plan.items
            epoch, saved = (self._next_epoch, self._saved) if items is None else (self._epoch, Saved())
            line, sources, seed = recipe.line, recipe.lengths(), recipe.base_seed
        if items is not None:  # without the lock: who is inside next() may ask for it there
            saved = items.progress()
        return state.to_dict(line, length, sources, seed, epoch, saved)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Let the next ``iter()`` go on at the exact next item.

        Also in another process, with other ``num_workers``, and another ``start_method``. What a stream or a
        buffered shuffle has drawn is drawn again from the epoch's start.

        Raises:
          StateMismatchError: a state of another pipeline, length or seed; the message has the difference.
          TypeError: no state.
        """
        with self._lock:
            given = state.checked(state_dict)
            recipe = self._recipe.adopting(given["seed"])
            varies = recipe.tell_sources(given["epoch"], ended=False)  # lengths may follow from both
            plan = recipe.plan(single=self._single)
            saved = state.from_dict(
                given,
                recipe.line,
                plan.items,
                recipe.lengths(),
                recipe.base_seed,
                lengths_vary=varies,
                n_steps=None if plan.is_plain else len(plan.behind),
                n_repeats=0 if plan.is_plain else len(plan.origin.passes.times),
            )
            if recipe.base_seed != self._recipe.base_seed:
                self._published_lengths = []  # the workers' copy has another
            self._recipe, self._plan = recipe, plan
            self._next_epoch, self._saved, self._items = given["epoch"], saved, None

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers now instead of at the first ``iter()``; returns before they are ready.

        Raises:
          NotPicklableError: source, fn or worker_init_fn cannot travel to the workers.
        """
        with self._lock:
            self._started()

    def refresh(self) -> None:
        """Publish source and ``fn`` as they are now; items drawn from here on see the change.

        Arrays that did not change are not written again.

        Raises:
          NotPicklableError: source, fn or worker_init_fn cannot travel to the workers.
        """
        with self._lock:
            if self._stream is not None or self._closed:
                self._started().publish(self._work())

    def close(self) -> None:
        """End the workers; idempotent, a few seconds at most. Results you hold stay valid."""
        self._closed = True
        if self._pid != os.getpid():
            return
        stream = self._stream
        if stream is not None:
            stream.close()
            if self._finalizer is not None:
                self._finalizer.detach()

    def __enter__(self) -> Loader[T_co]:
        if self._closed:
            raise ClosedError("the loader was closed")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def stats(self) -> LoaderStats:
        """What workers and consumer did so far. Cheap, at any time, from any thread."""
        return read.snapshot(self._stream, self._options)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Loader cannot be pickled: its processes and memories belong to the process that made it")

    def __repr__(self) -> str:
        state = "closed" if self._closed else "idle" if self._stream is None else f"epoch {self.epoch}"
        return (
            f"Loader({short_repr(self._recipe.shown)}, num_workers={self.num_workers}, "
            f"prefetch={self.prefetch}, {state})"
        )

    # -- inside ------------------------------------------------------------------------------------

    def _end_epoch(self, items: object) -> None:
        if self._items is items:
            self._items = None

    def _check_open(self) -> None:
        if self._pid != os.getpid() and self._options.num_workers:
            raise ClosedError(
                f"this loader belongs to process {self._pid} and was carried over a fork; make one in this process"
            )
        if self._closed:
            raise ClosedError("the loader was closed")

    def _started(self) -> Stream | InlineStream:
        self._check_open()
        stream = self._stream
        if isinstance(stream, Stream) and stream.pool.fatal is not None:
            stream.close()  # its workers could not start; try anew
            stream = None
        if stream is None:
            make = Stream if self._options.num_workers else InlineStream
            work = self._work()
            options = self._options
            if not self._plan.is_plain:  # what follows the workers takes results in order, and judges the errors
                options = replace(options, on_error="raise", in_order=True)
            stream = make(options, work, self.seed)
            self._finalizer = alive.add(stream, self)
            self._stream = stream
            if self._closed:  # meanwhile, by another thread, which saw none
                stream.close()
                self._check_open()
        return stream

    def _refreshed(self, stream: Stream | InlineStream) -> Stream | InlineStream:
        """Publish anew between two epochs, by new workers where too much that is superseded has gathered."""
        if isinstance(stream, Stream) and stream.pool.payload.is_mostly_stale:
            stream.close()
            self._stream = None
            return self._started()
        self.refresh()
        return stream

    def _work(self) -> Work:
        self._plan = self._recipe.plan(single=self._single)
        self._published_lengths = self._recipe.lengths()
        return Work(
            self._plan.program,
            reseeds=self._recipe.is_seeded,
            worker_init_fn=self._options.worker_init_fn,
            retry_on=self._options.retry_on,
        )


__all__ = ["Loader"]
