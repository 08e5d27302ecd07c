"""Blame: turns what went wrong into the error a user reads: what happened, the numbers, what to change."""

from __future__ import annotations

import errno
import resource
import signal
import time
from collections.abc import Sequence

from mploader.engine.contract import Arrival
from mploader.engine.life import Life
from mploader.engine.work import Work
from mploader.errors import (
    MploaderError,
    NotPicklableError,
    RemoteError,
    ResultTooLargeError,
    TaskInfo,
    TaskTimeoutError,
    WorkerDiedError,
    WorkerStartError,
)
from mploader.limits import address_space_limit_bytes
from mploader.options import Options
from mploader.pipeline.node import Raised
from mploader.stats.block import NO_ELEMENT, Phase, Word
from mploader.transport import codec, failure
from mploader.transport.diagnose import find_unbuildable, find_unpicklable
from mploader.transport.records import Task
from mploader.transport.remedy import Role

_CAUSES = {
    "SIGKILL": "killed from outside, most often by the kernel because memory ran out",
    "SIGSEGV": "a segmentation fault in native code that the function called",
    "SIGBUS": "a bus error: a mapped file was cut short, or memory ran out",
    "SIGABRT": "native code aborted, often a failed assertion or a corrupted heap",
    "SIGFPE": "an arithmetic fault in native code",
    "SIGILL": "an instruction this processor does not have: a library built for another one",
    "SIGTERM": "terminated from outside",
}


def annotate(exc: BaseException, info: TaskInfo, remote_traceback: str = "") -> BaseException:
    """Add the notes and the attribute ``mploader_task`` to the user's exception."""
    # not setattr: an exception that is a frozen dataclass refuses it
    BaseException.__setattr__(exc, "mploader_task", info)
    notes = [*getattr(exc, "__notes__", ()), str(info)]
    if remote_traceback:
        notes.append(f"Traceback in the worker:\n{remote_traceback}")
    BaseException.__setattr__(exc, "__notes__", notes)
    return exc


def raised(exc: BaseException, info: TaskInfo, remote_traceback: str = "", *, what: str = "fn") -> BaseException:
    """The error to raise for what user code raised: itself, unless it would end a loop or the program."""
    if isinstance(exc, Exception) and not isinstance(exc, StopIteration):
        return annotate(exc, info, remote_traceback)
    error = RemoteError(
        f"{what} raised {type(exc).__name__} for index {info.index}, which would have ended the loop instead of "
        f"the item; raise another exception, or return a value that says so ({info})",
        info,
    )
    error.__cause__ = exc
    if remote_traceback:
        error.add_note(f"Traceback in the worker:\n{remote_traceback}")
    return error


def by_on_error(exc: Exception, failure: BaseException) -> BaseException:
    """The error to raise for what ``on_error`` raised: itself, unless it would end the loop."""
    if not isinstance(exc, StopIteration):
        return exc
    info = getattr(failure, "mploader_task", None) or TaskInfo(index=getattr(failure, "index", -1))
    return raised(exc, info, what="on_error")


def failed(arrival: Arrival, index: int, epoch: int, options: Options) -> BaseException:
    """The error for a failure that a worker announced. Runs in: consumer; unpickles the user's exception."""
    assert arrival.segment is not None
    what, packed, told = codec.read(arrival.segment, arrival.record, None)
    record = arrival.record
    info = TaskInfo(
        index=index,
        element=told["element"] or f"source[{index}]",
        seq=record.seq,
        epoch=epoch,
        worker_id=record.worker_id,
        pid=told["pid"],
        attempt=record.attempt,
    )
    if what == "too large":
        return too_large(told["needed_bytes"], options.memory_limit_bytes, info, arrival.segment.nbytes)
    if what == "not picklable":
        return NotPicklableError(f"{told['sentence']} ({info})", info, path=told["path"], type_name=told["type_name"])
    exc, why_not = failure.unpack(packed)
    if exc is not None:
        error = raised(exc, info, packed.traceback)
        if told.get("where"):
            BaseException.add_note(error, told["where"])
        if options.hide_gpus and "CUDA" in packed.text:
            BaseException.add_note(error, "Workers see no GPU: pass hide_gpus=False to change that")
        if packed.type_name == "bdb.BdbQuit":  # it says nothing itself
            BaseException.add_note(error, "A debugger has no terminal in a worker: with num_workers=0 it stops there")
        return error
    error = RemoteError(
        f"fn raised {packed.type_name} for index {index}: {packed.text}\n"
        f"(that exception itself could not be rebuilt in this process: {why_not}; give its class a __reduce__ that "
        f"returns a function and arguments to make it from, such as (str, args); {info})",
        info,
    )
    if packed.cause is not None:
        error.__cause__ = failure.unpack(packed.cause)[0]
    error.add_note(f"Traceback in the worker:\n{packed.traceback}")
    return error


