"""Failures: an exception arrives as it was raised, or as the reason why it cannot; packing never raises."""

from __future__ import annotations

import pickle
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from mploader.errors import RemoteError, ResultTooLargeError, TaskInfo, TaskTimeoutError, WorkerDiedError
from mploader.transport.failure import MAX_CHAIN, Packed, pack, unpack


class WithAttributes(ValueError):
    """Carries more than its arguments."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code
        self.data = np.arange(3)


class OwnReduce(Exception):
    """Has arguments that are not its constructor's."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"no answer from {host}:{port}")
        self.host, self.port = host, port

    def __reduce__(self) -> Any:
        return OwnReduce, (self.host, self.port)


class NoRebuild(OwnReduce):
    """Says that it is rebuilt in a way that fails."""

    def __reduce__(self) -> Any:
        return NoRebuild, self.args


class Keyword(ValueError):
    """Its constructor takes something else than its arguments."""

    def __init__(self, text: str, *, code: int) -> None:
        super().__init__(text)
        self.code = code


class Runs(Exception):
    """Its constructor could be called with its arguments, and would make another text."""

    def __init__(self, status: str, url: str = "home") -> None:
        super().__init__(f"{status} for {url}")
        self.status, self.url = status, url


class Slots(OSError):
    """Keeps all it has outside its ``__dict__``."""

    __slots__ = ("_late", "code", "nothing")

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(28, text, "photo.jpg")
        self.code, self.nothing = code, None


class OwnNew(Exception):
    """Both that make it take something else."""

    def __new__(cls, *, code: int) -> OwnNew:
        return super().__new__(cls, "made")

    def __init__(self, *, code: int) -> None:
        self.code = code


class Errors(ExceptionGroup[Exception]):
    """A group that is made from a list alone."""

    def __new__(cls, errors: list[Exception]) -> Errors:
        return super().__new__(cls, "many", errors)


class ReadOnly(Exception):
    """Refuses assignments once it was made."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"{host}:{port}")
        vars(self)["port"] = port

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class ExitsWhenRebuilt(Exception):
    """Ends the program that reads it, if that lets it."""

    def __reduce__(self) -> Any:
        return sys.exit, (3,)


class NoException(Exception):
    """Is rebuilt as something else."""

    def __reduce__(self) -> Any:
        return str, ("a text",)


class RaisesInReduce(Exception):
    """Raises what it was given when it is pickled."""

    def __init__(self, error: BaseException) -> None:
        super().__init__("cannot travel")
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


class RaisesInStr(Exception):
    """Has no text to show."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __str__(self) -> str:
        raise self.error


@dataclass(frozen=True)
class Frozen(Exception):
    """Refuses every assignment."""

    code: int

    def __reduce__(self) -> Any:
        return Frozen, (self.code,)


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """The exception, having been raised and caught."""
    try:
        raise error from cause
    except BaseException as caught:  # noqa: BLE001  any
        return caught


def travel(error: BaseException) -> tuple[BaseException | None, str]:
    """To the consumer and rebuilt there, by the plain pickle of text, bytes and tuples that carries it."""
    return unpack(Packed(*pickle.loads(pickle.dumps(pack(error, {}), 5))))


def arrives(error: BaseException) -> BaseException:
    """As `travel`, where it must arrive."""
    exc, why_not = travel(error)
    assert why_not == ""
    assert exc is not None
    return exc


