"""Pipelines in a Loader: the same stream for the same seed, whoever runs it and whatever happens to him."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mploader import ClosedError, Loader, Pipeline, StateMismatchError
from tests.contract.augment import Augment, draw
from tests.contract.engines import Engine, collect, until_idle

GOLDEN = Path(__file__).with_name("golden.json")


def told(items: Any) -> list[Any]:
    """`collect`, with the types of errors."""
    return [type(item) if isinstance(item, Exception) else item for item in collect(items)]


def test_one_seed_one_stream(engine: Engine) -> None:
    """Global generators, those inside the user's objects and ``rng`` are the same in every engine, for two epochs."""
    pipe = Pipeline.from_sequence(range(12)).shuffle().map(Augment()).map(draw).repeat(2).batch(5, collate_fn=list)
    expected = [list(pipe.seed(7)), list(pipe.seed(7).at_epoch(1))]
    with engine.loader(pipe, seed=7) as loader:
        assert [list(loader), list(loader)] == expected
    flat = [item for epoch in expected for batch in epoch for item in batch]
    assert len({item[1] for item in flat}) == len(flat), "a repeated index draws anew"


def test_number_of_workers_changes_nothing() -> None:
    """Bit for bit with 0, 1, 2 and 5 workers."""
    streams = []
    for num_workers in (0, 1, 2, 5):
        with Loader(range(40), Augment(), shuffle=True, seed=3, num_workers=num_workers, prefetch=8) as loader:
            streams.append(list(loader))
    assert streams[1:] == streams[:1] * 3


@pytest.mark.parametrize("seed", [-5, 2**80, np.int64(3)])
def test_any_integer_is_a_seed(engine: Engine, seed: int) -> None:
    """Negative, large, NumPy's: workers start with it, and give the stream that it has in this process."""
    pipe = Pipeline.from_sequence(range(6)).shuffle().map(draw)
    with engine.loader(pipe, seed=seed) as loader:
        assert list(loader) == list(pipe.seed(seed))
        assert json.loads(json.dumps(loader.state_dict()))["seed"] == seed


def test_a_length_may_be_drawn(quick: Engine) -> None:
    """A function of lengths draws by the seed, element by element: the same here, in a loader, and after a resume."""
    pipe = Pipeline.from_sequence(range(40)).bucket_by_length(lambda x: random.randrange(9), [5], 2, collate_fn=list)
    whole = list(pipe.seed(7))
    assert whole == list(pipe.seed(7)) != list(pipe.seed(7).at_epoch(1))
    for n_before in (0, 3, len(whole) - 2):
        with quick.loader(pipe, seed=7) as loader:
            assert list(islice(loader, n_before)) == whole[:n_before]
            state = json.loads(json.dumps(loader.state_dict()))
        with quick.loader(pipe, seed=7) as loader:
            loader.load_state_dict(state)
            assert list(loader) == whole[n_before:]


def test_a_pipeline_made_inside_an_element(engine: Engine) -> None:
    """It follows the element's draws, and with them seed and epoch; what is made outside has a seed of its own."""

    def shuffled(x: int) -> list[list[int]]:
        seeded = list(Pipeline.from_sequence(range(9)).shuffle().seed(1))  # which leaves the element's own seed alone
        return [seeded, *(list(Pipeline.from_sequence(range(9)).shuffle()) for _ in range(2))]

    pipe = Pipeline.from_sequence(range(6)).flat_map(shuffled)
    whole = [list(pipe.seed(7).at_epoch(epoch)) for epoch in (0, 1)]
    with engine.loader(pipe, seed=7) as loader:
        assert [list(loader), list(loader)] == whole
    drawn = [order for epoch in whole for number, order in enumerate(epoch) if number % 3]
    assert len(set(map(tuple, drawn))) == len(drawn)
    outside = set()
    for _ in range(2):
        list(pipe.seed(7))
        outside.add(Loader(range(3), num_workers=0).seed)
    assert len(outside) == 2


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_sets_of_strings_have_one_order(method: str) -> None:
    """With a seed; elsewhere it differs from process to process."""
    orders = set()
    for _ in range(3):
        with Loader(range(2), lambda i: list(set("abcdefgh")), seed=1, num_workers=2, start_method=method) as loader:
            orders |= {"".join(order) for order in loader}
    assert len(orders) == 1


def test_killed_workers_change_nothing() -> None:
    """An item that is run again draws what it drew before."""
    with Loader(range(60), Augment(), shuffle=True, seed=3, num_workers=2, retries=5) as loader:
        expected = list(loader)
        loader.set_epoch(0)
        found = []
        for number, item in enumerate(loader):
            found.append(item)
            if number in (5, 25, 40):
                while (pid := loader.stats().workers[number % 2].pid) is None:  # it is being replaced just now
                    time.sleep(0.001)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    assert found == expected


