"""Outbox: a worker's results on their way: into its ring (step E), and announced (step F).

Results of a chunk wait here for `flush`: they become one span and one record, and all records go out in one write.
Runs in: worker. Must never know: the user's code, the consumer's side. Invariants: what is announced lies in the ring
whole; records leave in the order in which results were added.
"""

from __future__ import annotations

import os
import pickle
from typing import Any

from mploader import platform
from mploader.transport import failure, records
from mploader.transport.codec import NoRoomError, Span, SpanWriter
from mploader.transport.diagnose import find_unpicklable
from mploader.transport.records import Kind

MIN_LIMIT_BYTES = 1 << 20  # errors arrive, whatever memory_limit_bytes says
MAX_CHUNK_BYTES = 256 << 10  # of small results in one span
MAX_WRITE_RECORDS = platform.PIPE_BUF // records.RECORD_BYTES  # more are not written whole or not at all
NOTHING = Span(0, 0, 0, 0)

_RESULT, _ERROR = int(Kind.RESULT), int(Kind.ERROR)  # plain: an enum's member costs more than all else in its line


class Outbox:
    """The way out of one incarnation of one worker."""

    def __init__(self, writer: SpanWriter, records_fd: int, incarnation: int, worker_id: int) -> None:
        self.writer = writer
        self._records_fd = records_fd
        self._incarnation = incarnation
        self._worker_id = worker_id
        self._records: list[bytes] = []
        self._parts: list[bytes | Span] = []  # results of a chunk, which have no record yet
        self._first_seq = 0
        self._run_ns = self._nbytes = 0

    def add(self, seq: int, part: bytes | Span, run_ns: int) -> int:
        """Take the next result of a chunk, as `SpanWriter.write_part` gave it; the answer is its size in bytes."""
        parts = self._parts
        if not parts:
            self._first_seq = seq
        parts.append(part)
        self._run_ns += run_ns
        if not isinstance(part, bytes):
            return part.span_nbytes
        nbytes = len(part)
        self._nbytes += nbytes
        if self._nbytes > MAX_CHUNK_BYTES:
            self._close_chunk()
        return nbytes

    def announce(self, kind: int, seq: int, attempt: int, span: Span, run_ns: int, count: int = 1) -> None:
        """Add a record, behind what was added before."""
        if self._parts:
            self._close_chunk()
        offset, stream_nbytes, span_nbytes, n_buffers = span
        run_ns = max(0, run_ns)
        incarnation, worker_id = self._incarnation, self._worker_id
        self._records.append(
            records.pack_result(
                seq, offset, stream_nbytes, span_nbytes, run_ns, incarnation, attempt, n_buffers, kind, worker_id, count
            )
        )

    def flush(self) -> None:
        """Announce all that was added. Blocks while the consumer's pipe is full."""
        if self._parts:
            self._close_chunk()
        waiting = self._records
        if len(waiting) == 1:
            os.write(self._records_fd, waiting.pop())
        while waiting:
            os.write(self._records_fd, b"".join(waiting[:MAX_WRITE_RECORDS]))  # F: whole or not at all
            del waiting[:MAX_WRITE_RECORDS]

    def store_refused(self, error: BaseException, value: object, element: str) -> Span:
        """Write why a result could not be written."""
        if isinstance(error, NoRoomError):
            return self.store_failure("too large", failure.pack(error, {}), element, needed_bytes=error.args[0])
        packed = failure.pack(error, self.writer.dispatch)
        if not isinstance(error, Exception):
            return self.store_failure("raised", packed, element)
        culprit = find_unpicklable(value, "result", role="result")
        return self.store_failure(
            "not picklable", packed, element, sentence=culprit.sentence, path=culprit.path, type_name=culprit.type_name
        )

    def store_failure(self, what: str, packed: failure.Packed, element: str, **details: Any) -> Span:
        """Write an error."""
        told = {"pid": os.getpid(), "element": element, **details}
        if packed.pickled is not None and len(packed.pickled) > max(self.writer.limit_bytes, MIN_LIMIT_BYTES):
            packed = packed._replace(
                pickled=None, why_not=f"it is larger than memory_limit_bytes, {len(packed.pickled):,}"
            )
        # a plain tuple and dict of strings and bytes: this pickle cannot fail, nor its loading
        return self.writer.store(pickle.dumps((what, packed, told), 5))

    def _close_chunk(self) -> None:
        """Give the results that wait one record."""
        parts, first, run_ns = self._parts, self._first_seq, self._run_ns
        self._parts, self._run_ns, self._nbytes = [], 0, 0
        try:
            if len(parts) > 1:
                self.announce(_RESULT, first, 0, self.writer.store_chunk(parts), run_ns, len(parts))
                return
        except NoRoomError:  # for all of them in one piece
            pass
        for seq, part in enumerate(parts, first):
            try:
                span = self.writer.store(part) if isinstance(part, bytes) else part
            except NoRoomError as error:
                self.announce(_ERROR, seq, 0, self.store_refused(error, None, ""), run_ns)
            else:
                self.announce(_RESULT, seq, 0, span, run_ns)
            run_ns = 0
