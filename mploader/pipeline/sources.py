"""What a source is: random access, so that its index travels, or a stream, so that its elements do.

Runs in: consumer. It must never know engines, transport or processes, imports no framework (kinds are told by
the names in a class's MRO, so that pandas or torch is known without being loaded), and at `resolve` calls no user
code but ``len()``: a ``__getitem__`` may take a minute, a stream's first element is the first epoch's.

In the order in which they are tried::

    refused by kind       None, text, number, mapping, set, class, async, Loader      TypeError: what to write instead
    torch IterableDataset                           Streamed, with a warning          its len(), if it has one
    DataFrame, Table                                Indexed                           row dicts
    Series                                          Indexed                           by position, not by label
    Keras PyDataset, Sequence                       Indexed, ``batches=True``         ``num_batches``
    len() and []                                    Indexed                           list, ndarray, Dataset, deque
    [] without len() or __iter__                    TypeError                         no way to know where it ends
    __iter__                                        Streamed                          ``one_shot`` if iter(x) is x
    callable without required arguments             Streamed, called each epoch       a generator function
"""

from __future__ import annotations

import inspect
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sized
from dataclasses import dataclass
from enum import Enum
from itertools import islice, repeat
from numbers import Integral, Number
from os import PathLike
from types import GeneratorType
from typing import Any, cast

from mploader.pipeline import fetch
from mploader.pipeline import rng as randomness
from mploader.pipeline.fetch import short_repr

_NO_FRAMES = {list, tuple, GeneratorType}  # looked at first, as they are what most functions return


@dataclass(frozen=True, eq=False)  # equality of arrays is no bool
class Indexed:
    """A source with random access: the index is the task, and the source is published to the workers.

    Attributes:
      source: what the user gave.
      fetch: ``(source, index) -> element``, at module level of `mploader.pipeline.fetch`; runs in the worker.
      batches: elements are batches already (Keras PyDataset, Sequence).
    """

    source: object
    fetch: Callable[[Any, int], Any]
    batches: bool = False

    def length(self) -> int:
        """Elements of an epoch, asked anew at each call: a source may change between epochs."""
        return _num_batches(self.source) if self.batches else len(cast(Sized, self.source))


@dataclass(frozen=True, eq=False)  # equality of arrays is no bool
class Streamed:
    """A source that is drawn in the consumer: the element is the task.

    Attributes:
      source: what the user gave.
      one_shot: it can be read once; whoever opens it a second time has to refuse.
      called: the source is a function that makes an iterable each epoch.
    """

    source: object
    one_shot: bool = False
    called: bool = False

    @property
    def takes_rng(self) -> bool:
        """Whether it is a function with a parameter named ``rng``."""
        return self.called and randomness.takes_rng(cast(Callable[..., object], self.source))

    def open(self, rng: Any = None) -> Iterator[Any]:
        """Start one pass. What the source raises, here or at ``next()``, comes through as it is.

        What a function returns is read by the rules for a source, so that ``lambda: frame`` gives rows.

        Args:
          rng: the `numpy.random.Generator` for a function that takes one.

        Raises:
          TypeError: the function returned what is no source.
        """
        if not self.called:
            return elements(self.source)
        make = cast(Callable[..., object], self.source)
        made = make() if rng is None else make(rng=rng)
        try:
            kind = resolve(made)
        except TypeError as error:
            raise TypeError(
                f"{short_repr(self.source)} was called for this epoch's elements and returned {short_repr(made)}; "
                f"a source that is a function must return an iterable, as a generator function does: {error}"
            ) from error
        if isinstance(kind, Indexed):
            return map(kind.fetch, repeat(made), range(kind.length()))
        if kind.called:
            raise TypeError(
                f"{short_repr(self.source)} was called for this epoch's elements and returned the function "
                f"{short_repr(made)}: return what that gives, {_name(made)}()"
            )
        return kind.open()

    def is_bound(self, iterator: Iterator[Any]) -> bool:
        """Whether only the thread that made an iterator may draw from it.

        True for a cursor of sqlite3, and for a generator that the user made: what it uses may be of that kind. A
        generator that a function makes for each epoch can be made again where this turns out.
        """
        return (self.one_shot and inspect.isgenerator(iterator)) or _is(iterator, "sqlite3", "Cursor")

    def length(self) -> int | None:
        """Elements of an epoch where the source says so, else None; asked anew at each call."""
        return None if self.called else _length(self.source)[0]