def test_without_a_seed_workers_do_not_repeat_each_other(engine: Engine) -> None:
    """Neither the global generators nor those in the user's objects, which every worker gets as the same pickle."""
    with engine.loader(range(40), Augment()) as loader:
        items = list(loader) + list(loader)
        assert isinstance(loader.seed, int)
    for column in range(1, 6):
        assert len({item[column] for item in items}) == len(items), column


def test_the_callers_generators_are_his_own() -> None:
    """An inline run, and steps that run in the consumer, leave them as they were."""
    pipe = Pipeline.from_sequence(range(6)).filter(bool).batch(2, collate_fn=list).map(lambda b: (b, random.random()))
    random.seed(5)
    np.random.seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    for num_workers in (0, 1):
        with Loader(pipe, seed=1, num_workers=num_workers) as loader:
            list(loader)
    list(pipe.seed(1))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[index]


def test_golden() -> None:
    """Orders, draws and mixtures are those that earlier versions gave, on every machine."""
    base = Pipeline.from_sequence(range(1000)).seed(42)
    parts = [Pipeline.from_sequence(range(100)), Pipeline.from_sequence(range(100, 400))]
    made = {
        "shuffle": [base.shuffle()[i] for i in range(8)],
        "shuffle at epoch 3": [base.shuffle().at_epoch(3)[i] for i in range(8)],
        "shuffle(seed=7)": [base.shuffle(seed=7)[i] for i in range(8)],
        "trillion": [Pipeline.from_sequence(range(10**12)).shuffle(seed=7)[i] for i in (0, 1, 10**11)],
        "buffer": list(islice(base.shuffle(buffer=50), 8)),
        "rng": [base.map(draw)[i] for i in (0, 1, 500)],
        "generators": [base.map(Augment())[i] for i in (0, 1, 500)],
        "sample_from": [Pipeline.sample_from(parts, [0.3, 0.7]).seed(1)[i] for i in range(12)],
    }
    assert json.loads(json.dumps(made)) == json.loads(GOLDEN.read_text())


def test_batches_with_errors(quick: Engine) -> None:
    """An error is its batch's, and names the sample; "skip" and a callable fill the batches up."""

    def bad(x: int) -> int:
        if x == 4:
            raise ValueError("four")
        return x

    options: dict[str, Any] = {"batch_size": 3, "collate_fn": list}
    with quick.loader(range(9), bad, **options) as loader:
        first, error, last = collect(loader)
        assert (first, last) == ([0, 1, 2], [6, 7, 8])
        assert isinstance(error, ValueError)
        assert any(note == "in fn for source[4]" for note in error.__notes__)
        assert error.mploader_task.element == "4"  # type: ignore[attr-defined]
    with quick.loader(range(9), bad, on_error="skip", **options) as loader:
        assert list(loader) == [[0, 1, 2], [3, 5, 6], [7, 8]]
        assert len(loader) == 3
        assert loader.stats().skipped == 1
    with quick.loader(range(9), bad, on_error=lambda error: -1, **options) as loader:
        assert list(loader) == [[0, 1, 2], [3, -1, 5], [6, 7, 8]]


def test_on_error_changes_no_draws(quick: Engine) -> None:
    """Where nothing fails, what is above a batch draws as with random access, in a shard too, and in each epoch."""
    batches = Pipeline.from_sequence(range(12)).map(draw).batch(2, collate_fn=list)
    for pipe in (
        *(batches.shard(rank, 2).map(draw).map(Augment()) for rank in (0, 1)),
        batches.skip(1).map(Augment()).batch(2, collate_fn=list).map(draw),
        batches.repeat(2).shard(1, 2).map(draw),
    ):
        expected = [list(pipe.seed(9)), list(pipe.seed(9).at_epoch(1))]
        with quick.loader(pipe, seed=9, on_error="skip") as loader:
            assert [list(loader), list(loader)] == expected


def test_one_of_several_outputs_fails(quick: Engine) -> None:
    """The others of its element are delivered, and it is an error at its place that names the stage."""

    def bad(x: int) -> int:
        if x == 4:
            raise KeyError("four")
        return x

    pipe = Pipeline.from_sequence(range(3)).flat_map(lambda k: [3 * k, 3 * k + 1, 3 * k + 2]).map(bad)
    with quick.loader(pipe) as loader:
        items = collect(loader)
    assert items[:4] + items[5:] == [0, 1, 2, 3, 5, 6, 7, 8]
    assert isinstance(items[4], KeyError)
    assert any("in map(" in note and "for source[1]" in note for note in items[4].__notes__)


