"""The worker process: take a task, run the user's code, write the result into the ring, announce it.

Runs in: worker, from the first line to the last. Must never import the consumer's side (loader, stream,
pool): a worker's start is the price of every restart. Imports transport, the status block, and the user's
code, which arrives in the payload.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import os
import random
import signal
import struct
import sys
import time
import traceback
from typing import Any, NoReturn

import numpy as np

from mploader import platform, worker_info
from mploader.engine.outbox import NOTHING, Outbox
from mploader.engine.work import Work
from mploader.pipeline.fetch import short_repr
from mploader.pipeline.node import UNKNOWN, Raised, Runtime
from mploader.pipeline.rng import derive
from mploader.stats.block import BLOCK_BYTES, MAX_COSTS, NO_ELEMENT, Phase, StatusBlock, Word
from mploader.transport import failure, main_module, payload, records
from mploader.transport.codec import Span, SpanWriter, read
from mploader.transport.records import Kind, Task, Verb
from mploader.transport.reducers import count_tracked, dispatch_table, learn
from mploader.transport.segment import Segment

SPIN_NS = 100_000  # to be woken costs 23 us of CPU, here and in the consumer: yielding that long first pays
SHORT_WAIT_NS = 150_000  # and only where the last wait was as short as this: else it takes the others' cores
TICK_NS = 1_000_000_000  # how often a worker looks at its own memory
IDLE_TICKS = 2  # one gives back what the last second did not need, the next what nothing holds; then it only sleeps
FLUSH_NS = 1_000_000  # of a chunk that takes longer, what is done goes out
CONTROL_FLOOR = 0  # words of the control segment
CONTROL_PLACES = 8
GENERATIONS = 128  # published places that are kept; a worker is never that far behind

_PHASE = struct.Struct("@2q")  # PHASE and SINCE_NS, the first two words
_HAND = struct.Struct("@3q")  # ATTEMPT, INDEX and STARTED_NS
_RUN, _RUNNING, _WRITING, _WAITING = int(Verb.RUN), int(Phase.RUNNING), int(Phase.WRITING), int(Phase.WAITING)
_RESULT, _ERROR = int(Kind.RESULT), int(Kind.ERROR)  # plain: an enum's member costs more than all else in its line


class Worker:
    """One incarnation of one worker."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.worker_id: int = config["worker_id"]
        self.incarnation: int = config["incarnation"]
        self._retries: int = config["retries"]
        fds = config["fds"]
        self._tasks_fd: int = fds["tasks"]
        self._mailbox_fd: int = fds["mailbox"]
        self._payload_fd: int = fds["payload"]
        segment = Segment(fds["segment"], config["segment_nbytes"])
        self._words, self._view = segment.words, segment.view
        self._block = StatusBlock(segment.words)
        writer = SpanWriter(segment, BLOCK_BYTES, config["limit_bytes"])
        self._outbox = Outbox(writer, fds["records"], self.incarnation, self.worker_id)
        self._control = Segment(fds["control"], config["control_nbytes"], writable=False).words
        self._arena = Segment(fds["arena"], config["arena_nbytes"], writable=False)
        self._work = Work.nothing()
        self._generation = -1
        self._mail_read = 0
        self._ticked_ns = 0
        self._last_wait_ns = self._done_ns = 0
        self._idle_ticks = 0
        self._consumer = platform.Process(config["consumer_pid"])
        self._consumer_fd = self._consumer.fd
        self._poller = platform.Poller()
        self._poller.register(self._mailbox_fd, platform.READABLE)
        self._poller.register(self._tasks_fd, platform.READABLE_FOR_ONE)
        self._poller.register(self._consumer_fd, platform.READABLE)  # second line behind the lifeline
        self._is_copy = False
        os.register_at_fork(after_in_child=self._become_copy)
        self._seed: int = config["seed"]
        self._restarts: int = config["restarts"]
        self._num_workers: int = config["num_workers"]
        names = main_module.here()
        if names is not None:
            names.on_new_classes = self._learn

    # -- start -------------------------------------------------------------------------------------

    def prepare(self) -> bool:
        """Load the work and run ``worker_init_fn``. False: it failed, and the consumer was told."""
        nothing = self._work
        try:
            worker_info.set_worker_info(
                worker_info.WorkerInfo(
                    id=self.worker_id,
                    num_workers=self._num_workers,
                    seed=self._seed,
                    incarnation=self._restarts,
                    engine="process",
                )
            )
            self._load(int(self._control[CONTROL_PLACES - 1]))
        except BaseException as exc:  # noqa: BLE001  SystemExit too is a failed start
            packed = failure.pack(exc, self._outbox.writer.dispatch)
            what = "not loaded" if self._work is nothing else "init raised"
            self._tell(Kind.START_ERROR, 0, self._outbox.store_failure(what, packed, ""))
            return False
        self._tell(Kind.READY, 0, NOTHING)
        return True

    def _tell(self, kind: Kind, seq: int, span: Span) -> None:
        self._outbox.announce(kind, seq, 0, span, 0)
        self._outbox.flush()

    def _load(self, generation: int) -> None:
        at = CONTROL_PLACES + 2 * (generation % GENERATIONS)
        place = payload.Place(int(self._control[at]), int(self._control[at + 1]))
        self._work = payload.load(self._payload_fd, place)
        self._outbox.writer.dispatch = dispatch_table()
        self._outbox.writer.always_dispatch |= count_tracked() > 0
        seeds = self._attach().seeds
        if seeds is not None and not self._work.reseeds:  # else all workers draw the same numbers
            seeds.apply(derive(self._seed, self.incarnation))
        if self._work.worker_init_fn is not None:  # for each generation: what it set up may be part of the work
            self._work.worker_init_fn(self.worker_id)
            self._attach()  # it may have made generators
        self._generation = generation

    def _attach(self) -> Runtime:
        work = self._work
        for number, node in enumerate(work.program.timed()[:MAX_COSTS]):
            at = Word.COSTS + 2 * number
            node.cost = self._words[at : at + 2]
        return work.program.attach(Runtime(self._begin_element, self._retries, work.retry_on))

    def _begin_element(self, i: int | None) -> None:
        """One of several elements of the task in hand, or what is done with all of them: its time begins."""
        words = self._words
        words[Word.ELEMENT] = NO_ELEMENT if i is None else i
        words[Word.STARTED_NS] = time.monotonic_ns()

    def _learn(self, known: int) -> None:
        """Classes of the program's were loaded: their instances travel by their ids."""
        self._outbox.writer.dispatch = learn(self._outbox.writer.dispatch, known)
        self._outbox.writer.always_dispatch = True

    def _become_copy(self) -> None:
        self._is_copy = True

    # -- the loop ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until told to stop."""
        words, control = self._words, self._control
        self._done_ns = done = words[Word.SINCE_NS]
        while True:
            data = self._take()
            if not data:
                return
            task = Task._make(records.unpack_task(data))  # D: a worker takes it
            if task.verb != _RUN:
                if task.verb == Verb.STOP:
                    return
                self._idle_ticks = 0  # Verb.TIDY
                continue
            if task.seq < control[CONTROL_FLOOR]:  # of an epoch that was given up
                if task.span_nbytes:
                    self._tell(Kind.SKIPPED, task.seq, NOTHING)
                continue
            now = time.monotonic_ns()
            self._last_wait_ns = waited_ns = now - done
            words[Word.WAITING_NS] += waited_ns
            words[Word.CHUNK_END] = 0
            now = self._run_chunk(task, now) if task.n_tasks > 1 else self._run_item(task, task.seq, task.position, now)
            self._outbox.flush()
            self._done_ns = done = time.monotonic_ns()
            words[Word.WRITING_NS] += done - now
            _PHASE.pack_into(self._view, 0, _WAITING, done)
            self._idle_ticks = 0
            if done - self._ticked_ns > TICK_NS:
                self._tick(done)

    def _take(self) -> bytes:
        """The next task record; b"" when the consumer is gone."""
        words = self._words
        spin_until = self._done_ns + SPIN_NS if self._last_wait_ns < SHORT_WAIT_NS else 0
        while True:
            if words[Word.MAIL] != self._mail_read:  # its own mailbox first; the poll below sees what this misses
                with contextlib.suppress(BlockingIOError):
                    data = os.read(self._mailbox_fd, records.RECORD_BYTES)
                    self._mail_read += 1
                    return data
            try:
                return os.read(self._tasks_fd, records.RECORD_BYTES)
            except BlockingIOError:
                pass
            if spin_until and time.monotonic_ns() < spin_until:
                platform.yield_cpu()
                continue
            ready = self._poller.poll(-1 if self._idle_ticks >= IDLE_TICKS else 1.0)
            if not ready:
                self._idle_ticks += 1
                self._tick(time.monotonic_ns())
            for fd, _ in ready:
                if fd == self._consumer_fd:
                    return b""
                if fd == self._mailbox_fd:
                    with contextlib.suppress(BlockingIOError):
                        data = os.read(self._mailbox_fd, records.RECORD_BYTES)
                        self._mail_read += 1
                        return data

    def _run_chunk(self, task: Task, now: int) -> int:
        """Run the tasks of a chunk, one after the other; returns when the last was done."""
        words, seq, flush_at = self._words, task.seq, now + FLUSH_NS
        words[Word.CHUNK_END] = seq + task.n_tasks
        words[Word.CHUNK_SEQ] = seq
        for position in range(task.position, task.position + task.n_tasks):
            now = self._run_item(task, seq, position, now)
            seq += 1
            if seq < self._control[CONTROL_FLOOR]:  # given up meanwhile
                break
            if now > flush_at:  # they take longer than was thought: nobody waits for the last
                self._outbox.flush()
                flush_at = now + FLUSH_NS
        return now

    def _run_item(self, task: Task, seq: int, position: int, now: int) -> int:
        """Run one task, which begins ``now``, and write its result; returns when it was done."""
        words, view, outbox = self._words, self._view, self._outbox
        writer, attempt, began = outbox.writer, task.attempt, now
        trouble: BaseException | None
        value: Any
        span: Any  # where the result lies, or of a chunk's small one the pickle
        while True:
            words[Word.ELEMENT] = NO_ELEMENT
            _HAND.pack_into(view, 8 * Word.ATTEMPT, attempt, position, now)
            _PHASE.pack_into(view, 0, _RUNNING, now)
            words[Word.CLAIM] = seq  # D: claimed: whoever reads this word sees the ones above
            value, trouble = None, None
            try:
                if task.generation != self._generation:
                    self._load(task.generation)
                program = self._work.program
                value = program.run(self._read(task) if task.span_nbytes else position, position, task.epoch)
            except BaseException as exc:  # noqa: BLE001  nothing the user raises may end a worker or an epoch
                trouble = exc
            if self._is_copy:
                _leave(trouble)
            then = time.monotonic_ns()
            words[Word.RUNNING_NS] += then - now
            _PHASE.pack_into(view, 0, _WRITING, then)
            if trouble is not None and isinstance(trouble, self._work.retry_on):
                if self._work.program.runtime.is_spent:
                    attempt = self._retries
                elif attempt < self._retries:
                    attempt += 1
                    now = then
                    continue
            break
        program, is_part = self._work.program, task.n_tasks > 1 and not attempt
        if trouble is None:
            try:
                if program.many:
                    value = [self._packed(part) if type(part) is Raised else part for part in value]
                span = writer.write_part(value) if is_part else writer.write(value)  # E: straight into the ring
            except BaseException as exc:  # noqa: BLE001  what pickling raised is the item's error
                trouble = exc
                span = outbox.store_refused(exc, value, _shown(program.runtime.element))
            del value
        else:
            packed = failure.pack(trouble, writer.dispatch)
            span = outbox.store_failure("raised", packed, _shown(program.runtime.element), where=self._where())
        program.runtime.element = UNKNOWN
        done = time.monotonic_ns()
        words[Word.ITEMS] += 1
        if trouble is None and is_part:
            words[Word.NBYTES] += outbox.add(seq, span, done - began)
        else:
            if trouble is not None:
                words[Word.ERRORS] += 1
            words[Word.NBYTES] += span[2]
            outbox.announce(_RESULT if trouble is None else _ERROR, seq, attempt, span, done - began)
        words[Word.WRITING_NS] += done - then
        return done

    def _read(self, task: Task) -> Any:
        """The element of a stream that travels with a task."""
        known = count_tracked()
        element = read(self._arena, Span(task.offset, task.stream_nbytes, task.span_nbytes, task.n_buffers), None)
        if count_tracked() != known:
            self._learn(known)
        return element

    def _packed(self, part: Raised) -> Raised:
        return Raised(failure.pack(part.error, self._outbox.writer.dispatch), part.where)

    def _where(self) -> str:
        program = self._work.program
        return "" if program.is_simple else program.runtime.where()

    def _tick(self, now: int) -> None:
        self._ticked_ns = now
        self._outbox.writer.shrink()
        self._words[Word.RSS_BYTES] = platform.resident_bytes()


