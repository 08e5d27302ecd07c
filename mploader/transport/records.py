"""The fixed-size messages between consumer and workers.

Each is written to a pipe by one `write` of `RECORD_BYTES`, far below ``PIPE_BUF``: the kernel then passes
it whole or not at all, also when the writer is killed, and in order on every CPU. Flags in shared memory
do not: a "set flag, check again" hand-shake lost 2,613 of 3 million wake-ups on x86.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

RECORD_BYTES = 64
_TASK = struct.Struct("<QqQQQIIIHIIH")
_RESULT = struct.Struct("<QQQQQIIIHHI4x")
assert _TASK.size == _RESULT.size == RECORD_BYTES


class Verb(IntEnum):
    """What a task record asks for."""

    RUN = 1
    STOP = 2
    TIDY = 3  # give memory back: something was let go of while the worker slept


class Kind(IntEnum):
    """What a result record announces."""

    RESULT = 1
    ERROR = 2
    READY = 3
    START_ERROR = 4
    SKIPPED = 5  # its epoch was given up; sent only where the element lies in the arena


class Task(NamedTuple):
    """Consumer to worker: run ``fn`` on one element, or on each of a chunk: ``n_tasks`` of them, one after the other.

    ``offset`` and the sizes locate the element in the consumer's arena; all are 0 where the index itself
    is enough (``span_nbytes == 0``). ``worker`` is the one it must be done by, counted from 1; 0 for any.
    """

    seq: int
    position: int
    offset: int = 0
    stream_nbytes: int = 0
    span_nbytes: int = 0
    n_buffers: int = 0
    attempt: int = 0
    generation: int = 0
    verb: int = Verb.RUN
    epoch: int = 0
    n_tasks: int = 1
    worker: int = 0

    @property
    def seqs(self) -> range:
        """Of the tasks it is about."""
        return range(self.seq, self.seq + self.n_tasks)

    def single(self, seq: int) -> Task:
        """The task of one element of a chunk."""
        if self.n_tasks == 1:
            return self
        return self._replace(seq=seq, position=self.position + seq - self.seq, n_tasks=1)


class Result(NamedTuple):
    """Worker to consumer: what lies where in the worker's segment.

    With ``n_tasks`` above 1 it is a chunk of results, from ``seq`` on: see `codec.SpanWriter.store_chunk`.
    """

    seq: int
    offset: int
    stream_nbytes: int
    span_nbytes: int
    run_ns: int
    incarnation: int
    attempt: int
    n_buffers: int
    kind: int
    worker_id: int
    n_tasks: int = 1

    @property
    def seqs(self) -> range:
        """Of the tasks it is about."""
        return range(self.seq, self.seq + self.n_tasks)


pack_task = _TASK.pack
unpack_task = _TASK.unpack
pack_result = _RESULT.pack
iter_results = _RESULT.iter_unpack
