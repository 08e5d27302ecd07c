r"""Lines: text files as a sequence of lines, found by a table of where each ends; compressed files as a stream.

The table is made once, in the consumer; workers get it with the pickle, as an array, which is published once and mapped
by all of them. They open the files when they first read, and hold `MAX_OPEN` at most. It must never know loaders or
pipelines.

A line ends at ``\n``; neither that nor a ``\r`` before it belongs to the line. Nothing else ends one, unlike in
`str.splitlines`. Empty lines count, and so does a last one that nothing ends. A byte order mark is kept under
``encoding="utf-8"``, as Python and TextLineDataset keep it, and left out under ``"utf-8-sig"``.

Invariants: reading is `os.pread`, which moves no position, so that a descriptor may be shared with a forked child and
among threads; not mmap, under which a file that another process cuts short kills this one with SIGBUS. A file whose
size or time of change is not what it was when its lines were counted is an error, not other lines.
"""

from __future__ import annotations

import codecs
import glob
import gzip
import io
import operator
import os
import stat
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 128 << 10  # what is made of it stays in the second cache, and below malloc's threshold for mmap
NARROW_BYTES = 2**32  # all files smaller: 4 bytes a line instead of 8
MAX_OPEN = 64  # descriptors a process, of the 1,024 that it usually may have
_NEWLINE = ord("\n")
_GZIP = b"\x1f\x8b\x08"
_BOM = codecs.BOM_UTF8

Files = str | PathLike[str] | Iterable[str | PathLike[str]]


class Lines(Sequence[Any]):
    """Lines of text files, one file after the other, by number.

    Made in: consumer, which reads each file once (1 GB/s and more) and keeps 4 bytes a line, 8 if a file has 4 GB.
    Read in: both; a system call a line.

    Attributes:
      files: absolute paths, in the order given.
      encoding: of the text; None gives bytes.
    """

    def __init__(self, files: Files, encoding: str | None = "utf-8") -> None:
        r"""Count the lines.

        Args:
          files: a path, or several.
          encoding: any in which the byte 10 is ``\n`` and nothing else, so not UTF-16; None for lines as bytes.

        Raises:
          OSError: a file cannot be read; FileNotFoundError if it is not there.
          ValueError: such an encoding, or what is no regular file, or one that does not tell its size.

        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     _ = file.write("one\r\n\nzwölf".encode())
        ...     file.flush()
        ...     lines = Lines(file.name)
        ...     len(lines), lines[0], lines[1], lines[-1]
        (3, 'one', '', 'zwölf')
        """
        self.encoding = encoding
        self._codec, skips_bom = _check_encoding(encoding)
        self.files = _paths(files)
        sizes = list(map(_size, self.files))
        table = _Table(np.dtype(np.uint32 if max(sizes) < NARROW_BYTES else np.int64))
        self._states: list[_State] = []
        self._firsts = [0]  # number of each file's first line; at the end, how many there are
        for path, nbytes in zip(self.files, sizes, strict=True):
            file = _File(path)
            if file.state.nbytes != nbytes:
                raise _changed(path)
            if not nbytes and os.pread(file.fd, 1, 0):
                raise ValueError(
                    f"{path} has lines and says that it has 0 bytes, as files of /proc do: such a file can only be "
                    f"read in order, from_generator(lambda: open(path))"
                )
            start = len(_BOM) if skips_bom and os.pread(file.fd, len(_BOM), 0) == _BOM else 0
            self._states.append(file.state._replace(start=start))
            self._firsts.append(_find_ends(file, start, table))
        self._ends = table.finish()  # of each line, in bytes from its file's start
        self._opened: OrderedDict[int, _File] = OrderedDict()  # by number of the file, oldest first; of this process

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        """Line ``index``, without its end; from the last one backwards if negative.

        Raises:
          IndexError: there are fewer.
          RuntimeError: the file has changed since its lines were counted.
          UnicodeDecodeError: the line is no text in this encoding.
        """
        number = operator.index(index)
        n_lines = len(self._ends)
        if number < 0:
            number += n_lines
        if not 0 <= number < n_lines:
            raise IndexError(f"line {index} of {n_lines} lines")
        which = bisect_right(self._firsts, number) - 1
        first = self._firsts[which]
        start = int(self._ends[number - 1]) + 1 if number > first else self._states[which].start
        nbytes = int(self._ends[number]) - start
        file = self._open(which)  # held while it is read
        line = os.pread(file.fd, nbytes, start)
        if len(line) < nbytes or os.fstat(file.fd).st_mtime_ns != file.state.mtime_ns:
            raise _changed(self.files[which])
        return _decode(line.removesuffix(b"\r"), self._codec, self.files[which], number - first)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": OrderedDict()}

    def __repr__(self) -> str:
        return f"<Lines: {len(self)} of {len(self.files)} files>"

    def _open(self, which: int) -> _File:
        # Threads may do this at once: each step is atomic, and who reads from a file that another closes here holds it.
        file = self._opened.get(which)
        if file is None:
            file = _File(self.files[which])
            if file.state[:2] != self._states[which][:2]:
                raise _changed(self.files[which])
            while len(self._opened) >= MAX_OPEN:
                self._opened.popitem(last=False)
            self._opened[which] = file
        return file


