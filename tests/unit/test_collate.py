"""Collating: structures keep their types, leaves become arrays, nothing is aliased, disagreement is told by path."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import pickle
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mploader.pipeline import collate
from mploader.pipeline.collate import stack
from mploader.pipeline.padding import pad_stack


class Point(NamedTuple):
    x: Any
    y: Any


@dataclasses.dataclass
class Sample:
    image: Any
    label: Any = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    image: Any
    area: Any = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "area", float(len(self.image)))


@dataclasses.dataclass
class Late:
    name: str
    seen: Any = dataclasses.field(init=False)


class Named(dict[str, Any]):
    """A dict with attributes, as of many configuration libraries."""

    def __init__(self, items: Any = (), note: str = "") -> None:
        super().__init__(items)
        self.note = note


class Store(Mapping[str, Any]):
    """A mapping that is no dict, and shares its store with its copies."""

    def __init__(self, items: dict[str, Any]) -> None:
        self.items_ = items

    def __getitem__(self, key: str) -> Any:
        return self.items_[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.items_)

    def __len__(self) -> int:
        return len(self.items_)


class Fixed(Store):
    """A mapping that cannot be made of other items."""

    def __init__(self) -> None:
        super().__init__({"a": 1})


class Sealed(tuple[int, ...]):
    """A tuple that takes ints only, as torch.Size."""

    def __new__(cls, items: Any) -> Sealed:
        return super().__new__(cls, [int(item) for item in items])


class Colour(enum.IntEnum):
    RED = 1
    BLUE = 5


class Shade(enum.Enum):
    DARK = 1


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types, dtypes and shapes all through; NaN equals NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        equal_nan = one.dtype.kind in "fcmM"
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=equal_nan)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if dataclasses.is_dataclass(one) and not isinstance(one, type):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    return bool(one == other)


# --- against a naive model -----------------------------------------------------------------------------------------

INT64 = st.integers(-(2**63), 2**63 - 1)
DTYPES = st.sampled_from(["u1", "i2", "i8", "f4", "f8", "?", "c8", "U3", "S2", "M8[s]", "m8[ms]", ">f4", ">i2", "O"])
ARRAYS = st.tuples(DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)).map(
    lambda spec: hnp.arrays(np.dtype(spec[0]), spec[1], elements=INT64.map(str) if spec[0] == "O" else None)
)
LEAVES = st.one_of(
    ARRAYS,
    st.sampled_from([INT64, st.booleans(), st.floats(), st.complex_numbers(), st.text(), st.binary(), st.none()]),
    st.sampled_from([np.float32, np.int8, np.bool_, np.float64]).map(lambda kind: st.integers(0, 9).map(kind)),
    st.integers(0, 3).map(lambda n: st.lists(INT64, min_size=n, max_size=n)),
)
SAMPLES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(st.text(max_size=2) | st.integers(0, 3), inner, max_size=3).map(st.fixed_dictionaries),
        st.lists(inner, max_size=3).map(lambda parts: st.tuples(*parts)),
        st.lists(inner, max_size=2).map(lambda parts: st.tuples(st.text(), *parts).map(list)),
        st.tuples(inner, inner).map(lambda parts: st.builds(Point, *parts)),
        st.tuples(inner, inner).map(lambda parts: st.builds(Sample, *parts)),
    ),
    max_leaves=6,
)


def naive(samples: list[Any]) -> Any:
    """What a batch is, written down part by part."""
    first = samples[0]
    if isinstance(first, dict):
        return {key: naive([sample[key] for sample in samples]) for key in first}
    if isinstance(first, Point):
        return Point(naive([s.x for s in samples]), naive([s.y for s in samples]))
    if isinstance(first, Sample):
        return Sample(naive([s.image for s in samples]), naive([s.label for s in samples]))
    if isinstance(first, tuple):
        return tuple(naive([sample[i] for sample in samples]) for i in range(len(first)))
    if isinstance(first, list) and any(isinstance(part, str) for part in first):
        return [naive([sample[i] for sample in samples]) for i in range(len(first))]
    if first is None or isinstance(first, str | bytes):
        return list(samples)
    made = np.stack([np.asarray(sample) for sample in samples])
    return made.astype(made.dtype.newbyteorder("="))


@given(SAMPLES.flatmap(lambda sample: st.lists(sample, min_size=1, max_size=4)))
def test_stack_is_the_naive_model(samples: list[Any]) -> None:
    """Any nest of containers and leaves is collated as if each part were stacked by itself, from any sequence."""
    expected = naive(samples)
    assert same(stack(samples), expected)
    assert same(stack(tuple(samples)), expected)


@given(st.lists(hnp.arrays(np.int16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=4)), min_size=1, max_size=5))
def test_pad_stack_is_the_naive_model(arrays: list[Any]) -> None:
    """Each array stands at the start of its row; all the rest is the value."""
    batch = pad_stack([{"x": array} for array in arrays], value=-7)["x"]
    shape = tuple(max(array.shape[axis] for array in arrays) for axis in (0, 1))
    assert batch.shape == (len(arrays), *shape)
    assert batch.dtype == np.int16
    for row, array in zip(batch, arrays, strict=True):
        expected = np.pad(array, [(0, shape[0] - array.shape[0]), (0, shape[1] - array.shape[1])], constant_values=-7)
        assert np.array_equal(row, expected)


@given(SAMPLES.flatmap(lambda sample: st.lists(sample, min_size=1, max_size=3)))
def test_pad_stack_of_what_fits_is_stack(samples: list[Any]) -> None:
    """Where no shapes differ, nothing is padded and nothing else is different."""
    assert same(pad_stack(samples), stack(samples))


# --- leaves --------------------------------------------------------------------------------------------------------

LEAF_CASES: dict[str, tuple[list[Any], Any]] = {
    "ints": ([1, 2], np.array([1, 2], np.int64)),
    "floats": ([1.0, float("nan")], np.array([1.0, np.nan])),
    "bools": ([True, False], np.array([True, False])),
    "int and float": ([1, 2.5], np.array([1.0, 2.5])),
    "bool and int": ([True, 2], np.array([1, 2])),
    "complex": ([1j, 2.0], np.array([1j, 2.0])),
    "float32 scalars": ([np.float32(1), np.float32(2)], np.array([1, 2], np.float32)),
    "float32 and float": ([np.float32(1), 2.0], np.array([1.0, 2.0])),
    "int8 and int": ([np.int8(1), 300], np.array([1, 300])),
    "datetime scalars": ([np.datetime64("2020-01"), np.datetime64("2021-01")], np.array(["2020-01", "2021-01"], "M8")),
    "ints beyond int64": ([2**64 - 1, 7], np.array([2**64 - 1, 7], np.uint64)),
    "IntEnum": ([Colour.RED, Colour.BLUE], np.array([1, 5])),
    "0-d arrays": ([np.array(1.5), np.array(2.5)], np.array([1.5, 2.5])),
    "0-d and number": ([np.array(1), 2], np.array([1, 2])),
    "no columns": ([np.zeros((0, 3)), np.zeros((0, 3))], np.zeros((2, 0, 3))),
    "no elements": ([np.zeros((3, 0)), np.zeros((3, 0))], np.zeros((2, 3, 0))),
    "dtypes": ([np.zeros(2, np.uint8), np.ones(2, np.float32)], np.array([[0, 0], [1, 1]], np.float32)),
    "texts": ([np.array(["a"]), np.array(["long"])], np.array([["a"], ["long"]])),
    "objects": ([np.array([None]), np.array([{}])], np.array([[None], [{}]])),
    "object and int": ([np.array([None]), np.array([1])], np.array([[None], [1]])),
    "byte order": ([np.array([1, 2], ">i4")], np.array([[1, 2]], np.int32)),
    "Fortran order": ([np.asfortranarray(np.arange(6).reshape(2, 3))], np.arange(6).reshape(1, 2, 3)),
    "strided": ([np.arange(6)[::-2]], np.array([[5, 3, 1]])),
    "read-only": ([np.broadcast_to(np.float32(3), (2, 2))], np.full((1, 2, 2), 3, np.float32)),
    "matrix": ([np.ones((1, 2)).view(np.matrix)] * 2, np.ones((2, 1, 2))),
    "str": (["a", "b"], ["a", "b"]),
    "np.str_": ([np.str_("a")], [np.str_("a")]),
    "bytes": ([b"a", bytearray(b"b")], [b"a", bytearray(b"b")]),
    "text and None": (["a", None], ["a", None]),
    "set": ([{1}, {2, 3}], [{1}, {2, 3}]),
    "Enum": ([Shade.DARK], [Shade.DARK]),
    "Decimal": ([decimal.Decimal(1)], [decimal.Decimal(1)]),
    "date": ([datetime.date(2020, 1, 1)], [datetime.date(2020, 1, 1)]),
    "function": ([len, print], [len, print]),
    "a class": ([Sample, Point], [Sample, Point]),
    "range": ([range(3), range(4)], [range(3), range(4)]),
    "one sample": ([{"a": 1}], {"a": np.array([1])}),
    "empty containers": ([({}, ())] * 2, ({}, ())),
}


@pytest.mark.parametrize("name", LEAF_CASES)
def test_leaf(name: str) -> None:
    """Each kind of leaf becomes an array of the dtype that NumPy would give it, or a list."""
    samples, expected = LEAF_CASES[name]
    assert same(stack(samples), expected)


LIST_CASES: dict[str, tuple[list[Any], Any]] = {
    "numbers": ([[1, 2, 3], [4, 5, 6]], np.array([[1, 2, 3], [4, 5, 6]])),
    "one number": ([[1], [2]], np.array([[1], [2]])),
    "lists of numbers": ([[[1, 2], [3, 4]]] * 2, np.array([[[1, 2], [3, 4]]] * 2)),
    "int here, float there": ([[1, 2], [0.5, 2]], np.array([[1, 2], [0.5, 2]])),
    "bools": ([[True, False]], np.array([[True, False]])),
    "NumPy scalars": ([[np.float32(1), np.float32(2)]], np.array([[1, 2]], np.float32)),
    "beyond int64 in one sample": ([[1, 2], [2**63, 3]], np.array([[1, 2], [2**63, 3]], np.uint64)),
    "empty": ([[], []], np.zeros((2, 0))),
    "arrays": ([[np.zeros(2), np.zeros(3)]] * 2, [np.zeros((2, 2)), np.zeros((2, 3))]),
    "image and label": ([[np.ones(2), 1], [np.ones(2), 2]], [np.ones((2, 2)), np.array([1, 2])]),
    "texts": ([["a", "b"], ["c", "d"]], [["a", "c"], ["b", "d"]]),
    "dicts": ([[{"a": 1}], [{"a": 2}]], [{"a": np.array([1, 2])}]),
    "tuple of numbers": ([(1, 2), (3, 4)], (np.array([1, 3]), np.array([2, 4]))),
}


@pytest.mark.parametrize("name", LIST_CASES)
def test_list(name: str) -> None:
    """A list of numbers is one value, a row of the batch; any other list, and any tuple, is walked by position."""
    samples, expected = LIST_CASES[name]
    assert same(stack(samples), expected)


def test_masked_arrays_keep_their_masks() -> None:
    """What was masked is masked in the batch, also beside arrays without a mask."""
    batch = stack([np.ma.array([1, 2], mask=[True, False]), np.array([3, 4])])
    assert isinstance(batch, np.ma.MaskedArray)
    assert batch.mask.tolist() == [[True, False], [False, False]]
    assert batch[1].tolist() == [3, 4]


def test_structured_and_record_arrays() -> None:
    """Fields stay fields, of arrays, record arrays and single records."""
    dtype = np.dtype([("a", np.int32), ("b", np.float64)])
    rows = np.array([(1, 2.0), (3, 4.0)], dtype)
    assert same(stack([rows, rows]), np.stack([rows, rows]))
    assert same(stack([rows[0], rows[1]]), rows)
    assert isinstance(stack([rows.view(np.recarray)]), np.recarray)


def test_memmap_becomes_an_array(tmp_path: Any) -> None:
    """A batch is no map of a file."""
    mapped = np.memmap(tmp_path / "data", np.int16, "w+", shape=(2, 3))
    assert same(stack([mapped[0], mapped[1]]), np.zeros((2, 3), np.int16))


def test_foreign_arrays_become_arrays() -> None:
    """What has __dlpack__ and __array__, such as a jax array, is read as an array."""

    class Foreign:
        def __dlpack__(self) -> None:
            raise NotImplementedError

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.ones(2, np.float32)

    assert same(stack([Foreign(), Foreign()]), np.ones((2, 2), np.float32))


def test_images_become_a_list() -> None:
    """PIL images are left as they are."""
    image = pytest.importorskip("PIL.Image").new("RGB", (2, 2))
    assert stack([{"image": image}, {"image": image}])["image"] == [image, image]


def test_frames_become_a_list() -> None:
    """A Series has labels, which an array would lose."""
    series = pytest.importorskip("pandas").Series([1, 2])
    assert [type(part) for part in stack([series, series])] == [type(series)] * 2


# --- containers ----------------------------------------------------------------------------------------------------


def test_containers_keep_their_types() -> None:
    """Subclasses of dict, list and tuple, other mappings, and namedtuples come back as what they were."""
    assert same(stack([collections.OrderedDict(b=1, a=2)]), collections.OrderedDict(b=np.array([1]), a=np.array([2])))
    assert type(stack([types.MappingProxyType({"a": 1})])) is types.MappingProxyType
    assert type(stack([collections.UserDict(a=1)])) is collections.UserDict
    assert type(stack([Store({"a": 1})])) is Store
    assert same(stack([Point(1, "a"), Point(2, "b")]), Point(np.array([1, 2]), ["a", "b"]))

    default = stack([collections.defaultdict(list, a=1)])
    assert type(default) is collections.defaultdict
    assert default.default_factory is list

    named = stack([Named({"a": 1}, note="n"), Named({"a": 2})])
    assert type(named) is Named
    assert named.note == "n"
    assert named["a"].tolist() == [1, 2]


def test_containers_that_cannot_be_made_anew_become_plain_ones() -> None:
    """Where the type refuses other parts, its plain kin holds the batch."""
    assert same(stack([Fixed(), Fixed()]), {"a": np.array([1, 1])})
    assert same(stack([Sealed([480, 640])] * 2), (np.array([480, 480]), np.array([640, 640])))


def test_dataclasses() -> None:
    """Frozen ones, ones with slots and with fields outside __init__ are made without running any of their code."""
    assert same(stack([Sample(1, "a"), Sample(2, "b")]), Sample(np.array([1, 2]), ["a", "b"]))
    frozen = stack([Frozen(np.zeros(3)), Frozen(np.ones(3))])
    assert type(frozen) is Frozen
    assert frozen.image.shape == (2, 3)
    assert frozen.area.tolist() == [3.0, 3.0]


def test_fields_that_were_never_set() -> None:
    """A field that no sample has is left out; one that some have is an error that names it."""
    batch = stack([Late("a"), Late("b")])
    assert batch.name == ["a", "b"]
    assert not hasattr(batch, "seen")
    set_once = Late("b")
    set_once.seen = 1
    for samples in ([Late("a"), set_once], [set_once, Late("a")]):
        with pytest.raises(ValueError, match=r"sample: fields differ, .* sample 1 of 2 (lacks|has also) 'seen'"):
            stack(samples)


def test_keys_may_come_in_any_order() -> None:
    """The batch has them in the order of the first sample."""
    assert same(stack([{"a": 1, "b": "x"}, {"b": "y", "a": 2}]), {"a": np.array([1, 2]), "b": ["x", "y"]})


def test_a_defaultdict_is_not_filled() -> None:
    """Looking for a missing key adds it to no sample."""
    samples = [collections.defaultdict(int, a=1), collections.defaultdict(int, b=1)]
    with pytest.raises(ValueError, match="lacks 'a'"):
        stack(samples)
    assert [list(sample) for sample in samples] == [["a"], ["b"]]


# --- never aliased -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("collate_fn", [stack, pad_stack])
@pytest.mark.parametrize("n", [1, 3])
def test_the_batch_is_no_part_of_a_sample(collate_fn: Any, n: int) -> None:
    """Whatever is done to a batch, the samples stay what they were, and the other way round."""

    def make() -> dict[str, Any]:
        array = np.arange(6.0).reshape(2, 3)
        sealed = types.MappingProxyType({"a": array})
        parts = [array, np.ma.array(array), array[()], np.array(7), [array, "x"], [1, 2], collections.UserDict(a=array)]
        return {"parts": tuple(parts), "store": Store({"a": array}), "sealed": sealed, "named": Named({"a": array})}

    def arrays(obj: Any) -> Iterator[Any]:
        if isinstance(obj, np.ndarray):
            yield obj
        elif isinstance(obj, Mapping):
            for part in obj.values():
                yield from arrays(part)
        elif isinstance(obj, list | tuple):
            for part in obj:
                yield from arrays(part)

    samples = [make() for _ in range(n)]
    before = pickle.dumps([list(arrays(sample)) for sample in samples])
    batch = collate_fn(samples)
    assert len(list(arrays(batch))) == 10
    for array in arrays(batch):
        assert not any(np.may_share_memory(array, theirs) for theirs in arrays(samples))
        array[...] = -1
    batch["parts"][4].append(0)
    batch["named"]["new"] = batch["parts"][6]["new"] = 0
    assert pickle.dumps([list(arrays(sample)) for sample in samples]) == before
    assert "new" not in samples[0]["parts"][6]


def test_a_list_of_samples_is_not_the_batch() -> None:
    """Objects come in a list of their own."""
    samples = ["a", "b"]
    batch = stack(samples)
    batch.append("c")
    assert samples == ["a", "b"]


def test_every_large_array_is_made_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of arrays, padded or not, come from _empty, so that it can place them in shared memory."""
    made: list[Any] = []

    def empty(shape: tuple[int, ...], dtype: Any) -> Any:
        made.append(np.empty(shape, dtype))
        return made[-1]

    monkeypatch.setattr(collate, "_empty", empty)
    assert stack([np.zeros((2, 3))] * 4) is made[0]
    assert pad_stack([np.zeros(2), np.zeros(3)]) is made[1]
    assert len(made) == 2


