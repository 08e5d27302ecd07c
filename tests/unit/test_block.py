"""The status block: one word a figure, times that add up, and a hand that is only there while it is full."""

from __future__ import annotations

import pytest

from mploader.stats.block import BLOCK_BYTES, NO_CLAIM, Hand, Phase, StatusBlock, Word
from mploader.transport.segment import PAGE_BYTES, Segment

SECOND = 1_000_000_000
WORDS = {name: int(value) for name, value in vars(Word).items() if name.isupper()}


def new_block() -> StatusBlock:
    """A block at the start of a memory of its own, reset at second 100."""
    segment = Segment.create("block", BLOCK_BYTES)
    segment.close_fd()
    block = StatusBlock(segment.words)
    block.reset(100 * SECOND)
    return block


def enter(block: StatusBlock, phase: Phase, since_s: int) -> None:
    """What a worker writes when a phase begins."""
    block.words[Word.SINCE_NS] = since_s * SECOND
    block.words[Word.PHASE] = phase


def test_each_figure_has_a_word_of_its_own() -> None:
    """No two figures share a word, all lie inside the block, and the ring behind it starts at a page."""
    assert len(WORDS) >= 14
    assert len(set(WORDS.values())) == len(WORDS)
    assert all(0 <= position < BLOCK_BYTES // 8 for position in WORDS.values())
    assert BLOCK_BYTES % PAGE_BYTES == 0


def test_the_consumers_word_shares_no_cache_line() -> None:
    """`MAIL` is written by the consumer: none of the worker's words lies in its 64 bytes."""
    lines = {name: position // 8 for name, position in WORDS.items()}
    assert [name for name, line in lines.items() if line == lines["MAIL"]] == ["MAIL"]


def test_a_new_life_has_done_nothing() -> None:
    """After a reset: starting, no claim, no hand, and every other figure 0."""
    block = new_block()
    assert block.claimed() == NO_CLAIM
    assert block.hand() is None
    assert block.words[Word.PHASE] == Phase.STARTING
    changed = {Word.PHASE, Word.SINCE_NS, Word.CLAIM, Word.ELEMENT}
    assert not any(block.words[position] for position in WORDS.values() if position not in changed)
    assert NO_CLAIM < 0, "it must differ from every seq"


def test_the_phase_that_runs_counts() -> None:
    """A phase's seconds are those of its ends and those since it began; other phases stand still."""
    block = new_block()
    assert block.seconds(Phase.STARTING, 103 * SECOND) == 3.0
    assert block.seconds(Phase.WAITING, 103 * SECOND) == 0.0
    block.words[Word.STARTING_NS] += 3 * SECOND
    enter(block, Phase.WAITING, 103)
    assert block.seconds(Phase.STARTING, 110 * SECOND) == 3.0
    assert block.seconds(Phase.WAITING, 110 * SECOND) == 7.0
    block.words[Word.WAITING_NS] += 7 * SECOND
    enter(block, Phase.RUNNING, 110)
    assert block.seconds(Phase.WAITING, 111 * SECOND) == 7.0
    assert block.seconds(Phase.RUNNING, 111 * SECOND) == 1.0


def test_each_phase_has_its_own_time() -> None:
    """Seconds of one phase are never those of another."""
    block = new_block()
    places = (Word.STARTING_NS, Word.WAITING_NS, Word.RUNNING_NS, Word.WRITING_NS)
    for number, position in enumerate(places, 1):
        block.words[position] = number * SECOND
    enter(block, Phase.STOPPED, 100)
    phases = (Phase.STARTING, Phase.WAITING, Phase.RUNNING, Phase.WRITING)
    assert [block.seconds(phase, 200 * SECOND) for phase in phases] == [1.0, 2.0, 3.0, 4.0]


def test_a_clock_read_before_the_phase_began_is_no_negative_time() -> None:
    """The reader's clock may be a little older than the writer's word."""
    block = new_block()
    assert block.seconds(Phase.STARTING, 99 * SECOND) == 0.0


@pytest.mark.parametrize("phase", Phase)
def test_a_hand_is_full_while_user_code_may_run(phase: Phase) -> None:
    """Running and writing (pickling runs user code too) have a task in hand; waiting, starting, stopped have none."""
    block = new_block()
    block.words[Word.CLAIM] = 17
    block.words[Word.ATTEMPT] = 2
    block.words[Word.STARTED_NS] = 123 * SECOND
    enter(block, phase, 124)
    full = phase in (Phase.RUNNING, Phase.WRITING)
    block.words[Word.ELEMENT] = 5
    assert block.hand() == (Hand(17, 2, 123 * SECOND, 5) if full else None)
    assert block.claimed() == 17, "what was taken last, finished or not"


def test_a_reader_sees_what_the_writer_wrote() -> None:
    """Two mappings of one memory are one block: 64-bit words there and back, as with two processes."""
    segment = Segment.create("block", BLOCK_BYTES)
    other = Segment(segment.fd, BLOCK_BYTES, writable=False)
    writer, reader = StatusBlock(segment.words), StatusBlock(other.words)
    writer.reset(5)
    writer.words[Word.CLAIM] = (1 << 63) - 1
    assert reader.claimed() == (1 << 63) - 1
    with pytest.raises(TypeError):
        reader.words[Word.CLAIM] = 0
    segment.close_fd()


def test_a_life_that_ended_stands_still() -> None:
    """What is known at the end is a copy: stopped, its last phase counted, all its figures; no time passes in it."""
    block = new_block()
    block.words[Word.ITEMS] = 5
    block.words[Word.WAITING_NS] = 2 * SECOND
    enter(block, Phase.WAITING, 110)
    end = block.stopped(113 * SECOND)
    enter(block, Phase.RUNNING, 120)
    assert Phase(end.words[Word.PHASE]) is Phase.STOPPED
    assert (end.words[Word.ITEMS], end.hand()) == (5, None)
    assert end.seconds(Phase.WAITING, 113 * SECOND) == end.seconds(Phase.WAITING, 200 * SECOND) == 5.0
    assert end.stopped(300 * SECOND).seconds(Phase.WAITING, 300 * SECOND) == 5.0


def test_what_was_taken_last() -> None:
    """Nothing, a chunk, one task: a single's claim never stands for an older chunk that it lies in."""
    block = new_block()
    assert len(block.chunk()) == 0
    words = block.words
    words[Word.CHUNK_END], words[Word.CHUNK_SEQ], words[Word.CLAIM] = 8, 0, 5
    assert block.chunk() == range(8)
    words[Word.CHUNK_END], words[Word.CLAIM] = 0, 6
    assert block.chunk() == range(6, 7)
