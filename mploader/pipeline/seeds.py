"""Seeds: everything in this process that user code may draw randomness from, made to depend on a key alone.

That is `random`, ``numpy.random``, torch's CPU generator where torch is imported, and the generators that live inside
the user's own objects (albumentations keeps two in each pipeline). Before an item runs, all are seeded from its key.
So are the pipelines that the user's code makes meanwhile in the same thread: `drawn_seed`.

Runs in: worker; in the consumer where there are no workers. Must never know: what the key is made of.

Invariant: a generator's own key depends on the item's key and on the path by which `reach` found it, so that it is
the same in every process, and does not change when another generator comes or goes.

Cheapest ways, measured (microseconds an item, Python 3.11, NumPy 2.4, torch 2.13): ``random`` 3.5 (setting a
ready-made state is 2.1, but of a Mersenne Twister one has to be computed first), ``numpy.random.seed`` of 32 bits 1.4
(of more 7.8, of a state 28), torch's default generator 1.0 (``torch.manual_seed`` 114), a PCG64 by its state 1.3 (a new
one 5.7).
"""

from __future__ import annotations

import random
import secrets
import sys
import threading
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np

from mploader.pipeline import rng
from mploader.pipeline.reach import reachable

State = tuple[Any, ...]
"""What `Seeds.save` returns: to be handed back to `Seeds.restore`, nothing else."""


class _Item(threading.local):
    """The item that runs in this thread: its key, None outside, and how many seeds were drawn in it."""

    key: int | None = None
    n_drawn = 0


_item = _Item()


def drawn_seed() -> int:
    """A new seed: inside an item that is seeded it follows from that one's key, elsewhere from nothing."""
    if _item.key is None:
        return secrets.randbits(62)
    _item.n_drawn += 1
    return rng.derive(_item.key, _item.n_drawn)


class Seeds:
    """The generators of this process and of some objects.

    Args:
      roots: what runs: source, functions. In the same order wherever the same randomness is wanted.

    Attributes:
      paths: of the generators found inside the roots, as text: ``[0].transform.rng``.

    >>> flip = random.Random()
    >>> seeds = Seeds([{"transforms": [flip]}])
    >>> seeds.paths
    ("[0]['transforms'][0]",)
    >>> seeds.apply(12)
    >>> first = flip.random(), random.random(), np.random.rand()
    >>> seeds.apply(12)
    >>> first == (flip.random(), random.random(), np.random.rand())
    True
    """

    def __init__(self, roots: Sequence[object]) -> None:
        torch = sys.modules.get("torch")
        process_wide = (_PYTHON, np.random.mtrand._rand, getattr(torch, "default_generator", None))
        found = []
        for obj, path in reachable(roots):
            if not any(obj is own for own in process_wide):
                handle = _handle(obj, torch)
                if handle is not None:
                    found.append((str(path), handle))
        self.paths = tuple(path for path, _ in found)
        self._found = [
            (blake2b(path.encode("utf-8", "surrogatepass"), digest_size=16, usedforsecurity=False).digest(), handle)
            for path, handle in found
        ]

    def apply(self, key: int) -> None:
        """Seed all of them: equal keys, equal randomness from here on.

        About 10 us, and 1 to 5 us for each generator found. The 32 bits that ``numpy.random`` and torch take are few
        enough that of a million items some hundred pairs share that part of their randomness.
        """
        _item.key, _item.n_drawn = key, 0
        prefix = b"%x/" % key
        words = blake2b(prefix, digest_size=16, usedforsecurity=False).digest()
        random.seed(int.from_bytes(words[:8], "little"))
        np.random.seed(int.from_bytes(words[8:12], "little"))
        torch = sys.modules.get("torch")
        if torch is not None and hasattr(torch, "default_generator"):  # else another thread is importing it
            torch.default_generator.manual_seed(int.from_bytes(words[12:], "little"))
        for path, handle in self._found:
            handle.seed(blake2b(prefix + path, digest_size=32, usedforsecurity=False).digest())

    def save(self) -> State:
        """All their states, for `restore`. About 40 us, most of it NumPy's."""
        torch = sys.modules.get("torch")
        generator = getattr(torch, "default_generator", None)
        return (
            (_item.key, _item.n_drawn),
            random.getstate(),
            np.random.get_state(legacy=False),
            None if generator is None else generator.get_state(),
            [handle.save() for _, handle in self._found],
        )

    def restore(self, state: State) -> None:
        """Put all back as they were at `save`; a torch that was imported since keeps its state."""
        (_item.key, _item.n_drawn), python, numpy, torch, found = state
        random.setstate(python)
        np.random.set_state(numpy)
        if torch is not None:
            sys.modules["torch"].default_generator.set_state(torch)
        for (_, handle), saved in zip(self._found, found, strict=True):
            handle.restore(saved)