# --- disagreement --------------------------------------------------------------------------------------------------

ZERO = np.zeros
DIFFERENT: dict[str, tuple[list[Any], type[Exception], str]] = {
    "shapes": (
        [{"boxes": ZERO((1, 4))}, {"boxes": ZERO((3, 4))}, {"boxes": ZERO((1, 4))}],
        ValueError,
        r"cannot stack sample\['boxes'\]: shapes differ, \(1, 4\) in samples 0 and 2, \(3, 4\) in sample 1 of 3; "
        r"collate_fn=mploader.pad_stack pads them, collate_fn=list leaves .* let fn give one shape",
    ),
    "first axis, sum equal": ([ZERO(2), ZERO(3), ZERO(1)], ValueError, r"\(2,\) in sample 0, \(3,\) in sample 1"),
    "other axes": ([ZERO((2, 3)), ZERO((2, 4))], ValueError, r"\(2, 3\) in sample 0, \(2, 4\) in sample 1"),
    "one that broadcasts": ([ZERO((2, 3)), ZERO((2, 1))], ValueError, r"\(2, 3\) in sample 0, \(2, 1\) in sample 1"),
    "axes": ([ZERO((2, 2)), ZERO(2)], ValueError, r"\(2, 2\) in sample 0, \(2,\) in sample 1"),
    "number and array": ([1, ZERO(2)], ValueError, r"\(\) in sample 0, \(2,\) in sample 1"),
    "masked": ([np.ma.zeros(2), np.ma.zeros(1)], ValueError, r"\(2,\) in sample 0, \(1,\) in sample 1"),
    "many": ([ZERO(n % 6) for n in range(12)], ValueError, r"\(0,\) in samples 0 and 6, .* 2 others of 12"),
    "more": ([ZERO(n // 6) for n in range(9)], ValueError, r"samples 0, 1, 2 and 3 more, \(1,\) in samples 6, 7 and 8"),
    "ragged lists": ([[1, 2], [3]], ValueError, r"sample: shapes differ, \(2,\) in sample 0, \(1,\) in sample 1"),
    "ragged in one": ([{"a": [[1, 2], [3]]}], ValueError, r"sample\['a'\]: within one sample, lists of numbers"),
    "lengths": ([(1,), (1, 2)], ValueError, r"sample: lengths of the tuples differ, 1 in sample 0, 2 in sample 1"),
    "lengths of lists": ([["a"], ["a", "b"]], ValueError, r"lengths of the lists differ"),
    "keys": (
        [{"a": 1}, {"b": 1}],
        ValueError,
        r"keys differ, .* sample 1 of 2 lacks 'a' and has also 'b'; collate_fn=",
    ),
    "fewer keys": ([{"a": 1, "b": 1}, {"a": 1}], ValueError, r"sample 1 of 2 lacks 'b';"),
    "None": ([1, None, 2], TypeError, r"sample: types differ, int in samples 0 and 2, NoneType in sample 1 of 3"),
    "None for an array": ([ZERO(2), None], TypeError, r"ndarray in sample 0, NoneType in sample 1"),
    "None for a dict": ([{}, None], TypeError, r"dict in sample 0, NoneType in sample 1"),
    "str and number": (["1", 1], TypeError, r"str in sample 0, int in sample 1"),
    "list and tuple": ([[1], (1,)], TypeError, r"list in sample 0, tuple in sample 1"),
    "dataclasses": ([Sample(1), Late("a")], TypeError, r"Sample in sample 0, Late in sample 1"),
    "texts and numbers": ([np.array(["a"]), ZERO(1)], TypeError, r"no dtype takes them all, <U1 in sample 0, float64"),
    "date and number": ([np.datetime64("2020"), 3], TypeError, r"no dtype takes them all, datetime64\[Y\] in sample 0"),
    "ints": ([2**70, 1], ValueError, r"sample: no integer type of 64 bits takes them all"),
    "ints of both signs": ([2**63, -1], ValueError, r"no integer type of 64 bits"),
    "int and float": ([2**70, 0.5], ValueError, r"no integer type of 64 bits"),
    "path": (
        [{"views": (Point(Sample([{"a": 1}]), 0),)}, {"views": (Point(Sample([{"a": ""}]), 0),)}],
        TypeError,
        r"cannot stack sample\['views'\]\[0\]\.x\.image\[0\]\['a'\]: types differ",
    ),
    "no samples": ([], ValueError, r"no samples to stack"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_samples_that_disagree(name: str) -> None:
    """The error names the path, the samples and what they have there."""
    samples, error, message = DIFFERENT[name]
    with pytest.raises(error, match=message):
        stack(samples)


# --- padding -------------------------------------------------------------------------------------------------------


def test_padding_by_key() -> None:
    """A mapping of values follows the structure; what it does not name is padded with 0."""
    samples = [
        {"ids": [1, 2], "text": {"tags": [1], "w": [0.5]}, "pair": (np.ones(1), np.ones(2)), "name": "a"},
        {"ids": [3], "text": {"tags": [1, 2], "w": [0.5, 1.5]}, "pair": (np.ones(2), np.ones(1)), "name": "b"},
    ]
    batch = pad_stack(samples, value={"ids": -100, "text": {"w": float("nan")}, "pair": {0: 9}})
    assert batch["ids"].tolist() == [[1, 2], [3, -100]]
    assert batch["text"]["tags"].tolist() == [[1, 0], [1, 2]]
    assert np.isnan(batch["text"]["w"][0, 1])
    assert batch["pair"][0].tolist() == [[1, 9], [1, 1]]
    assert batch["pair"][1].tolist() == [[1, 1], [1, 0]]
    assert batch["name"] == ["a", "b"]


def test_padding_to_a_shape() -> None:
    """pad_to gives axes a fixed size, None leaves the largest of the batch; also where all samples have one shape."""
    samples = [{"x": np.ones((2, 3)), "n": 1}, {"x": np.ones((1, 3)), "n": 2}]
    assert pad_stack(samples, pad_to={"x": (4, None)})["x"].shape == (2, 4, 3)
    assert pad_stack(samples[:1], pad_to={"x": [None, 5]})["x"].shape == (1, 2, 5)
    assert pad_stack([np.ones(2)], pad_to=(3,)).tolist() == [[1, 1, 0]]


ZEROS: dict[str, tuple[Any, Any]] = {
    "texts": (np.array(["a", "b"]), ""),
    "bytes": (np.array([b"a", b"b"]), b""),
    "bools": (np.array([True, True]), False),
    "objects": (np.array([{}, {}]), 0),
    "uint8": (np.array([1, 1], np.uint8), 0),
}


@pytest.mark.parametrize("name", ZEROS)
def test_padding_with_nothing(name: str) -> None:
    """The default is the zero of each dtype."""
    array, zero = ZEROS[name]
    batch = pad_stack([array, array[:1]])
    assert batch.dtype == array.dtype
    assert batch[1, 1] == zero


def test_padding_with_a_longer_text() -> None:
    """A text to pad with is not cut to the length of the longest word."""
    assert pad_stack([np.array(["a", "b"]), np.array(["c"])], value="<pad>")[1].tolist() == ["c", "<pad>"]


def test_padding_with_dates() -> None:
    """NaT is a value like any other."""
    dates = np.array(["2020-01-01", "2020-01-02"], "M8[D]")
    assert np.isnat(pad_stack([dates, dates[:1]], value=np.datetime64("NaT", "D"))[1, 1])


def test_padding_of_nothing_found() -> None:
    """An empty list among lists of boxes has their axes and dtype."""
    batch = pad_stack([{"boxes": [[1, 2, 3, 4]]}, {"boxes": []}], value=-1)["boxes"]
    assert same(batch, np.array([[[1, 2, 3, 4]], [[-1, -1, -1, -1]]]))


def test_padding_of_masked_arrays() -> None:
    """Padding is masked."""
    batch = pad_stack([np.ma.array([1, 2]), np.ma.array([3])], value=-1)
    assert batch.mask.tolist() == [[False, False], [False, True]]
    assert batch.data[1, 1] == -1


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "fraction in ints": (
        np.ones(2, int),
        {"value": 0.5},
        r"value=0.5 is nothing that sample, of dtype int64, can hold",
    ),
    "negative in uint8": (np.ones(2, np.uint8), {"value": -1}, r"value=-1 is nothing .* uint8"),
    "5 in bools": (np.ones(2, bool), {"value": 5}, r"value=5"),
    "nan in ints": (np.ones(2, int), {"value": float("nan")}, r"value=nan"),
    "complex in floats": (np.ones(2), {"value": 1j}, r"value=1j"),
    "too large": (np.ones(2, np.float32), {"value": 1e300}, r"value=1e\+300"),
    "text in floats": (np.ones(2), {"value": "x"}, r"value='x'"),
    "None": (np.ones(2), {"value": None}, r"value=None"),
    "number in texts": (np.array(["a", "b"]), {"value": 1}, r"value=1"),
    "word in dates": (np.zeros(2, "M8[s]"), {"value": "x"}, r"value='x'"),
    "two values": (np.ones(2), {"value": [1, 2]}, r"value=\[1, 2\]"),
    "mapping for an array": (np.ones(2), {"value": {"a": 1}}, r"value={'a': 1}"),
    "smaller than a sample": (np.ones(2), {"pad_to": (1,)}, r"cannot pad sample to \(1,\): sample 0 of 2 has \(2,\)"),
    "axes of pad_to": (np.ones(2), {"pad_to": (1, 2)}, r"pad_to of sample is \(1, 2\), and its samples have 1 axes"),
    "number as pad_to": (np.ones(2), {"pad_to": 4}, r"pad_to of sample is 4, .* give a tuple of 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_padding_refused(name: str) -> None:
    """A value that the dtype cannot hold and a shape that cannot be had are errors with the path."""
    array, options, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        pad_stack([array, array[:1]], **options)


def test_padding_refuses_unknown_keys() -> None:
    """A key that is misspelt is not ignored, at any depth."""
    samples = [{"meta": {"ids": [1]}}, {"meta": {"ids": [1, 2]}}]
    with pytest.raises(ValueError, match=r"value has 'idz', which sample\['meta'\] has not, did you mean 'ids'\?"):
        pad_stack(samples, value={"meta": {"idz": 1}})
    with pytest.raises(ValueError, match=r"pad_to has 'x', which sample has not; it has \['meta'\]"):
        pad_stack(samples, pad_to={"x": (3,)})


def test_padding_of_other_axes_and_lists() -> None:
    """A different number of axes, or lists of other things of different lengths, cannot be padded."""
    with pytest.raises(ValueError, match=r"cannot pad sample: the number of axes differs, 2 in sample 0, 1 in"):
        pad_stack([np.zeros((1, 1)), np.zeros(1)])
    with pytest.raises(ValueError, match=r"cannot pad sample: lengths of the lists differ"):
        pad_stack([["a"], ["a", "b"]])
    with pytest.raises(ValueError, match="no samples to pad"):
        pad_stack([])


# --- torch ---------------------------------------------------------------------------------------------------------


def test_torch_is_never_imported() -> None:
    """Neither module names torch in an import; without it nothing is missing."""
    assert "torch" not in vars(collate)
    assert "torch" in sys.modules or stack([1]).tolist() == [1]


def test_tensors_stay_tensors() -> None:
    """Tensors are stacked by torch, with their dtype, beside arrays that stay arrays."""
    torch = pytest.importorskip("torch")
    batch = stack([{"x": torch.full((2,), i, dtype=torch.bfloat16), "y": np.float32(i)} for i in range(3)])
    assert batch["x"].dtype == torch.bfloat16
    assert batch["x"].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert batch["y"].dtype == np.float32
    one = torch.zeros(2)
    assert stack([one]).data_ptr() != one.data_ptr()
    assert same(stack([torch.Size([1, 2])] * 2), (np.array([1, 1]), np.array([2, 2])))


def test_tensors_that_disagree() -> None:
    """Shapes of tensors, and tensors beside arrays, are told like those of arrays."""
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match=r"sample: shapes differ, \(2,\) in sample 0, \(3,\) in sample 1"):
        stack([torch.zeros(2), torch.zeros(3)])
    with pytest.raises(TypeError, match="Tensor in sample 0, ndarray in sample 1"):
        stack([torch.zeros(2), np.zeros(2)])


def test_tensors_are_padded() -> None:
    """Padded at the end, with a value that is exact in their dtype."""
    torch = pytest.importorskip("torch")
    samples = [torch.ones(2, 1, dtype=torch.int32), torch.ones(1, 2, dtype=torch.int32)]
    batch = pad_stack(samples, value=-1, pad_to=(None, 3))
    assert batch.dtype == torch.int32
    assert batch.tolist() == [[[1, -1, -1], [1, -1, -1]], [[1, 1, -1], [-1, -1, -1]]]
    for value in (0.5, "x", {"a": 1}):
        with pytest.raises(ValueError, match=r"is nothing that sample, of dtype torch\.int32, can hold"):
            pad_stack(samples, value=value)
    with pytest.raises(TypeError, match="dtypes differ"):
        pad_stack([samples[0], samples[1].float()])
