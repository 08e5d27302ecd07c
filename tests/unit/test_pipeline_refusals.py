"""A bad stage is refused where it is written, with what would be right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest

from mploader import Loader, Pipeline
from tests.pipelines import noisy

NUMBERS: Any = Pipeline.from_sequence(range(10))
UNTYPED: Any = NUMBERS
PIPELINE: Any = Pipeline  # as a user without a type checker sees it


async def later(x: int) -> int:
    return x


STREAM: Any = Pipeline.from_generator(lambda: iter(range(10)))
FILTERED: Any = NUMBERS.filter(bool)


@pytest.mark.parametrize(
    ("write", "error", "says"),
    [
        (lambda: NUMBERS.batch(0), ValueError, "batch's size must be at least 1, not 0"),
        (lambda: NUMBERS.batch(2.5), TypeError, "batch's size must be an int, not 2.5"),
        (lambda: NUMBERS.batch(2, collate_fn=5), TypeError, "batch takes a function, not 5"),
        (lambda: NUMBERS.take(-1), ValueError, "take's count must be at least 0, not -1"),
        (lambda: NUMBERS.skip(True), TypeError, "skip's count must be an int, not True"),
        (lambda: NUMBERS.repeat(-2), ValueError, "repeat's times must be at least 0"),
        (lambda: NUMBERS.map(None), TypeError, "map takes a function, not None"),
        (lambda: NUMBERS.map(lambda a, b: a), TypeError, r"it needs 2 arguments, a and b: where .* fn\(\*element\)"),
        (lambda: NUMBERS.filter(lambda: True), TypeError, "is called with one element, and it takes no argument"),
        (lambda: NUMBERS.map(lambda x, *, size: x), TypeError, "it needs size=, which nobody gives"),
        (
            lambda: Loader(NUMBERS, pow),
            TypeError,
            "fn is called with one element, and it needs 2 arguments, base and exp",
        ),
        (lambda: NUMBERS.split(0.5, seed=1), TypeError, r"shares must be a list of numbers, such as \[0.8, 0.2\]"),
        (lambda: NUMBERS.bucket_by_length(len, 3, 2), TypeError, "boundaries must be a list of numbers"),
        (lambda: Pipeline.sample_from([NUMBERS], "a"), TypeError, "weights must be a list of numbers"),  # type: ignore[arg-type]
        (lambda: NUMBERS["a"], TypeError, r"takes a position or a slice, not 'a' \(str\)"),
        (
            lambda: NUMBERS.batch(2, collate_fn=lambda s, rng: s),
            TypeError,
            "collate_fn is called with one argument, and it has",
        ),
        (
            lambda: NUMBERS.bucket_by_length(lambda a, b: 1, [3], 2),
            TypeError,
            "length_fn is called with one argument, and",
        ),
        (
            lambda: Pipeline.zip([NUMBERS, NUMBERS]),
            TypeError,
            r"zip takes the pipelines themselves, zip\(\*pipelines\)",
        ),
        (lambda: Pipeline.zip(NUMBERS.at_epoch(3)), ValueError, r"zip\(...\).at_epoch\(3\), not a part's"),
        (lambda: NUMBERS.repeat()[-1], IndexError, "counts from the end, and the pipeline is endless"),
        (lambda: STREAM.split([0.5], seed=1), TypeError, r"split\(\) needs positions, and from_generator"),
        (lambda: NUMBERS.apply(None), TypeError, "apply takes a function, not None"),
        (lambda: NUMBERS.prefetch(2), AttributeError, r"prefetch belongs to the Loader: Loader\(pipe, prefetch=...\)"),
        (lambda: NUMBERS.class_names, AttributeError, "'class_names': it is of from_image_folder"),
        (lambda: Loader(NUMBERS).set_epoch(-1), ValueError, "set_epoch's epoch must be at least 0"),
        (lambda: Loader(NUMBERS).set_epoch(2**32), ValueError, r"set_epoch's epoch must be below 2\*\*32"),
        (lambda: NUMBERS.at_epoch(2**40), ValueError, r"at_epoch's epoch must be below 2\*\*32"),
        (lambda: NUMBERS.padded_batch(2, pad_to=-1), TypeError, r"pad_to is a shape such as \(224, None\), .* not -1"),
        (lambda: NUMBERS.padded_batch(2, pad_to="x"), TypeError, "pad_to is a shape such as"),
        (lambda: Pipeline.from_files(3), TypeError, "patterns are a glob such as"),  # type: ignore[arg-type]
        (lambda: NUMBERS.cache(3), TypeError, "cache's path is a folder, or None, not 3"),
        (lambda: Loader(NUMBERS, later), TypeError, "fn is async: it would give a coroutine; write lambda"),
        (lambda: NUMBERS.shard(2, 2), ValueError, "rank is 2, it must be below world, 2"),
        (lambda: NUMBERS.split([0.9, 0.9], seed=1), ValueError, "add up to 1 at most"),
        (lambda: NUMBERS.bucket_by_length(len, [3, 3], 2), ValueError, "must increase"),
        (lambda: NUMBERS.bucket_by_length(len, [3], [2]), ValueError, "1 boundaries, which make 2 buckets"),
        (lambda: NUMBERS.bucket_by_length(len, [3], 2.5), TypeError, "each of batch_sizes must be an int, not 2.5"),
        (lambda: NUMBERS.shuffle(seed="x"), TypeError, "shuffle's seed must be an int"),
        (lambda: NUMBERS.apply(lambda p: 3), TypeError, "must return a Pipeline"),
        (lambda: NUMBERS[10], IndexError, "index 10 is out of range: the pipeline has 10 elements"),
        (lambda: NUMBERS[-11], IndexError, "index -11"),
        (lambda: NUMBERS.map(lambda rng, image: image), TypeError, "the element would be passed as rng"),
        (lambda: FILTERED[0], TypeError, r"behind filter\(bool\) nobody knows .*place it before"),
        (lambda: FILTERED[1:], TypeError, "a slice needs positions.*place it before"),
        (lambda: len(FILTERED), TypeError, "no len.*behind filter"),
        (
            lambda: FILTERED.batch(2).shuffle(),
            TypeError,
            "shuffle.* needs positions.*place it before",
        ),
        (lambda: FILTERED.shard(0, 2), TypeError, "shard.* needs positions, and behind filter.*place it before"),
        (lambda: Pipeline.from_indices(iter([1])).map(str).repeat(), TypeError, "can be read once.*from_generator"),
        (lambda: FILTERED.cache(), TypeError, "cache.* needs positions.*place it before"),
        (lambda: STREAM.shuffle(), TypeError, r"is a stream, which has none: .*shuffle\(buffer=1000\)"),
        (lambda: STREAM[0], TypeError, "is a stream"),
        (lambda: NUMBERS.repeat().shuffle(), TypeError, r"place it before, shuffle\(\).repeat\(\)"),
        (lambda: NUMBERS.padded_batch(2, vlue=1), TypeError, "no option 'vlue': it has value and pad_to"),
        (
            lambda: Loader(Pipeline.zip(NUMBERS.batch(2), range(5)), on_error="skip"),
            TypeError,
            "cannot be done below zip: batch above it",
        ),
        (lambda: len(NUMBERS.repeat()), TypeError, "endless"),
        (lambda: Pipeline.from_sequence(iter([1])), TypeError, "from_sequence needs len.* from_indices"),
        (lambda: Pipeline.from_sequence(5), TypeError, r"did you mean range\(5\)"),
        (lambda: PIPELINE.from_generator(iter([1])), TypeError, "leave out the call"),
        (lambda: PIPELINE.from_generator([1]), TypeError, r"from_generator takes a function.*from_indices\(iterable\)"),
        (lambda: PIPELINE.from_generator(3), TypeError, "a function that makes an iterable, not 3$"),
        (lambda: Pipeline.from_generator(count), TypeError, r"from_generator\(lambda: count\(...\)\) makes one"),
        (lambda: Pipeline.from_tfrecords([]), ValueError, "no files: give at least one path"),
        (lambda: Pipeline.from_lines([]), ValueError, "no files: give at least one path"),
        (lambda: Pipeline.from_slices({"x": [1], "y": [1, 2]}), ValueError, "'y'"),
        (lambda: Pipeline.zip(), ValueError, "zip needs at least one"),
        (lambda: PIPELINE.interleave(NUMBERS), TypeError, "interleave takes a list of pipelines"),
        (lambda: UNTYPED.interleave([NUMBERS]), TypeError, r"Pipeline.interleave\(\[a, b\]\)"),
        (lambda: UNTYPED.sample_from([NUMBERS]), TypeError, r"Pipeline.sample_from\(\[a, b\]\)"),
        (lambda: Pipeline.sample_from([NUMBERS], [-1.0]), ValueError, "weights must be 1 numbers of 0 or more"),
        (lambda: NUMBERS.shuffle().cache(), ValueError, "is random.*place it behind the cache"),
        (lambda: PIPELINE(5), TypeError, "begin with Pipeline.from_sequence"),
    ],
)
def test_refused_where_it_is_written(write: Callable[[], Any], error: type[Exception], says: str) -> None:
    """The type of the error tells type from value, the text what to write instead."""
    with pytest.raises(error, match=says):
        write()


@pytest.mark.parametrize("write", [lambda p: p.take(3), lambda p: p.skip(3), lambda p: p[:3]])
def test_a_part_of_what_is_shuffled_anew_warns(write: Callable[[Pipeline[Any]], Any]) -> None:
    """It is another part in each epoch, so that a test set leaks into training; split and reshuffle=False do not."""
    with pytest.warns(UserWarning, match="leaks into training; split"):
        write(NUMBERS.shuffle().map(str))
    write(NUMBERS.shuffle(reshuffle=False))
    write(Pipeline.zip(NUMBERS, NUMBERS).shuffle(reshuffle=False))
    write(NUMBERS.shuffle().repeat())  # so many steps of all, not a part


def test_a_shard_of_a_stream_says_what_it_costs() -> None:
    """Each process draws all elements."""
    with pytest.warns(UserWarning, match="each of the 4 processes draws every element"):
        assert list(STREAM.shard(1, 4)) == [1, 5, 9]


def test_split_never_leaks() -> None:
    """The parts are disjoint, whole, and the same in every epoch, whatever is shuffled above."""
    train, test = NUMBERS.split([0.8, 0.2], seed=3)
    first = sorted(test.shuffle())
    for epoch in range(5):
        assert sorted(test.shuffle().at_epoch(epoch)) == first
        assert sorted([*train.at_epoch(epoch), *first]) == list(range(10))


def test_none_is_an_element() -> None:
    """Also through filters, batches and buffers."""
    pipe = Pipeline.from_sequence([None, 1, None, 2]).filter(lambda x: x != 1).batch(2, collate_fn=list)
    assert list(pipe) == [[None, None], [2]]
    assert list(Pipeline.from_indices(iter([None, None])).shuffle(buffer=2)) == [None, None]


def test_first_item_of_a_trillion() -> None:
    """A global shuffle makes no list: the first, the millionth and the last cost the same."""
    pipe = Pipeline.from_sequence(range(10**12)).shuffle(seed=1)
    found = {pipe[0], pipe[10**6], pipe[10**12 - 1], pipe[5]}
    assert len(found) == 4
    assert all(0 <= x < 10**12 for x in found)


def test_a_batch_of_arrays_is_an_array() -> None:
    """The default collation is `mploader.stack`."""
    batch = Pipeline.from_slices({"x": np.arange(6).reshape(3, 2), "name": ["a", "b", "c"]}).batch(2)[0]
    assert batch["x"].tolist() == [[0, 1], [2, 3]]
    assert batch["name"] == ["a", "b"]


def test_explain_says_where_each_stage_runs() -> None:
    """Before the workers, in them, behind them, or as arithmetic; and what each function cost, once it ran."""
    pipe = Pipeline.from_sequence(range(8)).shuffle(seed=1).map(str).filter(bool).batch(2, collate_fn=list)
    lines = pipe.explain().splitlines()
    assert lines[0] == "nobody knows how many elements a pass"
    assert [line.split("  ")[0] for line in lines[1:]] == [
        *("from_sequence(range)", "shuffle(seed=1)", "map(str)", "filter(bool)", "batch(2, collate_fn=list)")
    ]
    assert [line.split("  ")[-1].strip() for line in lines[1:]] == [
        *("in the workers", "arithmetic on the index", "in the workers", "in the workers", "behind: in this process")
    ]
    list(pipe)
    assert "ms an element, 8 so far" in pipe.explain()
    assert (
        repr(pipe)
        == "Pipeline(from_sequence(range) > shuffle(seed=1) > map(str) > filter(bool) > batch(2, collate_fn=list))"
    )


def test_a_split_of_what_is_shuffled_anew_warns() -> None:
    """Its parts are others in each epoch: the message says where to put it."""
    with pytest.warns(UserWarning, match="split behind shuffle.*: split below the shuffle|; split below the shuffle"):
        NUMBERS.shuffle().split([0.5, 0.5], seed=1)


def test_truth() -> None:
    """False where it is known to be empty, whatever is not known."""
    assert NUMBERS
    assert NUMBERS.repeat()
    assert STREAM
    assert NUMBERS.filter(lambda x: False)
    assert not NUMBERS.take(0)


class Counted:
    """A stream that knows how many elements it has."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(7))

    def __len__(self) -> int:
        return 7


