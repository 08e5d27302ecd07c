"""Sources: what is random access, what is a stream, what is refused and with which advice; fetching and showing."""

from __future__ import annotations

import array
import ast
import collections
import csv
import enum
import functools
import inspect
import io
import itertools
import pathlib
import pickle
import sys
import tracemalloc
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mploader import Pipeline
from mploader.pipeline import fetch, sources
from mploader.pipeline.fetch import MAX_CHARS, short_repr
from mploader.pipeline.sources import Indexed, Streamed, epoch_hook, resolve


def read(source: object) -> list[Any]:
    """What an epoch over this source hands to ``fn``, the way the loader asks for it."""
    kind = resolve(source)
    if isinstance(kind, Indexed):
        travelled = pickle.loads(pickle.dumps(kind.fetch))
        return [travelled(kind.source, index) for index in range(kind.length())]
    return list(kind.open())


def fake_class(module: str, name: str, bases: tuple[type, ...] = (), **body: object) -> Any:
    """A class that looks as if it came from a framework that need not be installed."""
    return type(name, bases, {"__module__": module, **body})


class Dataset:
    """Map-style; shouts if it is asked for an element, which resolving must not do."""

    def __init__(self, n: int = 3) -> None:
        self.n, self.asked = n, 0

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> int:
        self.asked += 1
        if type(index) is not int or not 0 <= index < self.n:
            raise AssertionError(f"asked for {index!r}")
        return index * 10


class Reiterable:
    def __iter__(self) -> Iterator[int]:
        return iter([1, 2, 3])


class Lengthy(Reiterable):
    def __len__(self) -> int:
        return 3


class Point(NamedTuple):
    x: int
    y: int


# --- random access -------------------------------------------------------------------------------------------------

RANDOM_ACCESS = {
    "range": (range(3, 9, 2), [3, 5, 7]),
    "list": (["a", None, {}], ["a", None, {}]),
    "empty list": ([], []),
    "tuple of paths": (("a", "b"), ["a", "b"]),
    "tuple of one": ((7,), [7]),
    "namedtuple": (Point(1, 2), [1, 2]),
    "deque": (collections.deque([1, 2]), [1, 2]),
    "dataset": (Dataset(), [0, 10, 20]),
    "UserList": (collections.UserList([1, 2]), [1, 2]),
    "1-d array": (np.arange(3), [0, 1, 2]),
    "memoryview": (memoryview(b"ab"), [97, 98]),
}


@pytest.mark.parametrize("name", RANDOM_ACCESS)
def test_random_access_gives_the_elements_by_index(name: str) -> None:
    """What has len() and integer [] is Indexed, and each fetched element is ``source[i]``."""
    source, expected = RANDOM_ACCESS[name]
    assert isinstance(resolve(source), Indexed)
    assert read(source) == expected


def test_ndarray_gives_rows() -> None:
    """The elements of an array of two dimensions are its rows."""
    array = np.arange(6).reshape(3, 2)
    rows = read(array)
    assert len(rows) == 3
    assert all(np.array_equal(row, array[i]) for i, row in enumerate(rows))


def test_tuple_of_arrays_of_different_length_is_a_sequence() -> None:
    """A tuple of unequal arrays cannot be meant as columns, and one of a single array is a sequence of one."""
    for source in ((np.zeros(2), np.zeros(3)), (np.zeros(2),), (np.float64(1), np.float64(2))):
        assert [np.shape(x) for x in read(source)] == [np.shape(x) for x in source]


def test_resolving_asks_for_no_element() -> None:
    """A __getitem__ may take a minute: resolve() calls nothing of the user's but len()."""
    dataset = Dataset()
    resolve(dataset)
    assert dataset.asked == 0


def test_length_is_asked_anew() -> None:
    """A source that grows between epochs has its new length."""
    source = [1]
    kind = resolve(source)
    source.append(2)
    assert kind.length() == 2


def test_kinds_of_unequal_arrays_compare_without_asking_the_arrays() -> None:
    """Indexed is compared by identity: ``==`` of arrays has no truth value, and their hash does not exist."""
    kind = resolve(np.zeros(3))
    assert kind == kind
    assert kind != resolve(np.zeros(3))
    assert hash(kind) == hash(kind)