def resolve(source: object, *, stacklevel: int = 3) -> Indexed | Streamed:
    """Tell what kind of source this is.

    Args:
      source: what the user gave.
      stacklevel: frames from here to the line a warning is to point at, as `warnings.warn` counts them: 2 is
        the caller, 3 the caller's caller, which is the user where a constructor calls this.

    Raises:
      TypeError: no source, or one that would not do what it seems to; the message says what to write instead.
    """
    refusal = _refusal(source)
    if refusal is not None:
        raise TypeError(f"source is {refusal}")
    if _is(source, "torch.utils.data", "IterableDataset"):
        warnings.warn(
            f"{_name(source)} is a torch IterableDataset: it is drawn in this process, only fn runs in the workers; "
            f"mploader.integrations.torch.DataLoader runs a replica of it in each worker, as torch does",
            stacklevel=stacklevel,
        )
        return Streamed(source, one_shot=_is_one_shot(source))
    frame_fetch = _frame_fetch(source)
    if frame_fetch is not None:
        return Indexed(source, frame_fetch)
    if _is_keras(type(source)):
        _num_batches(source)
        return Indexed(source, fetch.fetch_item, batches=True)
    return _resolve_by_protocol(source)


def elements(made: Any) -> Iterator[Any]:
    """The elements of what is read from the first to the last: of a DataFrame the rows, whose ``iter()`` gives columns.

    Runs in: both. About 0.1 us for a list or a generator, 6 us for what may be a frame.

    Raises:
      TypeError: it has no elements; or it is a frame that has no rows as dicts.
    """
    kind = type(made)
    is_frame = kind not in _NO_FRAMES and (_frame_fetch(made) is not None or _frame_refusal(made) is not None)
    if not is_frame and (hasattr(kind, "__iter__") or _length(made)[0] is None):
        return iter(made)
    found = resolve(made)
    return map(found.fetch, repeat(made), range(found.length())) if isinstance(found, Indexed) else iter(made)


def epoch_hook(source: object) -> Callable[[], object] | None:
    """The bound ``on_epoch_end`` of a source whose class defines one; None if none does, or only Keras's empty one."""
    owner = _owner(source, "on_epoch_end")
    if owner is None or _is_keras_base(owner):
        return None
    hook = cast(Any, source).on_epoch_end
    return hook if callable(hook) else None


def changes_by_epoch(source: object) -> bool:
    """Whether its elements may be others in each epoch: it is told where one begins, or ends."""
    return epoch_hook(source) is not None or callable(getattr(type(source), "set_epoch", None))


def _resolve_by_protocol(source: object) -> Indexed | Streamed:
    """What is none of the known kinds, by its methods; looked up on the class, as Python does."""
    kind = type(source)
    has_items, has_iter = _has_items(source), hasattr(kind, "__iter__")
    length, why = _length(source)
    if has_items and length is not None:
        return Indexed(source, fetch.fetch_item)
    if has_items and not has_iter:
        # iter() would read it up to an IndexError that may never come, and run its __getitem__ in this process.
        reason = f"its __len__ raised {short_repr(why)}" if hasattr(kind, "__len__") else "it has no __len__"
        raise TypeError(
            f"source is a {_name(source)} with __getitem__, but {reason}, so nothing says where it ends: "
            f"add a __len__ that returns an int, or give the indices, Loader(range(n), source.__getitem__)"
        ) from why
    if has_iter:
        return Streamed(source, one_shot=_is_one_shot(source))
    if callable(source):
        needed = _required_parameters(source)
        if needed:
            raise TypeError(
                f"source is the function {_name(source)}({', '.join(needed)}), and one that makes the elements of an "
                f"epoch takes no arguments: fn and source swapped? Loader(source, fn), or "
                f"lambda: f(...) with its arguments"
            )
        return Streamed(source, called=True)
    raise TypeError(
        f"source is {short_repr(source)}, of type {_name(source)}, which has neither len() and [] nor __iter__, and is "
        f"not callable: give a sequence, an iterable, or a function that makes an iterable each epoch"
    )


