"""What a user may choose about a Loader, checked: wrong values and foreign names are refused before any process starts.

Runs in: consumer. It must never know sources or engines. An `Options` that exists is valid and complete: defaults
that depend on the machine are filled in.
"""

from __future__ import annotations

import difflib
import inspect
import math
import operator
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, Literal, TypedDict, cast

import numpy as np

from mploader.limits import memory_left_bytes, usable_cores
from mploader.pipeline.fetch import short_repr

StartMethod = Literal["forkserver", "spawn", "fork"]
OnError = Literal["raise", "skip"] | Callable[[Any], object]  # Any: a user may write which error it foresees


class EngineOptions(TypedDict, total=False):
    """The options of a Loader that say how it runs, for type checkers."""

    num_workers: int | None
    prefetch: int | None
    in_order: bool
    start_method: str | None
    retries: int
    retry_on: type[Exception] | tuple[type[Exception], ...]
    on_error: OnError
    task_timeout_s: float | None
    memory_limit_bytes: int | None
    worker_init_fn: Callable[[int], object] | None
    hide_gpus: bool
    threads_per_worker: int | None
    chunk: int | Literal["auto"]


START_METHODS: tuple[StartMethod, ...] = ("forkserver", "spawn", "fork")
PREFETCH_PER_WORKER = 2  # torch: prefetch_factor 2
MIN_PREFETCH = 8
MEMORY_SHARE = 4  # the default is this part of what is left: the trainer, its caches and other loaders need theirs
MIN_MEMORY_LIMIT_BYTES = 64 * 1024**2  # the default's floor, for a machine that is full right now

# Names of torch, Keras, tf.data, Grain, Ray, joblib, multiprocessing and concurrent.futures, and what to write here.
_FOREIGN = (
    (
        "workers n_workers n_jobs worker_count max_workers processes num_processes num_proc num_parallel_calls "
        "concurrency parallelism num_threads",
        "it is num_workers here (0: in this process)",
    ),
    ("prefetch_factor", "it is prefetch here, results ahead in total: prefetch_factor * num_workers"),
    (
        "max_queue_size queue_size buffer_size worker_buffer_size prefetch_size max_in_flight",
        "it is prefetch here: results ahead of the loop in total, running ones included",
    ),
    ("persistent_workers", "leave it out: the pool always lives on between epochs, until close()"),
    ("use_multiprocessing", "leave it out: num_workers=0 is in this process, anything above is processes"),
    ("multiprocessing_context mp_context", 'it is start_method here: "forkserver", "spawn" or "fork"'),
    (
        "timeout timeout_s task_timeout",
        "it is task_timeout_s here: seconds for one item, whose worker is then killed and which is run again",
    ),
    ("dataset data data_source iterable indices", "it is source here, the first argument: Loader(source, fn)"),
    ("func function map_fn map_func transform", "it is fn here, the second argument: Loader(source, fn)"),
    (
        "ordered order inorder keep_order preserve_order output_order deterministic sloppy",
        "it is in_order here (False: as they finish)",
    ),
    ("worker_init init_fn initializer", "it is worker_init_fn here, called with the worker_id"),
    ("initargs", "give its arguments by worker_init_fn=functools.partial(function, ...)"),
    ("max_retries num_retries retry tries", "it is retries here, runs after the first one"),
    (
        "errors on_exception error_callback error_handler handler skip_errors ignore_errors",
        'it is on_error here: "raise", "skip", or a callable',
    ),
    ("memory_limit max_memory max_bytes memory", "it is memory_limit_bytes here"),
    ("chunksize chunk_size", "it is chunk here; leave it out, and it follows from what an item costs"),
    (
        "pre_dispatch maxtasksperchild max_tasks_per_child",
        "leave it out: a free worker takes the next item, and workers live on",
    ),
    (
        "epochs num_epochs repeat",
        "leave it out: one iteration is one epoch, for epoch in range(n): for x in loader: ...",
    ),
    ("pin_memory pin_memory_device", "leave it out and pin in the loop: tensor.pin_memory()"),
    ("sampler batch_sampler", "give it as the source: Loader(sampler, lambda i: fn(dataset[i]))"),
    ("generator", "draw the order yourself and give the indices as the source: Loader(indices, fn)"),
    ("engine", "leave it out: num_workers=0 is in this process, anything above is processes"),
)
_OF_THE_ITEMS = ("batch_size", "collate_fn", "drop_last", "shuffle", "seed")  # the Loader's own, not the engine's
_REMEDIES = {name: remedy for names, remedy in _FOREIGN for name in names.split()}


