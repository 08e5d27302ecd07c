"""Stream: an item's way from index to consumer.

A  the sampler yields the next index of this epoch; it gets a sequence number ``seq``, never used twice in the
   life of a pool; an epoch is an interval of seqs                                        (`feed.py`)
B  the window admits it: the only place that waits for room                               (`window.py`)
C  its record goes onto one pipe that all workers pull from; an element of a stream goes into the arena
   before                                                                                 (`task_pipe.py`)
D  a worker takes it, writes phase, start, then claim into its status block, and calls the user's code
                                                                                          (`worker.py`)
E  the worker pickles the result, large buffers out of band, straight into its ring       (`codec.py`)
F  a fixed-size record announces it                                                       (`outbox.py`)
G  the consumer files the record: the first completion of a seq is parked until its turn  (`process.py`)
H  the consumer unpickles it over leased views of the ring, and hands it out              (`results.py`)

The consumer drives all of this from inside ``next()``; no thread stands between, but for the one that draws a
stream's elements ahead (`feeder.py`). A head that is ready is delivered before anything is received. Ctrl-C may
strike between any two bytecodes: a value stays in `opened`, and what else was decided in `handouts`, until the iterator
returns it; a stream that an exception left in the middle of things is `_dirty` and repairs itself at the next call.

Runs in: consumer. Must never know: what a source is, how processes are made.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from mploader.engine import blame
from mploader.engine.contract import Delivery, Elements, WaitedTooLong
from mploader.engine.costs import Costs
from mploader.engine.feed import Feed
from mploader.engine.launch import Launcher, LaunchError
from mploader.engine.lookout import Lookout
from mploader.engine.opened import Opened
from mploader.engine.process import Pool
from mploader.engine.results import Results
from mploader.engine.supervisor import Supervisor
from mploader.engine.window import Window
from mploader.engine.work import Work
from mploader.errors import ClosedError, MploaderError
from mploader.options import Options
from mploader.pipeline.state import Saved
from mploader.transport.lease import Leases

LOOK_AROUND_S = 1.0  # how long a waiting consumer sleeps before it looks whether somebody has its item in hand
LET_GO_TIMEOUT_S = 1.0  # for a thread inside next() to see that the loader was closed


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
        self.wait_limit_s: float | None = None  # for one item, in `take`
        self.is_closed = self.is_forked = self.is_exiting = False
        self.skipped = self.errors = 0
        self.n_calls = self.n_ready = 0
        self.wait_ns = self.busy_ns = 0
        self.started_ns = time.monotonic_ns()
        self.first_item_ns: int | None = None
        self.leases = Leases()
        self.handouts: dict[int, Delivery] = {}
        self.opened = Opened()
        self._turn = threading.RLock()
        self._inside = False
        self._dirty = False
        self._costs = Costs()
        self._final: tuple[Saved, int] | None = None
        self._returned_ns = 0
        self._looked_ns = 0
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
        self._lookout = Lookout(self.pool)
        self.window = Window(options.prefetch, self.pool.window_limit_bytes, self.opened)
        self._feed = Feed(self.pool, self.window)
        self.results = Results(options, self.pool, self._feed, self.window, self.opened, self.leases)
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
        """How far the epoch has come; after `close`, how far it had."""
        saved, base = self._final or (self.results.progress(), self._feed.base)
        return saved.without(made.seq - base for made in list(self.handouts.values()) if not made.is_end)

    @property
    def delivered(self) -> int:
        """Items handed out, errors included."""
        return self.results.settled - self.skipped - len(self.opened)

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
            self._costs.collect(self.pool.lives.values(), self._work.program)

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
                    self.opened.stop()  # first: what is handed out from here on would not be counted
                    self._final = self.progress(), self._feed.base  # what an interrupt kept back will not be handed out
                    self.handouts.clear()
                    self._let_go()
            finally:
                self._turn.release()

    def _let_go(self) -> None:
        """Keep no source, no item, no memory; of shared memory, only what the user's results lie in is left."""
        self.opened.stop()
        if self._final is None:
            self._final = self.results.progress(), self._feed.base
        self._feed.clear()
        self.results.start(self._feed.base)
        self.window.clear()
        self._work = Work.nothing()
        if not self.supervisor.is_alive:
            self.leases.close(self.pool.let_go())

    def drop(self) -> None:
        """In a forked child: everything here is the parent's."""
        self.is_closed = self.is_forked = self.pool.trouble = True
        self.opened.begin()
        self.handouts.clear()
        self._inside = False
        self.pool.lock = threading.RLock()
        self._turn = threading.RLock()
        self.leases.forget()
        self.supervisor.drop()
        self.pool.close()

    def _drop_epoch(self) -> None:
        self._feed.clear()
        base = self._feed.base
        self.pool.cancel(base)
        dropped = [*self.pool.drop_arrived(base), *self.results.start(base)]
        for arrival in {id(arrival): arrival for arrival in dropped}.values():  # an interrupt may have left one in both
            arrival.free()
        self.window.clear()
        self.handouts.clear()
        self.supervisor.wake()

    def admit(self, run: int) -> None:
        """Fill the window from a source that is drawn only here, and as an epoch begins (`Elements.is_quick`)."""
        with self._turn:
            if run == self.run and not self.pool.trouble and not self._dirty:
                self._dirty = True
                self._feed.begin_ahead()
                self._dirty = False

    # -- one item ----------------------------------------------------------------------------------

    def take(self, run: int, thread: int) -> Delivery:
        """The next delivery. It stays in ``handouts[thread]`` until the iterator has returned it.

        Raises:
          ClosedError: closed, or a newer epoch was begun.
          WorkerStartError: workers cannot start.
          WaitedTooLong: nothing came within ``wait_limit_s``.
        """
        with self._turn:
            while True:
                delivery = self.fill(run, thread)
                if delivery is not None:
                    return delivery
                if self.opened:
                    self._dirty = True
                    delivery = self._hand_out(run, thread)
                    self._dirty = False
                    assert delivery is not None
                    return delivery

    def fill(self, run: int, thread: int) -> Delivery | None:
        """See to it that there is something to hand out: in ``opened.ready``, or else a delivery, as `take` gives it.

        Raises:
          ClosedError, WorkerStartError: as `take`.
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
                    delivery = self._fill(run, thread)
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

    def _fill(self, run: int, thread: int) -> Delivery | None:
        if self._returned_ns:
            self.busy_ns += time.monotonic_ns() - self._returned_ns
        waited_from = 0
        feed, opened, pool = self._feed, self.opened, self.pool
        if len(opened.seqs) > 1 and run == self.run and not (pool.trouble or feed.draws_here):
            feed.admit_lazily()  # others were handed out since
        while True:
            if run != self.run or pool.trouble:
                self._raise_trouble(run)
            if opened.values or opened.rest:
                if opened.values:
                    delivery = None
                else:
                    delivery = self._hand_out(run, thread)
                    if delivery is None:
                        continue
                feed.admit_lazily()
                self._returned_ns = time.monotonic_ns()
                if self.first_item_ns is None:
                    self.first_item_ns = self._returned_ns - self.started_ns
                return delivery
            if self.leases.dead:
                self.leases.reap()
            if self.results.open(self.epoch):
                self.n_calls += 1
                if not waited_from:
                    self.n_ready += 1
                continue
            look = feed.admit()
            if (feed.draws_here and self.results.receive()) or look:
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
            self.results.receive()

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

    def _hand_out(self, run: int, thread: int) -> Delivery | None:
        """Hand out the first of `opened`; None if it was skipped."""
        opened = self.opened
        seq = opened.left[0]
        value, error, is_source = opened.first()
        made = Delivery(run, seq, value, error, False, seq - self._feed.base, is_source)
        delivery = made if error is None else self._judge(made, error)
        if delivery is not None:
            self.handouts[thread] = delivery  # from here on it is handed out, whatever interrupts
        else:
            self.skipped += 1
        opened.drop_first()
        return delivery

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
        left_s = LOOK_AROUND_S
        if self.wait_limit_s is not None:
            left_s = min(left_s, self.wait_limit_s - (before - waited_from) / 1e9)
            if left_s <= 0:
                raise WaitedTooLong(f"nothing came within {self.wait_limit_s} s")
        self.pool.wait(left_s)
        now = time.monotonic_ns()
        self.wait_ns += now - before
        if now - self._looked_ns < LOOK_AROUND_S * 1e9 or now - waited_from < LOOK_AROUND_S * 1e9:
            return
        self._looked_ns = now
        if self._lookout.look(self.results.head, self._feed.base, now, waited_from):
            self.supervisor.wake()

    # -- after an interrupt ------------------------------------------------------------------------

    def _repair(self) -> None:
        """Make whole what an asynchronous exception left half done: nothing is lost, some things run twice."""
        pool = self.pool
        pool.wait(0)
        with pool.lock:
            pool.file_records()
            issued = max(pool.ledger.open, default=-1)
            arrived = max((arrival.record.seqs[-1] for arrival in pool.receive()), default=-1)
        self._feed.repair(max(issued, arrived))
        self.results.repair(list(self.handouts.values()))
        self.results.receive()
        self.results.restore_window(len(pool.ledger.open))
        pool.reissue()
        self._dirty = False
