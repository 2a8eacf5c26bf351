"""A queue of environments in the order of a number each: a deadline, a pass."""

from heapq import heapify, heappop, heappush


class Ordering:
    """Environments with a key each, smallest first; of equal ones the longer queued first.

    A heap in which an environment that left or moved leaves a stale entry behind; stale entries are dropped when they come
    up, and all of them when they are the majority.  So every operation is logarithmic, taken over many.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int]] = []
        self._stamps: dict[int, int] = {}
        self._stamp = 0

    def __contains__(self, environment: int) -> bool:
        return environment in self._stamps

    def __len__(self) -> int:
        return len(self._stamps)

    def put(self, environment: int, key: int) -> None:
        """Queue `environment` under `key`, behind its equals; if it is queued already, it moves."""
        self._stamp = stamp = self._stamp + 1
        self._stamps[environment] = stamp
        heappush(self._heap, (key, stamp, environment))
        if len(self._heap) > 2 * len(self._stamps) + 32:
            self._heap = [entry for entry in self._heap if self._stamps.get(entry[2]) == entry[1]]
            heapify(self._heap)

    def discard(self, environment: int) -> None:
        """Take `environment` out, if it is there."""
        self._stamps.pop(environment, None)

    def first(self) -> int | None:
        """The smallest key; None if nobody is queued."""
        heap, stamps = self._heap, self._stamps
        while heap:
            key, stamp, environment = heap[0]
            if stamps.get(environment) == stamp:
                return key
            heappop(heap)
        return None

    def pop(self) -> int | None:
        """Take out the one with the smallest key; None if nobody is queued."""
        heap, stamps = self._heap, self._stamps
        while heap:
            _, stamp, environment = heappop(heap)
            if stamps.get(environment) == stamp:
                del stamps[environment]
                return environment
        return None