def test_length_that_a_stream_tells() -> None:
    """Its own ``len()`` is believed, behind a function and a batch too; access by position there is none."""
    with Loader(Counted(), abs, num_workers=0, batch_size=2, collate_fn=list) as loader:
        assert len(loader) == len(list(loader)) == 4
    assert len(Loader(Counted(), num_workers=0)) == len(Pipeline.from_indices(Counted()).enumerate()) == 7
    with pytest.raises(TypeError, match=r"has no len\(\)"):
        len(Pipeline.from_indices(Counted()).filter(bool))


@pytest.mark.parametrize(
    "merge", [Pipeline.concat, lambda p: Pipeline.interleave([p]), lambda p: Pipeline.sample_from([p])]
)
def test_one_stream_alone_is_merged(merge: Callable[[Pipeline[Any]], Pipeline[Any]]) -> None:
    """A list of pipelines may have one."""
    assert list(merge(STREAM)) == list(STREAM)
    assert list(Pipeline.zip(STREAM)) == [(x,) for x in STREAM]


def test_a_seeded_part_is_the_same_in_a_merge_as_alone() -> None:
    """Two that are seeded alike stay in step: images and their masks."""
    part = NUMBERS.shuffle().seed(1)
    assert [x for x, _ in Pipeline.zip(part, NUMBERS)] == list(part)
    assert all(x == y for x, y in Pipeline.zip(part, part))
    a, b = (Pipeline.from_sequence([name] * 6).map(noisy) for name in "ab")
    b = b.skip(1).seed(2)
    for merge in (
        Pipeline.concat(a, b),
        Pipeline.interleave([a, b], 2),
        Pipeline.sample_from([a, b]).seed(3),
        Pipeline.concat(a, b).batch(3, collate_fn=list).map(lambda batch: batch[::-1]).unbatch(),
    ):
        found = [x for x in merge if x[0] == "b"]
        assert sorted(found) == sorted(list(b)[: len(found)])
    assert [x for _, x in Pipeline.zip(a, b)] == list(b)