def test_one_of_several_outputs_fails_inline_and_in_a_merge(quick: Engine) -> None:
    """A loop over the pipeline, and a pipeline that it is merged into, meet the error at the same place."""

    def pair(x: int) -> list[int]:
        return [x, -x]

    def inverse(x: int) -> float:
        return 1 / (x - 2)

    pipe = Pipeline.from_sequence([1, 2, 3]).flat_map(pair).map(inverse)
    expected = [-1.0, -1 / 3, ZeroDivisionError, -0.25, 1.0, -0.2]
    assert told(pipe) == expected
    batched = [ZeroDivisionError, [-1.0, -1 / 3, -0.25, 1.0], [-0.2]]
    assert told(pipe.batch(4, collate_fn=list)) == batched
    with quick.loader(pipe.batch(4, collate_fn=list)) as loader:
        assert told(loader) == batched
    for on_error, values in [("raise", expected), ("skip", [x for x in expected if x is not ZeroDivisionError])]:
        with quick.loader(Pipeline.concat(pipe, [100]), on_error=on_error) as loader:
            assert told(loader) == [*values, 100]


class Jitter:
    """An augmentation with a generator of its own."""

    def __init__(self) -> None:
        self.random = random.Random(0)

    def __call__(self, x: Any) -> tuple[Any, int]:
        return x, self.random.randrange(1 << 30)


def test_generators_inside_objects_of_a_merge(quick: Engine) -> None:
    """In each part of a merge, and above it, they are seeded for each element: again the same, also when resumed."""

    def build() -> Pipeline[Any]:
        stream = Pipeline.from_generator(lambda: iter(range(4))).filter(kept).batch(2, collate_fn=list).map(Jitter())
        parts = Pipeline.concat(stream, Pipeline.from_sequence(range(2)).map(Jitter()))
        return parts.filter(kept).batch(2, collate_fn=list).map(Jitter()).seed(7)

    pipe = build()
    expected = list(pipe)
    assert list(pipe) == expected
    with quick.loader(build()) as loader:
        assert list(loader) == expected
        loader.set_epoch(0)
        iterator = iter(loader)
        assert next(iterator) == expected[0]
        state = loader.state_dict()
    with quick.loader(build()) as resumed:
        resumed.load_state_dict(state)
        assert list(resumed) == expected[1:]


def test_what_was_drawn_before_a_source_raised(quick: Engine) -> None:
    """Elements that a batch or a buffer held when the source raised are delivered, in a loop and by a Loader alike."""

    def source() -> Iterator[int]:
        yield from range(5)
        raise KeyError("source")

    stream = Pipeline.from_generator(source)
    batches = [[0, 1, 2], KeyError, [3, 4]]
    for pipe, expected in [
        (stream.batch(3, collate_fn=list), batches),
        (stream.filter(kept).batch(3, collate_fn=list), batches),
        (stream.repeat(2), [0, 1, 2, 3, 4, KeyError]),
        (stream.shuffle(1, buffer=9), None),
    ]:
        inline = told(pipe)
        assert inline == (expected or inline)
        assert len(inline) == len(expected or range(6))
        with quick.loader(pipe) as loader:
            assert told(loader) == inline


def stops(x: int) -> int:
    """The usual slip: ``next`` of what has nothing."""
    return next(iter([x] * (x != 2)))


def exits(x: int) -> int:
    if x == 2:
        raise SystemExit(3)
    return x


@pytest.mark.parametrize("fn", [stops, exits])
@pytest.mark.parametrize(
    "make",
    [
        lambda fn: Pipeline.from_sequence(range(4)).map(fn),
        lambda fn: Pipeline.from_sequence(range(4)).filter(kept).map(fn),
        lambda fn: Pipeline.from_sequence(range(4)).filter(kept).batch(1).map(lambda batch: fn(int(batch[0]))),
        lambda fn: Pipeline.from_sequence([[0, 1], [2, 3]]).unbatch().map(fn),
        lambda fn: Pipeline.from_generator(lambda: iter(range(4))).map(fn).concat([7, 8]),
        lambda fn: Pipeline.from_generator(lambda: iter(range(4))).map(fn).zip(range(10, 20)),
    ],
)
def test_no_function_ends_a_loop(quick: Engine, make: Callable[[Any], Pipeline[Any]], fn: Callable[[int], int]) -> None:
    """What would end a loop or the program is an error at its place; all other elements are there."""
    pipe = make(fn)
    with quick.loader(pipe) as loader:
        items = collect(loader)
    good = collect(make(int))
    assert [item for item in items if not isinstance(item, Exception)] == good[:2] + good[3:]
    assert isinstance(items[2], RuntimeError)
    if fn is stops:
        inline = collect(pipe)
        assert isinstance(inline[2], RuntimeError)
        assert isinstance(inline[2].__cause__, StopIteration)
        assert inline[:2] + inline[3:] == good[:2] + good[3:]


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_held_elements_and_states_behind_an_error_of_the_source(quick: Engine, kind: type[BaseException]) -> None:
    """Whatever the source raised: what a buffer held comes, drawn as in a loop, and a state from there goes on."""

    def source() -> Iterator[int]:
        yield from range(5)
        raise kind("gone")

    pipe = Pipeline.from_generator(source).shuffle(buffer=3).map(draw).seed(1)
    with quick.loader(pipe) as loader:
        items = collect(loader)
        assert [isinstance(item, Exception) for item in items] == [False, False, True, False, False, False]
        if kind is ValueError:
            assert [item for item in collect(pipe) if not isinstance(item, Exception)] == items[:2] + items[3:]
        loader.set_epoch(0)
        iterator = iter(loader)
        for _ in range(2):
            next(iterator)
        with pytest.raises(Exception, match=r"gone|SystemExit"):
            next(iterator)
        state = loader.state_dict()
        loader.load_state_dict(state)
        assert list(loader) == items[3:]


