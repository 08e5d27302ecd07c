"""Codec: an object to a span and back.

A span is a 64-byte head whose first word says whether it was freed (then none of its bytes is 0), the pickle
stream (protocol 5), its large buffers out of band at multiples of 64, and a table of where they are (two words
each) at the end.

The span of a chunk holds several objects, each a pickle of its own (in one, objects would share what they have in
common, and one that cannot be rebuilt would lose all): the small streams one after the other, and a table of four
words each: where it is, and its sizes. What is large has a span of its own, so that to keep it keeps no other.

Must never know: seqs, workers, pipes. The writer is the only one who allocates; whoever reads, frees.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import struct
import sys
from array import array
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from mploader.transport import tensors
from mploader.transport.lease import Leases, free
from mploader.transport.pickler import ByValuePickler
from mploader.transport.ring import Ring, align
from mploader.transport.segment import PAGE_BYTES, Segment

HEAD_BYTES = 64
TABLE_ENTRY_BYTES = 16
_ENTRY = struct.Struct("@2q")  # where a buffer starts in its span, and its size
PART_WORDS = 4  # of a chunk's table: a `Span`, whose span_nbytes is 0 where the stream lies in the chunk's own span
OUT_OF_BAND_BYTES = 32 << 10  # smaller buffers are copied with the stream: keeping a label must not pin a batch
SPOOL_BYTES = 32 << 10  # streams that large are pickled straight into the ring: 5 us against 69 for 200 kB

DispatchTable = dict[type, Callable[[Any], Any]]


class Span(NamedTuple):
    """Where an object lies in a segment."""

    offset: int
    stream_nbytes: int
    span_nbytes: int
    n_buffers: int


class NoRoomError(Exception):
    """The span does not fit into the memory, now or ever; ``args[0]`` is its size in bytes."""


class SpanWriter:
    """Writes objects into one segment. Runs in: worker (results) or consumer (elements of streams).

    Nobody waits for room: a span goes where the ring finds a gap, and the ring grows where it finds none.
    """

    def __init__(self, segment: Segment, base: int, limit_bytes: int, *, main_by_value: bool = False) -> None:
        """Write into ``segment`` from byte ``base`` on, at most ``limit_bytes`` an object.

        Args:
          main_by_value: whoever reads has no ``__main__`` of ours, so what lives there goes by value.
        """
        self.segment = segment
        self.limit_bytes = limit_bytes
        self.dispatch: DispatchTable = {}  # reducers by exact type, as `pickle.Pickler.dispatch_table`
        self.always_dispatch = False  # else only where the last object had large buffers: `dumps` is faster
        self._main_by_value = main_by_value
        self._base = base
        self._committed = 0
        # a byte of each head, by a method in C: it is asked several times an item
        self.ring = Ring(segment.nbytes - base, segment.view[base:].__getitem__)
        self._raws: list[memoryview] = []  # the large buffers of the object in hand
        self._sink = io.BytesIO()
        self._pickler: pickle.Pickler | None = None
        self._last_stream_nbytes = 0
        self._had_buffers = False
        self._registered = 0

    def write(self, obj: object) -> Span:
        """Pickle ``obj`` into a span. Copies: each large buffer once, the rest of a small stream twice.

        Raises:
          NoRoomError: larger than ``limit_bytes`` or than the whole memory.
          Exception: whatever pickling raised, with ``cloudpickle`` as with ``pickle``.
        """
        try:
            if self._last_stream_nbytes >= SPOOL_BYTES and not self._main_by_value:
                span = self._spool(obj)
            else:
                span = self._store(self._pickle(obj))
        finally:
            self._raws.clear()
        self._last_stream_nbytes = span.stream_nbytes
        self._had_buffers = span.n_buffers > 0
        return span

    def write_part(self, obj: object) -> bytes | Span:
        """Pickle ``obj`` as one of a chunk: its stream, for `store_chunk`, or a span of its own if it is large.

        Raises:
          NoRoomError, Exception: as `write`.
        """
        if self._last_stream_nbytes >= SPOOL_BYTES or self._main_by_value:
            return self.write(obj)
        try:
            stream = self._pickle(obj)
            self._had_buffers = bool(self._raws)
            self._last_stream_nbytes = nbytes = len(stream)
            if self._raws or nbytes >= SPOOL_BYTES or HEAD_BYTES + nbytes > self.limit_bytes:
                return self._store(stream)
            return bytes(stream)
        finally:
            self._raws.clear()

    def store_chunk(self, parts: list[bytes | Span]) -> Span:
        """Write what `write_part` gave for several objects; its ``span_nbytes`` includes the large ones' own.

        Raises:
          NoRoomError: there is none for the small ones together.
        """
        streams = b"".join([part for part in parts if isinstance(part, bytes)])
        stream_nbytes = (len(streams) + 7) & -8
        table_nbytes = 8 * PART_WORDS * len(parts)
        offset = self.allocate(HEAD_BYTES + stream_nbytes + table_nbytes, is_limited=False)
        at = offset + HEAD_BYTES
        self.segment.view[at : at + len(streams)] = streams
        table: list[int] = []
        nbytes = HEAD_BYTES + stream_nbytes + table_nbytes
        for part in parts:
            if isinstance(part, bytes):
                table += (at, len(part), 0, 0)
                at += len(part)
            else:
                table += part
                nbytes += part[2]
        entry = (offset + HEAD_BYTES + stream_nbytes) >> 3
        self.segment.words[entry : entry + len(table)] = memoryview(array("q", table))
        return Span(offset, stream_nbytes, nbytes, 0)

    def store(self, stream: bytes) -> Span:
        """Write a pickle stream that was made elsewhere and has no buffers, however small the limit is."""
        return self._store(stream, is_limited=False)

    def release(self, span: Span) -> None:
        """Take back a span that nobody was told of."""
        self.ring.release(span.offset - self._base)

    def shrink(self) -> None:
        """Give memory back that was not needed since the last call."""
        dropped = self.ring.shrink()
        if dropped is not None:
            start = -(-(self._base + dropped[0]) // PAGE_BYTES) * PAGE_BYTES
            self.segment.discard(start, self._base + self._committed)
            self._committed = min(self._committed, start - self._base)

    def _pickle(self, obj: object) -> bytes | memoryview:
        try:
            if not (self.dispatch and (self.always_dispatch or self._had_buffers)):
                stream = pickle.dumps(obj, 5, buffer_callback=self._keep)
                if not self._main_by_value:
                    if "torch" not in sys.modules or tensors.TOLD_BY not in stream:
                        return stream
                    self.always_dispatch = True
                    self._raws.clear()
                    return self._dump(obj)
                if b"__main__" not in stream:
                    return stream
                raise pickle.PicklingError("something in it may be named by __main__")
            return self._dump(obj)
        except Exception:  # noqa: BLE001  cloudpickle takes lambdas, local classes, __main__; its error is the better one
            self._raws.clear()
            sink = io.BytesIO()
            ByValuePickler(sink, self._keep).dump(obj)
        return sink.getbuffer()

    def _dump(self, obj: object) -> bytes:
        """Pickle with our reducers. One pickler for all: to make one takes as long as a small object."""
        pickler = self._pickler
        if pickler is None:
            pickler = self._pickler = pickle.Pickler(self._sink, 5, buffer_callback=self._keep)
        pickler.dispatch_table = self._table()
        try:
            pickler.dump(obj)
            return self._sink.getvalue()
        finally:
            pickler.clear_memo()  # it keeps what was pickled alive
            self._sink.seek(0)
            self._sink.truncate()

    def _table(self) -> DispatchTable:
        """The reducers, with what a library may have registered meanwhile."""
        known = len(copyreg.dispatch_table) + ("torch" in sys.modules)
        if known != self._registered:
            self._registered = known
            self.dispatch = {**tensors.reducers(), **copyreg.dispatch_table, **self.dispatch}
        return self.dispatch

    def _keep(self, buffer: pickle.PickleBuffer) -> bool | None:
        """Decide about one buffer: True leaves it in the stream, None takes it out of band."""
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND_BYTES:
            return True
        self._raws.append(raw)
        return None

    def _spool(self, obj: object) -> Span:
        """Pickle straight into the ring: the C pickler hands large bytes to ``write`` without a copy."""
        try:
            spool = _Spool(self, self._last_stream_nbytes + self._last_stream_nbytes // 4)
        except NoRoomError:  # for the guess; the object itself may fit
            return self._store(self._pickle(obj))
        try:
            pickler = pickle.Pickler(spool, 5, buffer_callback=self._keep)
            if self.dispatch:
                pickler.dispatch_table = self._table()
            pickler.dump(obj)
            return spool.finish()
        except Exception:  # noqa: BLE001  as in _pickle and above
            spool.abandon()
            self._raws.clear()
            return self._store(self._pickle(obj))
        except BaseException:
            spool.abandon()
            raise

    def _store(self, stream: bytes | memoryview, *, is_limited: bool = True) -> Span:
        raws, stream_nbytes = self._raws, len(stream)
        if not raws:
            nbytes = HEAD_BYTES + stream_nbytes
            offset = self.allocate(nbytes, is_limited=is_limited)
        else:
            starts = lay_out(stream_nbytes, raws)
            nbytes = starts[-1] + TABLE_ENTRY_BYTES * len(raws)
            offset = self.allocate(nbytes, is_limited=is_limited)
            self.put_buffers(offset, raws, starts)
        at = offset + HEAD_BYTES
        self.segment.view[at : at + stream_nbytes] = stream
        return Span(offset, stream_nbytes, nbytes, len(raws))

    def allocate(self, nbytes: int, *, is_limited: bool = True) -> int:
        """Get room for ``nbytes``, committed, not yet freed; the answer is its offset in the segment."""
        start = self.ring.allocate(nbytes) if nbytes <= self.limit_bytes or not is_limited else None
        if start is None:
            raise NoRoomError(nbytes)
        if start + nbytes > self._committed:
            stop = start + align(nbytes)
            end = -(-(self._base + stop) // PAGE_BYTES) * PAGE_BYTES
            try:
                self.segment.commit(self._base + self._committed, end)
            except OSError:
                self.ring.release(start)
                raise NoRoomError(nbytes) from None
            self._committed = end - self._base
        offset = self._base + start
        self.segment.words[offset >> 3] = 0
        return offset

    def put_buffers(self, offset: int, raws: list[memoryview], starts: list[int]) -> None:
        """Copy buffers to where they were laid out, and write their table behind them."""
        view, table = self.segment.view, offset + starts[-1]
        for raw, start in zip(raws, starts, strict=False):
            at, nbytes = offset + start, raw.nbytes
            view[at : at + nbytes] = raw
            _ENTRY.pack_into(view, table, start, nbytes)
            table += TABLE_ENTRY_BYTES


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, data: object) -> None:
        pass


def check_picklable(obj: object) -> None:
    """Pickle into nowhere, copying no large buffer.

    Raises:
      Exception: whatever cloudpickle raised.
    """
    ByValuePickler(_Nowhere(), lambda _: None).dump(obj)


def lay_out(stream_nbytes: int, raws: list[memoryview]) -> list[int]:
    """Where in a span each buffer starts, all multiples of 64, and last where their table does."""
    at = align(HEAD_BYTES + stream_nbytes)
    starts = [at]
    for raw in raws:
        at = align(at + raw.nbytes)
        starts.append(at)
    return starts


class _Spool:
    """A file that writes into the ring, and moves to a larger span when it outgrows its own."""

    def __init__(self, writer: SpanWriter, expected_nbytes: int) -> None:
        self._writer = writer
        self._room = HEAD_BYTES + min(expected_nbytes, writer.limit_bytes - HEAD_BYTES)
        self._offset = writer.allocate(self._room)
        self._used = HEAD_BYTES

    def write(self, data: bytes | memoryview | pickle.PickleBuffer) -> int:
        raw = data.raw() if isinstance(data, pickle.PickleBuffer) else data
        nbytes = len(raw)
        end = self._used + nbytes
        if end > self._room:
            self._move(max(end, min(2 * self._room, self._writer.limit_bytes)))
        self._writer.segment.view[self._offset + self._used : self._offset + end] = raw
        self._used = end
        return nbytes

    def finish(self) -> Span:
        writer, stream_nbytes = self._writer, self._used - HEAD_BYTES
        raws = writer._raws
        if not raws:
            writer.ring.trim(self._offset - writer._base, self._used)
            return Span(self._offset, stream_nbytes, self._used, 0)
        starts = lay_out(stream_nbytes, raws)
        nbytes = starts[-1] + TABLE_ENTRY_BYTES * len(raws)
        if nbytes > self._room:
            self._move(nbytes)
        else:
            writer.ring.trim(self._offset - writer._base, nbytes)
        writer.put_buffers(self._offset, raws, starts)
        return Span(self._offset, stream_nbytes, nbytes, len(raws))

    def abandon(self) -> None:
        self._writer.ring.release(self._offset - self._writer._base)

    def _move(self, room: int) -> None:
        offset = self._writer.allocate(room)
        view = self._writer.segment.view
        view[offset + HEAD_BYTES : offset + self._used] = view[self._offset + HEAD_BYTES : self._offset + self._used]
        self.abandon()
        self._offset, self._room = offset, room


class Located(Protocol):
    """Whatever tells where an object lies: a `Span`, or the record that announced it."""

    @property
    def offset(self) -> int: ...  # noqa: D102
    @property
    def stream_nbytes(self) -> int: ...  # noqa: D102
    @property
    def span_nbytes(self) -> int: ...  # noqa: D102
    @property
    def n_buffers(self) -> int: ...  # noqa: D102


def read(segment: Segment, span: Located, leases: Leases | None) -> Any:
    """Rebuild the object of a span. The span is not freed here.

    Args:
      leases: large buffers become views of the segment under a lease that frees the span when the last of
        them dies; None copies them, and the caller frees the span.

    Raises:
      Exception: whatever unpickling raised.
    """
    offset = span.offset
    at = offset + HEAD_BYTES
    stream = segment.view[at : at + span.stream_nbytes]
    if not span.n_buffers:
        return pickle.loads(stream)
    if leases is not None:
        whole = leases.lease(segment, offset, span.span_nbytes)
    else:
        whole = segment.view[offset : offset + span.span_nbytes]
    table = offset + span.span_nbytes - TABLE_ENTRY_BYTES * span.n_buffers
    buffers: list[Any] = []
    for start, nbytes in _ENTRY.iter_unpack(segment.view[table : offset + span.span_nbytes]):
        buffer = whole[start : start + nbytes]
        buffers.append(buffer if leases is not None else bytearray(buffer))
    return pickle.loads(stream, buffers=buffers)


def read_part(segment: Segment, part: Located, leases: Leases | None) -> Any:
    """Rebuild one object, of a chunk or with a span of its own; as `read`."""
    if not part.span_nbytes:
        return pickle.loads(segment.view[part.offset : part.offset + part.stream_nbytes])
    return read(segment, part, leases)


class _Copied(NamedTuple):
    """What is used of a segment where one small object is read, and freed."""

    view: memoryview
    words: memoryview


def copied_part(segment: Segment, part: Span) -> Any:
    """Copy one small object out of a chunk, into private memory with the face of a segment; it lies at offset 0."""
    memory = memoryview(bytearray((part.stream_nbytes + 7) & -8))
    memory[: part.stream_nbytes] = segment.view[part.offset : part.offset + part.stream_nbytes]
    return _Copied(memory, memory.cast("q"))


def chunk_parts(segment: Segment, chunk: Located, count: int) -> list[Span]:
    """Where the ``count`` objects of a chunk lie, for `read_part`."""
    entry = (chunk.offset + HEAD_BYTES + chunk.stream_nbytes) >> 3
    table = iter(segment.words[entry : entry + PART_WORDS * count].tolist())
    return list(map(Span._make, zip(table, table, table, table, strict=True)))


def free_chunk(segment: Segment, chunk: Located, count: int) -> None:
    """Give a chunk back, unread; idempotent until its writer finds it free."""
    for part in chunk_parts(segment, chunk, count):
        if part.span_nbytes:
            free(segment, part.offset)
    free(segment, chunk.offset)
