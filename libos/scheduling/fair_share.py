"""Shares of the processor in proportion to tickets: by stride, and by lottery."""

from heapq import heappop, heappush
from random import Random
from typing import ClassVar

from libos.scheduling.strategy import ThreadStrategy, TurnEnd

TICKETS = 100


class FairShare(ThreadStrategy):
    """Who has had the least time for its tickets runs next: threads that are ready all along get times in proportion to
    their tickets, and each of them a turn in the end.  Time not used while waiting is not owed.

    Tickets are equal; a subclass that knows its program says otherwise in `tickets`.  Source: C. A. Waldspurger and W. E.
    Weihl, Stride Scheduling, MIT/LCS/TM-528, 1995; here a pass advances by the time a turn took.
    """

    name: ClassVar[str] = "fair-share"
    summary: ClassVar[str] = "who has had the least time runs next"

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self._passes: dict[int, int] = {}
        self._heap: list[tuple[int, int, int]] = []
        self._arrivals = 0
        self._now = 0
        """The pass of the thread that was named last: nobody who becomes ready is further behind."""

    def tickets(self, thread: int) -> int:
        """A thread's weight, at least 1."""
        return TICKETS

    def forget(self, thread: int) -> None:
        self._passes.pop(thread, None)

    def ready(self, thread: int) -> None:
        self._arrivals += 1
        self._passes[thread] = max(self._now, self._passes.get(thread, 0))
        heappush(self._heap, (self._passes[thread], self._arrivals, thread))

    def next(self) -> int | None:
        if not self._heap:
            return None
        self._now, _, thread = heappop(self._heap)
        return thread

    def ran(self, thread: int, cycles: int, end: TurnEnd) -> None:
        # Even a turn of no length counts, or one that yields at once would have every turn.
        self._passes[thread] = self._passes.get(thread, 0) + max(1, cycles * TICKETS // self.tickets(thread))


class Lottery(ThreadStrategy):
    """Each turn is drawn by lot: chances are in proportion to tickets, which are equal unless a subclass says otherwise.

    Source: C. A. Waldspurger and W. E. Weihl, Lottery Scheduling: Flexible Proportional-Share Resource Management, OSDI
    1994.
    """

    name: ClassVar[str] = "lottery"
    summary: ClassVar[str] = "each turn is drawn by lot"

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self._chance = Random(seed)
        self._ready: list[int] = []

    def tickets(self, thread: int) -> int:
        """A thread's weight, at least 1."""
        return TICKETS

    def ready(self, thread: int) -> None:
        self._ready.append(thread)

    def next(self) -> int | None:
        if not self._ready:
            return None
        drawn = self._chance.randrange(sum(map(self.tickets, self._ready)))
        for place, thread in enumerate(self._ready):
            drawn -= self.tickets(thread)
            if drawn < 0:
                return self._ready.pop(place)
        raise AssertionError("more tickets were drawn than there are")