@pytest.mark.parametrize(
    "error",
    [
        ValueError("text", 3),
        KeyError("missing"),
        OSError(2, "No such file", "photo.jpg"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        StopIteration(5),
        SystemExit(3),
        KeyboardInterrupt(),
        MemoryError(),
        RecursionError("deep"),
        ExceptionGroup("many", [ValueError(1), OSError(2, "two")]),
        WithAttributes("text", 7),
        OwnReduce("host", 80),
        ResultTooLargeError("large", TaskInfo(index=3), needed_bytes=10, limit_bytes=5),
        TaskTimeoutError("late", TaskInfo(index=3), timeout_s=1.5),
        WorkerDiedError("dead", TaskInfo(index=3, pid=7), exitcode=-9, signal="SIGKILL"),
        RemoteError("far", TaskInfo(index=3)),
        Keyword("text", code=5),
        Runs("404", "http://x"),
        Slots("full", 7),
        OwnNew(code=5),
        Errors([Runs("404"), Errors([Keyword("inner", code=5)])]),
        ReadOnly("host", 80),
        ValueError(Runs("404", "http://x")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_it_arrives_as_it_was(error: BaseException) -> None:
    """Type, arguments, text, attributes and notes are those of the original, whatever its constructor takes."""
    BaseException.__setattr__(error, "__notes__", ["a note"])
    exc = arrives(raised(error))
    assert type(exc) is type(error)
    assert repr(exc.args) == repr(error.args)
    assert str(exc) == str(error)
    assert repr(vars(exc)) == repr(vars(error)) or type(error) is OwnReduce  # which says itself what it keeps


def test_slots_arrive() -> None:
    """What lies in ``__slots__`` and in the fields of types made in C arrives; a slot that was not set stays so."""
    exc = arrives(Slots("full", 7))
    assert isinstance(exc, Slots)
    assert (exc.code, exc.nothing, hasattr(exc, "_late")) == (7, None, False)
    assert (exc.errno, exc.strerror, exc.filename) == (28, "full", "photo.jpg")


def test_groups_arrive_with_what_is_in_them() -> None:
    """The exceptions of a group arrive as what they are, each with its attributes."""
    exc = arrives(Errors([Runs("404", "here"), ValueError(1)]))
    assert isinstance(exc, Errors)
    assert exc.message == "many"
    assert [vars(inner) for inner in exc.exceptions] == [{"status": "404", "url": "here"}, {}]


def test_attributes_that_cannot_travel_are_left_out() -> None:
    """A lock or a file in an exception costs that attribute alone, also in one that it holds."""
    error, inner = Keyword("text", code=5), Slots("full", 7)
    for holder in (error, inner):
        holder.lock = threading.Lock()  # type: ignore[union-attr]
    error.file = sys.stderr  # type: ignore[attr-defined]
    error.made = lambda: 8  # type: ignore[attr-defined]
    error.itself = error  # type: ignore[attr-defined]
    inner._late = threading.Lock()  # type: ignore[attr-defined]
    exc = arrives(raised(error, inner))
    assert vars(exc).keys() == {"code", "made"}
    assert vars(exc)["made"]() == 8
    assert isinstance(exc.__cause__, Slots)
    assert (vars(exc.__cause__), exc.__cause__.code, hasattr(exc.__cause__, "_late")) == ({}, 7, False)


def test_one_that_holds_itself_arrives() -> None:
    """An exception in its own attributes is the same one after."""
    error = Keyword("text", code=5)
    error.itself = error  # type: ignore[attr-defined]
    exc = arrives(error)
    assert vars(exc)["itself"] is exc


def test_local_classes_arrive() -> None:
    """An exception class of a function or of ``__main__`` is the same class after, with its attributes."""

    class Local(Exception):
        def __init__(self, text: str) -> None:
            super().__init__(text)
            self.twice = lambda: text * 2

    exc = arrives(Local("text"))
    assert type(exc) is Local
    assert vars(exc)["twice"]() == "texttext"


def test_a_dispatch_table_is_asked() -> None:
    """Reducers of the worker's table pickle the exception's parts."""
    lock = threading.Lock()
    packed = pack(ValueError(lock), {type(lock): lambda _: (str, ("a lock",))})
    exc, _ = unpack(packed)
    assert exc is not None
    assert exc.args == ("a lock",)


def test_causes_arrive_in_a_row() -> None:
    """``raise from`` keeps the causes, each with its own; a context that was suppressed stays so."""
    error = raised(ValueError(0), raised(KeyError(1), raised(OSError(2, "two"))))
    exc = arrives(error)
    assert exc.__suppress_context__
    assert isinstance(exc.__cause__, KeyError)
    assert isinstance(exc.__cause__.__cause__, OSError)
    assert exc.__cause__.__cause__.__cause__ is None


def test_contexts_arrive() -> None:
    """What was being handled when it was raised is there, and shown."""
    try:
        try:
            raise KeyError(1)
        except KeyError:
            raise ValueError(0)  # noqa: B904  that is the point
    except ValueError as error:
        exc = arrives(error)
    assert isinstance(exc.__context__, KeyError)
    assert exc.__cause__ is None
    assert not exc.__suppress_context__


def test_from_none_stays_so() -> None:
    """``raise ... from None`` hides its context here as there."""
    try:
        try:
            raise KeyError(1)
        except KeyError:
            raise ValueError(0) from None
    except ValueError as error:
        exc = arrives(error)
    assert exc.__suppress_context__
    assert exc.__cause__ is None


def test_a_cause_that_cannot_travel_costs_itself() -> None:
    """The exception arrives without a cause that cannot be rebuilt; that one's text is in the traceback."""
    error = raised(ValueError("outer"), NoRebuild("host", 80))
    packed = pack(error, {})
    exc, why_not = unpack(packed)
    assert (type(exc), why_not) == (ValueError, "")
    assert "no answer from host:80" in packed.traceback


def ring_of(size: int, *, crossed: bool) -> BaseException:
    """Exceptions that are each other's causes in a ring, and each other's contexts the other way round."""
    errors = [ValueError(number) for number in range(size)]
    for number, error in enumerate(errors):
        error.__cause__ = errors[(number + 1) % size]
        if crossed:
            error.__context__ = errors[number - 1]
    return errors[0]


@pytest.mark.parametrize("crossed", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_a_ring_of_causes_ends(size: int, crossed: bool) -> None:
    """Where causes and contexts go round, each exception is packed once, and the packet stays small."""
    began = time.monotonic()
    packed = pack(ring_of(size, crossed=crossed), {})
    assert len(pickle.dumps(packed)) < 200_000
    exc, _ = unpack(packed)
    assert exc is not None
    assert exc.args == (0,)
    assert time.monotonic() - began < 5, "it was exponential: 65,536 pickles"


def test_a_long_chain_is_cut() -> None:
    """Of a hundred causes the first sixteen travel; the first of all is the one that was raised."""
    error: BaseException = ValueError(99)
    for number in reversed(range(99)):
        error = raised(ValueError(number), error)
    exc: BaseException | None = arrives(error)
    seen = []
    while exc is not None:
        seen.append(exc.args[0])
        exc = exc.__cause__
    assert seen == list(range(MAX_CHAIN))


def test_frozen_exceptions_arrive_with_their_cause() -> None:
    """One that refuses every assignment, as frozen dataclasses do, is given its chain all the same."""
    error = Frozen(7)
    BaseException.__setattr__(error, "__cause__", Frozen(8))
    exc = arrives(error)
    assert isinstance(exc, Frozen)
    assert exc.code == 7
    assert isinstance(exc.__cause__, Frozen)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError(threading.Lock()), "TypeError: cannot pickle '_thread.lock'"),
        (NoRebuild("host", 80), "TypeError: OwnReduce.__init__"),
        (RaisesInReduce(OSError("no")), "OSError: no"),
        (RaisesInReduce(SystemExit(3)), "SystemExit: 3"),
        (RaisesInReduce(KeyboardInterrupt()), "KeyboardInterrupt: "),
        (RaisesInReduce(RaisesInStr(ValueError())), "RaisesInStr: <its __str__ failed>"),
        (ExitsWhenRebuilt(), "SystemExit: 3"),
        (NoException(), "unpickling gave 'str' instead of an exception"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_cannot_arrive_says_why(error: BaseException, reason: str) -> None:
    """Not picklable, or not rebuilt: nothing is raised, on neither side, and the reason is told."""
    exc, why_not = travel(raised(error))
    assert exc is None
    assert why_not.startswith(reason)


def test_the_name_of_its_type_is_the_users() -> None:
    """Builtin types go by their bare name, others with their module."""
    assert pack(ValueError(), {}).type_name == "ValueError"
    assert pack(Frozen(1), {}).type_name == f"{__name__}.Frozen"