def test_length_that_goes_wrong_later_is_the_users_own_error() -> None:
    """An error of len() after resolving comes through as it is."""
    dataset = Dataset()
    kind = resolve(dataset)
    dataset.n = -1
    with pytest.raises(ValueError, match="__len__"):
        kind.length()


# --- streams -------------------------------------------------------------------------------------------------------


def numbers() -> Iterator[int]:
    yield from (1, 2, 3)


REITERABLE = {
    "__iter__": Reiterable(),
    "generator function": numbers,
    "lambda": lambda: [1, 2, 3],
    "partial": functools.partial(iter, [1, 2, 3]),
    "bound method": Reiterable().__iter__,
    "optional arguments": lambda n=3, *args, **kwargs: range(1, n + 1),
    "builtin that tells no signature": functools.partial(map, int, "123"),
    "dict.values()": {"a": 1, "b": 2, "c": 3}.values(),
    "dict.keys()": {1: 0, 2: 0, 3: 0}.keys(),
}


@pytest.mark.parametrize("name", REITERABLE)
def test_reiterable_starts_anew_each_epoch(name: str) -> None:
    """What is no iterator itself, and a function that makes one, can be read any number of times."""
    kind = resolve(REITERABLE[name])
    assert isinstance(kind, Streamed)
    assert not kind.one_shot
    assert [list(kind.open()), list(kind.open())] == [[1, 2, 3], [1, 2, 3]]


ONE_SHOT: dict[str, Callable[[], object]] = {
    "generator": lambda: numbers(),
    "iter(list)": lambda: iter([1]),
    "map": lambda: map(int, "12"),
    "zip": lambda: zip([1], [2], strict=True),
    "file": lambda: io.StringIO("a\nb\n"),
    "csv reader": lambda: csv.reader(["a,b"]),
    "itertools.count": lambda: itertools.count(1),
}


@pytest.mark.parametrize("name", ONE_SHOT)
def test_iterators_are_one_shot(name: str) -> None:
    """Whatever returns itself from iter() can be read once."""
    source = ONE_SHOT[name]()
    kind = resolve(source)
    assert isinstance(kind, Streamed)
    assert kind.one_shot
    assert kind.length() is None
    assert kind.open() is source


def test_iterator_that_restarts_itself_is_reiterable() -> None:
    """A class with __next__ whose __iter__ makes another object is no iterator of one shot."""

    class Restarting:
        def __next__(self) -> int:
            raise AssertionError("never called")

        def __iter__(self) -> Iterator[int]:
            return iter([1])

    kind = resolve(Restarting())
    assert isinstance(kind, Streamed)
    assert not kind.one_shot


def test_resolving_does_not_open_a_stream() -> None:
    """__iter__ may open a file or ask a server: it is called at the first epoch, not before."""

    class Server:
        def __iter__(self) -> Iterator[int]:
            raise AssertionError("opened")

    def function() -> Iterator[int]:
        raise AssertionError("called")

    resolve(Server())
    resolve(function)


def test_length_of_a_stream_is_known_only_where_it_says_so() -> None:
    """len() of a stream is its own, and never a guess."""
    assert resolve(Lengthy()).length() == 3
    assert resolve(Reiterable()).length() is None
    assert resolve(numbers).length() is None


def test_range_beyond_what_len_can_say_is_a_stream() -> None:
    """len(range(10**20)) raises OverflowError: its elements are drawn instead."""
    kind = resolve(range(10**20))
    assert isinstance(kind, Streamed)
    assert list(itertools.islice(kind.open(), 2)) == [0, 1]


@pytest.mark.parametrize("error", [TypeError, NotImplementedError, RuntimeError])
def test_len_that_raises_is_no_len(error: type[Exception]) -> None:
    """An iterable whose __len__ raises is a stream, as torch and tf.data have them."""

    class Unsized(Reiterable):
        def __len__(self) -> int:
            raise error

        def __getitem__(self, index: int) -> int:
            raise AssertionError("never called")

    kind = resolve(Unsized())
    assert isinstance(kind, Streamed)
    assert kind.length() is None


