"""The user's exceptions: they arrive as what they were, say where they came from, and cost one item."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Callable
from typing import Any

import pytest

from mploader import RemoteError, TaskError, TaskInfo
from tests.contract.engines import Engine, collect


class Corrupt(ValueError):
    """An exception of the user's, with an attribute."""

    def __init__(self, message: str, offset: int = 0) -> None:
        super().__init__(message, offset)
        self.offset = offset


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """Refuses every assignment to itself."""

    code: int

    def __reduce__(self) -> Any:
        return type(self), (self.code,)


def decode(i: int) -> int:
    if i == 1:
        try:
            raise KeyError("missing")
        except KeyError as error:
            failure = Corrupt("not a JPEG", offset=i + 40)
            failure.add_note("found by decode")
            raise failure from error
    if i == 2:
        raise OSError(2, "No such file", "photo.jpg")
    if i == 3:
        raise ExceptionGroup("both", [ValueError("left"), Corrupt("right", 7)])
    if i == 4:
        return len(b"\xff".decode())
    if i == 5:
        raise Frozen(5)
    if i == 6:
        try:
            raise ValueError("first")
        except ValueError:
            raise TypeError("second")  # noqa: B904  the implicit context is what is tested
    return -i


def test_exception_keeps_type_attributes_and_cause(engine: Engine) -> None:
    """An exception of ``fn`` arrives as it was raised, and the items around it as if nothing had been."""
    with engine.single.loader(range(9), decode) as loader:
        first, corrupt, missing, group, undecodable, frozen, context, *rest = collect(loader)
    assert (first, rest) == (0, [-7, -8])
    assert type(corrupt) is Corrupt
    assert (corrupt.args, corrupt.offset) == (("not a JPEG", 41), 41)
    assert (repr(corrupt.__cause__), corrupt.__suppress_context__) == ("KeyError('missing')", True)
    assert corrupt.__notes__[0] == "found by decode"
    assert (type(missing), missing.errno, missing.filename) == (FileNotFoundError, 2, "photo.jpg")
    assert (type(group), group.message) == (ExceptionGroup, "both")
    assert [(type(error), error.args) for error in group.exceptions] == [
        (ValueError, ("left",)),
        (Corrupt, ("right", 7)),
    ]
    assert (type(undecodable), undecodable.object, undecodable.start) == (UnicodeDecodeError, b"\xff", 0)
    assert (type(frozen), frozen.code, frozen.mploader_task.index) == (Frozen, 5, 5)
    assert (type(context), repr(context.__context__), context.__cause__) == (TypeError, "ValueError('first')", None)


def test_exception_says_where_it_came_from(engine: Engine) -> None:
    """Index, worker, pid, epoch and attempt are in the notes and in ``mploader_task``; so is the worker's traceback."""
    source = [f"photo_{i}.jpg" for i in range(8)]

    def fails(path: str) -> str:
        if path == "photo_5.jpg":
            raise Corrupt(path)
        return path

    seqs: list[int] = []
    with engine.loader(source, fails) as loader:
        for epoch in range(2):
            error = collect(loader)[5]
            task = error.mploader_task
            assert isinstance(task, TaskInfo)
            assert (task.index, task.element, task.epoch, task.attempt) == (5, "'photo_5.jpg'", epoch, 0)
            if engine.is_inline:
                assert (task.worker_id, task.pid) == (None, os.getpid())
            else:
                assert task.worker_id in (0, 1)
                assert task.pid == loader.stats().workers[task.worker_id].pid
                assert any("in fails\n    raise Corrupt(path)" in note for note in error.__notes__)
                assert not any("mploader/engine" in note for note in error.__notes__)
            where = "in this process" if engine.is_inline else f"worker {task.worker_id} (pid {task.pid})"
            assert f"index 5, {where}, epoch {epoch}, attempt 0" in error.__notes__
            assert task.seq is not None
            seqs.append(task.seq)
    assert seqs[0] < seqs[1]  # a seq is never used twice


def test_every_item_may_fail(quick: Engine) -> None:
    """After an error the same iterator goes on, however many there are; then comes StopIteration, as often as asked."""

    def always(i: int) -> int:
        raise Corrupt(f"number {i}")

    with quick.single.loader(range(50), always, prefetch=4) as loader:
        iterator = iter(loader)
        for i in range(50):
            with pytest.raises(Corrupt, match=rf"number {i}\b"):
                next(iterator)
        for _ in range(3):
            with pytest.raises(StopIteration):
                next(iterator)


ENDINGS: list[Callable[[], BaseException]] = [
    lambda: StopIteration(7),
    lambda: SystemExit("bye"),
    GeneratorExit,
    asyncio.CancelledError,
    StopAsyncIteration,
    KeyboardInterrupt,
]