class Flaky:
    """Raises at the first sight of each element."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def __call__(self, x: int) -> int:
        if x not in self.seen:
            self.seen.add(x)
            raise OSError(x)
        return x


def test_retry_on_for_each_of_several_outputs(quick: Engine) -> None:
    """An output of several is tried again by itself."""
    pipe = Pipeline.from_sequence(range(3)).flat_map(lambda x: [x, x + 10]).map(Flaky())
    with quick.single.loader(pipe, retry_on=OSError, retries=1) as loader:
        assert list(loader) == [0, 10, 1, 11, 2, 12]


def test_an_error_names_its_own_stage(quick: Engine) -> None:
    """Not that of an earlier error: rows that cannot be told apart are no fault of the function below."""

    def rows(x: int) -> Any:
        if x == 0:
            raise KeyError("zero")
        return x if x == 1 else [x]

    with quick.single.loader(Pipeline.from_sequence(range(3)).map(rows).unbatch()) as loader:
        first, second, third = collect(loader)
    assert isinstance(first, KeyError)
    assert any("in map(" in note for note in first.__notes__)
    assert isinstance(second, TypeError)
    assert not any("in map(" in note or not note for note in second.__notes__)
    assert third == 2


def test_errors_behind_the_workers(quick: Engine) -> None:
    """A step in the consumer that raises loses its item alone."""

    def bad(batch: list[int]) -> int:
        if 4 in batch:
            raise LookupError("four")
        return sum(batch)

    pipe = Pipeline.from_sequence(range(9)).filter(lambda x: x != 0).batch(3, collate_fn=list).map(bad)
    with quick.loader(pipe) as loader:
        items = collect(loader)
    assert isinstance(items[1], LookupError)
    assert [items[0], *items[2:]] == [6, 15]
    with quick.loader(pipe, on_error="skip") as loader:
        assert list(loader) == [6, 15]


def shuffled(rng: np.random.Generator) -> Iterator[int]:
    """A generator function as data loaders of old have it."""
    yield from rng.permutation(8).tolist()


def test_a_generator_function_with_rng(quick: Engine) -> None:
    """It draws the same for the same seed and pass: inline, in a Loader, in its next epoch, and where it is resumed."""
    pipe = Pipeline.from_generator(shuffled).seed(3)
    first, second = list(pipe), list(pipe.at_epoch(1))
    assert sorted(first) == sorted(second) == list(range(8))
    assert first != second
    with quick.loader(pipe) as loader:
        assert [list(loader), list(loader)] == [first, second]
        loader.set_epoch(0)
        iterator = iter(loader)
        assert [next(iterator) for _ in range(3)] == first[:3]
        state = loader.state_dict()
    with quick.loader(Pipeline.from_generator(shuffled).seed(3)) as resumed:
        resumed.load_state_dict(state)
        assert list(resumed) == first[3:]


def test_take_ends_what_is_endless(quick: Engine) -> None:
    """The epoch is over when nothing can come any more, and so is the next one."""
    pipe = Pipeline.from_sequence(range(5)).repeat().filter(lambda x: x % 2).take(3)
    with quick.loader(pipe) as loader:
        assert [list(loader), list(loader)] == [[1, 3, 1], [1, 3, 1]]


def test_take_ends_what_comes_out_at_the_end_of_each_pass(quick: Engine) -> None:
    """A batch, bucket or buffer larger than the pass."""
    base = Pipeline.from_sequence(range(3)).filter(lambda x: True)
    batches = base.batch(8, collate_fn=list).repeat()
    buckets = base.bucket_by_length(abs, [2], 8, collate_fn=list).repeat()
    for pipe, expected in (
        (batches.take(2), [[0, 1, 2]] * 2),
        (batches.unbatch().take(7), [0, 1, 2, 0, 1, 2, 0]),
        (batches.take(3).batch(2, collate_fn=list), [[[0, 1, 2]] * 2, [[0, 1, 2]]]),
        (buckets.take(3), [[0, 1], [2], [0, 1]]),
        (base.shuffle(buffer=8).repeat().take(5).map(lambda x: 1), [1] * 5),
    ):
        assert list(pipe) == expected
        with quick.loader(pipe) as loader:
            assert [list(loader), list(loader)] == [expected] * 2
    stream = Pipeline.from_generator(lambda: iter(range(3))).shuffle(buffer=8).repeat().take(7)
    with quick.loader(stream) as loader:
        assert sorted(list(loader)[:6]) == [0, 0, 1, 1, 2, 2]
    batch = Pipeline.from_sequence(range(3)).batch(8, collate_fn=list).repeat().take(2)
    with quick.loader(batch, on_error="skip") as loader:
        assert list(loader) == [[0, 1, 2]] * 2


def cut_pipelines() -> list[Pipeline[Any]]:
    numbers = Pipeline.from_sequence(range(30)).map(draw)
    stream = Pipeline.from_generator(lambda: itertools.count()).map(draw)
    return [
        numbers.filter(lambda x: True).repeat().take(32).repeat(2),
        numbers.filter(lambda x: True).repeat(2).take(3).repeat(3),
        stream.filter(lambda x: True).batch(3, collate_fn=list).take(2).repeat(3),
        stream.take(5).shuffle(buffer=3).repeat().batch(2, collate_fn=list).filter(lambda x: True).take(3).repeat(2),
    ]


def test_a_pass_that_is_cut_short(quick: Engine) -> None:
    """A loader begins the next one as the pipeline does, and makes no two elements with the same draws."""
    for pipe in cut_pipelines():
        expected = list(pipe.seed(3))
        flat = [x for item in expected for x in (item if isinstance(item, list) else [item])]
        assert len({repr(x) for x in flat}) == len(flat)
        with quick.loader(pipe, seed=3) as loader:
            assert list(loader) == expected
            head = list(islice(loader, 4))
            loader.set_epoch(0)
            assert list(loader) == expected
            assert head == list(pipe.seed(3).at_epoch(1))[:4]


def test_a_state_of_a_pass_that_was_cut_short(quick: Engine) -> None:
    """The epoch goes on where it was, in the passes that ran there."""
    for pipe in cut_pipelines():
        expected = list(pipe.seed(3))
        for place in range(0, len(expected) + 1, 1 + len(expected) // 8):
            with quick.loader(pipe, seed=3) as loader:
                head = list(islice(loader, place))
                state = json.loads(json.dumps(loader.state_dict()))
            with Loader(pipe, num_workers=0, seed=3) as loader:
                loader.load_state_dict(state)
                assert head + list(loader) == expected


def test_an_older_iterator_of_passes_that_are_cut_short(quick: Engine) -> None:
    """It is over when a newer one begins, also just where its next pass would begin."""
    with quick.loader(Pipeline.from_sequence(range(30)).filter(lambda x: True).take(3).repeat(2)) as loader:
        old = iter(loader)
        assert [next(old) for _ in range(3)] == [0, 1, 2]
        new = iter(loader)
        with pytest.raises(ClosedError):
            next(old)
        assert list(new) == [0, 1, 2, 0, 1, 2]
        last = iter(loader)
        assert [next(last) for _ in range(4)] == [0, 1, 2, 0]
        loader.close()
        with pytest.raises(ClosedError):
            list(last)


def test_sources_are_told_of_epochs(quick: Engine) -> None:
    """``set_epoch`` before each epoch, ``on_epoch_end`` behind; what they change reaches the workers."""

    class Dataset:
        def __init__(self) -> None:
            self.epoch = -1
            self.ended = 0

        def __len__(self) -> int:
            return 3

        def __getitem__(self, i: int) -> tuple[int, int, int]:
            return i, self.epoch, self.ended

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def on_epoch_end(self) -> None:
            self.ended += 1

    with quick.loader(Pipeline.from_sequence(Dataset()).shuffle(seed=1), lambda x: x) as loader:
        for epoch in range(3):
            assert {item[1:] for item in loader} == {(epoch, epoch)}
        loader.set_epoch(7)
        assert {item[1] for item in loader} == {7}
        assert loader.epoch == 7


def test_state_of_each_moment(quick: Engine) -> None:
    """Before the first item, at the last, behind the end, between epochs: each goes on as if nothing had happened."""
    pipe = (
        Pipeline.from_sequence(range(7)).shuffle().map(draw).filter(lambda pair: pair[0] != 3).batch(2, collate_fn=list)
    )
    with quick.loader(pipe, seed=5) as loader:
        states = [loader.state_dict()]
        items = []
        for item in loader:
            items.append(item)
            states.append(loader.state_dict())
        states.append(loader.state_dict())
        items += list(loader)
    n = len(items) // 2
    starts = [*range(n + 1), n]
    for start, state in zip(starts, states, strict=True):
        assert len(json.dumps(state)) < 1000
        with Loader(pipe, seed=5, num_workers=0) as loader:
            loader.load_state_dict(json.loads(json.dumps(state)))
            rest = list(loader)
            if state["epoch"] == 0:
                rest += list(loader)
            assert rest == items[start:]


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("kind", ["indexed", "stream", "filtered"])
def test_a_state_taken_after_the_end_of_the_loader(quick: Engine, kind: str, in_order: bool) -> None:
    """Where the loop broke, though the loader was closed since, and closed again."""
    source: Any = {"indexed": range(60), "stream": lambda: iter(range(60))}.get(
        kind, Pipeline.from_sequence(range(90)).filter(lambda x: x % 3)
    )
    everything = [x for x in range(90) if x % 3] if kind == "filtered" else list(range(60))
    for chunk in (1, 4):
        with quick.loader(source, abs, in_order=in_order, chunk=chunk, prefetch=16) as loader:
            taken = list(islice(loader, 10))
        loader.close()
        state = loader.state_dict()
        assert state["delivered"] == 10
        with quick.loader(source, abs, in_order=in_order) as loader:
            loader.load_state_dict(state)
            assert sorted(taken + list(loader)) == everything


def test_an_iter_that_fails_keeps_the_state(quick: Engine) -> None:
    """It may be tried again, and goes on at the same item."""
    broken = [False]

    def elements() -> Iterator[int]:
        if broken.pop():
            raise ConnectionError
        broken.append(False)
        return iter(range(20))

    with quick.loader(elements) as loader:
        assert list(islice(loader, 7)) == list(range(7))
        state = loader.state_dict()
        loader.load_state_dict(state)
        broken[:] = [False, True]
        with pytest.raises(ConnectionError):
            iter(loader)
        assert list(loader) == list(range(7, 20))


def test_resume_says_what_it_draws_again(caplog: pytest.LogCaptureFixture) -> None:
    """A stream begins at its epoch's start, with a line in the log; where there is random access, nothing is drawn."""
    for source, says in [((lambda: iter(range(20))), ["resuming: 7 elements"]), (range(20), [])]:
        with Loader(source, abs, num_workers=0) as loader:
            assert list(islice(loader, 7)) == list(range(7))
            state = loader.state_dict()
            loader.load_state_dict(state)
            caplog.clear()
            with caplog.at_level("INFO", "mploader"):
                assert list(loader) == list(range(7, 20))
        assert [record.getMessage()[:20] for record in caplog.records] == says


