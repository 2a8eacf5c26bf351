"""Round robin: one queue."""

from collections import deque
from typing import ClassVar

from libos.scheduling.strategy import ThreadStrategy


class RoundRobin(ThreadStrategy):
    """Who became ready first has its turn first.  Promises every thread a turn before any other has two."""

    name: ClassVar[str] = "round-robin"
    summary: ClassVar[str] = "threads take turns"

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self._queue: deque[int] = deque()

    def ready(self, thread: int) -> None:
        self._queue.append(thread)

    def next(self) -> int | None:
        return self._queue.popleft() if self._queue else None