class LineStream:
    r"""Lines of text files, plain and compressed by gzip, from the first to the last; anew at each ``iter()``.

    Runs in: consumer. The same lines as `Lines` has, for files that can only be read in order.

    >>> import gzip, tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".gz") as file:
    ...     _ = file.write(gzip.compress(b"one\r\n\nthree"))
    ...     file.flush()
    ...     list(LineStream(file.name))
    ['one', '', 'three']
    """

    def __init__(self, files: Files, encoding: str | None = "utf-8") -> None:
        """Open nothing yet; arguments and errors as of `Lines`."""
        self.encoding = encoding
        self._codec, self._skips_bom = _check_encoding(encoding)
        self.files = _paths(files)
        for path in self.files:
            _size(path)  # FileNotFoundError now, not in the midst of an epoch

    def __iter__(self) -> Iterator[Any]:
        for path in self.files:
            with open(path, "rb") as raw:
                plain = io.BufferedReader(gzip.GzipFile(fileobj=raw), BLOCK_BYTES) if _is_gzip(path) else raw
                yield from self._lines(plain, path)

    def __repr__(self) -> str:
        return f"<LineStream of {len(self.files)} files>"

    def _lines(self, file: Iterable[bytes], path: str) -> Iterator[Any]:
        try:
            for number, line in enumerate(file):
                if number == 0 and self._skips_bom:
                    line = line.removeprefix(_BOM)
                    if not line:
                        return
                yield _decode(line.removesuffix(b"\n").removesuffix(b"\r"), self._codec, path, number)
        except (EOFError, gzip.BadGzipFile) as error:
            error.add_note(f"while reading {path}")
            raise


def open_lines(files: Files, encoding: str | None = "utf-8") -> Lines | LineStream:
    r"""Lines by number where all files are plain; a stream if one is compressed by gzip.

    Raises:
      OSError: a file cannot be read; FileNotFoundError if it is not there.
      ValueError: an encoding in which the byte 10 is not ``\n``, or what is no regular file, or does not tell its size.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     open_lines([file.name, file.name])
    <Lines: 0 of 2 files>
    """
    paths = _paths(files)
    for path in paths:
        _size(path)
    return LineStream(paths, encoding) if any(map(_is_gzip, paths)) else Lines(paths, encoding)


class _State(NamedTuple):
    """What a file was when its lines were counted."""

    nbytes: int
    mtime_ns: int
    start: int = 0  # of the first line: behind the byte order mark where that is left out