def test_state_without_order() -> None:
    """With ``in_order=False`` what was delivered out of turn does not come again."""

    def slow(x: int) -> int:
        if x % 5 == 0:
            sum(range(200_000))
        return x

    with Loader(range(60), slow, num_workers=2, in_order=False) as loader:
        head = list(islice(loader, 17))
        state = json.loads(json.dumps(loader.state_dict()))
    with Loader(range(60), slow, num_workers=1, in_order=False) as loader:
        loader.load_state_dict(state)
        assert sorted([*head, *loader]) == list(range(60))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (lambda: Loader(range(10), str, num_workers=0), "length was 9, here 10"),
        (lambda: Loader(range(9), repr, num_workers=0), "map"),
        (lambda: Loader(range(9), str, num_workers=0, seed=4), "seed was 3, here 4"),
        (lambda: Loader(range(9), str, num_workers=0, shuffle=True), "shuffle"),
    ],
)
def test_a_state_of_another_loader(other: Any, says: str) -> None:
    """Is refused, with the difference."""
    with Loader(range(9), str, num_workers=0, seed=3) as loader:
        state = loader.state_dict()
    with other() as loader, pytest.raises(StateMismatchError, match=says):
        loader.load_state_dict(state)


def test_a_drawn_seed_is_adopted() -> None:
    """A loader without a seed goes on with that of the state, also where its workers have begun."""
    with Loader(range(20), draw, shuffle=True, num_workers=1) as loader:
        head = list(islice(loader, 7))
        state = loader.state_dict()
        whole = head + list(islice(loader, 0))
        loader.load_state_dict(state)
        rest = list(loader)
    with Loader(range(20), draw, shuffle=True, num_workers=2) as loader:
        list(loader)
        loader.load_state_dict(state)
        assert loader.seed == state["seed"]
        assert whole + list(loader) == head + rest


