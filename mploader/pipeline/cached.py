"""Cached: elements that are computed once, for all workers and for later runs.

Runs in: worker. Must never know: engines, the loader, how a cache lies on disk.

An element is computed as its first pass in the epoch's first order would: a cache has one value an element, so what
stands below it may not be random, or is frozen: then each seed has values of its own.
"""

from __future__ import annotations

import os
import secrets
from typing import Any

from mploader.pipeline import rng
from mploader.pipeline.access import Mixed, Shuffle, Source, get_part
from mploader.pipeline.cache import Cache
from mploader.pipeline.elements import Calls
from mploader.pipeline.fingerprint import fingerprint
from mploader.pipeline.node import UNKNOWN, Node, Runtime
from mploader.pipeline.sources import changes_by_epoch


class Cached(Node):
    """The child's elements, from the cache where they are there."""

    name = "cache"

    def __init__(self, child: Node, cache: Cache, *, is_frozen: bool = False) -> None:
        super().__init__(child)
        self.cache = cache
        self._frozen: dict[int, Cache] | None = {} if is_frozen else None  # by what the draws below follow from

    def bind(self, runtime: Runtime, seed: int, *, reseeds: bool, branch: tuple[int, ...] = ()) -> Node:  # noqa: D102
        bound = super().bind(runtime, seed, reseeds=reseeds, branch=branch)
        if self._frozen is not None:
            assert isinstance(bound, Cached)
            key = bound.child.key
            if key not in self._frozen:
                self._frozen[key] = self.cache.beside(fingerprint(self.cache.fingerprint, key))
            bound.cache, bound._frozen = self._frozen[key], None
        return bound

    def measure(self) -> int | None:  # noqa: D102
        return self.child.length

    def get(self, i: int, draw: int, turn: int) -> Any:  # noqa: D102
        found, value = self.cache.get(i)
        if not found:
            value = get_part(self.child, i, i, 0)
            try:
                self.cache.put(i, value)
            except Exception as error:
                error.add_note(f"{self.child.label} made what {self.label} is to keep: place it behind, or change that")
                raise
        runtime = self.runtime
        runtime.place, runtime.element = i, UNKNOWN
        if self.reseeds and runtime.seeds is not None:  # what follows draws the same, found or not
            runtime.seeds.apply(rng.derive(self.key, turn, draw))
        return value


def randomness(node: Node) -> str | None:
    """Which operation up to this node has elements that differ from pass to pass, and how."""
    for below in node.walk():
        if isinstance(below, Calls) and below.takes_rng:
            return f"{below.label} is random"
        if isinstance(below, Shuffle) and (below.reshuffle or below.seed is None):
            return f"{below.label} is random"
        if isinstance(below, Mixed) and below.seed is None:
            return f"{below.label} is random"
        if isinstance(below, Source) and changes_by_epoch(below.source.source):
            return f"{below.label} changes with the epoch"
    return None


def open_cache(node: Node, path: str | os.PathLike[str] | None, limit_bytes: int | None, *, version: object) -> Cache:
    """Make the cache for what a node gives.

    Args:
      node: what is cached.
      path: a folder; None for one that lives as long as the pipeline.
      limit_bytes: of the values on disk.
      version: stands for the source, and for what cannot be looked into.

    Raises:
      TypeError, ValueError: something cannot be fingerprinted, and there is no ``version``.
    """
    if path is None:
        return Cache(None, secrets.token_hex(16), limit_bytes=limit_bytes)
    parts: list[object] = [version, 0]
    for below in node.walk():
        own = [getattr(below, name, None) for name in ("seed", "cut")]  # a label leaves out some, and rounds others
        parts += [below.name, below.label, len(below.children), repr(own)]
        for name, part in below.user_parts():
            if isinstance(below, Source) and version is not None:
                parts += [name, type(part).__qualname__, below.length]
                continue
            try:
                parts += [name, fingerprint(part)]
            except (TypeError, ValueError) as error:
                raise type(error)(
                    f"cache cannot tell whether {name} has changed since it was filled: {error}; "
                    'give version="1" and change it when the data or the code changes'
                ) from error
    return Cache(path, fingerprint(*parts), limit_bytes=limit_bytes)
