"""What a global disk policy is: of the requests that may begin, which is served next.

The rules of the conversation:

1. `add` tells of a request when its own library lets it begin; `next` takes one off the queue when the disk is free.
2. Every request that was added is chosen once, whatever becomes of who made it.
3. A policy sees numbers and nothing else: who asks for which sectors since when, where the head is, and the time.
4. The order depends on the calls and on nothing else.
"""

from abc import ABC, abstractmethod
from heapq import heappop, heappush
from typing import ClassVar, NamedTuple

READ_EXPIRY = 500_000_000
WRITE_EXPIRY = 5_000_000_000
"""In cycles of a nanosecond, half a second and five: the defaults of Linux's deadline scheduler (its documentation,
block/deadline-iosched.rst)."""


class DiskRequest(NamedTuple):
    """A request as a policy sees it: `sectors` from `sector` on.  A flush has none and lies where the head was when it
    could begin."""

    number: int
    """Larger than that of any request made before."""
    environment: int
    sector: int
    sectors: int
    write: bool
    arrived: int
    """The cycle in which it was made."""


class DiskChoice(NamedTuple):
    """Which request is served now, and over which sectors the head goes first without moving data."""

    request: int
    through: tuple[int, ...] = ()


class DiskPolicy(ABC):
    """A global disk policy over a disk of so many `sectors`.  `read_expiry`, `write_expiry`: for a policy with deadlines,
    in cycles."""

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line that a newcomer understands."""

    def __init__(self, sectors: int = 1, read_expiry: int = READ_EXPIRY, write_expiry: int = WRITE_EXPIRY) -> None:
        self.sectors = sectors
        self.read_expiry = read_expiry
        self.write_expiry = write_expiry

    @abstractmethod
    def add(self, request: DiskRequest) -> None:
        """A request may begin: it goes into the queue."""

    @abstractmethod
    def next(self, head: int, now: int) -> DiskChoice | None:
        """Take the request to serve at cycle `now` off the queue; `head` is the sector the head is at.  None only if the
        queue is empty."""

    def set_tickets(self, environment: int, tickets: int) -> None:
        """The weight of `environment` among all: 1 to 10,000, at first 100.  A policy without weights remembers nothing."""
        return

    def ended(self, environment: int) -> None:
        """`environment` is no more: forget everything about it but its requests, which are served all the same."""
        return


class FirstComeFirstServed(DiskPolicy):
    """In the order in which they were made, as far as their libraries let them."""

    name = "fcfs"
    summary = "first come, first served"

    def __init__(self, sectors: int = 1, read_expiry: int = READ_EXPIRY, write_expiry: int = WRITE_EXPIRY) -> None:
        super().__init__(sectors, read_expiry, write_expiry)
        self._queue: list[int] = []

    def add(self, request: DiskRequest) -> None:
        heappush(self._queue, request.number)

    def next(self, head: int, now: int) -> DiskChoice | None:
        return DiskChoice(heappop(self._queue)) if self._queue else None
