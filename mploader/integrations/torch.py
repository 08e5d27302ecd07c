"""PyTorch: torch's own DataLoader over mploader's workers.

    from mploader.integrations.torch import DataLoader

is the one line that changes: every argument of torch's constructor has its meaning, datasets and samplers are used as
they are, batches go to the workers in torch's round robin with torch's seeds, so that the same program gives the same
batches. What is different: results pass through shared memory, workers that die are replaced, and what was in their
hands runs again.

How: torch's class is subclassed, and only what iterates with workers is ours. A task names its worker, and says which
pass over the dataset it belongs to and which step of that worker it is. A worker that was replaced begins its replica
of an iterable dataset anew and passes over the steps that its predecessor has made.

Runs in: consumer, but for `_Fetch`, which runs in a worker. Imports torch.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import signal
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import psutil

from mploader.engine import alive
from mploader.engine.contract import Elements, For, WaitedTooLong
from mploader.engine.epoch import EpochIterator
from mploader.engine.life import Life
from mploader.engine.stream import Stream
from mploader.engine.work import Work
from mploader.options import Options
from mploader.pipeline.elements import Map
from mploader.pipeline.node import Node
from mploader.pipeline.program import Program
from mploader.stats import read
from mploader.stats.snapshot import LoaderStats

try:
    import torch
    from torch.utils import data as torch_data
    from torch.utils.data import _utils
    from torch.utils.data import dataloader as torch_dataloader
except ImportError as error:
    raise ImportError(f"mploader.integrations.torch needs PyTorch: pip install mploader[torch] ({error})") from error


REAP_TIMEOUT_S = 1.0  # between the end of a worker's process and the news of how it ended

T_co = TypeVar("T_co", covariant=True)


class DataLoader(torch_data.DataLoader[T_co]):
    """`torch.utils.data.DataLoader` with mploader's workers; the arguments are torch's.

    Args:
      dataset: and all that follow, as in torch's own class.
      engine: options of `mploader.Loader` beside torch's: ``retries``, ``retry_on``, ``on_error``,
        ``task_timeout_s``, ``memory_limit_bytes``, ``hide_gpus``, ``threads_per_worker``.
    """

    def __init__(self, dataset: Any, *args: Any, engine: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """As torch's.

        Raises:
          TypeError, ValueError: as torch's.
        """
        self._engine = dict(engine or {})
        super().__init__(dataset, *args, **kwargs)

    def _get_iterator(self) -> Any:
        if self.num_workers == 0:
            return super()._get_iterator()
        self.check_worker_number_rationality()
        return _Iterator(self)

    def stats(self) -> LoaderStats | None:
        """What the workers of the present iterator did so far; None where there are none."""
        iterator = self._last()
        return iterator.stats() if iterator is not None else None

    def close(self) -> None:
        """End the workers of the present iterator, at once; torch's ends them with the iterator."""
        iterator = self._last()
        if iterator is not None:
            iterator._shutdown_workers()

    def __enter__(self) -> DataLoader[T_co]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _last(self) -> _Iterator | None:
        return self._iterator if isinstance(self._iterator, _Iterator) else None


class _Task(NamedTuple):
    """What a worker is sent."""

    round: int  # which pass over the dataset, of those that these workers make
    step: int  # how many tasks of this pass the worker was sent before
    index: Any
    shared_seed: int | None


class _Ended:
    """Takes the place of data: the worker's replica of an iterable dataset has ended."""


class _Dispatch:
    """Which worker gets which index; drawn by the stream, in the thread that calls ``next()``.

    Attributes:
      active: whether each worker's replica may have more.
      loads: tasks that each worker has been sent and not answered.
    """

    def __init__(self, loader: DataLoader[Any], indices: Iterator[Any], number: int, shared_seed: int | None) -> None:
        self._n = loader.num_workers
        self._capacity = self._n * (loader.prefetch_factor or 0)
        self._in_order = loader.in_order
        self._indices = indices
        self._number = number
        self._shared_seed = shared_seed
        self._turn = itertools.cycle(range(self._n))
        self._steps = [0] * self._n
        self.active = [True] * self._n
        self.loads = [0] * self._n

    def __iter__(self) -> Iterator[For]:
        for index in self._indices:
            worker = self._next_worker()
            if worker is None:
                return
            self.loads[worker] += 1
            step = self._steps[worker]
            self._steps[worker] += 1
            yield For(worker, _Task(self._number, step, index, self._shared_seed))

    def __len__(self) -> int:
        raise TypeError("a dispatch has no length")

    def _next_worker(self) -> int | None:
        for worker in itertools.islice(self._turn, self._n):
            if not self.active[worker]:
                continue
            if self._in_order or self.loads[worker] < self._capacity // sum(self.active):
                return worker
        return None