def test_a_drawn_seed_that_decides_the_length_is_adopted(quick: Engine) -> None:
    """A mixture's length follows from the seed: it is compared under the state's. A refusal changes nothing."""

    def mixture(n: int = 12) -> Pipeline[int]:
        return Pipeline.sample_from([range(n), range(100, 112)], [0.5, 0.5])

    with quick.loader(mixture()) as loader:
        items = iter(loader)
        next(items)
        state = json.loads(json.dumps(loader.state_dict()))
        rest, length = list(items), len(loader)
    for _ in range(8):  # each with another seed
        with quick.loader(mixture()) as loader:
            loader.load_state_dict(state)
            assert (len(loader), loader.state_dict()) == (length, state)
            assert list(loader) == rest
    with quick.loader(mixture(13)) as loader:
        seed, length = loader.seed, len(loader)
        with pytest.raises(StateMismatchError, match="length of the sources was"):
            loader.load_state_dict(state)
        assert (loader.seed, len(loader), len(list(loader))) == (seed, length, length)


class Growing:
    """A source whose length follows the epoch."""

    n = 1

    def set_epoch(self, epoch: int) -> None:
        self.n = epoch + 1

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> int:
        return i


def growing(epoch: int = 0) -> Pipeline[int]:
    return Pipeline.from_sequence(Growing()).at_epoch(epoch)


