"""Pace: how much to do at once, by what tasks have cost so far.

Must never know: processes, time, what a task is. Costs are of one task, its result written, in nanoseconds.
"""

from __future__ import annotations

from typing import Literal

CHEAP_NS = 30_000  # to wake a worker costs the consumer 10 to 20 us
CHUNK_NS = 1_000_000  # tasks that take less together travel as one
CHUNKS_A_WORKER = 4  # that fit into the window: with 2, workers and consumer wait for each other
LOOK_EVERY = 8  # tasks, between two looks at what they cost
_KEEP = 0.95  # how much of the mean is left after one more task


class Pace:
    """Watches what tasks cost.

    Attributes:
      run_ns: the recent mean; as for a task that is not cheap, until the first are done.
      chunk: so many tasks are to be sent as one.
      burst: so many results may be rebuilt at once, those of one chunk in any case.
    """

    def __init__(self, prefetch: int, num_workers: int, chunk: int | Literal["auto"]) -> None:
        self.run_ns = float(CHEAP_NS)
        self.chunk = 1 if chunk == "auto" else min(chunk, prefetch)
        self.burst = 1
        self._max_chunk = prefetch // (CHUNKS_A_WORKER * num_workers) if chunk == "auto" else 0
        self._prefetch = prefetch
        self._left = LOOK_EVERY

    def note(self, run_ns: int, count: int) -> None:
        """So many tasks took this together."""
        self.run_ns += (run_ns / count - self.run_ns) * (1 - _KEEP)
        self._left -= count
        if self._left <= 0:
            self._look()

    @property
    def is_cheap(self) -> bool:
        """Whether a task costs less than waking a worker for it."""
        return self.run_ns < CHEAP_NS

    def _look(self) -> None:
        self._left = LOOK_EVERY
        run_ns, prefetch = self.run_ns, self._prefetch
        share = 2 if run_ns < CHEAP_NS else 4 if run_ns < 10 * CHEAP_NS else prefetch
        self.burst = max(1, prefetch // share)
        if self._max_chunk > 1:
            self.chunk = max(1, min(self._max_chunk, int(CHUNK_NS / max(run_ns, 1.0))))
