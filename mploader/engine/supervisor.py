"""Supervisor: starts workers, notices their deaths, ends those that take too long, replaces them.

Runs in: consumer, a thread of its own, for what must happen while the consumer is away. It sleeps until a
process is dead, a deadline is due, or it is woken; idle costs nothing. It parks raw records, never
unpickles, never calls user code.
"""

from __future__ import annotations

import signal
import threading
import time

from mploader import platform
from mploader.engine import blame
from mploader.engine.launch import Launcher, LaunchError
from mploader.engine.life import Doom, Life
from mploader.engine.lifecycle import Event, Fate, State, cannot_start, fate
from mploader.engine.process import Pool
from mploader.errors import InternalError
from mploader.stats.block import NO_ELEMENT, Hand, Word
from mploader.transport.lease import Leases
from mploader.transport.records import Task, Verb

CONFIRM_S = 0.01  # one read of a status block paired a new seq with an old start in 3 % of reads; two agree
DUMP_TIMEOUT_S = 0.5  # a worker that is stopped, not busy, writes no stack
LATE_NS = 500_000_000  # a tick this late means that the host was suspended: deadlines begin anew
STALE_GRACE_S = 2.0  # how long a new epoch waits for a worker busy with the old one
MAX_LIMIT_S = 1e9  # 31 years: a longer task_timeout_s never ends, and is no number of ns
MAX_REST_S = 86_400.0  # epoll takes no more than 24 days
MIN_TIDY_S, MAX_TIDY_S = 0.1, 60.0  # between epochs, the longer it lasts the more rarely: idle costs nothing
CLOSE_GRACE_S = 1.0  # for the item in hand; nobody will ever see its result
KILL_TIMEOUT_S = 5.0  # SIGKILL is certain but for a process stuck in the kernel
JOIN_TIMEOUT_S = CLOSE_GRACE_S + KILL_TIMEOUT_S + 6.0  # and the launcher's own end


class Switch:
    """What may be asked of a supervisor without any lock, and without keeping anything of the pool alive.

    A garbage collector's callback holds it: called anywhere, also inside our own critical sections.
    """

    def __init__(self) -> None:
        self.wakeup = platform.Wakeup()
        self.is_closing = False
        self.abandoned_floor = 0

    def abandon_epoch(self, floor: int) -> None:
        """Give up tasks below ``floor``, soon: their iterator is garbage."""
        self.abandoned_floor = max(self.abandoned_floor, floor)
        self.wakeup.set()

    def close(self) -> None:
        """End everything, soon: the loader is garbage, or was closed."""
        self.is_closing = True
        self.wakeup.set()