@dataclass(frozen=True, slots=True)
class Options:
    """Every option of a Loader, valid and complete.

    Attributes:
      num_workers: worker processes; 0 runs ``fn`` in this process.
      prefetch: results ahead of the consumer in total, running ones included; at least 1.
      in_order: results in the order of the source; else as they finish.
      start_method: how worker processes are made.
      retries: further runs of an item whose worker died or timed out, or whose exception is one of ``retry_on``.
      retry_on: exceptions after which an item is run again.
      on_error: "raise", "skip", or a callable that runs in the consumer and whose result takes the item's place.
      task_timeout_s: seconds for one run of one item; None for no limit, and without effect in this process.
      memory_limit_bytes: bound of rings and parked results together.
      worker_init_fn: called in each worker with its ``worker_id`` before its first item.
      hide_gpus: workers see no GPU.
      threads_per_worker: threads of BLAS and OpenMP in each worker; None leaves the environment alone.
      chunk: items that travel together; "auto" follows from what one costs.
    """

    num_workers: int
    prefetch: int
    in_order: bool
    start_method: StartMethod
    retries: int
    retry_on: tuple[type[Exception], ...]
    on_error: OnError
    task_timeout_s: float | None
    memory_limit_bytes: int
    worker_init_fn: Callable[[int], object] | None
    hide_gpus: bool
    threads_per_worker: int | None
    chunk: int | Literal["auto"]

    @classmethod
    def make(cls, stacklevel: int = 3, /, **given: object) -> Options:
        """Check what was given and fill in the rest.

        Args:
          stacklevel: frames from here to the line a warning is to point at, as `warnings.warn` counts them: 2 is
            the caller, 3 the caller's caller, which is the user where a constructor calls this.
          **given: options by name, foreign names too; an option left out has its default.

        Raises:
          TypeError: a value of the wrong type, or a name that is none of ours; the message says which is.
          ValueError: a value out of range.
        """
        names = [field.name for field in fields(cls)]
        unknown = [_unknown(name, [*_OF_THE_ITEMS, *names]) for name in given if name not in names]
        if unknown:
            raise TypeError("; ".join(unknown))
        workers = _num_workers(given.get("num_workers"))
        limit = given.get("memory_limit_bytes")
        threads = given.get("threads_per_worker", 1)
        return cls(
            num_workers=workers,
            prefetch=_prefetch(given.get("prefetch"), workers, stacklevel + 1),
            in_order=_bool("in_order", given.get("in_order", True)),
            start_method=_start_method(given.get("start_method")),
            retries=_int("retries", given.get("retries", 1), least=0, hint="0 for none"),
            retry_on=_retry_on(given.get("retry_on", ())),
            on_error=_on_error(given.get("on_error", "raise")),
            task_timeout_s=_task_timeout_s(given.get("task_timeout_s")),
            memory_limit_bytes=_default_memory_limit_bytes()
            if limit is None
            else _int("memory_limit_bytes", limit, least=1, hint="4 * 1024**3 for 4 GiB"),
            worker_init_fn=_worker_init_fn(given.get("worker_init_fn")),
            hide_gpus=_bool("hide_gpus", given.get("hide_gpus", True)),
            threads_per_worker=None
            if threads is None
            else _int("threads_per_worker", threads, least=1, hint="None to leave the environment alone"),
            chunk=_chunk(given.get("chunk", "auto")),
        )


def _unknown(name: str, names: list[str]) -> str:
    if name in _REMEDIES:
        return f"Loader has no option {name!r}: {_REMEDIES[name]}"
    # Over both tables: prefetch_factors is nearer to prefetch_factor, which has an answer, than to prefetch.
    near = difflib.get_close_matches(name.lower(), ["source", "fn", *names, *_REMEDIES], n=1)
    if not near:
        return f"Loader has no option {name!r}: it has {', '.join(names)}"
    if near[0] in _REMEDIES:
        return f"Loader has no option {name!r}; if {near[0]} is meant: {_REMEDIES[near[0]]}"
    return f"Loader has no option {name!r}: did you mean {near[0]}?"