@pytest.mark.parametrize("made", [None, 3, "text", {"a": 1}, {1, 2}, numbers, int])
def test_function_that_makes_no_source_says_so_at_its_epoch(made: object) -> None:
    """The error names the function, what it returned and what to return."""
    kind = resolve(lambda: made)
    assert isinstance(kind, Streamed)
    with pytest.raises(TypeError, match=r"<lambda>.*was called for this epoch's elements and returned"):
        kind.open()


def test_function_that_raises_keeps_its_error() -> None:
    """A TypeError of the user's own comes through as it is."""

    def function() -> Iterator[int]:
        raise TypeError("mine")

    with pytest.raises(TypeError, match=r"^mine$"):
        read(function)


def test_function_may_return_random_access() -> None:
    """What a function returns is read by its own kind: a Dataset by its length, not up to an IndexError."""
    assert read(lambda: Dataset()) == [0, 10, 20]


# --- refused -------------------------------------------------------------------------------------------------------


class Color(enum.Enum):
    RED = 1


class DatasetDict(dict[str, Any]):
    pass


class ByKey:
    """Dict-like without being registered as a Mapping."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, key: str) -> int:
        raise KeyError(key)

    keys = values = items = __iter__ = lambda self: iter(["k"])


class Asynchronous:
    def __aiter__(self) -> Asynchronous:
        return self

    async def __anext__(self) -> int:
        return 1


class AsyncCall:
    async def __call__(self) -> int:
        return 1


class NoLen:
    def __getitem__(self, index: int) -> int:
        raise AssertionError("never called")


class FloatLen(NoLen):
    def __len__(self) -> int:
        return 2.0  # type: ignore[return-value]


async def async_function() -> None: ...


async def async_generator() -> Any:
    yield 1


REFUSED = {
    "None": (None, r"source is None.*return"),
    "str": ("a.jpg", r"did you mean \['a.jpg'\], or open\('a.jpg'\)\?"),
    "numpy str": (np.str_("a.jpg"), r"read by characters"),
    "bytes": (b"abc", r"a list of them"),
    "bytearray": (bytearray(b"abc"), r"bytearray.*a list of them"),
    "path": (pathlib.Path("images"), r"sorted\(path.iterdir\(\)\)"),
    "int": (10, r"the number 10: did you mean range\(10\)\?"),
    "numpy int": (np.int64(10), r"did you mean range\(10\)\?"),
    "negative int": (-1, r"the number -1: did you mean range\(n\)"),
    "bool": (True, r"the bool True"),
    "float": (1.5, r"the number 1.5"),
    "decimal": (Decimal("1.5"), r"the number Decimal"),
    "0-d array": (np.array(7), r"0-d array, array\(7\): did you mean range\(int\(source\)\)"),
    "dict": ({"x": 1, "y": 2}, r"dict with the keys \['x', 'y'\].*list\(d\).*ds\[\"train\"\].*from_slices\(d\)"),
    "OrderedDict": (collections.OrderedDict(x=1), r"OrderedDict with the keys"),
    "mapping proxy": (types.MappingProxyType({}), r"mappingproxy with the keys"),
    "UserDict": (collections.UserDict(x=1), r"UserDict with the keys"),
    "DatasetDict": (DatasetDict(train=[1], test=[2]), r"a DatasetDict: which of its datasets\? ds\['train'\]"),
    "dict-like": (ByKey(), r"ByKey with the keys \['k'\]"),
    "set": ({1, 2}, r"sorted\(source\), or list\(source\)"),
    "frozenset": (frozenset({1}), r"frozenset.*sorted\(source\)"),
    "columns": ((np.zeros((4, 2)), np.zeros(4)), r"tuple of 2 arrays of length 4.*from_slices.*list\(source\)"),
    "class": (Dataset, r"the class Dataset: did you mean Dataset\(...\), an instance"),
    "enum": (Color, r"did you mean list\(Color\)"),
    "async generator function": (async_generator, r"asynchronous.*plain generator"),
    "async iterator": (Asynchronous(), r"asynchronous.*plain generator"),
    "async function": (async_function, r"asynchronous.*plain generator"),
    "async partial": (functools.partial(async_function), r"asynchronous"),
    "async callable": (AsyncCall(), r"asynchronous"),
    "function with arguments": (lambda i, *, k: i, r"<lambda>\(i, k\).*fn and source swapped\? Loader\(source, fn\)"),
    "bound method with arguments": (Dataset().__getitem__, r"__getitem__\(index\).*swapped"),
    "no len": (NoLen(), r"NoLen with __getitem__, but it has no __len__.*Loader\(range\(n\), source.__getitem__\)"),
    "float len": (FloatLen(), r"its __len__ raised TypeError\(\"'float' object.*that returns an int"),
    "anything": (object(), r"<object object at .*, of type object, which has neither len\(\) and \[\] nor __iter__"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_sources_say_what_to_write(name: str) -> None:
    """Each source that would not do what it seems to is a TypeError that names the remedy."""
    source, message = REFUSED[name]
    with pytest.raises(TypeError, match="(?s)" + message) as raised:
        resolve(source)
    assert str(raised.value).startswith("source is ")


def test_running_async_generator_is_refused() -> None:
    """An async generator object is refused like its function."""
    with pytest.raises(TypeError, match="asynchronous"):
        resolve(async_generator())


def test_mploaders_own_objects_are_refused() -> None:
    """A Loader, or a subclass of it, cannot be a source, and is told by its module alone."""
    loader = fake_class("mploader.loader", "Loader", __iter__=lambda self: iter([]))
    for kind in (loader, fake_class("user", "MyLoader", (loader,))):
        with pytest.raises(TypeError, match=r"mploader's own .*Loader, which cannot feed a Loader"):
            resolve(kind())
    resolve(fake_class("mploader_users_module", "Loader", __iter__=lambda self: iter([]))())


def test_closed_mapping_is_refused_too() -> None:
    """A mapping whose keys cannot be read is refused all the same."""

    class Closed(collections.UserDict[str, int]):
        def __iter__(self) -> Iterator[str]:
            raise OSError("closed file")

    with pytest.raises(TypeError, match="Closed with the keys"):
        resolve(Closed())


def test_cause_of_a_missing_length_is_kept() -> None:
    """Where __len__ raised, its own error is the cause."""
    with pytest.raises(TypeError) as raised:
        resolve(FloatLen())
    assert isinstance(raised.value.__cause__, TypeError)


# --- frameworks, told by the names in the MRO ----------------------------------------------------------------------

TORCH_DATASET = fake_class("torch.utils.data.dataset", "Dataset", __getitem__=lambda self, index: 1 / 0)
ITERABLE_DATASET = fake_class("torch.utils.data.dataset", "IterableDataset", (TORCH_DATASET,))


def test_torch_map_style_dataset_is_random_access() -> None:
    """A Dataset with __len__ and __getitem__ is random access, with no warning."""
    kind = fake_class("user", "Images", (TORCH_DATASET,), __len__=lambda self: 2, __getitem__=lambda self, i: i)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(kind()) == [0, 1]


def test_torch_dataset_without_len_is_refused() -> None:
    """iter() would run its __getitem__ in this process, up to an IndexError that may never come."""
    kind = fake_class("user", "Images", (TORCH_DATASET,), __getitem__=lambda self, i: i)
    with pytest.raises(TypeError, match="add a __len__"):
        resolve(kind())


def test_torch_dataset_without_getitem_is_a_stream() -> None:
    """torch's own __getitem__, which only raises, does not count as one."""
    kind = fake_class("user", "S", (TORCH_DATASET,), __len__=lambda self: 2, __iter__=lambda self: iter("ab"))
    stream = resolve(kind())
    assert isinstance(stream, Streamed)
    assert list(stream.open()) == ["a", "b"]


