"""Slices: the rows of arrays, frames and lists of one length, each row structured as they are.

Made in: consumer; of a batch that is to be taken apart, in the worker. Read in: both. It must never know pipelines.
What kind a column is says `sources`, how a Series is read `columns`, what a container is `structure`.

A row is what ``column[i]`` is: of an array of one axis a NumPy scalar, so that float32 stays float32 when rows are made
a batch again; of a tensor a tensor. Rows of arrays and tensors are copies, since a function that changes them in place
would change the source, for this worker and all epochs to come; elements of lists are the elements. A map of a file of
which only a part of each row is wanted is better given to ``from_sequence``, which copies nothing.

A list is one column and a tuple several, as in tf.data's ``from_tensor_slices``. In a batch of `stack` a list of
columns is one that `stack` has made of lists, by position: that it is such a batch has to be told.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Sequence
from functools import partial
from operator import getitem
from typing import Any

import numpy as np

from mploader.pipeline import sources
from mploader.pipeline.columns import column_of
from mploader.pipeline.fetch import fetch_frame_row, fetch_series_value, short_repr
from mploader.pipeline.structure import Container, Path, build, container_kind, labels_of, part_of, show_path

Fetch = Callable[[int], Any]  # element or row, by position

_MAX_SHOWN = 6  # columns in a message


class Slices(Sequence[Any]):
    """Rows of a dict, tuple, namedtuple or dataclass of columns, at any depth, or of one column.

    A column is an array, tensor, DataFrame, Series, list, or anything with ``len()`` and ``[]``; a DataFrame's row is a
    dict. Numbers stay NumPy scalars. Frames are read when this is made, arrays and lists when a row is asked for.

    >>> import numpy as np
    >>> rows = Slices({"x": np.arange(6).reshape(3, 2), "y": ["a", "b", "c"]})
    >>> len(rows), rows[-1]
    (3, {'x': array([4, 5]), 'y': 'c'})
    """

    def __init__(self, struct: Any, *, is_stacked: bool = False) -> None:
        """Look at the columns.

        Args:
          struct: columns of one length.
          is_stacked: it is as `stack` made it: a list of columns stands for lists.

        Raises:
          ValueError: no columns, or lengths that differ; the message names them.
          TypeError: a part has no ``len()`` and ``[]``, or no rows: a str, a number, a generator.
        """
        lengths: list[tuple[Path, int]] = []
        self._row = _read(struct, (), lengths, is_stacked=is_stacked)
        if not lengths:
            raise ValueError(f"no columns in {short_repr(struct)}: give at least one array or list")
        if len({length for _, length in lengths}) > 1:
            told = ", ".join(f"{show_path(path, 'struct')} has {length}" for path, length in lengths[:_MAX_SHOWN])
            more = f", and {len(lengths) - _MAX_SHOWN} others" if len(lengths) > _MAX_SHOWN else ""
            raise ValueError(f"columns have to be of one length, and they differ: {told}{more}")
        self._length = lengths[0][1]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        """Row ``index``; from the last one backwards if negative."""
        number = operator.index(index)
        if number < 0:
            number += self._length
        if not 0 <= number < self._length:
            raise IndexError(f"row {index} of {self._length} rows")
        return self._row(number)

    def __repr__(self) -> str:
        return f"<Slices: {self._length} rows such as {short_repr(self[0])}>" if self._length else "<Slices: 0 rows>"


class _Branch:
    """A container of columns, with a shell of its type: the container itself would travel with its columns."""

    def __init__(self, container: Container, shell: Any, labels: list[Any], parts: list[Fetch]) -> None:
        self.container, self.shell, self.labels, self.parts = container, shell, labels, parts

    def __call__(self, i: int) -> Any:
        parts = [part(i) for part in self.parts]
        if type(self.shell) is dict:
            return dict(zip(self.labels, parts, strict=True))
        return build(self.container, self.shell, self.labels, parts)


def _read(struct: Any, path: Path, lengths: list[tuple[Path, int]], *, is_stacked: bool) -> Fetch:
    container = container_kind(type(struct))
    if container is None or (container is Container.LIST and not (is_stacked and all(map(_is_stacked, struct)))):
        return _read_column(struct, path, lengths)
    labels = labels_of(container, struct)
    parts = [
        _read(part_of(container, struct, label), (*path, (container, label)), lengths, is_stacked=is_stacked)
        for label in labels
    ]
    return _Branch(container, build(container, struct, labels, [None] * len(labels)), labels, parts)


def _is_stacked(part: Any) -> bool:
    """Whether `stack` made it of several: an object that it left alone is none of these."""
    tensor = getattr(sys.modules.get("torch"), "Tensor", ())
    return isinstance(part, (np.ndarray, tensor)) or container_kind(type(part)) is not None


def _read_column(column: Any, path: Path, lengths: list[tuple[Path, int]]) -> Fetch:
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    is_tensor = tensor is not None and isinstance(column, tensor)
    is_array = isinstance(column, np.ndarray)
    is_sequence = isinstance(column, Sequence) and not isinstance(column, str | bytes | bytearray | memoryview)
    if is_sequence or ((is_array or is_tensor) and column.ndim):
        lengths.append((path, len(column)))
        if is_tensor:
            return partial(_clone_row, column)
        has_views = is_array and (column.ndim > 1 or column.dtype.names)
        return partial(_copy_row if has_views else getitem, column)
    name = show_path(path, "struct")
    try:
        kind = sources.resolve(column)
    except TypeError as error:
        raise TypeError(f"{name} is no column: {error}") from None
    if not isinstance(kind, sources.Indexed):
        raise TypeError(
            f"{name} is no column: {short_repr(column)} has no len() and []; make a list of it, or zip pipelines"
        )
    lengths.append((path, kind.length()))
    if kind.fetch is fetch_series_value:
        return partial(getitem, column_of(column))
    if kind.fetch is fetch_frame_row:
        labels = list(column.columns)
        return _Branch(Container.MAPPING, {}, labels, [partial(getitem, column_of(column[label])) for label in labels])
    return partial(kind.fetch, column)


def _copy_row(array: Any, i: int) -> Any:
    row = array[i]
    return np.array(row) if isinstance(row, np.memmap) else row.copy()


def _clone_row(tensor: Any, i: int) -> Any:
    """A piece of a tensor would be pickled with the whole of its memory."""
    return tensor[i].clone()
