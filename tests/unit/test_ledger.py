"""The ledger against a model of pipes and mortal workers: every seq is closed once, and nothing is lost."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from mploader.engine.ledger import MANY, Ledger
from mploader.transport.records import Task

PIPE_RECORDS = 4
RETRIES = 1
WORKERS = 3

VERBS = (
    "submit, submit element, submit chunk, take, take, claim, claim, finish, finish, announce, "
    "file, die, nudge, flush, cancel"
).split(", ")
STEPS = st.lists(st.tuples(st.sampled_from(VERBS), st.integers(0, WORKERS - 1)), min_size=50, max_size=120)


def element(seq: int) -> Task:
    """A task whose element lies in the arena, at an offset that tells it from others."""
    return Task(seq, seq, offset=64 * seq, stream_nbytes=8, span_nbytes=72)


@dataclass
class Worker:
    """One incarnation; ``claim`` and ``taken`` stay when the task is done, as in a status block."""

    incarnation: int
    mailbox: deque[Task] = field(default_factory=deque)
    hand: Task | None = None
    done: list[int] = field(default_factory=list)  # of the task in hand, and not announced
    at: int = -1
    claim: int = -1
    taken: range = range(0)


class World:
    """A consumer, a pipe of four records, three workers that die at any moment, and one ledger."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.tasks: dict[int, Task] = {}
        self.pipe: deque[Task] = deque()
        self.backlog: deque[Task] = deque()
        self.announced: deque[tuple[range, int, bool]] = deque()  # seqs, incarnation, whether user code ran
        self.workers = [Worker(number) for number in range(WORKERS)]
        self.born = WORKERS
        self.floor = 0
        self.deaths = 0
        self.closed: Counter[int] = Counter()
        self.freed: Counter[int] = Counter()

    # -- consumer

    def submit(self, task: Task) -> None:
        for seq in task.seqs:
            self.tasks[seq] = task
        self.ledger.add(task)
        self.issue(task)

    def issue(self, task: Task) -> None:
        self.backlog.append(task)
        self.flush()

    def issue_again(self, seqs: Iterable[int]) -> None:
        for task in map(self.ledger.task, list(seqs)):
            if task is not None:
                assert task.n_tasks == 1
                self.issue(task)

    def flush(self) -> None:
        while self.backlog and len(self.pipe) < PIPE_RECORDS:
            task = self.backlog.popleft()
            if task.n_tasks > 1 or task.seq in self.ledger.open:
                self.pipe.append(task)
                self.ledger.wrote(task)

    def file(self) -> None:
        while self.announced:
            seqs, incarnation, ran = self.announced.popleft()
            if len(seqs) > 1:
                if self.ledger.are_open(seqs):
                    self.closed.update(seqs)
                    self.ledger.complete_chunk(seqs)
                else:
                    self.issue_again(seqs)
                continue
            (seq,) = seqs
            if seq in self.ledger.open:
                assert ran
                self.closed[seq] += 1
            self.free(self.ledger.complete(seq, incarnation))
            assert seq not in self.ledger.open

    def cancel(self) -> None:
        self.floor = len(self.tasks)
        self.file()
        self.backlog.clear()
        for seq in list(self.ledger.open):
            self.closed[seq] += 1
            self.free(self.ledger.close(seq))

    def nudge(self) -> None:
        self.issue_again([min(self.ledger.open, default=-1)])

    def free(self, task: Task | None, *, below_floor: bool = False) -> None:
        """Give an element back: once, and only when no record of its task is anywhere any more."""
        if task is None:
            return
        assert task.seq not in self.ledger.open
        if task.span_nbytes:
            self.freed[task.seq] += 1
            assert self.freed[task.seq] == 1
        hands = [worker.hand.seq for worker in self.workers if worker.hand is not None]
        mailed = [mail.seq for worker in self.workers for mail in worker.mailbox]
        assert task.seq not in hands or below_floor
        assert task.seq not in [*(sent.seq for sent in self.pipe), *mailed] or task.seq < self.floor

    # -- workers

    def take(self, worker: Worker) -> None:
        if worker.hand is None and (worker.mailbox or self.pipe):
            task = worker.mailbox.popleft() if worker.mailbox else self.pipe.popleft()
            if task.seq >= self.floor:
                worker.hand, worker.at = task, task.seq
            elif task.span_nbytes:
                self.announced.append((range(task.seq, task.seq + 1), worker.incarnation, False))

    def claim(self, worker: Worker) -> None:
        if worker.hand is not None:
            worker.taken = worker.hand.seqs
            worker.claim = worker.at

    def finish(self, worker: Worker) -> None:
        """One task, or one of a chunk; the last announces what was not announced."""
        if worker.hand is not None:
            self.claim(worker)
            worker.done.append(worker.at)
            worker.at += 1
            if worker.at not in worker.taken:
                self.announce(worker)
                worker.hand = None

    def announce(self, worker: Worker) -> None:
        if worker.done:
            self.announced.append((range(worker.done[0], worker.done[-1] + 1), worker.incarnation, True))
            worker.done.clear()

    def die(self, number: int) -> None:
        """What the supervisor does after a confirmed death."""
        self.deaths += 1
        dead, ledger = self.workers[number], self.ledger
        heir = self.workers[number] = Worker(self.born)
        self.born += 1
        self.file()
        self.free(ledger.died(dead.claim, dead.incarnation))
        for given_up in ledger.forget_below(self.floor):
            self.free(given_up, below_floor=True)
        task = ledger.task(dead.claim)
        if task is not None and task.attempt < RETRIES:
            again = ledger.charge(dead.claim, task.attempt)
            assert (again.seq, again.attempt, again.n_tasks) == (dead.claim, task.attempt + 1, 1)
            heir.mailbox.append(again)
            ledger.wrote(again, heir.incarnation)
        elif task is not None:
            self.closed[dead.claim] += 1
            self.free(ledger.close(dead.claim))
        taken = [worker.taken for worker in self.workers]
        living = {worker.incarnation for worker in self.workers}
        self.issue_again(ledger.lost(len(self.pipe), list(self.backlog), taken, living))

    # -- all

    def step(self, verb: str, number: int) -> None:
        worker = self.workers[number % WORKERS]
        if verb.startswith("submit"):
            seq = len(self.tasks)
            count = 2 + number if "chunk" in verb else 1
            self.submit(element(seq) if "element" in verb else Task(seq, seq, n_tasks=count))
        elif verb == "die":
            self.die(number % WORKERS)
        elif verb in ("take", "claim", "finish", "announce"):
            getattr(self, verb)(worker)
        else:
            getattr(self, verb)()

    def run_out(self) -> None:
        """Nobody dies any more: let the workers finish all there is."""
        while self.pipe or self.backlog or any(worker.hand is not None or worker.mailbox for worker in self.workers):
            for worker in self.workers:
                self.finish(worker)
                self.take(worker)
            self.file()
            self.flush()
        self.file()