def test_torch_iterable_dataset_is_a_stream_and_warns_at_the_users_line() -> None:
    """It is drawn in the consumer, also where it has a len; the warning names the other way."""
    kind = fake_class("user", "S", (ITERABLE_DATASET,), __len__=lambda self: 2, __iter__=lambda self: iter("ab"))
    with pytest.warns(UserWarning, match=r"mploader\.integrations\.torch\.DataLoader") as caught:
        stream = resolve(kind(), stacklevel=2)
    assert caught[0].filename == __file__
    assert isinstance(stream, Streamed)
    assert (stream.one_shot, stream.length(), list(stream.open())) == (False, 2, ["a", "b"])


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("keras.src.trainers.data_adapters.py_dataset_adapter", "PyDataset"),
        ("keras.utils.data_utils", "Sequence"),
        ("tensorflow.python.keras.utils.data_utils", "Sequence"),
        ("tf_keras.src.utils.data_utils", "Sequence"),
    ],
)
def test_keras_sequences_are_random_access_over_batches(module: str, name: str) -> None:
    """A Keras PyDataset or Sequence of any Keras is Indexed, and says that its elements are batches."""
    base = fake_class(module, name, on_epoch_end=lambda self: None)
    called = []
    user = {"__len__": lambda self: 2, "__getitem__": lambda self, i: ["batch", i]}
    source = fake_class("user", "Batches", (base,), **user)()
    kind = resolve(source)
    assert isinstance(kind, Indexed)
    assert kind.batches
    assert (kind.length(), kind.fetch(source, 1)) == (2, ["batch", 1])
    assert epoch_hook(source) is None, "Keras's own on_epoch_end does nothing"
    source = fake_class("user", "Batches", (base,), on_epoch_end=lambda self: called.append(self), **user)()
    hook = epoch_hook(source)
    assert hook is not None
    hook()
    assert called == [source]


