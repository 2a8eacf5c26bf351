"""Mutexes, conditions and barriers of a program's threads: queues, with nothing of them in the program's memory.

Each is known by its address.  What is let go goes to who has waited longest, so nobody spins and nobody starves.  For the
same reason a spin lock is a mutex here: each try would be a trap, and a trap costs more than to wait.
"""

from collections import deque
from collections.abc import Callable
from typing import Self

from libos.threads import Thread


class Locks:
    """What the threads of one program hold and wait for.  `wake` lets a thread go on."""

    def __init__(self, wake: Callable[[Thread], None]) -> None:
        self._wake = wake
        self._owners: dict[int, Thread] = {}
        self._queues: dict[int, deque[Thread]] = {}
        self._conditions: dict[int, deque[tuple[Thread, int]]] = {}
        self._barriers: dict[int, list[Thread]] = {}

    def copy(self, wake: Callable[[Thread], None]) -> Self:
        """Those of a forked environment, to begin with held by whom they are held here."""
        child = type(self)(wake)
        child._owners = self._owners.copy()
        return child

    def inherit(self, elder: Thread, only: Thread) -> None:
        """What `elder` held is held by its copy, the `only` thread; what others held stays held."""
        self._owners = {lock: only if owner is elder else owner for lock, owner in self._owners.items()}

    def lock(self, thread: Thread, lock: int) -> None:
        """Hold a lock, or wait for it."""
        if lock in self._owners:
            self._queues.setdefault(lock, deque()).append(thread)
            thread.waits = True
        else:
            self._owners[lock] = thread

    def unlock(self, thread: Thread, lock: int) -> bool:
        """Let go of a lock; False if the thread does not hold it."""
        if self._owners.get(lock) is not thread:
            return False
        queue = self._queues.get(lock)
        if not queue:
            del self._owners[lock]
            return True
        following = self._owners[lock] = queue.popleft()
        if not queue:
            del self._queues[lock]
        self._wake(following)
        return True

    def wait(self, thread: Thread, condition: int, lock: int) -> bool:
        """Let go of a lock until the condition is signalled, and hold it again then; False if it is not the thread's."""
        if not self.unlock(thread, lock):
            return False
        self._conditions.setdefault(condition, deque()).append((thread, lock))
        thread.waits = True
        return True

    def signal(self, condition: int, everybody: bool = False) -> None:
        """Let the thread that has waited longest for a condition go on, or all, as soon as they hold their locks again."""
        waiting = self._conditions.get(condition, deque())
        for _ in range(len(waiting) if everybody else min(1, len(waiting))):
            thread, lock = waiting.popleft()
            if lock in self._owners:
                self._queues.setdefault(lock, deque()).append(thread)
            else:
                self._owners[lock] = thread
                self._wake(thread)
        if not waiting:
            self._conditions.pop(condition, None)

    def meet(self, thread: Thread, barrier: int, count: int) -> bool:
        """Wait until `count` threads have come to a barrier; gives whether this is the last, who does not wait."""
        here = self._barriers.setdefault(barrier, [])
        if len(here) + 1 >= count:
            del self._barriers[barrier]
            for other in here:
                self._wake(other)
            return True
        here.append(thread)
        thread.waits = True
        return False