class Supervisor:
    """Owner of the launcher and of all births and deaths in a pool."""

    def __init__(self, pool: Pool, launcher: Launcher, leases: Leases) -> None:
        self._pool = pool
        self._launcher = launcher
        self._leases = leases
        self._tidy_since_ns = 0
        self._options = pool.options
        limit_s = self._options.task_timeout_s
        self._limit_ns = None if limit_s is None else int(min(limit_s, MAX_LIMIT_S) * 1e9)
        self._poller = platform.Poller()
        self.switch = Switch()
        self._wakeup = self.switch.wakeup
        self._poller.register(self._wakeup.fd, platform.READABLE)
        self._watched: dict[int, Life] = {}
        self._start_deaths = [0] * self._options.num_workers
        self._idle_deaths = [0] * self._options.num_workers
        self._thread = threading.Thread(target=self._run, name="mploader-supervisor", daemon=True)

    def start(self) -> None:
        """Start the launcher (here) and the workers (in the background).

        Raises:
          LaunchError: no process could be made.
        """
        self._launcher.open()
        self._thread.start()

    def wake(self) -> None:
        """Have deadlines looked at again. Takes no lock."""
        self._wakeup.set()

    def tidy_from_now(self) -> None:
        """An epoch is over: nobody calls ``next()``, which would see what the user lets go of."""
        self._tidy_since_ns = time.monotonic_ns()
        self.wake()

    def tidy_no_more(self) -> None:
        """An epoch begins."""
        self._tidy_since_ns = 0

    def close(self) -> None:
        """End everything and wait for it, at most `JOIN_TIMEOUT_S`; idempotent."""
        self.switch.close()
        self._launcher.abort_start()
        if self._thread.ident is None:
            self._end()
        elif self._thread is not threading.current_thread():
            self._thread.join(JOIN_TIMEOUT_S)

    @property
    def is_alive(self) -> bool:
        """It has started and not ended everything yet."""
        return self._thread.is_alive()

    def drop(self) -> None:
        """In a forked child: close the descriptors; processes and thread are the parent's."""
        self._launcher.drop()
        self._poller.close()
        self._wakeup.close()

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            for worker_id in range(self._options.num_workers):
                if self.switch.is_closing:
                    break
                self._launch(worker_id)
            while not self.switch.is_closing:
                self._rest()
        except Exception as error:  # noqa: BLE001  a dead supervisor must not look like a slow worker
            self._pool.fatal = InternalError(f"the supervisor failed: {type(error).__name__}: {error}")
            self._pool.fatal.__cause__ = error
            self._pool.trouble = True
            self._pool.wakeup.set()
            while not self.switch.is_closing:
                self._poller.poll()
                self._wakeup.clear()
        finally:
            self._end()

    def _rest(self) -> None:
        """Sleep until something is due, and do it."""
        timeout_s = min(
            (due_s for due_s in (self._check_hands(), self._check_leases()) if due_s is not None), default=None
        )
        planned_ns = time.monotonic_ns() + int((timeout_s or 0) * 1e9)
        ready = self._poller.poll(timeout_s)
        late_ns = time.monotonic_ns() - planned_ns
        if timeout_s is not None and late_ns > LATE_NS:  # the consumer may have woken up first, and woken this one
            self._excuse()
        for fd, _ in ready:
            if fd == self._wakeup.fd:
                self._wakeup.clear()
                self._pool.cancel(self.switch.abandoned_floor)
            elif fd in self._watched:
                self._on_death(self._watched[fd])

    def _launch(self, worker_id: int) -> Life | None:
        """Start the next incarnation of a worker; a launcher that has died is replaced once. None: it cannot be."""
        life: Life | None = None
        try:
            try:
                life = self._new_life(worker_id)
                life.start(self._launcher)
            except LaunchError:
                if self.switch.is_closing:
                    raise
                if life is not None:
                    life.close()
                self._launcher.reopen()
                life = self._new_life(worker_id)
                life.start(self._launcher)
        except (LaunchError, OSError) as error:
            with self._pool.lock:
                if life is not None:
                    life.close()
                if not self.switch.is_closing:  # that ends a start in the middle
                    # without the frames, which hold the pool's memory
                    self._pool.fatal = blame.launch_failed(error.with_traceback(None), worker_id)
                    self._pool.trouble = True
                    self._pool.wakeup.set()
            return None
        self._watched[life.death_fd] = life
        self._poller.register(life.death_fd, platform.READABLE)
        with self._pool.lock:
            self._pool.mail.send_rest()
        return life

    def _new_life(self, worker_id: int) -> Life:
        with self._pool.lock:
            return self._pool.new_life(worker_id)

    # -- death -------------------------------------------------------------------------------------

    def _on_death(self, life: Life) -> None:
        pool = self._pool
        exitcode = self._bury(life)  # not under the lock: a launcher that is slow to answer must not hold up items
        with pool.lock:
            pool.file_records()  # what it had announced counts
            ready = life.state is not State.STARTING
            life.note(Event.DIED)
            again: Task | None = None
            seq, words = life.claimed(), life.segment.words
            attempt, element = words[Word.ATTEMPT], words[Word.ELEMENT]
            pool.free_elements([pool.ledger.died(seq, life.incarnation), *pool.ledger.forget_below(pool.floor)])
            if life.is_condemned and life.doom is not None:  # it may have gone on to another task before it died
                seq, attempt, element = life.doom.seq, life.doom.attempt, life.doom.element
            task = pool.ledger.task(seq)
            if task is not None:
                if element != NO_ELEMENT:
                    tried = pool.ledger.charge_element(seq, element)
                else:
                    tried = attempt = max(task.attempt, attempt)
                if fate(attempt=tried, retries=self._options.retries) is Fate.RUN_AGAIN:
                    again = task if element != NO_ELEMENT else pool.ledger.charge(seq, attempt)
                else:
                    self._fail(life, task._replace(attempt=tried), element, exitcode)
            if self._gives_up(life, exitcode, ready):
                return
            pool.restarts[life.worker_id] += 1
            pool.keep_named()
        successor = self._launch(life.worker_id)
        if successor is None:
            return
        with pool.lock:
            pool.file_records()  # what the others completed meanwhile is not lost
            if again is not None and not again.worker and successor.mail(again):
                pool.ledger.wrote(again, successor.incarnation)
            pool.reissue(pool.lost_tasks())
            pool.wakeup.set()

    def _bury(self, life: Life) -> int | None:
        self._unwatch(life)
        assert life.pid is not None
        life.exitcode = self._launcher.reap(life.pid)
        return life.exitcode

    def _unwatch(self, life: Life) -> None:
        del self._watched[life.death_fd]
        self._poller.unregister(life.death_fd)

    def _fail(self, life: Life, task: Task, element: int, exitcode: int | None) -> None:
        doom, retries = life.doom, self._options.retries
        if doom is not None and doom.reason == "timeout" and doom.seq == task.seq:
            timeout_s = self._options.task_timeout_s or 0.0
            self._pool.fail(task.seq, blame.timed_out(life, task, element, timeout_s, retries, doom.stack))
        else:
            self._pool.fail(task.seq, blame.died(life, exitcode, task, element, retries))

    def _gives_up(self, life: Life, exitcode: int | None, ready: bool) -> bool:
        """Whether a dead worker is not replaced, and the pool told why."""
        pool, number = self._pool, life.worker_id
        fruitless = not life.segment.words[Word.ITEMS] and life.doom is None
        self._start_deaths[number] = self._start_deaths[number] + 1 if not ready else 0
        self._idle_deaths[number] = self._idle_deaths[number] + 1 if fruitless else 0
        if life.start_error is not None:
            pool.start_error = life.start_error
        elif cannot_start(self._start_deaths[number], self._idle_deaths[number]):
            deaths = max(self._start_deaths[number], self._idle_deaths[number])
            pool.fatal = blame.start_died(life, exitcode, deaths, ready)
        pool.bury(life)
        if pool.start_error is not None or pool.fatal is not None:
            pool.trouble = True
            pool.wakeup.set()
            return True
        return self.switch.is_closing

    # -- deadlines ---------------------------------------------------------------------------------

    def _check_hands(self) -> float | None:
        """End workers whose task is overdue; returns the seconds until the next one may be, None for never."""
        now = time.monotonic_ns()
        with self._pool.lock:
            lives = list(self._watched.values())
            due = [(self._due_ns(life, now), life) for life in lives]
        for due_ns, life in due:
            if due_ns is not None and due_ns <= now:
                self._end_overdue(life)
        later = [due_ns for due_ns, _ in due if due_ns is not None and due_ns > now]
        if self._limit_ns is not None:  # a task that starts right now
            later.append(now + self._limit_ns)
        return min(MAX_REST_S, max(0.0, (min(later) - time.monotonic_ns()) / 1e9)) if later else None

    def _check_leases(self) -> float | None:
        """Between epochs, free what the user has let go of; returns the seconds until the next look, None for never.

        A worker that sleeps gives memory back only when it is told that there is some.
        """
        since_ns, leases = self._tidy_since_ns, self._leases
        if not since_ns or not leases.nbytes:
            return None
        if leases.reap(between=False):
            with self._pool.lock:
                for life in self._watched.values():
                    life.mail(Task(0, 0, verb=Verb.TIDY))
        return min(MAX_TIDY_S, max(MIN_TIDY_S, (time.monotonic_ns() - since_ns) / 2e9))

    def _due_ns(self, life: Life, now: int) -> int | None:
        hand = life.block.hand()
        if hand is None or life.state is State.DOOMED:
            return None
        pool, limit_ns = self._pool, self._limit_ns
        started_ns = life.excused[1] if life.excused[0] == hand else hand.started_ns
        if hand.seq < pool.floor:
            stale = pool.floor_raised_ns + int(STALE_GRACE_S * 1e9)
            if stale > now or (pool.consumer_waits and pool.ledger.open):
                return stale
        return None if limit_ns is None else started_ns + limit_ns

    def _end_overdue(self, life: Life) -> None:
        """Kill it if it is still at the same task, having asked it for its stack."""
        hand = life.block.hand()
        if hand is None or not self._still_at(life, hand, CONFIRM_S):
            return
        with self._pool.lock:
            if self._pool.records.has_more:  # it may have waited for room to announce its result: it goes on now
                life.excused = (hand, time.monotonic_ns())
                self._pool.file_records()
                return
            is_open = hand.seq in self._pool.ledger.open
            if life.block.hand() != hand or (not is_open and hand.seq >= self._pool.floor):
                return  # it has just announced its result
            life.is_condemned = is_open
        if not is_open:
            if self._still_at(life, hand, CONFIRM_S):
                with self._pool.lock:
                    life.kill(Doom("stale", hand.seq, hand.attempt, hand.element))
            return
        life.ask_for_dump()
        stack = self._await_dump(life)
        with self._pool.lock:  # also where it has finished meanwhile: see `Life.is_condemned`
            life.kill(Doom("timeout", hand.seq, hand.attempt, hand.element, stack))

    def _still_at(self, life: Life, hand: Hand, seconds: float) -> bool:
        time.sleep(seconds)
        return life.block.hand() == hand and life.state in (State.STARTING, State.READY)

    def _await_dump(self, life: Life) -> str:
        """The worker's stack, once it has stopped growing; "" if none comes."""
        deadline = time.monotonic() + DUMP_TIMEOUT_S
        seen = ""
        while time.monotonic() < deadline:
            time.sleep(CONFIRM_S)
            text = life.dump()
            if text and text == seen:
                return text
            seen = text
        return seen

    def _excuse(self) -> None:
        """The host was suspended, nobody knows for how long: every task in hand has its whole time again."""
        now = time.monotonic_ns()
        for life in self._watched.values():
            life.excused = (life.block.hand(), now)

    # -- end ---------------------------------------------------------------------------------------

    def _end(self) -> None:
        """Stop all workers, kill those that do not, end the launcher, close everything."""
        pool = self._pool
        pool.give_up()
        for life in self._watched.values():
            with pool.lock:
                life.doom = life.doom or Doom("close")
                life.mail(Task(0, 0, verb=Verb.STOP))
        try:
            self._await_deaths(CLOSE_GRACE_S)
            for life in self._watched.values():
                life.signal(signal.SIGKILL)
            self._await_deaths(KILL_TIMEOUT_S)
        finally:
            self._launcher.close()
            with pool.lock:
                for life in self._watched.values():
                    life.close()
                self._watched.clear()
                pool.close()
                self._poller.close()
                self._wakeup.close()

    def _await_deaths(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._watched and (left := deadline - time.monotonic()) > 0:
            for fd, _ in self._poller.poll(min(left, 0.05)):
                life = self._watched.get(fd)
                if life is not None:
                    self._bury(life)  # a launcher that does not answer once is not asked again
                    life.close()
                else:
                    self._wakeup.clear()
            with self._pool.lock:
                self._pool.file_records()  # else a worker might wait for room in the record pipe
