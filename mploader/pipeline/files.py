"""Files: the sorted paths of globs.

Runs in: consumer. It must never know what is in a file, and opens none. Asks the system for each folder once and for
no file by itself: a folder's listing tells which of its entries are folders, and on a network drive a million of
`os.stat` takes minutes.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterable, Iterator
from os import PathLike

Pattern = str | PathLike[str]


def list_files(patterns: Pattern | Iterable[Pattern], *, recursive: bool = True) -> list[str]:
    """Sorted paths of the files that match a glob, or any of several, each once.

    ``*``, ``?`` and ``[abc]`` as in `glob`, ``**`` for any number of folders; like there, names that begin with a dot
    are matched by a dot only. Folders are no files; links to files are. Sorted as text, whatever the order of the
    patterns: ``10.jpg`` comes before ``9.jpg``. Relative patterns give relative paths.

    Runs in: consumer. Blocks: while the folders are listed.

    Args:
      patterns: one glob, or several; a path without ``*``, ``?`` and ``[`` is matched by itself.
      recursive: False takes ``**`` for ``*``.

    Raises:
      FileNotFoundError: a pattern matches no file; the message names it, and what may be meant.
      TypeError: a pattern is no str or path.
      ValueError: no patterns.

    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("b.txt", "a.txt", "c.jpg"):
    ...     (folder / name).touch()
    >>> [os.path.basename(path) for path in list_files(folder / "*.txt")]
    ['a.txt', 'b.txt']
    """
    if not isinstance(patterns, str | bytes | PathLike | Iterable):
        raise TypeError(f"patterns are a glob such as 'data/**/*.jpg', or several, not {patterns!r:.80}")
    given = [patterns] if isinstance(patterns, str | bytes | PathLike) else list(patterns)
    if not given:
        raise ValueError("list_files got an empty list of patterns: give at least one, such as 'data/**/*.jpg'")
    found: set[str] = set()
    for pattern in given:
        text = os.fspath(pattern)
        if not isinstance(text, str):
            raise TypeError(f"a pattern is a str or a path of str, not {text!r}: os.fsdecode makes it one")
        matches = set(_match(text, recursive))
        if not matches:
            raise FileNotFoundError(_nothing_found(text, recursive))
        found |= matches
    return sorted(found)


def _match(pattern: str, recursive: bool) -> Iterator[str]:
    if not glob.has_magic(pattern):
        if os.path.isfile(pattern):
            yield pattern
        return
    folder, name = os.path.split(pattern)
    if recursive and name == "**":  # files at any depth
        folder, name = pattern, "*"
    for parent in _folders(folder, recursive):
        if glob.has_magic(name):
            yield from _list(parent, name)
        elif os.path.isfile(path := os.path.join(parent, name)):
            yield path


def _folders(pattern: str, recursive: bool) -> Iterable[str]:
    """The folders that match, "" for the current one."""
    if not glob.has_magic(pattern):
        return [pattern]
    if os.path.isabs(pattern):
        return glob.iglob(os.path.join(pattern, ""), recursive=recursive)
    # Below ".", since of a pattern that begins with "**" glob leaves the current folder itself out.
    here = os.path.join(os.curdir, "")
    return (path.removeprefix(here) for path in glob.iglob(os.path.join(here, pattern, ""), recursive=recursive))


def _list(folder: str, name: str) -> Iterator[str]:
    """Files in one folder; a folder that may not be read is an error, since its files would be missed in silence."""
    matches = re.compile(fnmatch.translate(name)).match
    try:
        entries = os.scandir(folder or os.curdir)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            hidden = entry.name.startswith(".") and not name.startswith(".")
            if not hidden and matches(entry.name) and entry.is_file():
                yield os.path.join(folder, entry.name)


def _nothing_found(pattern: str, recursive: bool) -> str:
    """The message, with what may be meant."""
    said = f"no file matches {pattern!r}"
    if os.path.isfile(pattern):
        return f"{said}; there is a file of this very name: glob.escape(path) matches it"
    if os.path.isdir(pattern):
        return (
            f"{said}, which is a folder: did you mean {os.path.join(pattern, '*')!r}, or '**' for files at any depth?"
        )
    if pattern.startswith("~"):
        return f"{said}; '~' is not expanded: os.path.expanduser does that"
    if "{" in pattern:
        return f"{said}; braces are not expanded: give a list of patterns"
    if "**" in pattern and (not recursive or "**" not in pattern.split(os.sep)):
        return f"{said}; '**' stands for folders as a part by itself, 'data/**/*.jpg', and with recursive=True"
    there = os.path.dirname(pattern)
    while there and not os.path.isdir(there):
        there = os.path.dirname(there)
    return f"{said}; looked from {os.path.abspath(there)!r} on"