def test_a_length_that_follows_the_epoch(quick: Engine) -> None:
    """The source is told before its length is asked: in this process, in a loader, and where a state is loaded."""
    assert list(growing(3)) == [0, 1, 2, 3]
    assert growing(3)[-1] == 3
    states: list[tuple[Any, list[int]]] = []
    with quick.loader(growing(2)) as loader:
        for _ in loader:
            states.append((loader.state_dict(), list(range(len(states) + 1, 3))))
        states.append((loader.state_dict(), [0, 1, 2, 3]))  # between two epochs: of the next
    assert len(states) == 4
    for state, rest in states:
        with quick.loader(growing()) as loader:
            loader.load_state_dict(json.loads(json.dumps(state)))
            assert loader.state_dict()["delivered"] == state["delivered"]
            assert list(loader) == rest
    shorter = {**states[0][0], "length": 2, "sources": [2]}
    with quick.loader(growing()) as loader, pytest.raises(StateMismatchError, match="length was 2, here 3"):
        loader.load_state_dict(shorter)


def test_not_a_state() -> None:
    """Anything else than what ``state_dict`` gave is a TypeError that says what is missing."""
    with Loader(range(9), num_workers=0) as loader:
        for wrong in (None, {}, {**loader.state_dict(), "task": "3"}, {**loader.state_dict(), "task": -1}):
            with pytest.raises(TypeError, match="a state is the dict that state_dict"):
                loader.load_state_dict(wrong)  # type: ignore[arg-type]


def test_an_error_in_a_merged_pipeline(engine: Engine) -> None:
    """Of a stream that was merged with others it takes its place; what follows sees the elements only."""

    def bad(x: int) -> int:
        if x == 2:
            raise ValueError("two")
        return x

    stream = Pipeline.from_generator(lambda: iter(range(4))).map(bad)
    pipe = Pipeline.zip(stream, range(10, 14)).map(sum)
    with engine.loader(pipe) as loader:
        items = collect(loader)
    for found in (items, collect(pipe)):
        assert found[:2] + found[3:] == [10, 12, 16]
        assert isinstance(found[2], ValueError)
    with engine.loader(pipe, on_error="skip") as loader:
        assert list(loader) == [10, 12, 16]


def test_no_policy_hides_an_error_of_the_source(engine: Engine) -> None:
    """A source that fails half way is no sample to skip: with batches too, the epoch does not seem whole."""

    def source() -> Iterator[int]:
        yield from range(3)
        raise OSError("gone")

    for on_error in ("raise", "skip", lambda error: -1):
        with engine.loader(source, int, on_error=on_error, batch_size=2, collate_fn=list) as loader:
            items = collect(loader)
        assert [items[0], *items[2:]] == [[0, 1], [2]]
        assert isinstance(items[1], OSError)


