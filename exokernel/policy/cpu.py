"""Global CPU policies: who runs next.  What to save, and when to let go, is the application's choice."""

from collections import deque
from typing import Protocol


class CpuPolicy(Protocol):
    """Who runs next.  The kernel tells it who is runnable; it never learns what they run."""

    def runnable(self, environment: int, urgent: bool = False) -> None:
        """`environment` has become runnable; `urgent`: it has been asked for something and should hear of it soon."""
        ...

    def not_runnable(self, environment: int) -> None:
        """`environment` has blocked or ended."""
        ...

    def next(self) -> int | None:
        """Who runs now, None if nobody can; it stays runnable and goes to wherever the policy puts it."""
        ...


class RoundRobin:
    """Everybody in turn.  An urgent one comes first, but only once until somebody has had an ordinary turn, so that
    environments that keep each other urgent do not shut out the rest."""

    name = "round-robin"
    summary = "every runnable environment in turn"

    def __init__(self) -> None:
        self._queue: deque[int] = deque()
        self._queued: set[int] = set()
        self._hurried: set[int] = set()
        self._hurrying: set[int] = set()

    def runnable(self, environment: int, urgent: bool = False) -> None:
        if urgent and environment in self._hurried | self._hurrying:
            urgent = False
        if urgent:
            self._hurrying.add(environment)
        if environment in self._queued:
            if not urgent:
                return
            self._queue.remove(environment)
        self._queued.add(environment)
        if urgent:
            self._queue.appendleft(environment)
        else:
            self._queue.append(environment)

    def not_runnable(self, environment: int) -> None:
        if environment in self._queued:
            self._queued.discard(environment)
            self._hurrying.discard(environment)
            self._queue.remove(environment)

    def next(self) -> int | None:
        if not self._queue:
            return None
        environment = self._queue.popleft()
        self._queue.append(environment)
        if environment in self._hurrying:
            self._hurrying.discard(environment)
            self._hurried.add(environment)
        else:
            self._hurried.clear()
        return environment
