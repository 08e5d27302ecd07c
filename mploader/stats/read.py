"""Reads a running loader's figures into a snapshot. Runs in: consumer, any thread; sends no message."""

from __future__ import annotations

import time
from typing import Any

from mploader.options import Options
from mploader.stats.block import Phase, StatusBlock, Word
from mploader.stats.snapshot import LoaderStats, WorkerStats


def snapshot(stream: Any, options: Options) -> LoaderStats:
    """Take a snapshot; ``stream`` is None before the start."""
    now = time.monotonic_ns()
    pool = getattr(stream, "pool", None)
    window = getattr(stream, "window", None)
    workers: tuple[WorkerStats, ...] = ()
    if pool is not None:
        lives = [pool.lives.get(worker_id) for worker_id in range(options.num_workers)]
        workers = tuple(worker(life, number, pool.restarts[number], now) for number, life in enumerate(lives))
        # what is let go of counts as held no longer, though nobody called `next()` since
        stream.leases.reap(between=False)
    results = getattr(stream, "results", None)
    with_others = results.n_ready if results is not None else 0
    n_calls = getattr(stream, "n_calls", 0) + with_others
    first_item_ns = getattr(stream, "first_item_ns", None)
    return LoaderStats(
        workers=workers,
        epoch=getattr(stream, "epoch", -1),
        delivered=getattr(stream, "delivered", 0),
        skipped=getattr(stream, "skipped", 0),
        errors=getattr(stream, "errors", 0),
        in_flight=max(0, window.outstanding - window.parked) if window else 0,
        parked=window.parked if window else 0,
        parked_bytes=window.parked_bytes if window else 0,
        leased_bytes=max(0, stream.leases.nbytes - stream.opened.leased_bytes) if pool is not None else 0,
        consumer_wait_s=getattr(stream, "wait_ns", 0) / 1e9,
        consumer_busy_s=getattr(stream, "busy_ns", 0) / 1e9,
        ready_share=(stream.n_ready + with_others) / n_calls if n_calls else 0.0,
        first_item_s=None if first_item_ns is None else first_item_ns / 1e9,
        elapsed_s=(now - stream.started_ns) / 1e9 if stream is not None else 0.0,
        restarts=sum(pool.restarts) if pool is not None else 0,
    )


def worker(life: Any, worker_id: int, restarts: int, now: int) -> WorkerStats:
    """Read one worker's block; ``life`` is None before its process was asked for."""
    block: StatusBlock = StatusBlock.unborn(now) if life is None else life.block
    words = block.words
    running = words[Word.PHASE] == Phase.RUNNING
    return WorkerStats(
        worker_id=worker_id,
        pid=None if life is None else life.pid,
        state=Phase(words[Word.PHASE]).name.lower(),
        index=int(words[Word.INDEX]) if running else None,
        items=int(words[Word.ITEMS]),
        errors=int(words[Word.ERRORS]),
        nbytes=int(words[Word.NBYTES]),
        busy_s=block.seconds(Phase.RUNNING, now),
        writing_s=block.seconds(Phase.WRITING, now),
        waiting_s=block.seconds(Phase.WAITING, now),
        starting_s=block.seconds(Phase.STARTING, now),
        restarts=restarts,
    )