def failed_output(part: Raised, info: TaskInfo) -> BaseException:
    """The error for one output, among several of a task, whose function raised."""
    packed = part.error
    if isinstance(packed, BaseException):
        error = raised(packed, info)
    else:
        exc, why_not = failure.unpack(packed)
        if exc is None:
            text = f"{packed.type_name}: {packed.text} (that exception could not be rebuilt here: {why_not}; {info})"
            exc = RemoteError(text, info)
        error = raised(exc, info, packed.traceback)
    if part.where:
        BaseException.add_note(error, part.where)
    return error


def not_rebuilt(exc: BaseException, info: TaskInfo) -> RemoteError:
    """The error for a result that raised while it was unpickled."""
    error = RemoteError(
        f"the result for index {info.index} could not be rebuilt in this process: {type(exc).__name__}: {exc} "
        f"({info}); check the class's __setstate__, __reduce__ or __init__",
        info,
    )
    error.__cause__ = exc
    return error


def too_large(
    needed_bytes: int, limit_bytes: int, info: TaskInfo, room_bytes: int, *, is_element: bool = False
) -> ResultTooLargeError:
    """The error for a result, or an element, above ``memory_limit_bytes``, or one that found no room below it.

    Args:
      room_bytes: size of the memory that it was to be written to.
    """
    text = "the element at" if is_element else "the result for"
    text += f" index {info.index} needs {needed_bytes:,} bytes of shared memory, "
    less = "yield less" if is_element else "return less"
    address_space = address_space_limit_bytes()
    if needed_bytes > limit_bytes:
        text += f"the limit is {limit_bytes:,}: raise memory_limit_bytes, or {less}"
    elif address_space is not None:
        limit_bytes = room_bytes
        text += (
            f"and finds no room in the {room_bytes:,} that there are: the address space is limited to "
            f"{address_space:,} bytes (ulimit -v), and the loader takes a quarter of what was left at its start. "
            f"Raise that limit, lower prefetch or num_workers, hold fewer results, or {less}"
        )
    else:
        limit_bytes = room_bytes
        text += (
            f"and finds no room in the {room_bytes:,} that there are, or the system has no memory left: "
            f"lower prefetch or memory_limit_bytes, hold fewer results, or {less}"
        )
    return ResultTooLargeError(f"{text} ({info})", info, needed_bytes=needed_bytes, limit_bytes=limit_bytes)


def died(life: Life, exitcode: int | None, task: Task, element: int, retries: int) -> WorkerDiedError:
    """The error for a task whose worker died once too often."""
    name = signal_name(exitcode)
    info = _info(life, task)
    dump = life.dump()
    text = (
        f"worker {life.worker_id} (pid {life.pid}) died while it ran {_hand(task, element)}: {how(exitcode)}. "
        f"{_tries(task, retries)} To see it happen, run this index with num_workers=0"
    )
    rss = int(life.segment.words[Word.RSS_BYTES])
    if name == "SIGKILL" and rss:
        text += f"; its last known size was {rss / 1e6:,.0f} MB"
    if dump:
        text += f"\nfaulthandler in the worker wrote:\n{dump}"
    return WorkerDiedError(text, info, exitcode=exitcode, signal=name, dump=dump)


def timed_out(life: Life, task: Task, element: int, timeout_s: float, retries: int, stack: str) -> TaskTimeoutError:
    """The error for a task that took too long once too often."""
    text = (
        f"{_hand(task, element)} took longer than task_timeout_s={timeout_s:g}; worker {life.worker_id} "
        f"(pid {life.pid}) was killed. {_tries(task, retries)} Raise task_timeout_s if it needs the time"
    )
    text += (
        f"\nThe worker's stack then:\n{stack}"
        if stack
        else "\nThe worker gave no stack: it was stopped, or blocks signals."
    )
    return TaskTimeoutError(text, _info(life, task), timeout_s=timeout_s, stack=stack)


def start_failed(arrival: Arrival, work: Work) -> WorkerStartError:
    """The error for a worker that raised before it was ready, with ``work``, as it may be the cause."""
    assert arrival.segment is not None
    what, packed, told = codec.read(arrival.segment, arrival.record, None)
    exc, why_not = failure.unpack(packed)
    worker = f"worker {arrival.record.worker_id} (pid {told['pid']})"
    text = f"worker_init_fn failed in {worker}: {packed.type_name}: {packed.text}"
    if what == "not loaded":
        text = f"{worker} could not load source, fn and worker_init_fn: {packed.type_name}: {packed.text}"
        found = (find_unbuildable(part, name, role=_role(name)) for name, part in work.parts())
        culprit = next(filter(None, found), None)
        if culprit is not None:
            text += f". {culprit.sentence}"
    error = WorkerStartError(text, worker_id=arrival.record.worker_id, pid=told["pid"])
    error.__cause__ = exc
    if exc is None:
        error.add_note(f"The original exception could not be rebuilt here: {why_not}")
    error.add_note(f"Traceback in the worker:\n{packed.traceback}")
    return error