def _num_workers(value: object) -> int:
    if value is None:
        return usable_cores()
    return _int("num_workers", value, least=0, hint="0 runs in this process, None takes every usable core")


def _prefetch(value: object, num_workers: int, stacklevel: int) -> int:
    wanted = max(MIN_PREFETCH, PREFETCH_PER_WORKER * num_workers)
    if value is None:
        return wanted
    prefetch = _int("prefetch", value, least=1, hint=f"None for {wanted}")
    if prefetch < num_workers:
        warnings.warn(
            f"prefetch={prefetch} is less than num_workers={num_workers}: only {prefetch} can be busy at a time, "
            f"since prefetch counts running items too; use prefetch={wanted} or num_workers={prefetch}",
            stacklevel=stacklevel,
        )
    return prefetch


def _start_method(value: object) -> StartMethod:
    if value is None:
        return "forkserver" if sys.platform.startswith("linux") else "spawn"
    for method in START_METHODS:
        if isinstance(value, str) and value == method:
            return method
    wrong = ValueError if isinstance(value, str) else TypeError
    raise wrong(f"start_method must be one of {', '.join(map(repr, START_METHODS))}, or None, not {short_repr(value)}")


def _retry_on(value: object) -> tuple[type[Exception], ...]:
    kinds = value if isinstance(value, tuple) else (value,)
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, Exception):
            continue
        if isinstance(kind, Exception):
            remedy = f"give its class, {type(kind).__name__}"
        elif isinstance(kind, type) and issubclass(kind, BaseException):
            remedy = "it is meant to end a program, and only subclasses of Exception are run again"
        else:
            remedy = "such as OSError or (OSError, TimeoutError)"
        raise TypeError(f"retry_on must be an exception class or a tuple of them, not {short_repr(kind)}: {remedy}")
    return kinds


def _on_error(value: object) -> OnError:
    if isinstance(value, str) and value in ("raise", "skip"):
        return cast(OnError, value)
    if callable(value):
        _check_takes_one("on_error", "the error", value)
        return value
    wrong = ValueError if isinstance(value, str) else TypeError
    raise wrong(f'on_error must be "raise", "skip", or a callable that is given the error, not {short_repr(value)}')


def _task_timeout_s(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"task_timeout_s must be a number of seconds, or None for no limit, not {_shown(value)}")
    try:
        seconds = float(value)
    except OverflowError:  # an int or a fraction beyond 1e308
        seconds = math.inf
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(f"task_timeout_s must be above 0 and finite, not {short_repr(value)}; None for no limit")
    return seconds


def _default_memory_limit_bytes() -> int:
    return max(MIN_MEMORY_LIMIT_BYTES, memory_left_bytes() // MEMORY_SHARE)


def _chunk(value: object) -> int | Literal["auto"]:
    if isinstance(value, str):
        if value == "auto":
            return "auto"
        raise ValueError(f'chunk must be a number of items, or "auto", not {short_repr(value)}')
    return _int("chunk", value, least=1, hint='"auto" to follow from what an item costs')


def _worker_init_fn(value: object) -> Callable[[int], object] | None:
    if value is None:
        return None
    if not callable(value):
        raise TypeError(f"worker_init_fn must be a callable that takes the worker_id, or None, not {_shown(value)}")
    _check_takes_one("worker_init_fn", "the worker_id", value)
    return value


def _check_takes_one(name: str, what: str, function: Callable[..., object]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin that does not tell
        return
    try:
        signature.bind(0)
    except TypeError as error:
        raise TypeError(f"{name} is called with one argument, {what}: {error}") from None


def _bool(name: str, value: object) -> bool:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise TypeError(f"{name} must be True or False, not {_shown(value)}")


def _int(name: str, value: object, *, least: int, hint: str) -> int:
    try:
        number = operator.index(cast(Any, value))
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        whole = isinstance(value, float) and value.is_integer()
        remedy = f"write {int(cast(float, value))}" if whole else hint
        raise TypeError(f"{name} must be an int, not {_shown(value)}: {remedy}")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, not {number}; {hint}")
    return number


def _shown(value: object) -> str:
    return f"{short_repr(value)} ({type(value).__name__})"