@pytest.mark.parametrize(
    ("num_batches", "length"), [(2, 2), (np.int64(0), 0), (None, "num_batches None"), (2.5, "integer")]
)
def test_keras_num_batches(num_batches: object, length: object) -> None:
    """num_batches is the length; None, an epoch without an end, is refused with the way to give it one."""
    base = fake_class("keras.src.x", "PyDataset", __getitem__=lambda self, i: i)
    source = fake_class("user", "Batches", (base,), num_batches=property(lambda self: num_batches))()
    if isinstance(length, int):
        assert resolve(source).length() == length
    else:
        with pytest.raises(TypeError, match=str(length)):
            resolve(source)


def test_keras_without_length_or_with_a_negative_one_is_refused() -> None:
    """Keras raises NotImplementedError for a PyDataset without __len__; ours says what to add."""

    def missing(self: object) -> int:
        raise NotImplementedError

    base = fake_class("keras.src.x", "PyDataset", num_batches=property(missing))
    with pytest.raises(TypeError, match="without __len__: add one"):
        resolve(base())
    with pytest.raises(ValueError, match="is -1; it must be 0 or more"):
        resolve(fake_class("keras.src.x", "PyDataset", num_batches=-1)())


def test_epoch_hook_of_other_sources() -> None:
    """Any source whose class has an on_epoch_end has a hook; lists, classes and plain attributes have none."""

    class Reshuffled(Dataset):
        def on_epoch_end(self) -> str:
            return "reshuffled"

    hook = epoch_hook(Reshuffled())
    assert hook is not None
    assert hook() == "reshuffled"
    assert epoch_hook([1]) is None
    assert epoch_hook(Reshuffled) is None
    assert epoch_hook(fake_class("user", "Odd", on_epoch_end=3)()) is None


def test_hugging_face_dataset_is_random_access_by_its_own_getitem() -> None:
    """A real Hugging Face dataset gives its rows as dicts."""
    datasets = pytest.importorskip("datasets")
    source = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    assert read(source) == [{"text": "a", "label": 0}, {"text": "b", "label": 1}]
    with pytest.raises(TypeError, match=r"ds\['train'\]"):
        resolve(datasets.DatasetDict(train=source))


def test_real_torch_objects() -> None:
    """Tensors give rows; TensorDataset, Subset and samplers are what they say; 0-d tensors are refused."""
    torch = pytest.importorskip("torch")
    data = torch.utils.data
    tensor = torch.arange(6).reshape(3, 2)
    assert [row.tolist() for row in read(tensor)] == tensor.tolist()
    assert read(data.Subset(data.TensorDataset(torch.arange(3)), [2, 0])) == [(2,), (0,)]
    assert read(data.SequentialSampler(range(3))) == [0, 1, 2]
    assert short_repr(tensor) == "<Tensor shape (3, 2), dtype torch.int64>"
    with pytest.raises(TypeError, match="0-d array"):
        resolve(torch.tensor(3))
    with pytest.raises(TypeError, match="tuple of 2 arrays of length 3"):
        resolve((tensor, torch.arange(3)))

    stream = fake_class("user", "Stream", (data.IterableDataset,), __iter__=lambda self: iter([1, 2]))()
    with pytest.warns(UserWarning, match="IterableDataset"):
        assert read(stream) == [1, 2]


