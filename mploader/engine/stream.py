"""Stream: an item's way from index to consumer.

A  the sampler yields the next index of this epoch; it gets a sequence number ``seq``, never used twice in the
   life of a pool; an epoch is an interval of seqs                                        (`feed.py`)
B  the window admits it: the only place that waits for room                               (`window.py`)
C  its record goes onto one pipe that all workers pull from; an element of a stream goes into the arena
   before                                                                                 (`task_pipe.py`)
D  a worker takes it, writes phase, start, then claim into its status block, and calls the user's code
                                                                                          (`worker.py`)
E  the worker pickles the result, large buffers out of band, straight into its ring       (`codec.py`)
F  a fixed-size record announces it                                                       (`worker.py`)
G  the consumer files the record: the first completion of a seq is parked until its turn  (`process.py`)
H  the consumer unpickles it over leased views of the ring, and hands it out              (`_open`)

The consumer drives all of this from inside ``next()``; no thread stands between, but for the one that draws a
stream's elements ahead (`feeder.py`). A head that is ready is delivered before anything is received. Ctrl-C may
strike between any two bytecodes: what was decided stays in `_handouts` until the iterator returns it, and a stream
that an exception left in the middle of things is `_dirty` and repairs itself at the next call.

Runs in: consumer. Must never know: what a source is, how processes are made.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mploader.engine import blame
from mploader.engine.contract import Arrival, Delivery, Elements
from mploader.engine.feed import Feed
from mploader.engine.launch import Launcher, LaunchError
from mploader.engine.process import Pool
from mploader.engine.reorder import ReorderBuffer
from mploader.engine.supervisor import Supervisor
from mploader.engine.window import Window
from mploader.engine.work import Work
from mploader.errors import ClosedError, MploaderError, TaskInfo
from mploader.options import Options
from mploader.pipeline.state import Saved
from mploader.stats.block import MAX_COSTS
from mploader.transport import codec
from mploader.transport.lease import Leases
from mploader.transport.records import Kind

LOOK_AROUND_S = 1.0  # how long a waiting consumer sleeps before it looks whether somebody has its item in hand
LET_GO_TIMEOUT_S = 1.0  # for a thread inside next() to see that the loader was closed
SLOW_LOG_S = 60.0  # vLLM's "no block in 60 s" is what users quote in every report

_RESULT = int(Kind.RESULT)

_logger = logging.getLogger("mploader")


class Stream:
    """One loader's items, epoch after epoch, over one pool of workers."""

    def __init__(self, options: Options, work: Work, seed: int) -> None:
        """Start the workers.

        Raises:
          NotPicklableError: source, fn or worker_init_fn cannot travel.
          WorkerStartError: no process could be made.
        """
        self.options = options
        self.epoch = self.run = -1
        self.is_closed = self.is_forked = self.is_exiting = False
        self.settled = self.skipped = self.errors = 0
        self._floor = 0  # without an order: all below is settled,
        self._ahead: set[int] = set()  # and these
        self.ready_calls = self.calls = 0
        self.wait_ns = self.busy_ns = 0
        self.started_ns = time.monotonic_ns()
        self.first_item_ns: int | None = None
        self.leases = Leases()
        self.reorder: ReorderBuffer[Arrival] = ReorderBuffer(in_order=options.in_order)
        self.handouts: dict[int, Delivery] = {}
        self._turn = threading.RLock()
        self._inside = False
        self._dirty = False
        self._costs_read: dict[int, list[tuple[int, int]]] = {}  # by incarnation
        self._struck = -1
        self._returned_ns = 0
        self._looked_ns = self._said_slow = 0
        launcher = Launcher(
            options.start_method,
            hide_gpus=options.hide_gpus,
            threads_per_worker=options.threads_per_worker,
            fixes_hashes=work.reseeds,
        )
        try:
            # without what the user gave: the supervisor's thread would keep it, and through it the loader, alive
            self.pool = Pool(replace(options, on_error="raise", worker_init_fn=None), seed)
            try:
                self.supervisor = Supervisor(self.pool, launcher, self.leases)
            except OSError:
                self.pool.close()
                raise
        except OSError as error:
            raise blame.launch_failed(error, 0) from error
        self.window = Window(options.prefetch, self.pool.window_limit_bytes)
        self._feed = Feed(self.pool, self.window)
        try:
            self.publish(work)
            self.supervisor.start()
        except (LaunchError, OSError) as error:
            self.supervisor.close()
            raise blame.launch_failed(error, 0) from error
        except BaseException:
            self.supervisor.close()
            raise

    def check(self, run: int) -> None:
        """Refuse to go on.

        Raises:
          ClosedError: closed, or a newer epoch was begun.
        """
        if run != self.run or self.pool.trouble:
            self._raise_trouble(run)

    def progress(self) -> Saved:
        """How far the epoch has come."""
        base = self._feed.base
        if self.options.in_order:
            task = self.reorder.head - base
            saved = Saved(task, frozenset(), None, task)
        else:
            done = frozenset(seq - base for seq in self._ahead if seq >= self._floor)
            saved = Saved(self._floor - base, done, None, self._floor - base + len(done))
        return saved.without(made.seq - base for made in list(self.handouts.values()) if not made.is_end)

    @property
    def delivered(self) -> int:
        """Items handed out, errors included."""
        return self.settled - self.skipped

    def publish(self, work: Work) -> None:
        """Publish what the workers run from the next task on.

        Raises:
          NotPicklableError: with the path to the part that cannot travel.
        """
        try:
            self.pool.publish(work)
        except Exception as error:
            raise blame.not_picklable(work, error) from error
        self._work = work

    def collect_costs(self) -> None:
        """Add what functions have cost in the workers since the last call to what the user's pipeline shows."""
        with self.pool.lock:
            nodes = self._work.program.timed()[:MAX_COSTS]
            for life in list(self.pool.lives.values()):
                read = self._costs_read.setdefault(life.incarnation, [(0, 0)] * len(nodes))
                for number, (node, before) in enumerate(zip(nodes, list(read), strict=False)):
                    now = read[number] = life.block.cost(number)
                    assert node.cost is not None
                    node.cost[0] += now[0] - before[0]
                    node.cost[1] += now[1] - before[1]

    # -- epochs ------------------------------------------------------------------------------------

    def begin(self, epoch: int, elements: Callable[[], Elements]) -> int:
        """Start an epoch, after giving up what is left of the last one.

        Whoever waits in `take` for an older epoch, in another thread, is woken and gets ClosedError.

        Returns:
          A number for `take`, never used twice: an epoch may be run more than once.

        Raises:
          ClosedError: it was closed.
          WorkerStartError: workers cannot start.
        """
        self.epoch = epoch
        self.run = run = self.run + 1
        self.pool.wakeup.set()
        with self._turn:
            self.check(run)
            if self._dirty:
                self._repair()
            self.supervisor.tidy_no_more()
            self._drop_epoch()
            self._feed.begin(epoch, run, elements())
            self._dirty = True
            try:
                self._feed.begin_ahead()
            except Exception:
                self.check(run)  # closed meanwhile, by another thread
                raise
            self._dirty = False
        return run

    def abandon(self, run: int) -> None:
        """Give an epoch up, soon: its iterator is garbage. Takes no lock."""
        floor = self._feed.next_seq  # read before the run: if that is still this one, so was the floor
        self._feed.stop(run)
        if self.run == run and not self.is_closed:
            self.supervisor.switch.abandon_epoch(floor)

    def close(self) -> None:
        """End workers and memory; idempotent, bounded."""
        self.is_closed = self.pool.trouble = True
        self.pool.wakeup.set()
        self._feed.stop(self.run)
        self.supervisor.close()
        self.collect_costs()
        if self._turn.acquire(timeout=LET_GO_TIMEOUT_S):  # not while another thread is inside the source
            try:
                if not self._inside:
                    self.handouts.clear()
                    self._let_go()
            finally:
                self._turn.release()

    def _let_go(self) -> None:
        """Keep no source, no item, no memory; of shared memory, only what the user's results lie in is left."""
        self._feed.clear()
        self.reorder.start(self._feed.base)
        self.window.clear()
        self._work = Work.nothing()
        if not self.supervisor.is_alive:
            self.leases.close(self.pool.let_go())

    def drop(self) -> None:
        """In a forked child: everything here is the parent's."""
        self.is_closed = self.is_forked = self.pool.trouble = True
        self.pool.lock = threading.RLock()
        self._turn = threading.RLock()
        self.leases.forget()
        self.supervisor.drop()
        self.pool.close()

    def _drop_epoch(self) -> None:
        self._feed.clear()
        base = self._feed.base
        for arrival in [*self.pool.cancel(base), *self.reorder.start(base)]:
            arrival.free()
        self.window.clear()
        self.handouts.clear()
        self._ahead.clear()
        self._floor = base
        self.supervisor.wake()

    # -- one item ----------------------------------------------------------------------------------

    def take(self, run: int, thread: int) -> Delivery:
        """The next delivery. It stays in ``handouts[thread]`` until the iterator has returned it.

        Raises:
          ClosedError: closed, or a newer epoch was begun.
          WorkerStartError: workers cannot start.
        """
        if self._feed.is_stream and self._feed.is_inside_source():
            raise RuntimeError("next() was called from inside the source of the same loader")
        with self._turn:
            if self._inside:
                raise RuntimeError("next() was called from inside next() of the same loader (in on_error or a source)")
            try:
                self._inside = True
                if self._dirty:
                    self._repair()
                self._dirty = True
                delivery = self.handouts.get(thread)
                if delivery is None or delivery.run != run:
                    delivery = self._next(run, thread)
                self._dirty = False
            except MploaderError:
                self._dirty = False
                raise
            except Exception:
                if self.is_closed:  # by another thread, while this one drew from its source
                    raise ClosedError("the loader was closed") from None
                raise
            finally:
                self._inside = False
                if self.is_closed and not self.is_forked:  # meanwhile, from inside or by another thread
                    self._let_go()
        return delivery

    def _next(self, run: int, thread: int) -> Delivery:
        self.calls += 1
        if self._returned_ns:
            self.busy_ns += time.monotonic_ns() - self._returned_ns
        waited_from = 0
        feed = self._feed
        while True:
            if run != self.run or self.pool.trouble:
                self._raise_trouble(run)
            if self.leases.dead:
                self.leases.reap()
            found = self.reorder.peek()
            if found is not None:
                delivery = self._deliver(run, thread, *found)
                if delivery is not None:
                    if not waited_from:
                        self.ready_calls += 1
                    feed.admit_lazily()
                    self._returned_ns = time.monotonic_ns()
                    if self.first_item_ns is None:
                        self.first_item_ns = self._returned_ns - self.started_ns
                    return delivery
                continue
            look = feed.admit()
            if (feed.draws_here and self._receive()) or look:
                continue
            if feed.is_exhausted and not self.window.outstanding:
                delivery = self.handouts[thread] = Delivery(run, is_end=True)
                self.supervisor.tidy_from_now()
                return delivery
            if not feed.may_sleep():
                continue
            if not waited_from:
                waited_from = time.monotonic_ns()
            self._wait(waited_from)
            self._receive()

    def _receive(self) -> bool:
        """Park what has arrived; True if there was anything."""
        arrived = self.pool.receive()
        if not arrived:
            return False
        while arrived:
            arrival = arrived[0]
            record = arrival.record
            if self.reorder.park(record.seq, arrival):
                self.window.park(record.span_nbytes)
            arrived.popleft()
        return True

    def _deliver(self, run: int, thread: int, seq: int, arrival: Arrival) -> Delivery | None:
        """Hand out the head; None if it was skipped."""
        index = seq - self._feed.base
        value, error, leased = self._open(seq, index, arrival)
        if index in self._feed.done:
            self._settle(seq, arrival, leased)
            return None
        made = Delivery(run, seq, value, error, False, index, arrival.is_source)
        delivery = made if error is None else self._judge(made, error)
        if delivery is not None:
            self.handouts[thread] = delivery  # from here on it is handed out, whatever interrupts
        else:
            self.skipped += 1
        self._settle(seq, arrival, leased)
        return delivery

    def _judge(self, failed: Delivery, error: BaseException) -> Delivery | None:
        """What ``on_error`` makes of a failed item; None if it is skipped."""
        self.errors += 1
        on_error = self.options.on_error
        if on_error == "raise" or failed.is_source:
            return failed
        if not callable(on_error):
            return None
        try:
            return Delivery(failed.run, failed.seq, on_error(error))
        except Exception as raised:  # noqa: BLE001  it takes the item's place
            return Delivery(failed.run, failed.seq, None, blame.by_on_error(raised, error))

    def _open(self, seq: int, index: int, arrival: Arrival) -> tuple[Any, BaseException | None, bool]:
        """Rebuild what arrived. Returns value, error, and whether a lease frees the span."""
        if arrival.error is not None:
            told = getattr(arrival.error, "mploader_task", None)
            if isinstance(told, TaskInfo) and told.element is None:
                shown = replace(told, element=self._feed.describe(index))
                BaseException.__setattr__(arrival.error, "mploader_task", shown)
            return None, arrival.error, False
        assert arrival.segment is not None
        record, leases = arrival.record, None
        if record.n_buffers and self.leases.nbytes + record.span_nbytes <= self.pool.window_limit_bytes:
            leases = self.leases
        try:
            if record.kind != _RESULT:
                return None, blame.failed(arrival, index, self.epoch, self.options), False
            # H: rebuilt over leased views of the ring
            return codec.read(arrival.segment, record, leases), None, leases is not None
        except BaseException as exc:  # a result that cannot be rebuilt costs one item
            if isinstance(exc, KeyboardInterrupt) and self._struck != seq:
                self._struck = seq  # Ctrl-C: the next call rebuilds it; twice at one item, it is the item's own
                raise
            info = TaskInfo(
                index=index,
                element=self._feed.describe(index),
                seq=seq,
                epoch=self.epoch,
                worker_id=record.worker_id,
                pid=arrival.pid,
                attempt=record.attempt,
            )
            return None, blame.not_rebuilt(exc, info), leases is not None

    def _settle(self, seq: int, arrival: Arrival, leased: bool) -> None:
        if self.reorder.advance(seq):
            self.window.deliver(arrival.record.span_nbytes)
            self.settled += 1
            if not self.options.in_order:
                self._count(seq)
        if leased:
            self.leases.arm()
        else:
            arrival.free()

    def _count(self, seq: int) -> None:
        """Note a delivery for `progress`; noting it twice changes nothing."""
        self._ahead.add(seq)
        while self._floor in self._ahead:
            self._floor += 1
            self._ahead.discard(self._floor - 1)

    def _raise_trouble(self, run: int) -> None:
        if self.is_forked:
            raise ClosedError("this loader belongs to the process it was forked from; make one in this process")
        if self.is_exiting and threading.current_thread() is not threading.main_thread():
            threading.Event().wait()  # a daemon thread has no more to say, as with any lock it might wait for
        if self.is_closed:
            raise ClosedError("the loader was closed")
        if run != self.run:
            raise ClosedError("superseded by a newer iter(loader); use two Loaders to iterate the same source twice")
        pool = self.pool
        if pool.start_error is not None:
            pool.fatal = blame.start_failed(pool.start_error, self._work)
        if pool.fatal is not None:
            error = copy.copy(pool.fatal)  # a traceback on ours would keep the caller's frames as long as the pool
            error.__cause__ = pool.fatal.__cause__
            raise error

    def _wait(self, waited_from: int) -> None:
        """Sleep until something arrives; look around now and then whether anybody has the item in hand."""
        before = time.monotonic_ns()
        self.pool.wait(LOOK_AROUND_S)
        now = time.monotonic_ns()
        self.wait_ns += now - before
        if now - self._looked_ns < LOOK_AROUND_S * 1e9 or now - waited_from < LOOK_AROUND_S * 1e9:
            return
        self._looked_ns = now
        waits_for = self._waits_for()
        if waits_for is not None:
            self.pool.nudge(waits_for)
            self.supervisor.wake()
            waited_s = (now - waited_from) / 1e9
            if waited_s >= SLOW_LOG_S and self._said_slow != waited_from:
                self._said_slow = waited_from
                index = waits_for - self._feed.base
                lives = list(self.pool.lives.values())
                _logger.warning("%s", blame.slow_line(lives, waits_for, index, waited_s))

    def _waits_for(self) -> int | None:
        with self.pool.lock:
            open_seqs = self.pool.ledger.open
            return self.reorder.head if self.reorder.head in open_seqs else min(open_seqs, default=None)

    # -- after an interrupt ------------------------------------------------------------------------

    def _repair(self) -> None:
        """Make whole what an asynchronous exception left half done: nothing is lost, some things run twice."""
        pool = self.pool
        pool.wait(0)
        with pool.lock:
            pool.file_records()
            issued = max(pool.ledger.open, default=-1)
        arrived = max((arrival.record.seq for arrival in pool.receive()), default=-1)
        self._feed.repair(max(issued, arrived))
        for delivery in list(self.handouts.values()):
            if delivery.seq in self.reorder:
                parked = self.reorder.get(delivery.seq)
                leased = parked.record.n_buffers > 0  # its lease frees it, or a copy leaves one span unused
                self._settle(delivery.seq, parked, leased)
            elif not delivery.is_end:
                self.reorder.advance(delivery.seq)
                self._count(delivery.seq)
        self._receive()
        parked_bytes = sum(arrival.record.span_nbytes for arrival in self.reorder.all())
        self.window.restore(len(pool.ledger.open) + len(self.reorder), len(self.reorder), parked_bytes)
        pool.reissue()
        self._dirty = False