def test_what_would_end_the_program_ends_one_item(quick: Engine) -> None:
    """StopIteration, SystemExit, GeneratorExit, KeyboardInterrupt from ``fn`` are RemoteErrors with it as cause."""

    def ends(i: int) -> int:
        if i < len(ENDINGS):
            raise ENDINGS[i]()
        return i

    # KeyboardInterrupt inline is the user's own: somebody pressed Ctrl-C in this very process
    count = len(ENDINGS) - 1 if quick.is_inline else len(ENDINGS)
    with quick.single.loader([*range(count), 100], ends) as loader:
        *errors, last = collect(loader)
    assert last == 100
    for i, (error, make) in enumerate(zip(errors, ENDINGS, strict=False)):
        if isinstance(make(), Exception) and not isinstance(make(), StopIteration):
            assert type(error) is type(make())
            continue
        assert isinstance(error, RemoteError), error
        assert isinstance(error, TaskError)
        assert repr(error.__cause__) == repr(make())
        assert (error.index, error.epoch, error.attempt) == (i, 0, 0)
        assert type(make()).__name__ in str(error)


def test_interrupt_inline_is_the_users(quick: Engine) -> None:
    """Inline, KeyboardInterrupt from ``fn`` is raised as it is, and the item is run again; a worker's is an error."""
    struck: list[int] = []

    def once(i: int) -> int:
        if i == 2 and not struck:
            struck.append(i)
            raise KeyboardInterrupt
        return i

    with quick.single.loader(range(4), once) as loader:
        iterator = iter(loader)
        assert [next(iterator), next(iterator)] == [0, 1]
        with pytest.raises(KeyboardInterrupt if quick.is_inline else RemoteError):
            next(iterator)
        assert list(iterator) == ([2, 3] if quick.is_inline else [3])


def test_source_item_that_raises(quick: Engine) -> None:
    """What ``source[i]`` raises is that item's error, with its index and element."""

    class Holes:
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> int:
            if index % 2:
                raise IndexError(f"hole {index}")
            return index

    with quick.single.loader(Holes(), lambda x: x * 10) as loader:
        for _ in range(2):
            got = collect(loader)
            assert got[::2] == [0, 20, 40]
            assert [(type(error), error.args, error.mploader_task.index) for error in got[1::2]] == [
                (IndexError, ("hole 1",), 1),
                (IndexError, ("hole 3",), 3),
            ]
            assert got[1].mploader_task.element == "source[1]"


def test_local_exceptions_can_be_caught(quick: Engine) -> None:
    """``except`` finds an exception whose class was defined in the caller's function."""

    class Unlucky(Exception):
        pass

    def fails(i: int) -> int:
        if i == 1:
            raise Unlucky(i)
        return i

    with quick.single.loader(range(3), fails) as loader:
        iterator = iter(loader)
        assert next(iterator) == 0
        with pytest.raises(Unlucky):
            next(iterator)
        assert list(iterator) == [2]


@pytest.mark.parametrize("batch_size", [None, 1])
def test_on_error_cannot_end_the_loop(quick: Engine, batch_size: int | None) -> None:
    """A StopIteration out of it is that item's error, and not the end of the epoch."""

    def fn(i: int) -> int:
        if i == 1:
            raise ValueError(i)
        return i

    options: dict[str, Any] = {"batch_size": batch_size, "collate_fn": list} if batch_size else {}
    with quick.loader(range(5), fn, on_error=lambda error: next(iter([])), **options) as loader:
        found = collect(loader)
    errors = [item for item in found if isinstance(item, RemoteError)]
    assert [item for item in found if item not in errors] == ([[0], [2], [3], [4]] if batch_size else [0, 2, 3, 4])
    assert isinstance(errors[0].__cause__, StopIteration)
    assert "on_error raised StopIteration for index 1" in str(errors[0])


class Stubborn:
    """Cannot be rebuilt: raises what Ctrl-C would."""

    def __init__(self, i: int) -> None:
        self.i = i

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise KeyboardInterrupt


def test_a_result_whose_rebuilding_raises_keyboard_interrupt(quick: Engine) -> None:
    """The first time it is taken for Ctrl-C; then it is the item's error, and the others arrive."""
    with quick.loader(range(5), lambda i: Stubborn(i) if i == 2 and not quick.is_inline else i) as loader:
        iterator = iter(loader)
        assert [next(iterator), next(iterator)] == [0, 1]
        if not quick.is_inline:
            with pytest.raises(KeyboardInterrupt):
                next(iterator)
            with pytest.raises(RemoteError, match="the result for index 2 could not be rebuilt"):
                next(iterator)
        assert list(iterator) == ([2, 3, 4] if quick.is_inline else [3, 4])


def test_a_source_that_raises_keyboard_interrupt_in_a_thread(forkserver: Engine) -> None:
    """Ctrl-C is the main thread's: what a source raises in its own thread is its error, as SystemExit is."""

    def source() -> Any:
        yield 0
        raise KeyboardInterrupt

    with forkserver.loader(source) as loader:
        found = collect(loader)
    assert found[0] == 0
    assert isinstance(found[1], RemoteError)
    assert isinstance(found[1].__cause__, KeyboardInterrupt)
    assert len(found) == 2