def test_real_keras_pydataset(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real PyDataset is Indexed over batches."""
    pytest.importorskip("torch")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")

    dataset = keras.utils.PyDataset
    source = fake_class("user", "B", (dataset,), __len__=lambda self: 2, __getitem__=lambda self, i: [i])()
    kind = resolve(source)
    assert isinstance(kind, Indexed)
    assert kind.batches
    assert read(source) == [[0], [1]]
    assert epoch_hook(source) is None
    with pytest.raises(TypeError, match="without __len__"):
        resolve(dataset())


# --- frames --------------------------------------------------------------------------------------------------------


class FakeFrame:
    """As much of a DataFrame as is asked for: ``iat``, ``columns``, ``len()``."""

    def __init__(self, **columns: list[Any]) -> None:
        self.data = columns
        self.columns = list(columns)
        self.iat = self

    def __len__(self) -> int:
        return len(next(iter(self.data.values())))

    def __getitem__(self, place: tuple[int, int]) -> Any:
        row, column = place
        return self.data[self.columns[column]][row]

    keys = values = items = lambda self: iter(self.columns)


def test_frame_is_known_by_name_and_subclass() -> None:
    """A pandas DataFrame, and a subclass such as GeoDataFrame, gives row dicts, though it has keys and []."""
    frame = fake_class("pandas.core.frame", "DataFrame", (FakeFrame,))
    for kind in (frame, fake_class("geopandas", "GeoDataFrame", (frame,))):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kind, "values", [], raising=False)  # a property in pandas, and so no method of a mapping
            assert read(kind(a=[1, 2], b=["x", "y"])) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


def test_pandas_rows_keep_the_type_of_their_column() -> None:
    """Rows go by position whatever the labels, and an int beside a float column stays an int."""
    pd = pytest.importorskip("pandas")
    when = pd.Timestamp("2024-01-01", tz="UTC")
    frame = pd.DataFrame(
        {"n": [1, 2], "f": [0.5, float("nan")], "s": ["a", None], "t": [when, when], "o": [[1], {}]}, index=[7, 7]
    )
    frame["c"] = pd.Categorical(["u", "v"])
    frame["i"] = pd.array([1, None], dtype="Int64")
    rows = read(frame)
    assert [row["n"] for row in rows] == [1, 2]
    assert type(rows[0]["n"]) is np.int64
    assert list(rows[0]) == list(frame.columns)
    assert (rows[0]["f"], rows[0]["t"], rows[0]["o"], rows[1]["o"], rows[1]["c"]) == (0.5, when, [1], {}, "v")
    assert rows[1]["i"] is pd.NA
    assert read(frame[["n"]].iloc[:0]) == []
    assert read(lambda: frame[["n"]]) == [{"n": 1}, {"n": 2}]
    assert short_repr(frame[["n", "f"]]) == "<DataFrame shape (2, 2): n int64, f float64>"


def test_pandas_series_goes_by_position() -> None:
    """``series[0]`` would look for the label 0."""
    pd = pytest.importorskip("pandas")
    assert read(pd.Series([1, 2], index=[1, 0])) == [1, 2]
    assert read(pd.Index(["a", "b"])) == ["a", "b"]


def test_pandas_groups_are_a_stream() -> None:
    """A GroupBy has len() and [], but its [] selects columns: its elements are (key, group) pairs."""
    pd = pytest.importorskip("pandas")
    grouped = pd.DataFrame({"k": ["a", "b", "a"], "v": [1, 2, 3]}).groupby("k")
    kind = resolve(grouped)
    assert isinstance(kind, Streamed)
    assert kind.length() == 2
    assert [(key, list(group.v)) for key, group in kind.open()] == [("a", [1, 3]), ("b", [2])]
    assert [len(window) for window in read(pd.Series([1, 2, 3]).rolling(2))] == [1, 2, 2]


def test_duplicate_column_names_are_refused() -> None:
    """Rows as dicts would lose one of two columns of the same name."""
    pd = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match=r"columns share a name, \['a'\]: rename them"):
        resolve(pd.DataFrame([[1, 2, 3]], columns=["a", "a", "b"]))


def test_polars_rows_and_series() -> None:
    """A polars frame gives row dicts of Python values; a LazyFrame has to be collected first."""
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame({"n": [1, 2], "s": ["a", "b"]})
    assert read(frame) == [{"n": 1, "s": "a"}, {"n": 2, "s": "b"}]
    assert read(frame["n"]) == [1, 2]
    with pytest.raises(TypeError, match=r"source\.collect\(\)"):
        resolve(frame.lazy())


def test_arrow_rows() -> None:
    """A pyarrow Table and a RecordBatch give row dicts, also across chunks; doubled names are refused."""
    pa = pytest.importorskip("pyarrow")
    table = pa.concat_tables([pa.table({"n": [1], "s": ["a"]}), pa.table({"n": [2], "s": ["b"]})])
    assert read(table) == [{"n": 1, "s": "a"}, {"n": 2, "s": "b"}]
    assert read(table.to_batches()[0]) == [{"n": 1, "s": "a"}]
    with pytest.raises(TypeError, match=r"Table .*\['n'\]"):
        resolve(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["n", "n"]))


class Numbered:
    """What has its elements by number and nothing else, as a Keras Sequence; one too far is no error."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, i: int) -> int:
        return 10 * i


@pytest.mark.parametrize(
    "read_all",
    [
        lambda source: list(Pipeline.from_sequence([0]).flat_map(lambda _: source)),
        lambda source: list(Pipeline.from_indices(source)),
        lambda source: list(Pipeline.from_generator(lambda: source)),
    ],
)
def test_rows_whoever_gives_them(read_all: Any) -> None:
    """A frame is its rows, and what has only ``len()`` and ``[]`` its elements, for ``flat_map`` and streams too."""
    pd = pytest.importorskip("pandas")
    assert read_all(pd.DataFrame({"n": [1, 2], "s": ["a", "b"]})) == [{"n": 1, "s": "a"}, {"n": 2, "s": "b"}]
    assert read_all(pd.Series([1, 2], index=[7, 7])) == [1, 2]
    assert read_all(Numbered()) == [0, 10, 20]
    with pytest.raises(TypeError, match=r"columns share a name, \['n'\]"):
        read_all(pd.DataFrame([[1, 2]], columns=["n", "n"]))


def test_scipy_sparse_rows() -> None:
    """len() of a sparse matrix raises; it is drawn row by row."""
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.csr_matrix(np.eye(3))
    kind = resolve(matrix)
    assert isinstance(kind, Streamed)
    assert [row.toarray().tolist() for row in kind.open()] == np.eye(3)[:, None].tolist()


def imported(module: types.ModuleType) -> set[str]:
    """Top packages that a module imports, by its source."""
    nodes = list(ast.walk(ast.parse(inspect.getsource(module))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in names}


def test_imports_are_light() -> None:
    """fetch, which workers import, needs the standard library alone; sources knows no framework by import."""
    assert imported(fetch) <= sys.stdlib_module_names
    assert imported(sources) <= {*sys.stdlib_module_names, "mploader"}


# --- short_repr ----------------------------------------------------------------------------------------------------


@dataclass
class Sample:
    path: str
    values: Any
    hidden: Any = field(default=None, repr=False)


@dataclass
class Custom:
    values: Any

    def __repr__(self) -> str:
        return "Custom!"


class Broken:
    def __repr__(self) -> str:
        raise SystemExit(3)


class Loud:
    def __repr__(self) -> str:
        return "two\nlines\x1b[31m \ud800 é"


SHOWN = {
    "int": (17, "17"),
    "huge int": (10**5000, "<int of 16610 bits>"),
    "float": (0.5, "0.5"),
    "numpy scalar": (np.float32(0.5), "np.float32(0.5)"),
    "str": ("a'b", '"a\'b"'),
    "list": ([1, [2]], "[1, [2]]"),
    "long list": (list(range(100)), "[0, 1, 2, 3, 4, 5, ...]"),
    "deep": ([[[[[1]]]]], "[[[[...]]]]"),
    "tuple": ((1,), "(1,)"),
    "empty": (((), {}, set(), []), "((), {}, set(), [])"),
    "dict": ({"b": 1, "a": [2]}, "{'b': 1, 'a': [2]}"),
    "set": ({1}, "set({1})"),
    "deque": (collections.deque([1]), "deque([1])"),
    "namedtuple": (Point(1, 2), "Point(x=1, y=2)"),
    "dataclass": (Sample("a", list(range(9))), "Sample(path='a', values=[0, 1, 2, 3, 4, 5, ...])"),
    "dataclass with its own repr": (Custom(1), "Custom!"),
    "array": (np.zeros((2, 3), np.float32), "<ndarray shape (2, 3), dtype float32>"),
    "array inside": ({"x": np.zeros(3)}, "{'x': <ndarray shape (3,), dtype float64>}"),
    "raises": (Broken(), "<Broken: repr failed>"),
    "raises inside": ([Broken()], "<list: repr failed>"),
    "unprintable": (Loud(), "two lines [31m   é"),
    "class": (np.ndarray, "<class 'numpy.ndarray'>"),
}


@pytest.mark.parametrize("name", SHOWN)
def test_short_repr(name: str) -> None:
    """Each kind of object is shown on one line by what tells most about it."""
    obj, expected = SHOWN[name]
    assert short_repr(obj) == expected


def test_short_repr_shows_both_ends_of_a_long_text() -> None:
    """The end of a path tells more than its middle."""
    shown = short_repr("/data/" + "x" * 500 + "/cat.jpg")
    assert shown.startswith("'/data/")
    assert shown.endswith("/cat.jpg'")
    assert short_repr(bytearray(b"a" * 500 + b"z")).endswith("az')")


def test_short_repr_of_a_cycle_ends() -> None:
    """A list that holds itself is shown."""
    cycle: list[Any] = []
    cycle.append(cycle)
    assert short_repr(cycle) == "[[[[...]]]]"


def test_short_repr_asks_few_items_for_theirs() -> None:
    """Of a container of thousands, alone or inside another, only the first items are shown."""
    asked = 0

    class Item:
        def __repr__(self) -> str:
            nonlocal asked
            asked += 1
            return "x"

    items = [Item() for _ in range(2000)]
    dicts = (dict(enumerate(items)), dict.fromkeys(items), collections.OrderedDict(enumerate(items)))
    for huge in (items, tuple(items), set(items), frozenset(items), collections.deque(items), *dicts):
        for obj in (huge, [huge], {"huge": huge}, Sample("a", huge), Point(0, huge)):  # type: ignore[arg-type]
            asked = 0
            assert len(short_repr(obj)) <= MAX_CHARS
            assert asked <= 7


@pytest.mark.parametrize("huge", ["x" * 10**6, b"x" * 10**6, bytearray(10**6), array.array("d", range(10**5))])
def test_short_repr_cuts_before_it_shows(huge: Any) -> None:
    """No literal of the whole is made for a text or an array of millions."""
    tracemalloc.start()
    try:
        assert len(short_repr([huge])) <= MAX_CHARS
        assert tracemalloc.get_traced_memory()[1] < 20_000
    finally:
        tracemalloc.stop()


def test_short_repr_lets_ctrl_c_through() -> None:
    """A KeyboardInterrupt in the midst of it is the user's, not a failed repr."""

    class Interrupted:
        def __repr__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        short_repr(Interrupted())


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner) | st.sets(st.text()),
)


@given(ANYTHING)
def test_short_repr_is_one_short_line(obj: object) -> None:
    """At most 120 characters, printable, and encodable whatever the object."""
    shown = short_repr(obj)
    assert 0 < len(shown) <= MAX_CHARS
    assert shown.isprintable()
    shown.encode()


@given(st.integers() | st.booleans() | st.text(max_size=20) | st.lists(st.integers(), max_size=3))
def test_short_repr_of_small_objects_is_repr(obj: object) -> None:
    """What is short is shown by its own repr, so that it can be typed in again."""
    assert short_repr(obj) == "".join(c if c.isprintable() else " " for c in repr(obj)) or len(repr(obj)) > 75