def _refusal(source: object) -> str | None:
    """What is wrong with this source, and what to write instead; None if nothing is."""
    match source:
        case None:
            return "None: did the function that makes it forget its return? Give a sequence or an iterable"
        case str():
            text = short_repr(source)
            return f"the str {text}, which would be read by characters: did you mean [{text}], or open({text})?"
        case bytes() | bytearray():
            return f"a {_name(source)} object, which would be read by single ints: did you mean a list of them?"
        case PathLike():
            return f"the path {short_repr(source)}: did you mean sorted(path.iterdir()), or lambda: open(path)?"
        case bool():
            return f"the bool {source}: give a sequence or an iterable"
        case Integral() if int(source) >= 0:
            return f"the number {short_repr(int(source))}: did you mean range({short_repr(int(source))})?"
        case Number():
            return f"the number {short_repr(source)}: did you mean range(n), n being how many elements there are?"
        case type():
            return _class_refusal(source)
        case set() | frozenset():
            return f"a {_name(source)}, whose order is nobody's choice: did you mean sorted(source), or list(source)?"
    if hasattr(type(source), "shape") and cast(Any, source).shape == ():
        return f"a 0-d array, {short_repr(source)}: did you mean range(int(source)), or source.reshape(1)?"
    if any(kind.__name__ == "Loader" and kind.__module__ == "mploader.loader" for kind in type(source).__mro__):
        return (
            f"mploader's own {_name(source)}, which cannot feed a Loader: put both steps into one function, "
            f"Loader(source, lambda x: second(first(x)))"
        )
    return _mapping_refusal(source) or _columns_refusal(source) or _async_refusal(source) or _frame_refusal(source)


def _class_refusal(source: type) -> str:
    if issubclass(source, Enum):
        return f"the class {source.__name__}: did you mean list({source.__name__})?"
    return f"the class {source.__name__}: did you mean {source.__name__}(...), an instance of it?"


def _mapping_refusal(source: object) -> str | None:
    # A class that has all of these without being registered as a Mapping finds its elements by key too.
    by_key = all(callable(getattr(type(source), method, None)) for method in ("__getitem__", "keys", "values", "items"))
    if not (isinstance(source, Mapping) or by_key):
        return None
    name = _name(source)
    try:
        keys = list(islice(cast(Mapping[Any, Any], source), 7))  # short_repr shows 6 and says that there are more
    except Exception:  # noqa: BLE001  a closed file, say: the refusal stands
        keys = []
    if name.endswith("DatasetDict"):
        return f"a {name}: which of its datasets? ds[{short_repr(keys[0] if keys else 'train')}] is one"
    return (
        f"a {name} with the keys {short_repr(keys)}, and by number it has no elements: list(d) gives its keys, "
        f'list(d.items()) its pairs, ds["train"] one of several datasets; the rows of equally long columns are '
        f"Pipeline.from_slices(d)"
    )


def _columns_refusal(source: object) -> str | None:
    """``(images, labels)`` is meant as columns far more often than as a sequence of two arrays."""
    if not (isinstance(source, tuple) and len(source) > 1 and all(hasattr(array, "shape") for array in source)):
        return None
    lengths = {_length(array)[0] for array in source}
    if len(lengths) > 1 or None in lengths:
        return None
    return (
        f"a tuple of {len(source)} arrays of length {lengths.pop()}: their rows side by side are "
        f"Pipeline.from_slices(arrays); list(source) if each array is one element"
    )


def _async_refusal(source: object) -> str | None:
    kind = type(source)
    if hasattr(kind, "__iter__"):
        return None
    is_async = hasattr(kind, "__aiter__") or hasattr(kind, "__anext__") or inspect.isawaitable(source)
    for function in (source, getattr(kind, "__call__", None)):  # noqa: B004  the method itself, not whether there is one
        is_async = is_async or inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    if not is_async:
        return None
    return (
        f"asynchronous ({_name(source)}), and a Loader draws its source without an event loop: write a plain generator "
        f"that runs it, with asyncio.Runner() as runner: ... yield runner.run(anext(it))"
    )


