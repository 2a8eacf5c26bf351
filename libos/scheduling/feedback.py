"""Multi-level feedback: who waits often comes before who computes."""

from collections import deque
from typing import ClassVar

from libos.scheduling.strategy import ThreadStrategy, TurnEnd

LEVELS = 4
BOOST_EVERY = 64


class Feedback(ThreadStrategy):
    """A thread that uses up a turn sinks by a level, and the highest level that has somebody runs; one that becomes ready
    above who runs takes over at once.  Every 64 turns all threads are back on top, so that everybody has a turn in the end.

    Source: F. J. Corbató, M. Merwin-Daggett and R. C. Daley, An Experimental Time-Sharing System, AFIPS 1962; the boost as
    in R. H. and A. C. Arpaci-Dusseau, Operating Systems: Three Easy Pieces, chapter 8.
    """

    name: ClassVar[str] = "feedback"
    summary: ClassVar[str] = "who waits often comes before who computes"

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self._levels: dict[int, int] = {}
        self._queues: list[deque[int]] = [deque() for _ in range(LEVELS)]
        self._turns = 0

    def admit(self, thread: int) -> None:
        self._levels[thread] = 0

    def forget(self, thread: int) -> None:
        self._levels.pop(thread, None)

    def ready(self, thread: int) -> None:
        self._queues[self._levels[thread]].append(thread)

    def next(self) -> int | None:
        self._turns += 1
        if self._turns % BOOST_EVERY == 0:
            for queue in self._queues[1:]:
                self._queues[0].extend(queue)
                queue.clear()
            self._levels = dict.fromkeys(self._levels, 0)
        for queue in self._queues:
            if queue:
                return queue.popleft()
        return None

    def ran(self, thread: int, cycles: int, end: TurnEnd) -> None:
        if end is TurnEnd.EXPIRED:
            self._levels[thread] = min(self._levels[thread] + 1, LEVELS - 1)

    def preempts(self, thread: int, running: int) -> bool:
        return self._levels[thread] < self._levels[running]
