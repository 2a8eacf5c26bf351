"""The virtual clock: cycles since the machine was switched on, and the events that wait for a certain cycle.

Time moves only when somebody adds to `now`.  Events of the same cycle come in the order in which they were set, so a run
is the same every time.  An event is plain data; whoever set it knows what it means.
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

NEVER = 1 << 63


@dataclass
class Clock:
    """`now` in cycles, and a heap of (cycle, sequence number, event)."""

    now: int = 0
    next: int = NEVER
    """The cycle of the earliest event, NEVER if there is none."""
    _sequence: int = 0
    _events: list[tuple[int, int, Any]] = field(default_factory=list)

    def at(self, cycle: int, event: Any) -> None:
        """Set `event` for `cycle`; one in the past is due at once."""
        self._sequence += 1
        heapq.heappush(self._events, (cycle, self._sequence, event))
        self.next = self._events[0][0]

    def keep(self, wanted: Callable[[Any], bool]) -> None:
        """Forget the events that nobody wants any more."""
        self._events = [entry for entry in self._events if wanted(entry[2])]
        heapq.heapify(self._events)
        self.next = self._events[0][0] if self._events else NEVER

    def __len__(self) -> int:
        return len(self._events)

    def waiting(self) -> Iterator[Any]:
        """The events that have not come yet, in no order."""
        return (event for _, _, event in self._events)

    def due(self) -> Any | None:
        """Take the earliest event whose cycle has come, or give None."""
        if self.next > self.now:
            return None
        event = heapq.heappop(self._events)[2]
        self.next = self._events[0][0] if self._events else NEVER
        return event

    def jump(self) -> bool:
        """Nobody can run: move to the earliest event.  False if there is none."""
        if not self._events:
            return False
        self.now = max(self.now, self.next)
        return True
