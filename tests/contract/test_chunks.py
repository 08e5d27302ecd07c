"""Chunks: items that travel together. They change speed, and nothing that a user can see otherwise."""

from __future__ import annotations

import os
import random
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mploader import Loader, MploaderError, NotPicklableError, Pipeline, RemoteError, ResultTooLargeError
from mploader.engine import stream
from tests.contract.engines import Gate, Tally, collect

CHUNKS: list[Any] = [1, 2, 3, 7, 64, "auto"]
SHARED = {"known": [1, 2, 3]}


def mixed(i: int) -> Any:
    """Small, large and middling results, by turns."""
    if i % 7 == 3:
        return {"i": i, "image": np.full((60, 60, 3), i, np.int32)}
    if i % 11 == 5:
        return i, "x" * (i * 40), bytes(40_000)
    return {"i": i, "path": f"train/{i:05}.jpg", "xy": (i / 2, [i])}


def number(item: Any) -> Any:
    return item[0] if isinstance(item, tuple) else item["i"]


def check(item: Any, i: int) -> None:
    expected = mixed(i)
    if isinstance(item, tuple):
        assert item == expected
    else:
        assert list(item) == list(expected)
        assert all(np.array_equal(item[key], expected[key]) for key in item if key == "image")
        assert all(item[key] == expected[key] for key in item if key != "image")


def takes_time(i: int) -> int:
    return sum(range(2000)) * 0 + i


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("chunk", CHUNKS)
def test_the_same_items(chunk: Any, in_order: bool) -> None:
    """For each size of chunk, number of workers and window: all, once, equal, and in order where that was asked for."""
    for num_workers, prefetch in [(1, 1), (1, 8), (2, 5), (2, 64), (3, 200)]:
        options: dict[str, Any] = {"num_workers": num_workers, "prefetch": max(prefetch, num_workers)}
        with Loader(range(301), mixed, chunk=chunk, in_order=in_order, start_method="fork", **options) as loader:
            for _ in range(2):
                items = list(loader)
                numbers = [number(item) for item in items]
                assert (numbers if in_order else sorted(numbers)) == list(range(301))
                for item, i in zip(items, numbers, strict=True):
                    check(item, i)


def test_streams_and_breaks() -> None:
    """A stream's elements, a loop that breaks amid a chunk, and the epoch after it."""
    with Loader(lambda: iter(range(100)), takes_time, num_workers=2, chunk=8, prefetch=32) as loader:
        assert list(loader) == list(range(100))
    with Loader(range(100), takes_time, num_workers=2, chunk=8, prefetch=32, start_method="fork") as loader:
        for n in (1, 3, 8, 9, 50):
            assert list(islice(loader, n)) == list(range(n))
            assert loader.stats().delivered >= n
        assert list(loader) == list(range(100))


@pytest.mark.parametrize("chunk", [5, "auto"])
def test_behind_and_in_batches(chunk: Any) -> None:
    """Steps behind the workers, batches in them, draws: as without workers."""
    pipe = (
        Pipeline.from_sequence(range(200))
        .shuffle()
        .map(lambda x, rng: (x, int(rng.integers(1000)), random.random()))
        .filter(lambda item: item[0] % 3)
        .batch(4, collate_fn=list)
        .seed(3)
    )
    with Loader(pipe, num_workers=2, chunk=chunk, prefetch=40, start_method="fork") as loader:
        assert list(loader) == list(pipe)


def test_auto_follows_the_cost() -> None:
    """Cheap items travel together once that is known, and a window too small for it is left alone."""
    with Loader(range(3000), abs, num_workers=2, prefetch=64, start_method="fork") as loader:
        assert list(loader) == list(range(3000))
        assert loader._stream.pool.pace.chunk > 1  # type: ignore[union-attr]
    with Loader(range(300), abs, num_workers=2, prefetch=8, start_method="fork") as loader:
        assert list(loader) == list(range(300))
        assert loader._stream.pool.pace.chunk == 1  # type: ignore[union-attr]


def test_nothing_is_shared() -> None:
    """Two items of one chunk that are one object in the worker are two here: to change one leaves the other."""
    with Loader(range(8), lambda _: SHARED, num_workers=1, chunk=8, start_method="fork") as loader:
        first, second, *_ = loader
        assert first == second == SHARED
        assert first is not second
        first["known"].append(4)
        assert second == SHARED


def test_held_items_hold_no_others() -> None:
    """Of large results that came together, each has memory of its own."""
    with Loader(range(40), lambda i: np.full(10_000, i), num_workers=1, chunk=8, prefetch=8) as loader:
        held = [item for i, item in enumerate(loader) if i % 8 == 3]
        for item, i in zip(held, range(3, 40, 8), strict=True):
            assert (item == i).all()
        assert loader.stats().leased_bytes < 7 * 81_000


