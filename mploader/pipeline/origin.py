"""Origin: the sources that a pipeline may begin with, as constructors.

Must never know: what a pipeline does with them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from mploader.pipeline import sources
from mploader.pipeline.access import Source
from mploader.pipeline.fetch import fetch_item, short_repr
from mploader.pipeline.files import list_files
from mploader.pipeline.frames import Rows
from mploader.pipeline.images import open_image_folder
from mploader.pipeline.lines import LineStream, open_lines
from mploader.pipeline.node import Node
from mploader.pipeline.slices import Slices
from mploader.pipeline.sources import Indexed, Streamed
from mploader.pipeline.streams import Generated
from mploader.pipeline.tfrecords import TFRecords, is_compressed, read_tfrecords

if TYPE_CHECKING:
    from mploader.pipeline.pipeline import Pipeline

Path = str | os.PathLike[str]


class Origin:
    """What a pipeline may begin with."""

    @classmethod
    def of(cls, node: Node) -> Pipeline[Any]:
        """Make a pipeline of one node."""
        raise NotImplementedError

    @classmethod
    def from_sequence(cls, sequence: Any) -> Pipeline[Any]:
        """The elements of anything with ``len()`` and ``[]``: a list, an array (its rows), a Dataset, a DataFrame.

        Raises:
          TypeError: it has no ``len()`` and ``[]``; the message says what to write instead.

        >>> from mploader import Pipeline
        >>> Pipeline.from_sequence(["a", "b"])[1]
        'b'
        """
        kind = sources.resolve(sequence)
        if not isinstance(kind, Indexed):
            raise TypeError(
                f"from_sequence needs len() and [], and {short_repr(sequence)} has not both: "
                "Pipeline.from_generator(function) or from_indices(iterable) draw one element after the other"
            )
        return cls.of(Source(kind))

    @classmethod
    def from_slices(cls, struct: Any) -> Pipeline[Any]:
        """Rows of a dict, tuple, dataclass, DataFrame, or nest of arrays and lists of one length.

        Raises:
          ValueError: lengths differ; the message names the parts.

        >>> from mploader import Pipeline
        >>> Pipeline.from_slices({"x": [1, 2], "y": ["a", "b"]})[1]
        {'x': 2, 'y': 'b'}
        """
        return cls._indexed(Slices(struct), "from_slices")

    @classmethod
    def from_generator(cls, function: Callable[..., Iterable[Any]]) -> Pipeline[Any]:
        """A stream: what ``function()`` yields, called for each pass, drawn in the process that consumes.

        A parameter named ``rng`` is given a `numpy.random.Generator` of that pass: with a seed the same elements come
        again. What a function draws from ``random`` or ``numpy.random`` is not seeded: it runs beside your own code,
        which may draw from them too.

        Raises:
          TypeError: not a function without required arguments.

        >>> from mploader import Pipeline
        >>> list(Pipeline.from_generator(lambda: iter("ab")).repeat(2))
        ['a', 'b', 'a', 'b']
        """
        if isinstance(function, Iterator):
            raise TypeError(
                f"from_generator takes the function, and {short_repr(function)} is what it gave: leave out the call, "
                "or from_indices(iterator) for one pass"
            )
        if isinstance(function, type):
            raise TypeError(
                f"from_generator takes a function, and {function.__name__} is a class: "
                f"from_generator(lambda: {function.__name__}(...)) makes one for each pass"
            )
        if not callable(function):
            hint = "; from_indices(iterable) takes that itself" if hasattr(type(function), "__iter__") else ""
            raise TypeError(f"from_generator takes a function that makes an iterable, not {short_repr(function)}{hint}")
        return cls.of(Generated(cast(Streamed, sources.resolve(function))))

    @classmethod
    def from_indices(cls, iterable: Iterable[Any]) -> Pipeline[Any]:
        """A stream of any iterable's elements (indices, samples, batches of indices), drawn where it is consumed.

        >>> from mploader import Pipeline
        >>> list(Pipeline.from_indices(iter([3, 1])).map(lambda i: "abcd"[i]))
        ['d', 'b']
        """
        kind = sources.resolve(iterable)
        return cls.of(Generated(Streamed(iterable) if isinstance(kind, Indexed) else kind, "from_indices"))

    @classmethod
    def from_files(cls, patterns: Path | Iterable[Path]) -> Pipeline[Any]:
        """Sorted paths of the files that match a glob, or any of several; ``**`` stands for any number of folders.

        Raises:
          FileNotFoundError: a pattern matches nothing.
        """
        return cls._indexed(list_files(patterns), "from_files")

    @classmethod
    def from_lines(cls, files: Path | Iterable[Path], encoding: str | None = "utf-8") -> Pipeline[Any]:
        """Lines of text files, without their ends: random access by a table made once; gzip files are a stream.

        Args:
          files: paths, one or several; no patterns.
          encoding: None gives bytes.

        Raises:
          FileNotFoundError: there is no such file.
        """
        lines = open_lines(files, encoding)
        if isinstance(lines, LineStream):
            return cls.of(Generated(Streamed(lines), "from_lines"))
        return cls._indexed(lines, "from_lines")

    @classmethod
    def from_tfrecords(cls, files: Path | Iterable[Path], *, check: bool = True) -> Pipeline[Any]:
        """Records of TFRecord files, as bytes: random access by a table made once; compressed files are a stream.

        `mploader.parse_example` makes a dict of arrays of one.

        Args:
          files: paths, one or several; no patterns.
          check: verify the checksums of lengths and data.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: a damaged file; the message names file, record and offset. Or no files.
        """
        paths = [os.fspath(path) for path in ([files] if isinstance(files, str | os.PathLike) else files)]
        if not paths:
            raise ValueError("no files: give at least one path")
        if any(map(is_compressed, paths)):
            return cls.of(
                Generated(Streamed(partial(read_tfrecords, paths, check=check), called=True), "from_tfrecords")
            )
        return cls._indexed(TFRecords(paths, check=check), "from_tfrecords")

    @classmethod
    def from_image_folder(cls, directory: Path, **options: Any) -> Any:
        """Class folders as (image, label): the arguments, classes and splits of Keras's image_dataset_from_directory.

        Args:
          directory: a folder of each class's folder.
          **options: ``labels``, ``label_mode``, ``class_names``, ``color_mode``, ``image_size`` (None keeps each
            image's own), ``seed``, ``validation_split``, ``subset``, ``interpolation``, ``crop_to_aspect_ratio`` and
            the others that are described at `mploader.pipeline.images.open_image_folder`.

        Returns:
          A pipeline of ``image: (H, W, C) uint8`` and label; with ``subset="both"`` two, training and validation.
        """
        folder = open_image_folder(directory, **options)
        if isinstance(folder, tuple):
            return tuple(cls._indexed(part, "from_image_folder") for part in folder)
        return cls._indexed(folder, "from_image_folder")

    @classmethod
    def from_dataframe(
        cls,
        df: Any,
        x_col: Any,
        y_col: Any = None,
        directory: Path | Mapping[Any, Path] | None = None,
        load: Callable[[Any], Any] | Mapping[Any, Callable[[Any], Any]] | None = None,
    ) -> Pipeline[Any]:
        """Rows as ``{column: value}`` of the chosen columns: paths, texts and numbers at once.

        Args:
          df: a pandas DataFrame.
          x_col: label of the input's column, or a list of several.
          y_col: label of the target's column, or a list of several; None for no target.
          directory: folder of the paths in ``x_col``; of several columns ``{column: folder}``.
          load: makes the sample of a path, in the worker; of several columns ``{column: function}``.
        """
        return cls._indexed(Rows(df, x_col, y_col, directory, load), "from_dataframe")

    @classmethod
    def _indexed(cls, sequence: Any, name: str) -> Pipeline[Any]:
        return cls.of(Source(Indexed(sequence, fetch_item), name))
