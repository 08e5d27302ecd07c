"""What the tests of the codec and of leases share: a writer over a memory of its own, and what may be asked of both."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from mploader.transport.codec import HEAD_BYTES, Span, SpanWriter, read
from mploader.transport.lease import FREED, Leases, free
from mploader.transport.segment import Segment

Array = np.ndarray[Any, Any]


class Watched(Segment):
    """A segment that knows how far it was committed, so that a test can see a write beyond."""

    __slots__ = ("committed",)

    committed: int

    def commit(self, start: int, stop: int) -> None:
        super().commit(start, stop)
        assert start <= getattr(self, "committed", start), "a hole"
        self.committed = max(stop, getattr(self, "committed", stop))

    def discard(self, start: int, stop: int) -> None:
        super().discard(start, stop)
        if start < stop and stop >= self.committed:  # else pages that no span will ever lie in again
            self.committed = min(self.committed, start)


@contextlib.contextmanager
def span_writer(
    nbytes: int = 64 << 20, limit_bytes: int | None = None, base: int = 0, *, main_by_value: bool = False
) -> Iterator[SpanWriter]:
    """A writer into ``nbytes`` of new memory; the descriptor is closed at the end, views may live on."""
    segment = Watched.create("test", nbytes)
    try:
        yield SpanWriter(segment, base, nbytes if limit_bytes is None else limit_bytes, main_by_value=main_by_value)
    finally:
        segment.close_fd()


def resident_bytes(writer: SpanWriter) -> int:
    """Memory that the segment takes now, in bytes."""
    return os.fstat(writer.segment.fd).st_blocks * 512


def there_and_back(writer: SpanWriter, obj: object) -> Any:
    """Write an object, read a copy of it, free the span."""
    span = writer.write(obj)
    check_span(writer, span)
    try:
        return read(writer.segment, span, None)
    finally:
        free(writer.segment, span.offset)


def leased(writer: SpanWriter, leases: Leases, obj: object) -> Any:
    """Write an object, and read it under a lease that frees its span; it must have buffers out of band."""
    return leased_at(writer, leases, obj)[0]


def leased_at(writer: SpanWriter, leases: Leases, obj: object) -> tuple[Any, int]:
    """As `leased`, with the offset of the span."""
    span = writer.write(obj)
    check_span(writer, span)
    assert span.n_buffers
    value = read(writer.segment, span, leases)
    leases.arm()
    return value, span.offset


def check_span(writer: SpanWriter, span: Span) -> None:
    """A span lies in the memory, in its committed part, aligned, and is not free."""
    segment = writer.segment
    assert isinstance(segment, Watched)
    assert span.offset % 64 == 0
    assert span.span_nbytes >= HEAD_BYTES + span.stream_nbytes
    assert span.span_nbytes % 8 == 0 or not span.n_buffers  # its table is of words
    assert span.offset + span.span_nbytes <= segment.committed <= segment.nbytes
    assert segment.words[span.offset >> 3] != FREED


def lies_in(segment: Segment, array: Array) -> bool:
    """Whether an array's memory is the segment's own."""
    return np.shares_memory(array, np.frombuffer(segment.view, np.uint8))


def address(array: Array) -> int:
    """Where an array's first byte is."""
    return int(array.__array_interface__["data"][0])


def fresh(writer: SpanWriter, leases: Leases) -> Array:
    """An image of 120,000 bytes in the ring, under a lease."""
    array: Array = leased(writer, leases, np.arange(30_000, dtype=np.float32).reshape(100, 300))
    assert lies_in(writer.segment, array)
    return array


def is_free(writer: SpanWriter, leases: Leases, offset: int = 0) -> bool:
    """Whether the span at ``offset`` was given back, once the dead are reaped."""
    leases.reap()
    return bool(writer.segment.words[offset >> 3] == FREED)


def same(one: Any, other: Any) -> bool:
    """Whether two objects are equal and of the same types, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and bool((one == other).all())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return bool(one == other)
