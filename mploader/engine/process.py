"""Pool: the pipes, memories and lives of one loader's worker processes.

Runs in: consumer. The data path is here (`submit`, `wait`, `receive`) and is driven by the consumer alone;
births and deaths are the `Supervisor`'s. One RLock owns all of it and is never held while waiting. Must
never know: epochs, order, what the user's code is.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterable

from mploader import platform
from mploader.engine.contract import Arrival, failed_here, free_result
from mploader.engine.ledger import Ledger
from mploader.engine.life import Doom, Life, Shared
from mploader.engine.lifecycle import Event, State
from mploader.engine.mail import Mail
from mploader.engine.outbox import MIN_LIMIT_BYTES
from mploader.engine.pace import CHEAP_NS, Pace
from mploader.engine.record_pipe import RecordPipe
from mploader.engine.task_pipe import TaskPipe
from mploader.engine.worker import CONTROL_FLOOR, CONTROL_PLACES, GENERATIONS
from mploader.errors import MploaderError
from mploader.limits import address_space_left_bytes
from mploader.options import Options
from mploader.stats.block import Phase, Word
from mploader.transport import codec, records
from mploader.transport.codec import Span, SpanWriter
from mploader.transport.lease import free
from mploader.transport.payload import Payload
from mploader.transport.records import Kind, Result, Task, Verb
from mploader.transport.segment import PAGE_BYTES, Segment

SPIN_S = 20e-6  # a sleep and its wake-up cost 23 us of CPU on both sides: yielding that long first pays
SHORT_WAIT_S = 100e-6  # and only where the last wait was as short as this: else it takes the workers' cores
MAX_SEGMENT_BYTES = 1 << 40
SPARE_FACTOR = 64  # virtual room beyond a whole window of the largest results: held spans leave gaps of any size
ADDRESS_SHARE = 4  # where the address space is limited: all memories together take this part of what is left
HELD_SHARE = 4  # of a ring smaller than that, what waits, and what is held, may take this part each
NEVER = 1 << 62  # a seq that no task has
MAX_NUDGES = 5  # a worker that waits for work, seconds after work was sent, is stopped, not idle

_RUN, _LAST_COMPLETION = int(Verb.RUN), int(Kind.ERROR)  # plain: an enum's member costs more than all else in its line


class Pool:
    """Everything the consumer shares with its workers.

    Attributes:
      lock: owns all state here and in the supervisor.
      wakeup: set by whoever changes something the waiting consumer should see.
      trouble: the consumer should look at ``fatal``, ``start_error``, or whether it is closed.
      fatal: why no worker can be started any more, None if all is well.
      start_error: what a worker announced that raised before it was ready.
      lives: the current incarnation of each worker, by ``worker_id``.
      restarts: replacements, by ``worker_id``.
      pace: how much to do at once.
      window_limit_bytes: how much may wait, and how much may be held, in shared memory: ``memory_limit_bytes``, or
        less where the rings had to be small.
    """

    def __init__(self, options: Options, seed: int) -> None:
        self.lock = threading.RLock()
        self._arena_lock = threading.RLock()  # its own: pickling runs user code
        self.ledger = Ledger()
        pipe_nbytes = 2 * records.RECORD_BYTES * max(1024, options.prefetch)
        with contextlib.ExitStack() as undo:
            self._poller = platform.Poller()
            self.payload = Payload()
            undo.callback(self.payload.close)
            self.tasks = TaskPipe(self._poller, self.ledger, pipe_nbytes)
            undo.callback(self.tasks.close)
            self.records = RecordPipe(pipe_nbytes)
            undo.callback(self.records.close)
            self.wakeup = platform.Wakeup()
            undo.pop_all()
        self.trouble = False
        self.fatal: MploaderError | None = None
        self.start_error: Arrival | None = None
        self.lives: dict[int, Life] = {}
        self.mail = Mail(self.ledger, self.lives)
        self.restarts = [0] * options.num_workers
        self.floor = 0
        self.floor_raised_ns = 0
        self.consumer_waits = False
        self.options = options
        self.pid = os.getpid()
        self._by_incarnation: dict[int, Life] = {}
        self._last_wait_s = 0.0
        self._arrived: deque[Arrival] = deque()
        self.pace = Pace(options.prefetch, options.num_workers, options.chunk)
        self._born = 0
        self._nudged = (-1, 0)  # a seq, and how often in a row
        self._generation = -1
        self._segments: list[Segment] = []
        try:
            self._open(options, seed, pipe_nbytes)
        except OSError:
            self.close()
            raise

    def _open(self, options: Options, seed: int, pipe_nbytes: int) -> None:
        self._control = Segment.create("control", PAGE_BYTES)
        self._segments.append(self._control)
        self._control.commit(0, PAGE_BYTES)
        limit = options.memory_limit_bytes
        nbytes = min(MAX_SEGMENT_BYTES, max(MIN_LIMIT_BYTES, limit) * (options.prefetch + SPARE_FACTOR))
        room = address_space_left_bytes()
        if room is not None:  # mapped here are the arena and a ring a worker, there one ring and the arena
            nbytes = min(nbytes, max(MIN_LIMIT_BYTES, room // ADDRESS_SHARE // (options.num_workers + 1)))
        self.arena = SpanWriter(Segment.create("arena", nbytes), 0, limit, main_by_value=True)
        self._segments.append(self.arena.segment)
        self.window_limit_bytes = min(limit, self.arena.segment.nbytes // HELD_SHARE)
        self._shared = Shared(
            tasks_fd=self.tasks.read_fd,
            records_fd=self.records.write_fd,
            payload_fd=self.payload.fd,
            control=self._control,
            arena=self.arena.segment,
            consumer_pid=self.pid,
            segment_nbytes=nbytes,
            limit_bytes=limit,
            retries=options.retries,
            num_workers=options.num_workers,
            seed=seed,
        )
        self._poller.register(self.records.fd, platform.READABLE)
        self._poller.register(self.wakeup.fd, platform.READABLE)

    # -- the data path, driven by the consumer -----------------------------------------------------

    def publish(self, work: object) -> None:
        """Publish what the workers run; tasks submitted from now on run it.

        Raises:
          Exception: whatever cloudpickle raised.
        """
        place = self.payload.publish(work)
        with self.lock:
            self._generation += 1
            at = CONTROL_PLACES + 2 * (self._generation % GENERATIONS)
            words = self._control.words
            words[at], words[at + 1] = place
            words[CONTROL_PLACES - 1] = self._generation

    def submit(
        self,
        seqs: range,
        base: int,
        epoch: int,
        elements: Iterable[Span] | None = None,
        chunk: int = 1,
        workers: Iterable[int] | None = None,
    ) -> None:
        """Send tasks to whichever workers come first; the position of ``seq`` is ``seq - base``. Never blocks.

        Args:
          elements: where the elements of a stream lie in the arena, one a task.
          chunk: so many tasks travel as one; 1 with ``elements``.
          workers: the ``worker_id`` that each must go to.
        """
        with self.lock:
            generation = self._generation
            if elements is None:  # the index says it all
                tasks = [Task(seq, seq - base, 0, 0, 0, 0, 0, generation, _RUN, epoch, chunk) for seq in seqs[::chunk]]
                if chunk > 1:
                    last = tasks[-1]
                    tasks[-1] = last._replace(n_tasks=seqs.stop - last.seq)
            else:
                tasks = [
                    Task(seq, seq - base, *element, 0, generation, _RUN, epoch)
                    for seq, element in zip(seqs, elements, strict=True)
                ]
            if workers is not None:
                tasks = [task._replace(worker=1 + number) for task, number in zip(tasks, workers, strict=True)]
            for task in tasks:
                self.ledger.add(task)
            if workers is None:
                self.tasks.send(tasks, together=chunk * self.pace.run_ns < CHEAP_NS)  # to wake a worker costs more
            else:
                self.mail.send(tasks)

    def write_element(self, element: object) -> Span:
        """Write an element of a stream into the arena; from any thread.

        Raises:
          NoRoomError: it is too large.
          Exception: whatever cloudpickle raised.
        """
        with self._arena_lock:
            span = self.arena.write(element)
            self.payload.keep_classes()
            return span

    def free_element(self, span: Span) -> None:
        """Give an element's span back, which nobody reads."""
        with contextlib.suppress(AttributeError):  # let go already
            free(self.arena.segment, span.offset)

    def wait(self, timeout_s: float) -> None:
        """Block until something may have arrived, `wakeup` was set, or the time is over. Lock not held."""
        self.consumer_waits = True
        ready = self._poller.poll(0)
        began = time.perf_counter()
        if self._last_wait_s < SHORT_WAIT_S:
            while not ready and time.perf_counter() < began + SPIN_S:
                platform.yield_cpu()
                ready = self._poller.poll(0)
        for fd, _ in ready or self._poller.poll(timeout_s):
            if fd == self.wakeup.fd:
                self.wakeup.clear()
            elif fd == self.tasks.fd:
                with self.lock:
                    self.tasks.flush()
        self._last_wait_s = time.perf_counter() - began
        self.consumer_waits = False

    def receive(self) -> deque[Arrival]:
        """File all records that have come; the answer is the pool's own deque of first completions."""
        with self.lock:
            self.file_records()
            self.mail.send_rest()
        return self._arrived

    def file_records(self) -> None:
        """Read the record pipe empty; the first completion of a seq wins, a second only frees its span. Lock held."""
        pipe = self.records
        if pipe.is_torn:
            self._file_rest_after_interrupt()
        while pipe.read():
            for record in pipe.in_hand():
                self._file(record)
                pipe.n_filed += 1
            if not pipe.clear():
                return

    def fail(self, seq: int, error: BaseException, *, is_source: bool = False) -> None:
        """Complete a task with an error that arose here."""
        with self.lock:
            self._arrived.append(failed_here(seq, error, is_source=is_source))
            self.free_elements([self.ledger.close(seq)])

    def cancel(self, floor: int) -> None:
        """Give up every task below ``floor``: workers skip them, their results only free their spans."""
        with self.lock:
            if floor <= self.floor:
                return
            self._control.words[CONTROL_FLOOR] = floor
            self.floor = floor
            self.floor_raised_ns = time.monotonic_ns()
            self.file_records()
            self.tasks.give_up_below(floor)
            self.mail.give_up_below(floor)
            for seq in [seq for seq in self.ledger.open if seq < floor]:
                self.free_elements([self.ledger.close(seq)])

    def drop_arrived(self, floor: int) -> list[Arrival]:
        """What has arrived of tasks below ``floor``; for the consumer, who alone knows what it has parked already."""
        with self.lock:
            dropped = [arrival for arrival in self._arrived if arrival.record.seq < floor]
            self._arrived = deque(arrival for arrival in self._arrived if arrival.record.seq >= floor)
        return dropped

    def reissue(self, seqs: list[int] | None = None) -> None:
        """Issue open tasks again as duplicates (all of them by default); no attempt is charged."""
        with self.lock:
            known = [self.ledger.task(seq) for seq in (list(self.ledger.open) if seqs is None else seqs)]
            tasks = [task for task in known if task is not None]
            self.mail.send([task for task in tasks if task.worker])
            self.tasks.send([task for task in tasks if not task.worker], together=False)

    def nudge(self, seq: int) -> None:
        """Issue a task again if no worker has it in hand although one waits for work.

        A worker that was stopped between reading a task and claiming it looks like one that never read it;
        and a wake-up that went to a stopped worker is lost to the others. Those that still wait after
        `MAX_NUDGES` are ended: they have nothing in hand, so it costs a start and nothing else.
        """
        with self.lock:
            living = [life for life in self.lives.values() if not life.is_dead]
            busy = [life for life in living if life.segment.words[Word.PHASE] != Phase.WAITING]
            self.file_records()  # behind that: who waits has announced all it had
            task = self.ledger.task(seq)
            named = 0 if task is None else task.worker
            able = [life for life in living if named in (0, life.worker_id + 1)]
            waiting = [life for life in able if life not in busy]
            # what a worker has made, and will announce with the rest of its chunk, may be made by another meanwhile
            if not waiting or any(seq in life.taken() and seq >= life.claimed() for life in busy):
                self._nudged = (seq, 0)
                return
            times = self._nudged[1] + 1 if self._nudged[0] == seq else 1
            self._nudged = (seq, times)
            if times == 1 or named or not self.tasks.n_unread:
                self.reissue([seq, *(other for other in self.lost_tasks() if other != seq)])
            if times > MAX_NUDGES:
                self._nudged = (seq, 0)
                for life in waiting:
                    life.kill(Doom("stopped"))

    # -- for the supervisor, lock held -------------------------------------------------------------

    def new_life(self, worker_id: int) -> Life:
        """Make the next incarnation of a worker; it has no process yet."""
        incarnation = self._born
        self._born += 1
        life = Life(worker_id, incarnation, self.restarts[worker_id], self._shared)
        self.lives[worker_id] = life
        self._by_incarnation[incarnation] = life
        return life

    def lost_tasks(self) -> list[int]:
        """The open tasks, by seq, that died with a worker before it claimed them."""
        living = [life for life in self.lives.values() if not life.is_dead]
        taken = [life.taken() for life in living if life.segment.words[Word.PHASE] != Phase.WAITING]
        self.file_records()  # behind that: who waits has announced all it had
        return self.ledger.lost(
            self.tasks.n_unread,
            [*self.tasks.waiting, *self.mail.waiting],
            taken,
            {life.incarnation for life in living},
        )

    def keep_named(self) -> None:
        """Tasks that died with the worker they name wait for its successor, in their order."""
        lost = [self.ledger.task(seq) for seq in self.lost_tasks()]
        self.mail.keep([task for task in lost if task is not None and task.worker])

    def bury(self, life: Life) -> None:
        """Forget a dead incarnation; its segment lives on under parked and leased results."""
        self._by_incarnation.pop(life.incarnation, None)
        life.close()

    @property
    def generation(self) -> int:
        """Number of the work published last."""
        return self._generation

    # -- end ---------------------------------------------------------------------------------------

    def give_up(self) -> None:
        """Have workers skip whatever they have not begun."""
        self._control.words[CONTROL_FLOOR] = NEVER

    def close(self) -> None:
        """Close every descriptor; idempotent. Workers are gone by now, or this is a forked child."""
        with self.lock:
            for life in self.lives.values():
                life.close()
            self.records.close()
            self.tasks.close()
            self.payload.close()
            for segment in self._segments:
                segment.close_fd()
            self._poller.close()
            self.wakeup.close()

    def let_go(self) -> list[Segment]:
        """Drop every memory, after `close`, when nobody reads from one but through a lease. Returns the rings."""
        with self.lock:
            rings = [life.segment for life in self.lives.values()] if self._segments else []
            for life in self.lives.values() if rings else ():
                life.let_go()
            self._by_incarnation.clear()
            self._arrived.clear()
            self.start_error = None
            if self._segments:
                self._segments.clear()
                del self.arena, self._control, self._shared
        return rings

    # -- inside ------------------------------------------------------------------------------------

    def _file(self, record: Result) -> None:
        life = self._by_incarnation[record.incarnation]
        seq = record.seq
        if record.kind > _LAST_COMPLETION:
            self._file_rare(record, life)
            return
        if life.is_condemned:  # what it had was not completed, and is issued again once it is dead
            free_result(life.segment, record)
            self.free_elements([self.ledger.died(seq, record.incarnation)])
            return
        ledger, count = self.ledger, record.n_tasks
        self.pace.note(record.run_ns, count)
        if count > 1:
            seqs = record.seqs
            if ledger.are_open(seqs):
                self._arrived.append(Arrival(record, life.segment, life.pid))
                ledger.complete_chunk(seqs)
            else:
                self._file_parts(record, life)
            return
        if seq in ledger.open:
            self._arrived.append(Arrival(record, life.segment, life.pid))
        else:
            free(life.segment, record.offset)
        done = ledger.complete(seq, record.incarnation)
        if done is not None:
            self.free_elements([done])

    def _file_parts(self, record: Result, life: Life) -> None:
        """A chunk of which some were issued again, each by itself, and have come: take the others one by one."""
        segment = life.segment
        for seq, part in zip(record.seqs, codec.chunk_parts(segment, record, record.n_tasks), strict=True):
            single = record._replace(seq=seq, n_tasks=1)
            if seq not in self.ledger.open:
                if part.span_nbytes:
                    free(segment, part.offset)
                continue
            if part.span_nbytes:
                single = single._replace(**part._asdict())
                arrival = Arrival(single, segment, life.pid)
            else:  # it lies in the chunk's own span
                single = single._replace(offset=0, stream_nbytes=part.stream_nbytes, span_nbytes=0, n_buffers=0)
                arrival = Arrival(single, codec.copied_part(segment, part), life.pid)
            self._arrived.append(arrival)
            self.ledger.complete(seq, record.incarnation)
        free(segment, record.offset)

    def _file_rare(self, record: Result, life: Life) -> None:
        if record.kind == Kind.READY:
            if life.state is State.STARTING:  # filed a second time after an interrupt, it says nothing new
                life.note(Event.BECAME_READY)
        elif record.kind == Kind.START_ERROR:
            life.start_error = Arrival(record, life.segment, life.pid)
        else:
            self.free_elements([self.ledger.complete(record.seq, record.incarnation)])

    def _file_rest_after_interrupt(self) -> None:
        """Go on where an interrupt struck: only the record in hand then is in doubt."""
        pipe, known = self.records, {arrival.record for arrival in self._arrived}
        for number, record in enumerate(list(pipe.in_hand())[pipe.n_filed :]):
            if number == 0 and record in known:
                for seq in record.seqs:
                    self.free_elements([self.ledger.complete(seq, record.incarnation)])
            elif number > 0 or record.kind > _LAST_COMPLETION or self.ledger.are_open(record.seqs):
                self._file(record)
            else:  # it may have been freed; if not, its span is left unused
                self.reissue(list(record.seqs))
            pipe.n_filed += 1
        pipe.clear()

    def free_elements(self, tasks: Iterable[Task | None]) -> None:
        """Give the arena spans of tasks back that no worker reads any more."""
        for task in tasks:
            if task is not None:
                free(self.arena.segment, task.offset)
