"""Rows: chosen columns of a pandas DataFrame as dicts, paths joined to their folder and read.

Made in: consumer. Read in: both. It must never know pipelines, and imports no pandas: how a column is read says
`columns`.

The arguments are those of Keras's ``flow_from_dataframe`` where the meaning is the same. ``class_mode`` is left out:
labels stay as they are. ``df["y"].astype("category").cat.codes`` makes numbers of them, and keeping
``df["y"].astype("category").cat.categories`` makes names of the numbers again. ``weight_col`` is a ``y_col`` more.
"""

from __future__ import annotations

import difflib
import operator
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from os import PathLike
from typing import Any

from mploader.pipeline import sources
from mploader.pipeline.columns import Text, column_of
from mploader.pipeline.fetch import fetch_frame_row, short_repr

Label = Hashable
Labels = Label | Sequence[Label]
Folder = str | PathLike[str]
Load = Callable[[str], Any]


class Rows(Sequence[dict[Any, Any]]):
    """Rows of a DataFrame as ``{column: value}``, by position, whatever its index.

    Values are what ``df.iat`` gives. The frame is read when this is made: what is changed in it afterwards is not seen.
    Numbers, texts and dates travel to the workers as arrays, which are published once. Measured: 2 us a row of four
    columns, of which one is a path to join; ``df.iloc`` takes 16.

    Attributes:
      columns: the labels of a row, in order.
    """

    def __init__(
        self,
        df: Any,
        x_col: Labels,
        y_col: Labels | None = None,
        directory: Folder | Mapping[Any, Folder] | None = None,
        load: Load | Mapping[Any, Load] | None = None,
    ) -> None:
        """Choose the columns.

        Args:
          df: a pandas DataFrame.
          x_col: label of the input's column, or a list of several: paths, texts, numbers.
          y_col: label of the target's column, or a list of several; None for no target.
          directory: folder that the paths in ``x_col`` are in; of several columns ``{column: folder}``. A path that is
            absolute stays what it is.
          load: function that makes the sample of a path, run where the row is read; of several columns
            ``{column: function}``, and then a single ``directory`` holds for those.

        Raises:
          TypeError: no DataFrame, a path that is no text, or a ``load`` that is no function.
          ValueError: a column that is not there, or paths of which nothing says in which of several columns they are.

        >>> import pandas as pd
        >>> df = pd.DataFrame({"file": ["a.jpg", "b.jpg"], "age": [3, 4], "label": ["cat", "dog"], "more": [0, 0]})
        >>> rows = Rows(df, x_col=["file", "age"], y_col="label", directory={"file": "photos"})
        >>> rows[0]
        {'file': 'photos/a.jpg', 'age': np.int64(3), 'label': 'cat'}
        >>> Rows(df, x_col="file", directory="photos", load=len)[1]
        {'file': 12}
        """
        _check_frame(df)
        x_labels = _chosen(df, x_col, "x_col")
        y_labels = [] if y_col is None else _chosen(df, y_col, "y_col")
        self.columns = list(dict.fromkeys([*x_labels, *y_labels]))
        paths = _path_columns(x_labels, directory, load)
        for given, name in ((directory, "directory"), (load, "load")):
            if isinstance(given, Mapping):
                _check_labels(list(given), self.columns, f"{name} names", "the chosen columns")
        self._folders = _by_column(directory, paths)
        self._loads = _by_column(load, paths)
        for function in self._loads.values():
            if not callable(function):
                raise TypeError(f"load makes the sample of a path: a function, not {short_repr(function)}")
        self._values = [(label, column_of(df[label])) for label in self.columns]
        self._length = len(df)
        for label, column in self._values:
            if label in self._folders or label in self._loads:
                _check_paths(label, column)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        """Row ``index``; from the last one backwards if negative."""
        number = operator.index(index)
        if number < 0:
            number += self._length
        if not 0 <= number < self._length:
            raise IndexError(f"row {index} of {self._length} rows")
        row = {label: column[number] for label, column in self._values}
        for label, folder in self._folders.items():
            row[label] = os.path.join(folder, row[label])
        for label, load in self._loads.items():
            row[label] = load(row[label])
        return row

    def __repr__(self) -> str:
        return f"<Rows: {self._length} of the columns {short_repr(self.columns)}>"


def _check_frame(df: Any) -> None:
    try:
        kind = sources.resolve(df)
    except TypeError as error:  # columns that share a name, say
        raise TypeError(f"df cannot be read by rows: {error}") from None
    if not isinstance(kind, sources.Indexed) or kind.fetch is not fetch_frame_row:
        raise TypeError(f"df is no pandas DataFrame but {short_repr(df)}: pd.DataFrame(...) or .to_pandas() makes one")


def _chosen(df: Any, given: Any, name: str) -> list[Any]:
    """The labels, of which one that is a tuple may be a single one, of columns on several levels."""
    is_one = not isinstance(given, list | tuple) or (isinstance(given, tuple) and given in df.columns)
    labels = [given] if is_one else list(given)
    if not labels:
        raise ValueError(f"{name} is empty: give the label of a column, or several")
    _check_labels(labels, list(df.columns), f"{name} names", "df")
    return labels


def _check_labels(labels: list[Any], known: list[Any], who: str, where: str) -> None:
    for label in labels:
        if label not in known:
            near = difflib.get_close_matches(str(label), map(str, known), n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {short_repr(known)}"
            raise ValueError(f"{who} the column {label!r}, which is not in {where}; {hint}")


def _path_columns(x_labels: list[Any], directory: Any, load: Any) -> list[Any]:
    """Columns that a ``directory`` or ``load`` without a column is meant for."""
    for given in (load, directory):
        if isinstance(given, Mapping):
            return list(given)
    if len(x_labels) > 1 and (directory is not None or load is not None):
        name, value = ("directory", directory) if directory is not None else ("load", load)
        raise ValueError(
            f"{name}={short_repr(value)}, and which of the columns {short_repr(x_labels)} has the paths? "
            f"Write {name}={{{x_labels[0]!r}: ...}}"
        )
    return x_labels


def _by_column(given: Any, paths: list[Any]) -> dict[Any, Any]:
    if given is None:
        return {}
    return dict(given) if isinstance(given, Mapping) else dict.fromkeys(paths, given)


def _check_paths(label: Any, column: Any) -> None:
    """Refuse what is no path now; a file that is not there is the error of whoever opens it."""
    if isinstance(column, Text):
        wrong = [(i, value) for i, value in column.others.items() if not isinstance(value, str | PathLike)]
    else:
        wrong = [(i, value) for i, value in enumerate(column) if not isinstance(value, str | PathLike)]
    if wrong:
        i, value = wrong[0]
        raise TypeError(
            f"column {label!r} is to hold paths, and in {len(wrong)} of {len(column)} rows, first in row {i} "
            f"counted from 0, it holds {short_repr(value)}: df.dropna(subset=[{label!r}]) drops rows without one, "
            f"df[{label!r}].astype(str) + '.jpg' makes paths of numbers"
        )
