"""Passes: how often each `repeat` of a sequence has begun its pass anew, as pure arithmetic.

The repeats of a pipeline cut its steps into levels: level 0 lies below the first repeat, level j above j of them,
and the topmost has one pass, the epoch. A pass ends with the passes of its repeat below, or before, where a
`take` has what it wants: then those below end with it.

Must never know: steps, elements.
"""

from __future__ import annotations

from typing import NamedTuple


class Passes(NamedTuple):
    """The passes that run now.

    Attributes:
      times: of each repeat, lowest first; None for endless.
      begun: of each level but the topmost, how many passes of the epoch ran before this one.
      done: of each repeat, how many passes of its present round are over.
    """

    times: tuple[int | None, ...]
    begun: tuple[int, ...]
    done: tuple[int, ...]

    def following(self, level: int = 0, n_empty: int = 0) -> Passes | None:
        """The passes that begin when one of ``level`` has ended, None if that was the epoch.

        Passes below that are left out are counted: what is random in the next ones is the same as behind them.

        Args:
          n_empty: levels whose passes got nothing from the source: an endless repeat of such a pass ends.
        """
        begun, done = list(self.begun), list(self.done)
        left = 0
        for at in reversed(range(level)):
            times = self.times[at]
            left = 0 if times is None else times - done[at] - 1 + left * times
            begun[at] += left
        for at, times in enumerate(self.times):
            begun[at] += 1
            done[at] += 1
            if at >= level and (at >= n_empty if times is None else done[at] < times):
                return Passes(self.times, tuple(begun), tuple(done))
            done[at] = 0
        return None

    @property
    def n_new(self) -> int:
        """How many levels begin a pass together: all at the epoch's beginning."""
        return next((level for level, done in enumerate(self.done) if done), len(self.done)) + 1

    def differs(self, other: Passes | None, level: int) -> bool:
        """Whether the pass of ``level`` is over by the time of ``other``, None being the end of the epoch."""
        return other is None or (level < len(self.begun) and self.begun[level] != other.begun[level])

    def brief(self) -> list[int]:
        """As a few numbers."""
        return [*self.begun, *self.done]

    def restored(self, numbers: list[int]) -> Passes:
        """What `brief` told, of the same repeats."""
        n = len(self.times)
        return Passes(self.times, tuple(numbers[:n]), tuple(numbers[n:]))


def first_passes(times: tuple[int | None, ...]) -> Passes:
    """Those with which an epoch begins."""
    return Passes(times, (0,) * len(times), (0,) * len(times))