def main(config: dict[str, Any]) -> NoReturn:
    """Run a worker to its end, and leave without running anything the host program registered."""
    status = 1
    try:
        _settle(config)
        worker = Worker(config)
        if worker.prepare():
            worker._words[Word.STARTING_NS] += time.monotonic_ns() - worker._words[Word.SINCE_NS]
            worker._words[Word.SINCE_NS] = time.monotonic_ns()
            worker._words[Word.PHASE] = Phase.WAITING
            with contextlib.suppress(BrokenPipeError):  # the consumer is gone
                worker.run()
        status = 0
        atexit._run_exitfuncs()
    except BaseException:  # noqa: BLE001  ours: what user code raises never gets here
        os.write(config["fds"]["dump"], traceback.format_exc().encode())  # it becomes part of the error
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(status)


def _leave(trouble: BaseException | None) -> NoReturn:
    """End a process that the user's function forked and that comes back from it: it is a program, and no worker."""
    status = 0
    if isinstance(trouble, SystemExit):
        status = trouble.code if isinstance(trouble.code, int) else int(trouble.code is not None)
    elif trouble is not None:
        status = 1
        traceback.print_exception(trouble)
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with contextlib.suppress(Exception):
        sys.stderr.flush()
    os._exit(status & 0xFF)


def _settle(config: dict[str, Any]) -> None:
    """Make this process a worker: signals, lifeline, where it is, what it prints, its randomness."""
    platform.die_with_writer(config["fds"]["lifeline"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the consumer's; the rest is as the launcher set it
    dump_fd = config["fds"]["dump"]
    faulthandler.enable(file=dump_fd)
    faulthandler.register(platform.DUMP_SIGNAL, file=dump_fd, all_threads=True, chain=False)
    platform.offer_to_memory_killer()  # the consumer should outlive its workers
    sys.path[:] = config["sys_path"]
    sys.setrecursionlimit(config["recursion_limit"])
    with contextlib.suppress(OSError):
        os.chdir(config["cwd"])
    main_module.begin(None if config["fresh_main"] else sys.modules["__main__"])
    with contextlib.suppress(AttributeError, ValueError):
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.breakpointhook = _no_breakpoint
    atexit._clear()  # what the host program registered before a fork is not ours to run
    # derived: a seed may be negative, which SeedSequence does not take
    own = np.random.SeedSequence(derive(config["seed"], config["incarnation"])).generate_state(4)
    random.seed(own.tobytes())
    np.random.seed(own)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(int(own[0]))
        if config["threads"] is not None:
            torch.set_num_threads(config["threads"])
    worker_info.close_all()


def _shown(element: object) -> str:
    if element is UNKNOWN:
        return ""
    try:
        return short_repr(element)
    except KeyboardInterrupt:  # raised by its __repr__: the real one is never sent to workers
        return f"<{type(element).__name__}: repr failed>"


def _no_breakpoint(*args: object, **kwargs: object) -> None:
    raise RuntimeError(
        "breakpoint() in a worker process has no terminal to talk to; "
        "run the same loader with num_workers=0, and it stops here"
    )