class _File:
    """A descriptor, owned here: closed when nobody reads from it any more."""

    __slots__ = ("fd", "path", "state")

    def __init__(self, path: str) -> None:
        self.fd = -1
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO does not wait for its writer
        self.path = path
        found = os.fstat(self.fd)
        if not stat.S_ISREG(found.st_mode):
            kind = "folder" if stat.S_ISDIR(found.st_mode) else "pipe or device"
            raise ValueError(
                f"{path} is no file but a {kind}: give paths of files, Pipeline.from_files(pattern) finds them; "
                f"what can be read once only is a stream, from_generator"
            )
        self.state = _State(found.st_size, found.st_mtime_ns)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class _Table:
    """An array that grows, in place where the system can move its pages: never two of it."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._array = np.empty(1024, dtype)
        self.n = 0

    def append(self, positions: NDArray[np.intp], start: int) -> None:
        """Put these behind the others, each plus ``start``."""
        end = self.n + len(positions)
        if end > len(self._array):
            self._array.resize(max(end, len(self._array) * 3 // 2), refcheck=False)
        np.add(positions, start, out=self._array[self.n : end], casting="unsafe")  # `Lines` chose a dtype that holds it
        self.n = end

    def finish(self) -> NDArray[Any]:
        """The array, no longer than it needs to be."""
        self._array.resize(self.n, refcheck=False)
        return self._array


def _find_ends(file: _File, start: int, table: _Table) -> int:
    """Append where each line ends, from byte ``start`` on. Returns how many lines there are in the table."""
    nbytes, last = file.state.nbytes, _NEWLINE
    block: Any = np.empty(BLOCK_BYTES, np.uint8)
    words = np.empty(-(-BLOCK_BYTES // 8), np.uint64)
    is_end = words.view(np.bool_)
    while start < nbytes:
        n = os.preadv(file.fd, [block[: nbytes - start]], start)
        if n == 0:
            raise _changed(file.path)
        np.equal(block[:n], _NEWLINE, out=is_end[:n])
        is_end[n:] = False
        table.append(_nonzero(words), start)
        start, last = start + n, int(block[n - 1])
    if last != _NEWLINE:
        table.append(np.zeros(1, np.intp), nbytes)
    return table.n


def _nonzero(words: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Places of the bytes that are 1, in words of bytes 0 and 1.

    As `numpy.flatnonzero` of the bytes, which mispredicts a branch a hit and for lines of 20 bytes comes to 1.1 GB/s;
    first the words, then the bytes of those that have a hit: 2.6 GB/s.
    """
    hits = np.flatnonzero(words != 0)
    within = np.flatnonzero(words[hits].view(np.bool_))
    hits <<= 3
    places: NDArray[np.intp] = hits[within >> 3]
    within &= 7
    places += within
    return places


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError as error:
        if glob.has_magic(path):
            error.add_note("a glob is no path: list(Pipeline.from_files(pattern)) finds the files")
        raise


def _changed(path: str) -> RuntimeError:
    return RuntimeError(f"{path} has changed since its lines were counted: make the pipeline or Lines anew")


def _decode(line: bytes, codec: str | None, path: str, number: int) -> Any:
    if codec is None:
        return line
    try:
        return line.decode(codec)
    except UnicodeDecodeError as error:
        error.add_note(f"line {number} of {path}, counted from 0; encoding=None gives lines as bytes")
        raise


def _check_encoding(encoding: str | None) -> tuple[str | None, bool]:
    """The codec for a line, and whether a byte order mark is left out."""
    if encoding is None:
        return None, False
    try:
        name = codecs.lookup(encoding).name
        if name == "utf-8-sig":
            return "utf-8", True
        finds_lines = "\n".encode(name) == b"\n"
    except (LookupError, UnicodeError) as error:
        raise ValueError(f"encoding={encoding!r} is no encoding of text that Python knows") from error
    if not finds_lines:
        raise ValueError(
            f"encoding={encoding!r} does not write the end of a line as the single byte 10, by which lines are found: "
            f"convert the files to UTF-8, or read them yourself by from_generator"
        )
    return name, False


def _paths(files: Files) -> list[str]:
    if isinstance(files, bytes) or not isinstance(files, str | PathLike | Iterable):
        raise TypeError(f"files are given by their paths, a str or a path object, one or several, not by {files!r}")
    given = [files] if isinstance(files, str | PathLike) else list(files)
    if not given:
        raise ValueError("no files: give at least one path")
    paths = [os.fspath(path) for path in given]
    for path in paths:
        if not isinstance(path, str):
            raise TypeError(f"a file is given by its path, a str or a path object, not by {path!r}")
    return [os.path.abspath(path) for path in paths]


def _is_gzip(path: str) -> bool:
    """By its name, or by what is in it: no text begins like that."""
    if path.lower().endswith(".gz"):
        return True
    file = _File(path)
    return os.pread(file.fd, len(_GZIP), 0) == _GZIP
