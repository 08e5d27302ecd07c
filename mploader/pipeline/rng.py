"""Keys: 64-bit integers that every random decision of a pipeline is made from, and the generators of items.

Runs in: worker and consumer. It must never know what a key is for, nor where the words come from: seed, epoch,
position and the like are handed in.

Invariant: what comes out depends on the integers that went in and on nothing else: not on the process, the
platform, its byte order, the version of Python or NumPy, ``hash()``, or any global state. Golden values in the
tests hold it; to change one is to change the stream of every user's seed.
"""

from __future__ import annotations

import functools
import inspect
import struct
import sys
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISpawnableSeedSequence
from numpy.typing import NDArray

_IS_BIG_ENDIAN = sys.byteorder == "big"
_MOST_WORDS = 8  # of 64 bits, that one BLAKE2b gives
_EIGHT_WORDS = struct.Struct("<8Q")


def derive(*words: int) -> int:
    """Key of a decision: 64 bits, hashed from any integers.

    Words may be negative and of any size; their order and their number count. About 1 us for four of them.
    BLAKE2b over the words in hexadecimal, each closed by a comma, so that no two lists of words read the same.

    Raises:
      TypeError: a word is no integer.

    >>> derive(7, 0, 12)
    17524886760961830504
    >>> derive(7, 12, 0) == derive(7, 0, 12)
    False
    """
    text = ("%x," * len(words) % words).encode()
    return int.from_bytes(blake2b(text, digest_size=8, usedforsecurity=False).digest(), "little")


def expand(key: int) -> tuple[int, ...]:
    """Eight independent 64-bit words from one key of any size."""
    return _EIGHT_WORDS.unpack(blake2b(b"%x" % key, usedforsecurity=False).digest())


def generator(key: int) -> np.random.Generator:
    """A new ``numpy.random.Generator`` for one item.

    It is what ``numpy.random.default_rng`` makes (PCG64), for a third of the price: its 256 bits of state come from
    one BLAKE2b of the key in place of a ``SeedSequence``. It can be pickled, copied and spawned from.

    >>> int(generator(derive(7, 0, 12)).integers(1000))
    808
    """
    sequence: Any = KeySequence(key)  # NumPy's stubs know SeedSequence only, its documentation knows the protocol
    return np.random.Generator(np.random.PCG64(sequence))


class KeySequence(ISpawnableSeedSequence):
    """What NumPy asks for the first state of a bit generator: ``numpy.random.SFC64(KeySequence(key))``.

    Attributes:
      entropy: the key, under the name that a ``SeedSequence`` has for it.
    """

    def __init__(self, key: int) -> None:
        self.entropy = key
        self._spawned = 0

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:
        """Random words of shape (n_words,), uint32 or uint64."""
        if n_words > _MOST_WORDS or dtype is not np.uint64:
            return np.random.SeedSequence(derive(self.entropy)).generate_state(n_words, dtype)
        digest = blake2b(b"%x" % self.entropy, digest_size=8 * n_words, usedforsecurity=False).digest()
        words = np.frombuffer(digest, np.uint64)
        return words.byteswap() if _IS_BIG_ENDIAN else words

    def spawn(self, n_children: int) -> list[KeySequence]:
        """For ``Generator.spawn``: other sequences with each call."""
        first = self._spawned
        self._spawned += n_children
        return [KeySequence(derive(self.entropy, number)) for number in range(first, self._spawned)]


def takes_rng(fn: Callable[..., Any]) -> bool:
    """Whether ``fn(element, rng=generator)`` would reach a parameter of that name which nobody has bound.

    A default does not bind it (``rng=None`` is how one allows calls by hand), ``functools.partial(fn, rng=...)`` does.
    ``**kwargs`` alone is no sign of it, and what has no signature (some builtins) has no such parameter.

    >>> takes_rng(lambda image, rng: image), takes_rng(lambda image, *, rng=None: image), takes_rng(abs)
    (True, True, False)
    >>> takes_rng(functools.partial(lambda image, rng: image, rng=0))
    False
    """
    inner: Any = fn
    while isinstance(inner, functools.partial):
        if "rng" in inner.keywords:
            return False
        inner = inner.func
    # A decorator's wrapper says by functools.wraps what it wraps, yet may take the element alone, or bring an rng of
    # its own: what counts is what it passes on. One written in C (functools.lru_cache) passes everything on.
    own = _parameters(fn, follow_wrapped=False)
    if own is None or ("rng" not in own and any(p.kind is p.VAR_KEYWORD for p in own.values())):
        own = _parameters(fn, follow_wrapped=True)
    rng = None if own is None else own.get("rng")
    return rng is not None and rng.kind in (rng.POSITIONAL_OR_KEYWORD, rng.KEYWORD_ONLY)


def comes_first(fn: Callable[..., Any]) -> bool:
    """Whether the parameter ``rng`` is where the element goes."""
    found = _parameters(fn, follow_wrapped=True)
    first = next(iter(found.values()), None) if found else None
    return first is not None and first.name == "rng" and first.kind is first.POSITIONAL_OR_KEYWORD


def not_callable_with_one(fn: Callable[..., Any]) -> str:
    """Why ``fn(element)`` cannot work whatever the element is; "" where it may.

    >>> not_callable_with_one(lambda: 1)
    'it takes no argument: where it gives the function, as per_worker does, write lambda element: fn()(element)'
    >>> not_callable_with_one(lambda image, label=None: image), not_callable_with_one(lambda image, rng: image)
    ('', '')
    """
    own = _parameters(fn, follow_wrapped=False)
    if own is None:
        return ""
    needed = [p for p in own.values() if p.default is p.empty and p.name != "rng"]
    names = [p.name for p in needed if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(names) > 1:
        return (
            f"it needs {len(names)} arguments, {', '.join(names[:-1])} and {names[-1]}: "
            "where an element is a tuple of them, write lambda element: fn(*element)"
        )
    if not any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in own.values()):
        return (
            "it takes no argument: where it gives the function, as per_worker does, write lambda element: fn()(element)"
        )
    unbound = [p.name for p in needed if p.kind is p.KEYWORD_ONLY]
    return f"it needs {unbound[0]}=, which nobody gives: bind it with functools.partial" if unbound else ""


def _parameters(fn: Callable[..., Any], *, follow_wrapped: bool) -> Mapping[str, inspect.Parameter] | None:
    try:
        return inspect.signature(fn, follow_wrapped=follow_wrapped).parameters
    except (TypeError, ValueError):
        return None
