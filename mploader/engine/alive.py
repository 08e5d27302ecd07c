"""Alive: all streams of this process, and what ends them: their loader's death, a fork, the program's end.

Runs in: consumer, called by the collector, by ``os.fork`` and at exit. What the collector calls takes no lock, waits
for nothing, and keeps no stream alive.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import weakref
from collections.abc import Callable
from typing import Any

from mploader.engine.inline import InlineStream
from mploader.engine.stream import Stream
from mploader.pipeline import explain

_streams: weakref.WeakSet[Stream | InlineStream] = weakref.WeakSet()


def add(stream: Stream | InlineStream, owner: object) -> weakref.finalize[..., Any]:
    """Watch over a stream, and close it when ``owner`` is garbage; the answer is to be detached once it was closed."""
    _streams.add(stream)
    finalizer = weakref.finalize(owner, _ending(stream))
    finalizer.atexit = False  # `_close_all` does it, and waits
    return finalizer


def _ending(stream: Stream | InlineStream) -> Callable[[], None]:
    return stream.supervisor.switch.close if isinstance(stream, Stream) else _nothing


def _nothing() -> None:
    pass


def _close_all() -> None:
    for stream in list(_streams):
        with contextlib.suppress(Exception):
            if isinstance(stream, Stream):
                stream.is_exiting = True
            stream.close()


def _before_fork() -> None:
    for stream in list(_streams):
        if isinstance(stream, Stream):
            stream.leases.retire()


def _after_fork_in_child() -> None:
    for stream in list(_streams):
        with contextlib.suppress(Exception):
            stream.drop()
    _streams.clear()


def _collect_costs() -> None:
    for stream in list(_streams):
        if isinstance(stream, Stream) and not stream.is_closed:
            stream.collect_costs()


explain.before_reading.append(_collect_costs)
atexit.register(_close_all)
os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
