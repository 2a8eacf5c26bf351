"""Proportional share of the disk between environments, by tickets.

Start-time fair queueing: a request's start tag is the later of the virtual time and its environment's last finish tag, its
finish tag lies as much further as it moves sectors for each ticket, and the smallest start tag is served.  The virtual
time is the start tag of the request being served: who comes back after a pause has saved nothing up.  While two
environments both have requests waiting, what they are served differs from the ratio of their tickets by no more than one
request of each.

Source: Goyal, Vin and Cheng, Start-time Fair Queuing, SIGCOMM 1996; for disks: Jin, Chase and Kaur, Interposed Proportional
Sharing for a Storage Service Utility, SIGMETRICS 2004.
"""

from heapq import heappop, heappush
from typing import Any, Final

from exokernel.policy.disk_scheduling import DiskChoice, DiskPolicy, DiskRequest
from exokernel.policy.scheduling import DEFAULT_TICKETS

SCALE: Final = 1 << 32
"""Tags are whole numbers: so much for a sector and a ticket."""


class DiskShares(DiskPolicy):
    """Sectors in proportion to tickets.  A flush counts as one sector."""

    name = "proportional"
    summary = "sectors in proportion to the environments' tickets (start-time fair queueing)"

    def __init__(self, *numbers: Any, **named: Any) -> None:
        super().__init__(*numbers, **named)
        self._tickets: dict[int, int] = {}
        self._finish: dict[int, int] = {}
        self._queue: list[tuple[int, int]] = []
        self._virtual = 0

    def add(self, request: DiskRequest) -> None:
        tickets = self._tickets.get(request.environment, DEFAULT_TICKETS)
        start = max(self._virtual, self._finish.get(request.environment, 0))
        self._finish[request.environment] = start + max(request.sectors, 1) * SCALE // tickets
        heappush(self._queue, (start, request.number))

    def next(self, head: int, now: int) -> DiskChoice | None:
        if not self._queue:
            return None
        self._virtual, number = heappop(self._queue)
        return DiskChoice(number)

    def set_tickets(self, environment: int, tickets: int) -> None:
        """Counts for requests that are added from now on."""
        self._tickets[environment] = tickets

    def ended(self, environment: int) -> None:
        self._tickets.pop(environment, None)
        self._finish.pop(environment, None)