def _frame_refusal(source: object) -> str | None:
    if _is(source, "polars", "LazyFrame"):
        return "a polars LazyFrame, which has no rows yet: did you mean source.collect()?"
    names: list[Any] = []
    if _is(source, "pandas", "DataFrame"):
        names = list(cast(Any, source).columns)
    elif _is(source, "pyarrow", "Table", "RecordBatch"):
        names = list(cast(Any, source).schema.names)
    twice = list({name: None for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if not twice:
        return None
    return f"a {_name(source)} whose rows cannot be dicts, since columns share a name, {short_repr(twice)}: rename them"


def _frame_fetch(source: object) -> Callable[[Any, int], Any] | None:
    if _is(source, "pandas", "DataFrame"):
        return fetch.fetch_frame_row
    if _is(source, "pandas", "Series"):
        return fetch.fetch_series_value
    if _is(source, "polars", "DataFrame"):
        return fetch.fetch_polars_row
    if _is(source, "pyarrow", "Table", "RecordBatch"):
        return fetch.fetch_arrow_row
    return None


def _is(source: object, package: str, *names: str) -> bool:
    """Whether a class of one of these names, defined in this package, is among the source's classes."""
    return any(
        kind.__name__ in names and (kind.__module__ == package or kind.__module__.startswith(package + "."))
        for kind in type(source).__mro__
    )


def _is_keras(kind: type) -> bool:
    return any(_is_keras_base(base) for base in kind.__mro__)


def _is_keras_base(kind: type) -> bool:
    # keras.src.trainers..., tf_keras.src.utils..., tensorflow.python.keras.utils...
    rooms = kind.__module__.split(".")
    return kind.__name__ in {"PyDataset", "Sequence"} and ("keras" in rooms or "tf_keras" in rooms)


def _num_batches(source: Any) -> int:
    """Batches of an epoch of a Keras PyDataset (``num_batches``) or Sequence (``len()``)."""
    try:
        given = source.num_batches if hasattr(type(source), "num_batches") else len(source)
    except NotImplementedError as error:
        raise TypeError(f"source is a Keras dataset, {_name(source)}, without __len__: add one") from error
    if given is None:
        raise TypeError(
            f"source is a Keras dataset, {_name(source)}, with num_batches None, so that no epoch of it ends: "
            f"say how long one is, Loader(range(n), source.__getitem__)"
        )
    number = operator.index(given)
    if number < 0:
        raise ValueError(f"num_batches of {_name(source)} is {number}; it must be 0 or more")
    return number


def _length(source: object) -> tuple[int | None, Exception | None]:
    """``len(source)``, or None and what it raised; many a Dataset has a ``__len__`` only to raise in it."""
    try:
        return len(cast(Sized, source)), None
    except Exception as error:  # noqa: BLE001  the user's code, and "no length" is a fit answer to whatever it raised
        # without its traceback: that holds this frame and the caller's, which would live until the collector runs
        return None, error.with_traceback(None)


def _has_items(source: object) -> bool:
    """Whether ``source[index]`` may be meant for elements."""
    if _is(source, "pandas", "BaseGroupBy", "BaseWindow"):  # their [] selects a column, their iter() gives groups
        return False
    owner = _owner(source, "__getitem__")
    # torch's own Dataset.__getitem__ only raises NotImplementedError.
    return owner is not None and not (owner.__name__ == "Dataset" and owner.__module__.startswith("torch.utils.data"))


def _is_one_shot(source: object) -> bool:
    # iter() is called on iterators only, which return themselves: another's __iter__ may open a file or a server.
    return hasattr(type(source), "__next__") and iter(cast(Any, source)) is source


def _required_parameters(function: Callable[..., object]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin that does not tell
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in optional and p.name != "rng"]


def _owner(source: object, attribute: str) -> type | None:
    """The class that defines this attribute for the source."""
    return next((kind for kind in type(source).__mro__ if attribute in vars(kind)), None)


def _name(source: object) -> str:
    return str(source.__name__) if inspect.isroutine(source) else type(source).__name__
