"""StatusBlock: what one worker does and did, as 64-bit words at the start of its segment.

The worker alone writes it (but for `MAIL`, the consumer's); reading it costs no message. Must never know:
who reads, or why. Times are ``time.monotonic_ns``, which all processes of a machine share.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

BLOCK_BYTES = 4096  # one page: the ring starts behind it


class Phase(IntEnum):
    """What a worker is doing. The time of each phase is counted when it ends."""

    STARTING = 0
    WAITING = 1  # for a task
    RUNNING = 2  # the user's code
    WRITING = 3  # pickling into the ring, and announcing it
    STOPPED = 4  # the process is gone; only in a block of `StatusBlock.stopped`


class Word:
    """Position of each figure in the block. Plain integers: a worker uses ten of them an item."""

    PHASE = 0
    SINCE_NS = 1  # start of this phase
    CLAIM = 2  # seq of the task in hand, written last: who sees it sees its start and attempt too
    ATTEMPT = 3
    INDEX = 4
    STARTED_NS = 5  # start of the attempt in hand, or of the element in hand where a task has several
    ITEMS = 6
    ERRORS = 7
    NBYTES = 8
    WAITING_NS = 9
    RUNNING_NS = 10
    WRITING_NS = 11
    STARTING_NS = 12
    RSS_BYTES = 13  # sampled by the worker about once a second
    ELEMENT = 14  # which of a task's several elements is in hand, by its index below the batch
    CHUNK_SEQ = 15  # first seq of the chunk in hand, and the one behind its last, 0 for a single task
    CHUNK_END = 16
    MAIL = 64  # tasks written to this worker's mailbox; written by the consumer, in a cache line of its own
    COSTS = 128  # of each function of a pipeline: nanoseconds, calls


NO_CLAIM = NO_ELEMENT = -1
MAX_COSTS = (BLOCK_BYTES // 8 - Word.COSTS) // 2  # those of more functions stay unknown
_TIMES = {
    Phase.STARTING: Word.STARTING_NS,
    Phase.WAITING: Word.WAITING_NS,
    Phase.RUNNING: Word.RUNNING_NS,
    Phase.WRITING: Word.WRITING_NS,
}


class Hand(NamedTuple):
    """What a worker has in hand: a task, and which of its elements, where it has several."""

    seq: int
    attempt: int
    started_ns: int
    element: int


class StatusBlock:
    """One worker's block, over the first page of its segment."""

    __slots__ = ("words",)

    def __init__(self, words: memoryview) -> None:
        """Wrap the words of a segment; see `reset` for a new one."""
        self.words = words

    @classmethod
    def unborn(cls, now_ns: int) -> StatusBlock:
        """The block of a worker that is not there yet, private."""
        block = cls(memoryview(bytearray(BLOCK_BYTES)).cast("q"))
        block.reset(now_ns)
        return block

    def reset(self, now_ns: int) -> None:
        """Begin a life: phase STARTING, nothing claimed. Runs in: consumer, before the worker exists."""
        words = self.words
        words[Word.CLAIM] = NO_CLAIM
        words[Word.ELEMENT] = NO_ELEMENT
        words[Word.PHASE] = Phase.STARTING
        words[Word.SINCE_NS] = now_ns

    def stopped(self, now_ns: int) -> StatusBlock:
        """Copy what is known at the end of a life, private, its last phase counted. Runs in: consumer."""
        words = memoryview(bytearray(self.words[: BLOCK_BYTES // 8])).cast("q")
        phase = Phase(words[Word.PHASE])
        if phase in _TIMES:
            words[_TIMES[phase]] += max(0, now_ns - words[Word.SINCE_NS])
        words[Word.PHASE] = Phase.STOPPED
        words[Word.SINCE_NS] = now_ns
        return StatusBlock(words)

    def seconds(self, phase: Phase, now_ns: int) -> float:
        """Time spent in a phase so far, the running one included."""
        words = self.words
        total = words[_TIMES[phase]]
        if words[Word.PHASE] == phase:
            total += max(0, now_ns - words[Word.SINCE_NS])
        return float(total) / 1e9

    def cost(self, number: int) -> tuple[int, int]:
        """Nanoseconds spent in a pipeline's function, and calls."""
        at = Word.COSTS + 2 * number
        return self.words[at], self.words[at + 1]

    def claimed(self) -> int:
        """Seq of the last task taken, finished or not; NO_CLAIM before the first."""
        return int(self.words[Word.CLAIM])

    def chunk(self) -> range:
        """Seqs of the task or chunk taken last, finished or not; empty before the first."""
        claim, taken = self.claimed(), range(self.words[Word.CHUNK_SEQ], self.words[Word.CHUNK_END])
        if claim in taken:
            return taken
        return range(claim, claim + 1) if claim != NO_CLAIM else range(0)

    def hand(self) -> Hand | None:
        """The task in hand, None if there is none; pickling runs user code too."""
        words = self.words
        if words[Word.PHASE] not in (Phase.RUNNING, Phase.WRITING):
            return None
        return Hand(words[Word.CLAIM], words[Word.ATTEMPT], words[Word.STARTED_NS], words[Word.ELEMENT])