@settings(max_examples=200)
@given(steps=STEPS)
def test_every_history_closes_every_seq_once(steps: list[tuple[str, int]]) -> None:
    """Whoever dies whenever: each seq is closed exactly once, none is lost, and elements outlive their readers."""
    world = World()
    for verb, number in steps:
        world.step(verb, number)
    world.run_out()
    assert not world.ledger.open, "lost"
    assert world.closed == Counter(world.tasks.keys())
    with_element = Counter(seq for seq, task in world.tasks.items() if task.span_nbytes)
    if world.deaths:  # a record that died unread is given up with its epoch, at the next death
        world.cancel()
        world.die(0)
    assert world.freed == with_element, "an element was not freed"


def test_first_completion_wins() -> None:
    """A seq is open until its first completion, and never again, whatever comes later."""
    ledger = Ledger()
    ledger.add(Task(0, 0))
    for _ in range(2):
        ledger.wrote(Task(0, 0))
    assert 0 in ledger.open
    for incarnation in range(2):
        assert ledger.complete(0, incarnation) is None
        assert not ledger.open
    assert ledger.complete(99, 0) is None


def test_an_element_lives_until_its_last_reader() -> None:
    """Issued three times, its element is free after the third return, not after the first, and only once."""
    ledger = Ledger()
    ledger.add(element(0))
    for _ in range(3):
        ledger.wrote(element(0))
    assert [ledger.complete(0, 5) for _ in range(4)] == [None, None, element(0), None]


