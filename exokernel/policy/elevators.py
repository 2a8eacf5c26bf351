"""Disk policies that go by position: shortest seek first, and the elevators.

An elevator's sweep serves what lies ahead of it and passes every position once: what arrives behind it, or at the very
place it stands, waits for a later sweep, so that no stream of requests holds it anywhere.  A request is therefore served
in the sweep under way or in one of the next two.

Names and distinctions as in Silberschatz, Galvin and Gagne, Operating System Concepts, chapter on mass storage: SCAN goes
on to the edge before it turns, LOOK turns at the last request; the circular ones serve in one direction only."""

from bisect import bisect_left, insort
from typing import Any, ClassVar

from exokernel.policy.disk_scheduling import DiskChoice, DiskPolicy, DiskRequest


class Positions(DiskPolicy):
    """Keeps its requests in the order of their positions, those of one position in that of their numbers."""

    def __init__(self, *numbers: Any, **named: Any) -> None:
        super().__init__(*numbers, **named)
        self._order: list[tuple[int, int]] = []

    def add(self, request: DiskRequest) -> None:
        self.sectors = max(self.sectors, request.sector + request.sectors)
        insort(self._order, (request.sector, request.number))

    def _from(self, sector: int) -> int:
        """The place in the order of the first request at `sector` or above."""
        return bisect_left(self._order, (sector, 0))


class ShortestSeekFirst(Positions):
    """The request nearest to the head; of two equally near the older.  One far away may wait for ever."""

    name = "sstf"
    summary = "shortest seek time first; may starve what lies far away"

    def next(self, head: int, now: int) -> DiskChoice | None:
        order = self._order
        if not order:
            return None
        above = self._from(head)
        near = [above] if above < len(order) else []
        if above:
            near.append(self._from(order[above - 1][0]))
        chosen = min(near, key=lambda place: (abs(order[place][0] - head), order[place][1]))
        return DiskChoice(order.pop(chosen)[1])


class Elevator(Positions):
    """Sweeps over the disk.  `circular`: upwards only, and back to the lowest; `to_the_edge`: it turns at the edge of the
    disk, not at the last request."""

    circular: ClassVar[bool]
    to_the_edge: ClassVar[bool]

    def __init__(self, *numbers: Any, **named: Any) -> None:
        super().__init__(*numbers, **named)
        self._up = True
        self._at = 0
        """Upwards the lowest position that is still ahead, downwards the highest."""

    def next(self, head: int, now: int) -> DiskChoice | None:
        if not self._order:
            return None
        through: tuple[int, ...] = ()
        place = self._ahead()
        while place is None:
            through += self._turn()
            place = self._ahead()
        sector, number = self._order.pop(place)
        self._at = sector + 1 if self._up else sector - 1
        return DiskChoice(number, through if self.to_the_edge else ())

    def _ahead(self) -> int | None:
        """The place in the order of the next request of this sweep."""
        if self._up:
            place = self._from(self._at)
            return place if place < len(self._order) else None
        place = self._from(self._at + 1)
        return self._from(self._order[place - 1][0]) if place else None

    def _turn(self) -> tuple[int, ...]:
        """The sweep is over: begin the next one, and say over which edges that leads."""
        last = self.sectors - 1
        if self.circular:
            self._at = 0
            return last, 0
        self._up = not self._up
        self._at = 0 if self._up else last
        return (0,) if self._up else (last,)


class Scan(Elevator):
    """To one edge and back to the other."""

    name = "scan"
    summary = "an elevator: from edge to edge, up and down"
    circular, to_the_edge = False, True


class CircularScan(Elevator):
    """Always upwards to the edge, then back to the lowest sector."""

    name = "c-scan"
    summary = "an elevator from edge to edge that serves on its way up only"
    circular, to_the_edge = True, True


class Look(Elevator):
    """Up to the last request, and down to the last."""

    name = "look"
    summary = "an elevator that turns at the last request"
    circular, to_the_edge = False, False


class CircularLook(Elevator):
    """Always upwards to the last request, then back to the lowest."""

    name = "c-look"
    summary = "an elevator that serves on its way up only, from the lowest request to the highest"
    circular, to_the_edge = True, False
