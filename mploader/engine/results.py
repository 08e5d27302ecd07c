"""Results: what has arrived, until it is handed out: parked, then rebuilt, and counted.

Runs in: consumer, inside the stream's turn. Must never know: workers, what waits, ``on_error``. An interrupt may strike
anywhere: a result is parked until it is in `opened`, and what was to be done with it then is done by `repair`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from mploader.engine import blame
from mploader.engine.contract import Arrival, Delivery
from mploader.engine.feed import Feed
from mploader.engine.opened import Failed, Opened
from mploader.engine.process import Pool
from mploader.engine.reorder import ReorderBuffer
from mploader.engine.window import Window
from mploader.errors import TaskInfo
from mploader.options import Options
from mploader.pipeline.state import Saved
from mploader.transport import codec
from mploader.transport.codec import Located
from mploader.transport.lease import Leases, free
from mploader.transport.records import Kind
from mploader.transport.segment import Segment

MAX_BURST_BYTES = 8 << 10  # a result whose pickle is larger is rebuilt when it is asked for, by itself

_RESULT = int(Kind.RESULT)


class Results:
    """The results of a stream, epoch after epoch.

    Attributes:
      opened: those whose turn it is, rebuilt.
      settled: results that have gone into `opened`, all epochs together.
      n_ready: of these, those that were there when they were asked for, having been opened with another.
    """

    def __init__(
        self, options: Options, pool: Pool, feed: Feed, window: Window, opened: Opened, leases: Leases
    ) -> None:
        self.opened = opened
        self.settled = self.n_ready = 0
        self._options = options
        self._pool = pool
        self._feed = feed
        self._window = window
        self._leases = leases
        self._reorder: ReorderBuffer[Arrival] = ReorderBuffer(in_order=options.in_order)
        self._opening: list[Arrival] = []  # what `opened` holds, or is about to
        self._seqs: list[int] | None = None  # their seqs
        self._floor = 0  # without an order: all below is settled,
        self._ahead: set[int] = set()  # and these
        self._struck = -1

    @property
    def head(self) -> int:
        """The seq whose turn is next, where there is an order."""
        return self._reorder.head

    def progress(self) -> Saved:
        """How far the epoch has come: all that has left `opened` counts."""
        base, opened, done = self._feed.base, self.opened, set(self._feed.done)
        if self._options.in_order:
            task = max(self._reorder.head, opened.end) - base
        else:
            task = self._floor - base
            done.update(seq - base for seq in self._ahead.union(opened.seqs))
        done = {number for number in done if number >= task}
        saved = Saved(task, frozenset(done), None, task + len(done))
        return saved.without(seq - base for seq in opened.left)

    def receive(self) -> bool:
        """Park what has arrived; True if there was anything."""
        arrived = self._pool.receive()
        if not arrived:
            return False
        while arrived:
            arrival = arrived[0]
            record = arrival.record
            if self._reorder.park(record.seq, arrival):
                self._window.park(record.span_nbytes, record.n_tasks)
            arrived.popleft()
        return True

    def start(self, seq: int) -> list[Arrival]:
        """Begin an epoch, or none: give all up. Returns what was parked."""
        self.settled -= len(self.opened)
        self.opened.begin()
        self._opening = []
        self._ahead.clear()
        self._floor = seq
        return self._reorder.start(seq)

    def open(self, epoch: int) -> bool:
        """Rebuild the result whose turn it is, and what follows it at hand; from now on they are in `opened`.

        Returns:
          False: there is none.
        """
        found = self._reorder.peek()
        if found is None:
            return False
        leases, limit, base, done = self._leases, self._pool.pace.burst, self._feed.base, self._feed.done
        values: list[Any] = []
        failed: list[Failed] = []
        copied: list[tuple[Segment, int]] = []
        seqs: list[int] = []
        sizes: list[int] = []  # of what is leased
        arrivals: list[Arrival] = []
        leases.begin()
        self._seqs = seqs  # first: as long as `opened` has others, nothing of these is settled
        self._opening = arrivals
        arrival: Arrival | None = found[1]
        while arrival is not None:
            arrivals.append(arrival)
            record, segment, _, _, _ = arrival
            seq = record.seq
            if done and seq - base in done:  # handed out before the state was saved
                if segment is not None and record.n_buffers:
                    copied.append((segment, record.offset))
            elif record.kind != _RESULT or segment is None:
                seqs.append(seq)
                sizes.append(0)
                failed.append(Failed(None, self._error(arrival, epoch), arrival.is_source))
            else:
                for part in codec.chunk_parts(segment, record, record.n_tasks) if record.n_tasks > 1 else (record,):
                    lease = self._leases_for(part) if part.n_buffers else None
                    if lease is None and (part.n_buffers or (record.n_tasks > 1 and part.span_nbytes)):
                        copied.append((segment, part.offset))
                    try:
                        # H: rebuilt over leased views of the ring
                        value = codec.read_part(segment, part, lease)
                    except BaseException as error:  # a result that cannot be rebuilt costs one item
                        if self._is_struck(error, seq):
                            raise
                        failed.append(Failed(None, self._not_rebuilt(error, seq, arrival, epoch), False))
                    else:
                        if failed:
                            failed.append(Failed(value, None, False))
                        else:
                            values.append(value)
                    seqs.append(seq)
                    sizes.append(0 if lease is None else part.span_nbytes)
                    seq += 1
            if failed or len(seqs) >= limit or record.stream_nbytes > MAX_BURST_BYTES:
                break
            arrival = self._reorder.behind(len(arrivals), record.seq + record.n_tasks)
        self.opened.fill(seqs, values, failed, sizes)
        self._settle(copied)
        self.n_ready += max(0, len(values) - 1)
        if failed:  # an error keeps this frame: not the results that came with it
            value = None
            values.clear()
            failed.clear()
        return True

    def repair(self, handouts: Iterable[Delivery]) -> None:
        """Make whole what an interrupt left half done; ``handouts`` were taken from `opened`, or are about to be."""
        if self.opened.seqs is self._seqs:  # else it struck before they were in there: they are parked still
            self._settle(())  # of those that were copied, the span is left unused
        for made in handouts:
            if made.seq in self.opened.left:
                self.opened.drop_first()

    def restore_window(self, n_open: int) -> None:
        """Count anew what is outstanding; ``n_open`` tasks have not arrived."""
        records = [arrival.record for arrival in self._reorder.all()]
        n_parked = sum(record.n_tasks for record in records)
        self._window.restore(n_open + n_parked, n_parked, sum(record.span_nbytes for record in records))

    def _settle(self, copied: Iterable[tuple[Segment, int]]) -> None:
        """What is opened is parked no more; ``copied`` are spans of large results that no lease frees."""
        for arrival in self._opening:
            record, segment, _, _, _ = arrival
            count = record.n_tasks
            if self._reorder.advance(record.seq, count):
                self._window.deliver(record.span_nbytes, count)
                self.settled += count
                if segment is not None and not record.n_buffers:
                    free(segment, record.offset)  # not twice: its writer may have found it already
            if not self._options.in_order:
                for seq in record.seqs:
                    self._count(seq)
        self._leases.arm()
        for segment, start in copied:
            free(segment, start)
        self._opening = []

    def _count(self, seq: int) -> None:
        """Note what is settled, for `progress`."""
        if seq < self._floor:
            return
        self._ahead.add(seq)
        while self._floor in self._ahead:
            self._floor += 1
            self._ahead.discard(self._floor - 1)

    def _leases_for(self, part: Located) -> Leases | None:
        """Whether large buffers become views of the ring: not past the limit of what may be held."""
        if self._leases.nbytes + part.span_nbytes <= self._pool.window_limit_bytes:
            return self._leases
        return None

    def _error(self, arrival: Arrival, epoch: int) -> BaseException:
        """The error that a worker announced, or that arose here."""
        seq, error = arrival.record.seq, arrival.error
        index = seq - self._feed.base
        if error is None:
            try:
                return blame.failed(arrival, index, epoch, self._options)
            except BaseException as reason:  # the user's, as it was rebuilt
                if self._is_struck(reason, seq):
                    raise
                return self._not_rebuilt(reason, seq, arrival, epoch)
        told = getattr(error, "mploader_task", None)
        if isinstance(told, TaskInfo) and told.element is None:
            shown = replace(told, element=self._feed.describe(index))
            BaseException.__setattr__(error, "mploader_task", shown)
        return error

    def _is_struck(self, error: BaseException, seq: int) -> bool:
        """Whether it is Ctrl-C: the next call rebuilds the result. Twice at one, it is the item's own error."""
        if not isinstance(error, KeyboardInterrupt) or self._struck == seq:
            return False
        self._struck = seq
        return True

    def _not_rebuilt(self, error: BaseException, seq: int, arrival: Arrival, epoch: int) -> BaseException:
        """The error of an item whose result raised as it was rebuilt."""
        index, record = seq - self._feed.base, arrival.record
        info = TaskInfo(
            index=index,
            element=self._feed.describe(index),
            seq=seq,
            epoch=epoch,
            worker_id=record.worker_id,
            pid=arrival.pid,
            attempt=record.attempt,
        )
        return blame.not_rebuilt(error, info)
