"""A pipeline run in this process is the list that it stands for, whatever its operations."""

from __future__ import annotations

import functools
import itertools
import warnings
from pathlib import Path

import pytest
from hypothesis import given, note, settings

from mploader import Pipeline
from tests.pipelines import Case, plain_pipelines, random_pipelines, told

pytestmark = pytest.mark.filterwarnings("ignore:shard of a stream", "ignore:.*behind shuffle")


@settings(max_examples=300)
@given(plain_pipelines())
def test_a_loop_gives_what_the_same_operations_on_lists_give(case: Case) -> None:
    """Order, batches, repeats and ends are those of lists."""
    note(case.story)
    assert list(case.pipe) == case.model


@settings(max_examples=200)
@given(plain_pipelines())
def test_random_access_gives_the_same(case: Case) -> None:
    """Where there is a length, ``pipe[i]`` is element i of the loop; elsewhere there is neither."""
    note(case.story)
    if case.is_indexable:
        assert len(case.pipe) == len(case.model)
        assert [case.pipe[i] for i in range(len(case.model))] == case.model
    else:
        with pytest.raises(TypeError, match="no len"):
            len(case.pipe)


@settings(max_examples=200)
@given(random_pipelines())
def test_random_pipelines_are_the_same_each_time(case: Case) -> None:
    """With a seed an epoch is the same each time, element by element too, and leaves the caller's generators alone."""
    note(case.story)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = told(case.pipe)
        assert told(case.pipe) == first
        if case.is_indexable:
            assert [x for i in range(len(case.pipe)) for x in told(map(case.pipe.__getitem__, [i]))] == first


def test_a_pipeline_is_never_changed() -> None:
    """An operation gives a new pipeline; the old one is as it was."""
    base = Pipeline.from_sequence([1, 2, 3])
    made = [base.map(str), base.batch(2), base.shuffle(seed=1), base.seed(3), base.at_epoch(4), base.repeat(2)]
    assert base not in made
    assert list(base) == [1, 2, 3]


def test_a_line_is_the_same_in_every_process() -> None:
    """No address of an object is in it: a state would be refused, and a cache never be found, by the next process."""

    class Augment:
        def __call__(self, x: int) -> int:
            return x

    pipe = Pipeline.from_sequence(range(3)).map(Augment()).map(functools.partial(Augment()))
    assert "Augment object" in repr(pipe)
    assert "0x" not in repr(pipe)


def test_a_cache_tells_pipelines_apart(tmp_path: Path) -> None:
    """In one folder each has values of its own, also where only a seed, a share's last digits, or a nesting differ."""
    a, b = Pipeline.from_sequence(range(1000)), Pipeline.from_sequence(range(5000, 6000))
    alike = [
        Pipeline.sample_from([a, b], [0.5, 0.5], seed=1),
        Pipeline.sample_from([a, b], [0.5, 0.5], seed=2),
        a.split([0.1234561, 0.5], seed=1)[1],
        a.split([0.1234569, 0.5], seed=1)[1],
        Pipeline.zip(a, Pipeline.zip(b, a)),
        Pipeline.zip(Pipeline.zip(a, b, a)),
        Pipeline.zip(a.shuffle(seed=1, reshuffle=False), b).seed(1),
        Pipeline.zip(a.shuffle(seed=2, reshuffle=False), b).seed(1),
        Pipeline.zip(a.shuffle(reshuffle=False).seed(1), b).seed(1),
        Pipeline.zip(a.shuffle(reshuffle=False).seed(2), b).seed(1),
    ]
    for pipe in alike:
        cached = pipe.cache(tmp_path / "cache", freeze=True)
        assert list(cached[:50]) == list(cached[:50]) == list(pipe[:50])


def test_an_endless_pipeline_ends_with_its_source() -> None:
    """A pass that finds nothing is the last one; else the next element would be waited for in vain, for ever."""
    left = [2, 0]
    pipe = Pipeline.from_generator(lambda: iter(range(left.pop(0) if left else 0))).repeat()
    assert list(pipe) == [0, 1]
    assert list(pipe) == []
    assert list(Pipeline.from_sequence([]).shuffle(buffer=3).repeat()) == []


def test_a_pass_that_has_what_it_wants_ends_with_those_below() -> None:
    """``take`` below ``repeat``: the next pass begins anew, with what is below too, and no more of this one is made."""
    calls: list[int] = []

    def seen(x: int) -> bool:
        calls.append(x)
        return True

    numbers = Pipeline.from_sequence(range(1000)).filter(seen)
    count = Pipeline.from_generator(lambda: itertools.count())
    for pipe, expected in (
        (numbers.take(3).repeat(2), [0, 1, 2, 0, 1, 2]),
        (numbers.batch(4, collate_fn=list).take(1).repeat(3), [[0, 1, 2, 3]] * 3),
        (count.take(3).repeat(2), [0, 1, 2, 0, 1, 2]),
        (count.filter(seen).take(3).repeat(2), [0, 1, 2, 0, 1, 2]),
        (count.take(2).repeat().take(3).repeat(2), [0, 1, 0, 0, 1, 0]),
        (count.filter(seen).batch(2, collate_fn=list).take(1).repeat(2).take(1).repeat(2), [[0, 1], [0, 1]]),
        (count.take(3).batch(2, collate_fn=list).repeat(2), [[0, 1], [2], [0, 1], [2]]),
        (count.take(0).repeat(), []),
        (count.repeat(0).repeat(), []),
    ):
        calls.clear()
        assert list(pipe) == expected
        assert len(calls) <= 12
    none = Pipeline.from_generator(lambda: iter(()))
    assert list(none.repeat(3).repeat()) == list(none.repeat().take(3).repeat().take(5).repeat(2)) == []


def test_what_is_cut_from_an_endless_pipeline() -> None:
    """Is endless itself, up to a cut that ends it; nothing counts from an end that is not there."""
    pipe = Pipeline.from_sequence(range(5)).repeat()
    for endless in (pipe.skip(3), pipe.shard(1, 2), pipe[7::3], pipe.skip(3).batch(2, collate_fn=list).shard(0, 2)):
        with pytest.raises(TypeError, match="endless"):
            len(endless)
    assert pipe.shard(1, 2)[10**9] == 1
    assert len(pipe.skip(3).take(4)) == len(pipe[3:7]) == 4
    for refused in (lambda: pipe[-3:], lambda: pipe[:-1], lambda: pipe[::-1], lambda: pipe.split([0.5], seed=1)):
        with pytest.raises(TypeError, match="endless"):
            refused()