class _Iterator(torch_dataloader._BaseDataLoaderIter):
    """Iterates with workers, in the place of torch's class for that."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        super().__init__(loader)
        if not loader.prefetch_factor:
            raise AssertionError("prefetch_factor must be greater than 0")
        context = loader.multiprocessing_context or torch.multiprocessing
        method = context.get_start_method()
        fetch = _Fetch(loader, self._dataset, self._base_seed, is_inherited=method == "fork")
        options = Options.make(
            4,
            **{
                "hide_gpus": False,
                "threads_per_worker": None,  # torch's own threads are one: `_Fetch.begin`
                **loader._engine,
                "num_workers": loader.num_workers,
                "prefetch": loader.prefetch_factor * loader.num_workers,
                "in_order": loader.in_order,
                "start_method": method,
                "worker_init_fn": fetch.begin,
            },
        )
        self._options = options
        node = Map(Node(), fetch)
        program = Program(None, [node], grouped=False, key=0, reseeds=False)
        work = Work(program, worker_init_fn=fetch.begin, retry_on=options.retry_on)
        self._fetch = fetch
        try:
            self._stream = Stream(options, work, self._base_seed)
        finally:
            if fetch.token is not None and not hasattr(self, "_stream"):
                del _inherited[fetch.token]
        self._finalizer = alive.add(self._stream, self)
        self._stream.wait_limit_s = loader.timeout or None
        self._number = -1
        self._begin(loader)

    def _reset(self, loader: DataLoader[Any], first_iter: bool = False) -> None:
        super()._reset(loader, first_iter)
        self._begin(loader)

    def _begin(self, loader: DataLoader[Any]) -> None:
        self._number += 1
        self._is_over = False
        stream, number = self._stream, self._number
        dispatch = self._dispatch = _Dispatch(loader, self._sampler_iter, number, self._shared_seed)
        self._run = stream.begin(number, lambda: Elements(-1, iter(dispatch), str, is_bound=True, is_quick=True))
        self._items: EpochIterator[Any] = EpochIterator(
            dispatch, stream, stream, self._run, stream.opened.ready, lambda _: None
        )

    def _next_data(self) -> Any:
        while not self._is_over:
            try:
                worker, data = next(self._items)
            except StopIteration:
                self._is_over = True
                if not self._persistent_workers:
                    self._shutdown_workers()
                break
            except WaitedTooLong:
                raise RuntimeError(f"DataLoader timed out after {self._timeout} seconds") from None
            except Exception as raised:
                told = getattr(raised, "mploader_task", None)
                if told is not None and told.worker_id is not None:
                    self._dispatch.loads[told.worker_id] -= 1
                    self._stream.admit(self._run)
                raise
            self._dispatch.loads[worker] -= 1
            if data is _Ended:
                self._dispatch.active[worker] = False
            self._stream.admit(self._run)
            if data is not _Ended:
                return _utils.pin_memory.pin_memory(data, self._pin_memory_device) if self._pin_memory else data
        raise StopIteration

    def stats(self) -> LoaderStats:
        """What the workers did so far."""
        return read.snapshot(self._stream, self._options)

    @property
    def _workers(self) -> list[_Process]:
        """What those who look for torch's processes need of them."""
        return [_Process(life) for life in list(self._stream.pool.lives.values()) if life.pid is not None]

    def _shutdown_workers(self) -> None:
        self._is_over = True
        self._stream.close()
        self._finalizer.detach()
        if self._fetch.token is not None:
            _inherited.pop(self._fetch.token, None)


