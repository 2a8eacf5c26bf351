"""Fixed priorities."""

from heapq import heappop, heappush
from typing import ClassVar

from libos.scheduling.strategy import ThreadStrategy


class Priority(ThreadStrategy):
    """Who has the highest priority runs, at once; among equals, who became ready first.  Promises the others nothing.

    A thread that was created earlier has the higher priority, so that a program's first thread comes before the rest.  A
    subclass that knows its program says otherwise in `rank`.
    """

    name: ClassVar[str] = "priority"
    summary: ClassVar[str] = "who was created first comes first, and preempts"

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self._heap: list[tuple[int, int, int]] = []
        self._arrivals = 0

    def rank(self, thread: int) -> int:
        """A thread's place: the lowest comes first.  The same for as long as the thread exists."""
        return thread

    def ready(self, thread: int) -> None:
        self._arrivals += 1
        heappush(self._heap, (self.rank(thread), self._arrivals, thread))

    def next(self) -> int | None:
        return heappop(self._heap)[2] if self._heap else None

    def preempts(self, thread: int, running: int) -> bool:
        return self.rank(thread) < self.rank(running)