def test_what_was_never_issued_is_free_at_once() -> None:
    """Given up out of the backlog: nobody ever reads its element."""
    ledger = Ledger()
    ledger.add(element(0))
    assert ledger.close(0) == element(0)
    assert ledger.close(0) is None


def test_an_idle_death_returns_nothing() -> None:
    """A worker that dies after it was done has not returned its last task twice: a duplicate may still be read."""
    world = World()
    world.submit(element(0))
    world.nudge()
    first, second, _ = world.workers
    world.take(first)
    world.take(second)
    world.finish(first)
    world.file()
    world.die(0)
    assert not world.freed
    world.finish(second)
    world.file()
    assert world.freed == Counter([0])


def test_taken_and_not_claimed_is_lost() -> None:
    """The gap that nobody sees: read from the pipe, not yet claimed. It is found, others are left alone."""
    ledger = Ledger()
    for seq in range(6):
        ledger.add(Task(seq, seq))
    for seq in range(4):
        ledger.wrote(Task(seq, seq))  # 4 and 5 wait in the backlog; 0 to 2 were taken, 3 is in the pipe
    ledger.wrote(Task(2, 2), mailed_to=7)
    waiting, claimed = [Task(4, 4, n_tasks=2)], [range(1, 2)]
    assert ledger.lost(in_pipe=1, waiting=waiting, claimed=claimed, living={7}) == [0]
    assert ledger.lost(1, waiting, claimed, living=set()) == [0, 2]


def test_a_chunk_is_lost_but_for_what_was_announced() -> None:
    """Of a chunk whose worker died, what did not come is issued again; what a living worker has in hand is not."""
    ledger = Ledger()
    for first in (0, 4, 8):
        ledger.add(Task(first, first, n_tasks=4))
        ledger.wrote(Task(first, first, n_tasks=4))
    ledger.complete_chunk(range(2))
    assert ledger.lost(in_pipe=1, waiting=[], claimed=[range(4, 8)], living=set()) == [2, 3]
    assert ledger.charge(3, 0) == Task(3, 3, attempt=1)
    assert ledger.task(2) == Task(2, 2)
    assert not ledger.are_open(range(1, 3))
    assert ledger.are_open(range(2, 12))


def test_a_charge_is_one_attempt() -> None:
    """What is issued again carries the number of its attempt, in whichever run its worker was; all else stays."""
    ledger = Ledger()
    ledger.add(element(3))
    for attempt in (0, 1, 4):
        ledger.wrote(element(3))
        assert ledger.died(3, incarnation=attempt) is None
        assert ledger.charge(3, attempt) == element(3)._replace(attempt=attempt + 1)
        assert ledger.open[3].attempt == attempt + 1
    task = ledger.close(3)
    assert task is not None
    assert task.offset == element(3).offset


def test_what_is_closed_is_forgotten() -> None:
    """A million items need the memory of those that are out, and a few more."""
    ledger = Ledger()
    for seq in range(3000):
        ledger.add(element(seq))
        ledger.wrote(element(seq))
        if seq >= 8:
            assert ledger.complete(seq - 8, 0) == element(seq - 8)
    assert len(ledger.open) == 8
    kept = [value for value in vars(ledger).values() if isinstance(value, dict | deque)]
    assert sum(map(len, kept)) <= 4 * 8 + MANY