def start_died(life: Life, exitcode: int | None, deaths: int, ready: bool) -> WorkerStartError:
    """The error for a worker that dies again and again."""
    when = "right after it was ready, without one item" if ready else "before it was ready"
    text = (
        f"worker {life.worker_id} (pid {life.pid}) died {deaths} times in a row {when}; "
        f"the last time: {how(exitcode)}. Look at worker_init_fn and at what the modules of fn do when imported"
    )
    dump = life.dump()
    if dump:
        text += f"\nfaulthandler in the worker wrote:\n{dump}"
    return WorkerStartError(text, worker_id=life.worker_id, pid=life.pid, exitcode=exitcode)


def launch_failed(reason: Exception, worker_id: int) -> MploaderError:
    """The error for a process that could not be made."""
    text = f"worker {worker_id} could not be started: {reason}"
    cause = reason if isinstance(reason, OSError) else reason.__cause__
    if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        text += f"; this process may open {limit} files: raise `ulimit -n`, a loader needs 30 and 8 a worker"
    error = WorkerStartError(text, worker_id=worker_id)
    error.__cause__ = reason
    return error


def signal_name(exitcode: int | None) -> str | None:
    """``"SIGKILL"`` for -9, None if it was no signal."""
    if exitcode is None or exitcode >= 0:
        return None
    try:
        return signal.Signals(-exitcode).name
    except ValueError:
        return f"signal {-exitcode}"


def how(exitcode: int | None) -> str:
    """How a process ended, and the likely cause, in words."""
    if exitcode is None:
        return "how is not known (its launcher had died too)"
    name = signal_name(exitcode)
    if name is None:
        return f"it exited with code {exitcode}, by os._exit or a library that calls exit"
    return f"{name} ({_CAUSES.get(name, 'a signal')})"


def _info(life: Life, task: Task) -> TaskInfo:
    return TaskInfo(
        index=task.position,
        seq=task.seq,
        epoch=task.epoch,
        worker_id=life.worker_id,
        pid=life.pid,
        attempt=task.attempt,
    )


def _hand(task: Task, element: int) -> str:
    return f"index {task.position}" + ("" if element == NO_ELEMENT else f" (a batch, at its element {element})")


def _tries(task: Task, retries: int) -> str:
    times = task.attempt + 1
    return f"It was tried {times} {'time' if times == 1 else 'times'} (retries={retries})."


def not_picklable(work: Work, error: Exception) -> NotPicklableError:
    """The error for work that cannot be published: which of its parts cannot travel, and what in it."""
    for name, part in work.parts():
        try:
            codec.check_picklable(part)
        except Exception as reason:  # noqa: BLE001  any error here is the answer
            culprit = find_unpicklable(part, name, role=_role(name), error=reason)
            return NotPicklableError(culprit.sentence, path=culprit.path, type_name=culprit.type_name)
    return NotPicklableError(f"source, fn and worker_init_fn together cannot be pickled: {error}")


def _role(name: str) -> Role:
    return "source" if name == "source" else "fn"


def slow_line(lives: Sequence[Life], seq: int, index: int, waited_s: float) -> str:
    """The line to log when nothing has come for long: which index waits, where it is, and since when."""
    text = f"no item for {waited_s:.0f} s: waiting for index {index}, "
    now = time.monotonic_ns()
    for life in lives:
        hand = life.block.hand()
        if hand is not None and (hand.seq == seq or seq in life.taken()):
            if hand.seq != seq:
                text += f"which travels in one chunk with index {index + hand.seq - seq}, "
            since_s = (now - hand.started_ns) / 1e9
            text += f"which worker {life.worker_id} (pid {life.pid}) has run for {since_s:.0f} s"
            break
    else:
        text += "which no worker has begun"
        starting = [life for life in lives if life.segment.words[Word.PHASE] == Phase.STARTING]
        if starting:
            pids = ", ".join(str(life.pid) for life in starting)
            return (
                f"{text}: {len(starting)} of {len(lives)} workers are still starting or in worker_init_fn (pid {pids})"
            )
    return text + "; task_timeout_s ends an item that takes too long"
