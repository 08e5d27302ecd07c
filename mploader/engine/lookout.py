"""Lookout: what a consumer does that waits for long: sees to it that somebody has its item in hand, and says so.

Runs in: consumer, lock not held. Must never know: order, sources.
"""

from __future__ import annotations

import logging

from mploader.engine import blame
from mploader.engine.process import Pool

SLOW_LOG_S = 60.0  # vLLM's "no block in 60 s" is what users quote in every report

_logger = logging.getLogger("mploader")


class Lookout:
    """Looks around for one stream."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._said_slow = 0

    def look(self, head: int, base: int, now: int, waited_from: int) -> bool:
        """Have the task issued again that is waited for, if nobody has it; after a minute, log who has it since when.

        Args:
          head: the seq whose turn it is; where that is not open, the first one that is.
          base: the seq of index 0.
          now, waited_from: in nanoseconds.

        Returns:
          False: nothing is open.
        """
        pool = self._pool
        with pool.lock:
            open_seqs = pool.ledger.open
            seq = head if head in open_seqs else min(open_seqs, default=None)
        if seq is None:
            return False
        pool.nudge(seq)
        waited_s = (now - waited_from) / 1e9
        if waited_s >= SLOW_LOG_S and self._said_slow != waited_from:
            self._said_slow = waited_from
            _logger.warning("%s", blame.slow_line(list(pool.lives.values()), seq, seq - base, waited_s))
        return True
