"""User code that draws random numbers. Imported in workers: what such code needs."""

from __future__ import annotations

import random
from typing import Any

import numpy as np


class Augment:
    """Existing code that keeps generators of its own."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng()
        self.state = np.random.RandomState()
        self.random = random.Random()

    def __call__(self, x: int) -> tuple[Any, ...]:
        return (
            x,
            int(self.generator.integers(1 << 30)),
            int(self.state.randint(1 << 30)),
            self.random.getrandbits(30),
            random.getrandbits(30),
            int(np.random.randint(1 << 30)),
        )


def draw(x: Any, rng: np.random.Generator) -> tuple[Any, int]:
    return x, int(rng.integers(1 << 60))