@pytest.mark.parametrize("on_error", ["raise", "skip", str])
def test_errors_at_their_place(on_error: Any) -> None:
    """What raises, what cannot travel and what cannot be rebuilt cost one item of a chunk each."""

    class Unbuildable:
        def __init__(self, i: int) -> None:
            self.i = i

        def __reduce__(self) -> Any:
            return _fail, (self.i,)

    def fn(i: int) -> Any:
        if i % 10 == 3:
            raise KeyError(i)
        if i % 10 == 4:
            return open(os.devnull)
        if i % 10 == 5:
            return Unbuildable(i)
        return i

    kinds = {3: KeyError, 4: NotPicklableError, 5: RemoteError}
    with Loader(range(40), fn, num_workers=2, chunk=10, prefetch=20, on_error=on_error, start_method="fork") as loader:
        found = collect(iter(loader))
        good = [i for i in range(40) if i % 10 not in kinds]
        assert [item for item in found if isinstance(item, int)] == good
        if on_error == "raise":
            assert [type(item) for item in found[3:6]] == list(kinds.values())
            assert [item.index for item in found if isinstance(item, (NotPicklableError, RemoteError))] == [
                4,
                5,
                14,
                15,
                24,
                25,
                34,
                35,
            ]
        if on_error != "skip":
            assert len(found) == 40
        stats = loader.stats()
        assert (stats.errors, stats.skipped) == (12, 12 if on_error == "skip" else 0)
        assert stats.delivered == len(found)


def _fail(i: int, *_: Any) -> None:
    raise ValueError(i)


def test_tries_are_an_items_own(tmp_path: Path) -> None:
    """``retry_on`` runs the item again that raised, not its chunk."""
    tally = Tally(tmp_path / "runs")

    def fn(i: int) -> int:
        tally.add(i)
        if i == 5 and tally.lines.count("5") < 2:
            raise OSError
        return i

    with Loader(range(8), fn, num_workers=1, chunk=8, retry_on=OSError, start_method="fork") as loader:
        assert list(loader) == list(range(8))
    assert sorted(map(int, tally.lines)) == sorted([*range(8), 5])


def test_a_chunk_that_has_no_room_comes_one_by_one() -> None:
    """Results below ``memory_limit_bytes`` arrive, whatever they need together; a larger one is an error."""
    sizes = [3000, 6000, 30_000, 5000]
    options: dict[str, Any] = {"num_workers": 1, "prefetch": 8, "start_method": "fork", "memory_limit_bytes": 8000}
    with Loader(range(32), lambda i: bytes(sizes[i % 4]), chunk=8, **options) as loader:
        iterator = iter(loader)
        for i in range(32):
            if i % 4 == 2:
                with pytest.raises(ResultTooLargeError):
                    next(iterator)
            else:
                assert len(next(iterator)) == sizes[i % 4]


def test_a_slow_item_keeps_back_what_came_before_it_for_a_second_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another worker is free it makes those again, and each still comes once."""
    assert stream.LOOK_AROUND_S == 1
    monkeypatch.setattr(stream, "LOOK_AROUND_S", 0.05)
    gate = Gate(tmp_path / "gate")

    def fn(i: int) -> int:
        if i == 3:
            gate.wait()
        return i

    with Loader(range(24), fn, num_workers=2, chunk=4, prefetch=8, start_method="fork") as loader:
        iterator = iter(loader)
        assert [next(iterator) for _ in range(3)] == [0, 1, 2]
        gate.open()
        assert list(iterator) == list(range(3, 24))


def test_states_amid_a_chunk() -> None:
    """A state counts what was handed out, not what was rebuilt with it; also without an order."""
    for in_order in (True, False):
        with Loader(range(50), takes_time, num_workers=2, chunk=6, prefetch=24, in_order=in_order) as loader:
            for n in (1, 5, 6, 7, 20):
                taken = list(islice(loader, n))
                state = loader.state_dict()
                assert state["delivered"] == n
                loader.load_state_dict(state)
                assert sorted(taken + list(loader)) == list(range(50))
                loader.set_epoch(0)


def test_two_threads_share_a_chunk() -> None:
    """Each item goes to one of them."""
    import threading

    found: list[list[int]] = [[], []]
    with Loader(range(2000), takes_time, num_workers=2, chunk=16, prefetch=64, start_method="fork") as loader:
        iterator = iter(loader)

        def take(mine: list[int]) -> None:
            mine.extend(iterator)

        threads = [threading.Thread(target=take, args=(mine,)) for mine in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(found[0] + found[1]) == list(range(2000))
    assert all(mine == sorted(mine) for mine in found)


def test_an_older_iterator_takes_nothing_of_a_newer_epoch() -> None:
    """Though what it might have given at once was rebuilt."""
    with Loader(range(40), takes_time, num_workers=1, chunk=8, prefetch=16, start_method="fork") as loader:
        old = iter(loader)
        assert next(old) == 0
        new = iter(loader)
        assert next(new) == 0
        with pytest.raises(MploaderError, match="superseded"):
            next(old)
        assert list(new) == list(range(1, 40))
        last = iter(loader)
        assert next(last) == 0
        loader.close()
        with pytest.raises(MploaderError, match="closed"):
            next(last)


@pytest.mark.parametrize(
    ("chunk", "error"), [(0, ValueError), (2.5, TypeError), ("all", ValueError), (True, TypeError)]
)
def test_a_wrong_chunk_is_refused(chunk: Any, error: type[Exception]) -> None:
    """With what would be right."""
    with pytest.raises(error, match='"auto"'):
        Loader(range(3), chunk=chunk)
