"""The deadline disk policy: by position, but nothing waits much longer than its expiry.

Reads and writes have a queue each, by position and by age.  Requests are served in batches of one kind upwards by
position. A new batch is of reads, since somebody waits for them, but after two batches of reads that kept writes waiting
it is the writes' turn.  It begins at the oldest request of its kind if that has expired, or if nothing lies ahead.  A
request that has expired waits for the batch under way, for two of reads if it is a write, and for those that expired
before it.

Source: Linux's deadline scheduler (Axboe; block/mq-deadline.c) and its documented defaults.
"""

from bisect import bisect_left, insort
from collections import deque
from typing import Any, Final

from exokernel.policy.disk_scheduling import DiskChoice, DiskPolicy, DiskRequest

BATCH: Final = 16
WRITES_STARVED: Final = 2


class Queue:
    """The requests of one kind, by position and by age."""

    def __init__(self, expiry: int) -> None:
        self.expiry = expiry
        self.order: list[tuple[int, int]] = []
        self._age: deque[DiskRequest] = deque()
        self._waiting: dict[int, DiskRequest] = {}

    def __len__(self) -> int:
        return len(self.order)

    def add(self, request: DiskRequest) -> None:
        insort(self.order, (request.sector, request.number))
        self._age.append(request)
        self._waiting[request.number] = request

    def oldest(self) -> DiskRequest:
        while self._age[0].number not in self._waiting:
            self._age.popleft()
        return self._age[0]

    def ahead(self, sector: int) -> DiskRequest | None:
        """The next request at `sector` or above."""
        place = bisect_left(self.order, (sector, 0))
        return self._waiting[self.order[place][1]] if place < len(self.order) else None

    def take(self, request: DiskRequest) -> None:
        del self._waiting[request.number]
        del self.order[bisect_left(self.order, (request.sector, request.number))]


class DiskDeadline(DiskPolicy):
    """Batches by position, with an expiry for each request and reads before writes."""

    name = "deadline"
    summary = "by position in batches, reads before writes, and nothing waits much longer than its expiry"

    def __init__(self, *numbers: Any, **named: Any) -> None:
        super().__init__(*numbers, **named)
        self._reads, self._writes = Queue(self.read_expiry), Queue(self.write_expiry)
        self._kind = self._reads
        self._left = 0
        """Of the batch under way."""
        self._at = 0
        """The position behind the last request."""
        self._starved = 0
        """Batches of reads since writes began to wait."""

    def add(self, request: DiskRequest) -> None:
        (self._writes if request.write else self._reads).add(request)

    def next(self, head: int, now: int) -> DiskChoice | None:
        if not self._reads and not self._writes:
            return None
        request = self._kind.ahead(self._at) if self._left else None
        if request is None:
            request = self._new_batch(now)
        self._left -= 1
        self._at = request.sector + request.sectors
        self._kind.take(request)
        return DiskChoice(request.number)

    def _new_batch(self, now: int) -> DiskRequest:
        if not self._writes:
            self._kind = self._reads
        elif not self._reads or self._starved >= WRITES_STARVED:
            self._kind, self._starved = self._writes, 0
        else:
            self._kind = self._reads
            self._starved += 1
        self._left = BATCH
        oldest = self._kind.oldest()
        ahead = None if oldest.arrived + self._kind.expiry <= now else self._kind.ahead(self._at)
        return ahead or oldest