class _Process:
    """A worker with the face of a `multiprocessing.Process`; it is the child of another process."""

    def __init__(self, life: Life) -> None:
        assert life.pid is not None
        self._life = life
        self.pid: int = life.pid
        self._process = psutil.Process(life.pid) if psutil.pid_exists(life.pid) else None

    @property
    def exitcode(self) -> int | None:
        return self._life.exitcode

    def is_alive(self) -> bool:
        return self._process is not None and self._process.is_running()

    def join(self, timeout: float | None = None) -> None:
        if self._process is not None:
            with contextlib.suppress(psutil.Error):
                self._process.wait(timeout)
        deadline = time.monotonic() + REAP_TIMEOUT_S
        while not self.is_alive() and self.exitcode is None and time.monotonic() < deadline:
            time.sleep(0.001)  # its parent tells how it ended

    def terminate(self) -> None:
        self._life.signal(signal.SIGTERM)

    def kill(self) -> None:
        self._life.signal(signal.SIGKILL)


# What workers that are forked have from this process without a pickle, by token.
_inherited: dict[int, _Fetch] = {}
_tokens = itertools.count()


def _inherit(token: int) -> _Fetch:
    return _inherited[token]


class _Fetch:
    """Makes the data of one task. Runs in: worker."""

    def __init__(self, loader: DataLoader[Any], dataset: Any, base_seed: int, *, is_inherited: bool) -> None:
        self._kind = loader._dataset_kind
        self._dataset = dataset
        self._auto_collation = loader._auto_collation
        self._collate_fn = loader.collate_fn
        self._drop_last = loader.drop_last
        self._base_seed = base_seed
        self._init_fn = loader.worker_init_fn
        if isinstance(dataset, torch_data.IterDataPipe | torch_data.MapDataPipe):
            world, rank = torch_dataloader._get_distributed_settings()
            shard = torch_dataloader._sharding_worker_init_fn
            self._init_fn = functools.partial(shard, self._init_fn, world, rank)
        self._num_workers = loader.num_workers
        self._worker_id = -1
        self._round = -1
        self._step = 0
        self._error: Exception | None = None
        self._fetcher: Any = None
        self._has_ended = False
        self.token: int | None = None
        if is_inherited:
            self.token = next(_tokens)
            _inherited[self.token] = self

    def __reduce__(self) -> Any:
        if self.token is not None:
            return _inherit, (self.token,)
        return super().__reduce__()

    def begin(self, worker_id: int) -> None:
        """Do what torch's workers do first, in its order. What it raises is the answer to the first task."""
        self._worker_id = worker_id
        torch.set_num_threads(1)
        seed = self._base_seed + worker_id
        random.seed(seed)
        torch.manual_seed(seed)
        if _utils.worker.HAS_NUMPY:
            np.random.seed(_utils.worker._generate_state(self._base_seed, worker_id))
        _utils.worker._worker_info = _utils.worker.WorkerInfo(
            id=worker_id, num_workers=self._num_workers, seed=seed, dataset=self._dataset
        )
        try:
            if self._init_fn is not None:
                self._init_fn(worker_id)
        except Exception as raised:  # noqa: BLE001  the user's
            self._error = raised

    def __call__(self, task: _Task) -> tuple[int, Any]:
        if self._error is None and task.round != self._round:
            try:
                self._begin_round(task)
            except Exception as raised:  # noqa: BLE001  the user's ``__iter__``
                self._error = raised
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        data: Any = None
        if self._kind == torch_data._DatasetKind.Map:
            data = self._fetcher.fetch(task.index)
        else:
            while self._step <= task.step and data is not _Ended:
                data = self._next(task.index)
                self._step += 1
        return self._worker_id, data

    def _begin_round(self, task: _Task) -> None:
        self._round, self._step, self._has_ended = task.round, 0, False
        if task.shared_seed is not None:
            generator = torch.Generator()
            generator.manual_seed(task.shared_seed)
            self._dataset = torch_data.graph_settings.apply_random_seed(self._dataset, generator)
        self._fetcher = torch_data._DatasetKind.create_fetcher(
            self._kind, self._dataset, self._auto_collation, self._collate_fn, self._drop_last
        )

    def _next(self, index: Iterable[Any]) -> Any:
        if self._has_ended:
            return _Ended
        try:
            return self._fetcher.fetch(index)
        except StopIteration:
            self._has_ended = True
            return _Ended


__all__ = ["DataLoader"]