def test_state_from_inside_a_step_and_from_another_thread() -> None:
    """Neither waits for the other for ever."""
    loader: Loader[Any]

    def step(batch: list[int]) -> list[int]:
        loader.state_dict()
        return batch

    pipe = Pipeline.from_sequence(range(4000)).filter(lambda x: True).batch(2, collate_fn=list).map(step)
    loader = Loader(pipe, num_workers=0)
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            loader.state_dict()

    def run() -> None:
        assert len(list(loader)) == 2000
        done.set()

    threads = [threading.Thread(target=target, daemon=True) for target in (ask, run)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert done.is_set()
    loader.close()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_merged_pipelines_leave_the_callers_generators_alone(num_workers: int) -> None:
    """Where functions of the user's run in this process, or one of several pipelines has a seed."""

    def noisy(x: int) -> tuple[int, float]:
        time.sleep(0.001)
        return x, random.random()

    stream = Pipeline.from_generator(lambda: iter(range(30))).map(noisy)
    indexed = Pipeline.from_sequence(range(30)).map(noisy)
    makes: list[Callable[[], Pipeline[Any]]] = [
        lambda: Pipeline.zip(stream, range(30)).seed(1),
        lambda: Pipeline.zip(stream.seed(1), range(30)),
        lambda: Pipeline.zip(indexed.seed(1), range(30)),
        lambda: Pipeline.zip(stream.filter(bool).batch(2, collate_fn=list).map(noisy), range(30)).seed(1),
    ]
    for make in makes:
        pipe = make()
        random.seed(5)
        expected = [random.random() for _ in range(30)]
        random.seed(5)
        items, own = [], []
        with Loader(pipe, num_workers=num_workers) as loader:
            for item in loader:
                items.append(item)
                own.append(random.random())
        assert own == expected[: len(own)]
        random.seed(5)
        assert list(pipe) == items
        assert random.random() == expected[0]


def test_costs_in_workers_are_known_here(processes: Engine) -> None:
    """``explain()`` tells what each function has cost, wherever it ran: while the workers live, and afterwards."""

    def slow(x: int) -> int:
        time.sleep(0.002)
        return x

    pipe = Pipeline.from_sequence(range(20)).map(slow).map(str).batch(4, collate_fn=list).filter(len)
    with processes.loader(pipe) as loader:
        for _ in range(2):
            assert len(list(loader)) == 5
            until_idle(loader)
        costs = [line.split("  ")[-1].strip() for line in pipe.explain().splitlines()[2:]]
        counts = [cost.partition("ms an element, ")[2] for cost in costs]
        assert counts == ["40 so far", "40 so far", "10 so far", "10 so far"]
        assert float(costs[0].split()[0]) >= 2
    list(pipe)
    assert [line.rpartition(", ")[2] for line in pipe.explain().splitlines() if "so far" in line] == [
        *("60 so far", "60 so far", "15 so far", "15 so far")
    ]


class Shelf:
    """A sequence that takes its time."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> int:
        time.sleep(0.002)
        return index


@pytest.mark.parametrize("behind", [False, True])
def test_costs_of_sources_and_batches(processes: Engine, behind: bool) -> None:
    """``explain()`` tells them too, whether the batch is put together in the workers or behind them."""
    pipe: Pipeline[Any] = Pipeline.from_sequence(Shelf())
    pipe = (pipe.filter(kept) if behind else pipe).batch(2)
    with processes.loader(pipe) as loader:
        assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4, 5]]
    lines = pipe.explain().splitlines()
    assert lines[1].endswith("6 so far")
    assert float(lines[1].split("  ")[-1].split()[0]) >= 2
    assert lines[-1].endswith("3 so far")


def kept(x: Any) -> bool:
    return True


def by_length(sizes: Any, **options: Any) -> Pipeline[Any]:
    return Pipeline.from_sequence(range(23)).bucket_by_length(abs, [3], sizes, collate_fn=list, **options)


def mixed(seed: int) -> Pipeline[Any]:
    return Pipeline.sample_from([range(23), range(9)], [0.3, 0.7], seed=seed).filter(kept)


NEARLY_ALIKE: dict[str, Callable[[bool], Pipeline[Any]]] = {
    "a buffer's seed": lambda two: Pipeline.from_sequence(range(23)).filter(kept).shuffle(3 + two, buffer=5),
    "a buffer that stays": lambda two: Pipeline.from_sequence(range(23)).shuffle(3, buffer=5, reshuffle=two),
    "sizes of buckets": lambda two: by_length([2, 2 + two]),
    "the last of buckets": lambda two: by_length(2, drop_last=two),
    "padding": lambda two: Pipeline.from_sequence(range(9)).filter(kept).padded_batch(2, value=two),
    "collation": lambda two: Pipeline.from_sequence(range(9)).filter(kept).batch(2, collate_fn=[list, tuple][two]),
    "a mixture's seed": lambda two: mixed(1 + two),
    "a part's seed": lambda two: Pipeline.zip(Pipeline.from_sequence(range(9)).shuffle().seed(1 + two), range(9)),
    "parts swapped": lambda two: Pipeline.concat(*[range(5), range(10)][:: -1 if two else 1]),
    "a filtered source's length": lambda two: Pipeline.from_sequence(range(23 + two)).filter(kept),
    "shares": lambda two: Pipeline.from_sequence(range(23)).split([0.5 + two * 1e-8], seed=1)[0].filter(kept),
}


@pytest.mark.parametrize("difference", NEARLY_ALIKE)
def test_a_state_is_refused_by_what_is_nearly_the_same(difference: str) -> None:
    """All that decides the stream is compared, and named."""
    make = NEARLY_ALIKE[difference]
    with Loader(make(False), seed=7, num_workers=0) as loader, Loader(make(True), seed=7, num_workers=0) as other:
        next(iter(loader))
        state = loader.state_dict()
        with pytest.raises(StateMismatchError, match=r"of another loader: .* was .*, here "):
            other.load_state_dict(state)
        with Loader(make(False), seed=7, num_workers=0) as same:
            same.load_state_dict(state)


def test_a_state_out_of_order_stays_small(quick: Engine) -> None:
    """However far the others are ahead of a late item: what was delivered is told in runs."""
    with quick.loader(range(3000), abs, in_order=False, prefetch=50) as loader:
        iterator = iter(loader)
        for _ in range(2500):
            next(iterator)
        assert len(json.dumps(loader.state_dict())) < 1500


@pytest.mark.parametrize("wrong", [{"done": ["a"]}, {"done": [[1, "b"]]}, {"delivered": True}, {"sources": None}])
def test_a_damaged_state_is_refused(wrong: dict[str, Any]) -> None:
    """It is no state, and the message names the field."""
    with Loader(range(5), num_workers=0) as loader:
        with pytest.raises(TypeError, match=f"in this one {next(iter(wrong))} is missing or wrong"):
            loader.load_state_dict({**loader.state_dict(), **wrong})