_PYTHON = random.seed.__self__  # type: ignore[attr-defined]  # the generator behind the functions of `random`


class _Handle(Protocol):
    """One generator, and how its kind is seeded."""

    def seed(self, digest: bytes) -> None:
        """From 32 random bytes."""

    def save(self) -> Any:
        """Its state."""

    def restore(self, state: Any) -> None:
        """Put a saved state back."""


_bit_generator = np.random.Generator.__dict__["bit_generator"].__get__


def _handle(obj: Any, torch: Any) -> _Handle | None:
    """By the type alone: ``isinstance`` would ask the object for its ``__class__``."""
    kind = type(obj)
    if issubclass(kind, random.Random):
        return None if issubclass(kind, random.SystemRandom) else _Random(obj)
    if issubclass(kind, np.random.Generator):
        obj = _bit_generator(obj)
        kind = type(obj)
    if issubclass(kind, np.random.MT19937):  # to set its state takes 28 us, to seed it as a RandomState does 1.4
        return _RandomState(np.random.RandomState(obj))
    if issubclass(kind, np.random.RandomState):
        return _RandomState(obj)
    if issubclass(kind, np.random.PCG64 | np.random.PCG64DXSM):
        return _PCG64(obj)
    if issubclass(kind, np.random.BitGenerator):
        return _BitGenerator(obj)
    generator = getattr(torch, "Generator", None)
    if generator is not None and issubclass(kind, generator):
        return _TorchGenerator(obj)
    return None


class _Random:
    """``random.Random``; of a subclass its own methods, which is how one brings another algorithm."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator
        self.save = generator.getstate
        self.restore = generator.setstate

    def seed(self, digest: bytes) -> None:
        self._generator.seed(int.from_bytes(digest[:8], "little"))


class _RandomState:
    """NumPy's legacy generator: beside the bits it keeps half a pair of normals, which has to be forgotten."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator
        self.restore = generator.set_state

    def seed(self, digest: bytes) -> None:
        try:
            self._generator.seed(int.from_bytes(digest[:4], "little"))
        except TypeError:  # over another bit generator than MT19937
            name = self._generator.get_state(legacy=False)["bit_generator"]
            fresh = getattr(np.random, name)(rng.KeySequence(int.from_bytes(digest, "little")))
            self._generator.set_state({**fresh.state, "has_gauss": 0, "gauss": 0.0})

    def save(self) -> Any:
        return self._generator.get_state(legacy=False)


class _BitGenerator:
    """Of a ``numpy.random.Generator``: takes the state of a new one of its type."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    def seed(self, digest: bytes) -> None:
        fresh = type(self._generator)(rng.KeySequence(int.from_bytes(digest, "little")))
        self._generator.state = fresh.state

    def save(self) -> Any:
        return self._generator.state

    def restore(self, state: Any) -> None:
        self._generator.state = state


class _PCG64(_BitGenerator):
    """What ``default_rng`` makes: its state is two numbers of 128 bits, the increment an odd one."""

    def seed(self, digest: bytes) -> None:
        state = int.from_bytes(digest[:16], "little")
        increment = int.from_bytes(digest[16:], "little") | 1
        self._generator.state = {
            "bit_generator": type(self._generator).__name__,
            "state": {"state": state, "inc": increment},
            "has_uint32": 0,
            "uinteger": 0,
        }


class _TorchGenerator:
    """``torch.Generator``."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator
        self.save = generator.get_state
        self.restore = generator.set_state

    def seed(self, digest: bytes) -> None:
        self._generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)  # it takes 63 bits
