"""Cache: values by key, on disk, for all processes and for later runs.

Must never know: pipelines, what a key means. Runs in: any process; each opens the files for itself, at first use,
and again after a fork (`cache_store` says how they are written, and what a kill may do to them: nothing).

Invariants: a value that `get` gives is equal to the one that was put, and shares memory with nothing. Whatever is
wrong with the files, a value that cannot be had is one that is not there: only a folder that is no cache is an error.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
import pickle
import sys
import weakref
from typing import Any

from mploader.pipeline import cache_folder, crc
from mploader.pipeline.cache_store import MAX_KEY, CacheStore, DamagedError, RefusedError, count_bytes
from mploader.transport.codec import OUT_OF_BAND_BYTES
from mploader.transport.pickler import ByValuePickler

_logger = logging.getLogger("mploader")
_MAX_PAUSE = 1024  # puts that are not tried between two refused ones


class Cache:
    """Values by key, shared by all that open the same ``path`` with the same ``fingerprint``.

    A pickle of it, and a fork, use the same files. ``close`` or the end of the object closes them, and removes
    a temporary cache in the process that made it.

    >>> cache = Cache(None, "resize-224")
    >>> cache.get(7)
    (False, None)
    >>> cache.put(7, {"label": "cat"})
    True
    >>> cache.get(7)
    (True, {'label': 'cat'})
    >>> cache.close()
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, fingerprint: str, *, limit_bytes: int | None = None
    ) -> None:
        """Make the folder, or check that it is one of ours.

        Args:
          path: a folder that is new, empty, or a cache; it may hold caches of several fingerprints. None: a
            temporary folder (in ``TMPDIR``), which goes with this object; after a ``kill -9`` of this process the
            next temporary cache of the same user removes it.
          fingerprint: of what makes the values, see `fingerprint`. Values of another one are never seen.
          limit_bytes: of the values on disk, of this fingerprint; what does not fit is not stored. None: as much
            as leaves 2 % of the disk free.

        Raises:
          ValueError: the folder holds something else, or was written by another version; ``limit_bytes`` is not
            positive; ``fingerprint`` is no name.
          OSError: the folder cannot be made.
          ImportError: google-crc32c is missing.
        """
        cache_folder.check_name(fingerprint)
        if limit_bytes is not None and (isinstance(limit_bytes, bool) or not isinstance(limit_bytes, int)):
            raise TypeError(f"limit_bytes is {limit_bytes!r:.80}: give a number of bytes, such as 10 * 2**30, or None")
        if limit_bytes is not None and limit_bytes <= 0:
            raise ValueError(f"limit_bytes is {limit_bytes}: give more than 0, or None for no limit")
        crc.load("cache")
        self.fingerprint = fingerprint
        self.limit_bytes = limit_bytes
        self._files: _Files | None = None
        self._remove: weakref.finalize[Any, Cache] | None = None
        self._owner: Cache | None = None
        if path is None:
            self.path, owner = cache_folder.make_temporary()
            self._remove = weakref.finalize(self, cache_folder.remove_temporary, self.path, owner, os.getpid())
        else:
            self.path = os.path.abspath(path)
        cache_folder.prepare(self.path, fingerprint)

    def get(self, key: int) -> tuple[bool, Any]:
        """Look up a value.

        Copies: large arrays once, small ones twice; they are the caller's own, and may be written to.

        Returns:
          ``(True, value)``, or ``(False, None)``, also where the value is damaged or can no longer be unpickled.

        Raises:
          ValueError: the key is negative, or 2**59 or more.
        """
        files = self._open(key)
        if files.store is None:
            return False, None
        try:
            stored = files.store.read(key)
            if stored is None:
                return False, None
            value = pickle.loads(stored.stream, buffers=stored.buffers)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  whatever a class that has changed since makes of it
            files.damaged.add(key)
            kind = "damaged" if isinstance(error, DamagedError) else "of no use any more"
            self._say(files, kind, f"the value of item {key} is {kind} and is computed again: {error!r:.200}")
            return False, None
        return True, value

    def put(self, key: int, value: object) -> bool:
        """Store a value.

        Two that put the same key at once both succeed, and one of the two values stays.

        Returns:
          Whether it is stored now. Not where the limit is reached, the disk is full, or the folder is read-only: a
          line on the logger ``mploader`` says so, once a process. After that most puts are not even tried.

        Raises:
          ValueError: the key is negative, or 2**59 or more.
          Exception: whatever cloudpickle raised for the value.
        """
        files = self._open(key)
        if files.store is None or files.is_pausing():
            return False
        if key not in files.damaged and files.store.has(key):
            return True
        stream, buffers = _dump(value)
        try:
            files.store.write(key, stream, buffers)
        except RefusedError as error:
            files.refused(is_final=error.is_final)
            self._say(files, "refused", f"item {key} is not stored, nor may others be: {error}")
            return False
        files.pause = 0
        files.damaged.discard(key)
        return True

    def beside(self, fingerprint: str) -> Cache:
        """Another cache in the same folder, made at its first use; it lives no longer than this one."""
        other = copy.copy(self)
        other.fingerprint = fingerprint
        other._files, other._remove, other._owner = None, None, self
        return other

    def nbytes(self) -> int:
        """Size of the values on disk, of all processes, in bytes."""
        return count_bytes(os.path.join(self.path, self.fingerprint))

    def close(self) -> None:
        """Close the files, and remove a temporary cache if this process made it; idempotent."""
        self._files = None
        if self._remove is not None:
            self._remove()

    def _open(self, key: int) -> _Files:
        if not 0 <= key < MAX_KEY:
            raise ValueError(f"the key of a cache is {key}: it must be 0 or more, and less than 2**59")
        files = self._files
        if files is None or files.pid != os.getpid():  # in a forked child: locks and places are the parent's
            files = self._files = _Files()
            try:
                if self._owner is not None:
                    cache_folder.prepare(self.path, self.fingerprint)
                files.store = CacheStore(os.path.join(self.path, self.fingerprint), self.limit_bytes)
            except OSError as error:
                self._say(files, "closed", f"it cannot be opened, and is not used: {error}")
        return files

    def _say(self, files: _Files, kind: str, message: str) -> None:
        if kind not in files.said:
            files.said.add(kind)
            _logger.warning("cache %s: %s", self.path, message)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": None, "_remove": None}

    def __repr__(self) -> str:
        limit = "" if self.limit_bytes is None else f", limit_bytes={self.limit_bytes}"
        return f"Cache({self.path!r}, {self.fingerprint!r}{limit})"


class _Files:
    """What one process has open of a cache, and what it has said of it."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.store: CacheStore | None = None
        self.damaged: set[int] = set()
        self.said: set[str] = set()
        self.pause = 0  # puts to let pass after the last refusal; doubles, since each try pickles a value in vain
        self._left = 0  # of these, counting the one that ends the pause

    def refused(self, *, is_final: bool) -> None:
        self.pause = min(2 * self.pause + 1, _MAX_PAUSE)
        self._left = sys.maxsize if is_final else self.pause + 1

    def is_pausing(self) -> bool:
        self._left = max(0, self._left - 1)
        return self._left > 0


def _dump(value: object) -> tuple[bytes | memoryview, list[memoryview]]:
    """Pickle, large buffers apart. What lives in ``__main__`` goes by value: a later run may have another one there."""
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool | None:
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND_BYTES:
            return True
        buffers.append(raw)
        return None

    with contextlib.suppress(Exception):  # cloudpickle's error is the better one
        stream = pickle.dumps(value, 5, buffer_callback=keep)
        if b"__main__" not in stream:
            return stream, buffers
    buffers.clear()
    sink = io.BytesIO()
    ByValuePickler(sink, keep).dump(value)
    return sink.getbuffer(), buffers
