"""Sectors and disk requests: who may use which extent, and what is in the queue.

An extent is a run of sectors with holders, loans and an access list, like a frame.  A request moves one to eight sectors
between the disk and one frame; rights are checked when it is made, before the disk sees it, and the frame is not given to
anybody else until it has ended.  Requests are served one at a time in the order they came.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exokernel.abi.errors import Error
from exokernel.abi.flags import ANY, Event, Rights
from exokernel.abi.layout import PAGE_SHIFT, SECTOR_SIZE, SECTORS_PER_PAGE
from exokernel.kernel.capabilities import ACCESS_ENTRIES, EVERY_RIGHT, AccessList, rights
from exokernel.kernel.environment import REQUESTS_MAXIMUM, Environment, State
from exokernel.kernel.frames import Frame
from exokernel.kernel.refusal import Refusal
from exokernel.machine.disk import Disk

if TYPE_CHECKING:
    from exokernel.kernel.kernel import Kernel

READ, WRITE, CONTROL = int(Rights.READ), int(Rights.WRITE), int(Rights.CONTROL)
READ_ONLY_RIGHTS = int(Rights.READ | Rights.CONTROL)


@dataclass(slots=True, eq=False)
class Extent:
    """Sectors `start` to `start + count`; `allowed` is the most anybody may do with them."""

    start: int
    count: int
    holders: list[Environment] = field(default_factory=list)
    loans: dict[tuple[Environment, Environment], int] = field(default_factory=dict)
    access: dict[Environment, AccessList] = field(default_factory=dict)
    """By holder, as a frame's."""
    allowed: int = EVERY_RIGHT
    lasting: bool = False
    """What is there was there before, and stays when nobody holds it any more."""


@dataclass(slots=True, eq=False)
class Request:
    """One disk request.  `frame` is None for a flush; `kernel` marks a write-back the kernel began."""

    number: int
    environment: Environment
    write: bool
    sector: int
    count: int
    frame: Frame | None
    offset: int = 0
    kernel: bool = False
    data: bytes = b""
    """What a write-back stores: the frame as it was when its holder lost it, whatever another holder does to it since."""


@dataclass(frozen=True)
class RequestDone:
    """Timed event: the disk has finished the request it was serving."""


class SectorTable:
    """Extents and the queue of requests over one disk."""

    def __init__(self, kernel: Kernel, disk: Disk) -> None:
        self._kernel = kernel
        self.medium = disk
        self._extents: dict[int, Extent] = {}
        self._starts: list[int] = []
        self._queue: deque[Request] = deque()
        self._serial = 0

    # Extents.

    def attach(self, owner: Environment, start: int, count: int, allowed: int = READ_ONLY_RIGHTS) -> None:
        """Sectors with contents, such as a host file that has been attached: the first environment holds them."""
        extent = Extent(start, count, [owner], allowed=allowed, lasting=True)
        self._extents[start] = extent
        insort(self._starts, start)

    def extent(self, start: int) -> Extent:
        """The extent that begins at `start`.  Raises Refusal (BAD_SECTOR)."""
        extent = self._extents.get(start)
        if extent is None:
            raise Refusal(Error.BAD_SECTOR)
        return extent

    def allocate(self, environment: Environment, count: int, start: int) -> int:
        """The first free run of `count` sectors, or the one from `start`.  Raises Refusal (NO_SECTORS, BAD_SECTOR)."""
        limit = self.medium.sectors
        if start != ANY:
            if start + count > limit or any(s < start + count and start < s + self._extents[s].count for s in self._starts):
                raise Refusal(Error.BAD_SECTOR)
        else:
            start = 0
            for taken in self._starts:
                if taken - start >= count:
                    break
                start = max(start, taken + self._extents[taken].count)
            if start + count > limit:
                raise Refusal(Error.NO_SECTORS)
        self._extents[start] = Extent(start, count, [environment])
        insort(self._starts, start)
        return start

    def rights(self, environment: Environment, extent: Extent) -> int:
        """What an environment may do with an extent."""
        allowed = EVERY_RIGHT if environment in extent.holders else 0
        for entries in extent.access.values():
            allowed |= rights(environment.ring, entries)
        for (_, borrower), granted in extent.loans.items():
            if borrower is environment:
                allowed |= granted
        if allowed != EVERY_RIGHT and any(rights(environment.ring, holder.access) & CONTROL for holder in extent.holders):
            allowed = EVERY_RIGHT
        return allowed & extent.allowed

    def access_list(self, environment: Environment, extent: Extent) -> AccessList:
        """The access list that `environment` may write: its own, or the first holder's."""
        holder = environment if environment in extent.holders else extent.holders[0]
        return extent.access.setdefault(holder, [None] * ACCESS_ENTRIES)

    def let_go(self, environment: Environment, extent: Extent) -> None:
        """End a hold and the loans that came of it; the last one frees the sectors."""
        if environment not in extent.holders:
            raise Refusal(Error.DENIED)
        extent.holders.remove(environment)
        extent.access.pop(environment, None)
        for pair in [pair for pair in extent.loans if pair[0] is environment]:
            del extent.loans[pair]
        if not extent.holders:
            extent.loans.clear()
            self._recycle(extent)

    def _recycle(self, extent: Extent) -> None:
        """Nobody holds the sectors: erase them and let others have them, unless a request in the queue still uses them."""
        end = extent.start + extent.count
        if any(request.count and extent.start <= request.sector < end for request in self._queue):
            return
        del self._extents[extent.start]
        self._starts.remove(extent.start)
        if not extent.lasting:
            self.medium.erase(extent.start, extent.count)

    def let_go_of_everything(self, environment: Environment) -> None:
        """The environment ends."""
        for extent in list(self._extents.values()):
            for pair in [pair for pair in extent.loans if environment in pair]:
                del extent.loans[pair]
            if environment in extent.holders:
                self.let_go(environment, extent)

    def _may(self, environment: Environment, sector: int, count: int, right: int) -> bool:
        index = bisect_right(self._starts, sector) - 1
        if index < 0:
            return False
        extent = self._extents[self._starts[index]]
        return sector + count <= extent.start + extent.count and self.rights(environment, extent) & right != 0

    def may_write(self, environment: Environment, sector: int, count: int) -> bool:
        """Whether these sectors lie in one extent that the environment may write."""
        return self._may(environment, sector, count, WRITE)

    # Requests.

    def request(self, environment: Environment, write: bool, sector: int, count: int, frame: Frame, offset: int) -> int:
        """Queue a transfer after checking every right to it.  Gives its number.  Raises Refusal."""
        if count > SECTORS_PER_PAGE or offset % SECTOR_SIZE or offset + count * SECTOR_SIZE > 1 << PAGE_SHIFT:
            raise Refusal(Error.BAD_ARGUMENT)
        if not self._may(environment, sector, count, WRITE if write else READ):
            raise Refusal(Error.BAD_SECTOR)
        if not self._kernel.frames.rights(environment, frame) & (READ if write else WRITE):
            raise Refusal(Error.DENIED)
        self._bound(environment)
        self._kernel.frames.begin_io(frame, not write)
        return self._enqueue(Request(0, environment, write, sector, count, frame, offset))

    def flush(self, environment: Environment) -> int:
        """Queue a request that ends after everything before it.  Gives its number.  Raises Refusal (TOO_MANY)."""
        self._bound(environment)
        return self._enqueue(Request(0, environment, False, 0, 0, None))

    def _bound(self, environment: Environment) -> None:
        if len(environment.outstanding) >= REQUESTS_MAXIMUM:
            raise Refusal(Error.TOO_MANY)

    def write_back(self, environment: Environment, frame: Frame, sector: int) -> None:
        """The kernel saves a frame it is about to take; charged to its holder."""
        self._kernel.frames.begin_io(frame, False)
        start = frame.number << PAGE_SHIFT
        data = bytes(self._kernel.memory.view[start : start + (1 << PAGE_SHIFT)])
        self._enqueue(Request(0, environment, True, sector, SECTORS_PER_PAGE, frame, kernel=True, data=data))

    def _enqueue(self, request: Request) -> int:
        self._serial += 1
        request.number = self._serial
        if not request.kernel:
            request.environment.outstanding[request.number] = None
            if request.write:
                request.environment.writes += 1
                request.environment.last_write = self._kernel.clock.now
        self._queue.append(request)
        if len(self._queue) == 1:
            self._serve()
        self._show()
        return request.number

    def _serve(self) -> None:
        clock = self._kernel.clock
        clock.at(clock.now + self.medium.service_cycles(self._queue[0].count), RequestDone())

    def done(self) -> None:
        """The request at the head has ended: move the data, let go of the frame, tell whoever made it."""
        request = self._queue.popleft()
        environment, frame, status = request.environment, request.frame, 0
        if frame is not None:
            if self._may_move(request, frame):
                self._move(request, frame)
            else:
                status = -int(Error.IO_ERROR)
            self._kernel.frames.end_io(frame, not request.write)
        if self._queue:
            self._serve()
        self._show()
        for extent in [extent for extent in self._extents.values() if not extent.holders]:
            self._recycle(extent)
        if not request.kernel and environment.state is not State.DEAD:
            environment.writes -= request.write
            environment.outstanding[request.number] = status
            self._kernel.count_event(environment, Event.DISK, request.number, status)

    def _may_move(self, request: Request, frame: Frame) -> bool:
        """Whether the frame is still the requester's to use, or still nobody else's.  The disk is as slow as it likes, and
        a loan that has ended since must not read or write what the lender keeps there now."""
        if request.kernel or frame.lost:
            return True
        living = request.environment.state is not State.DEAD
        return living and bool(self._kernel.frames.rights(request.environment, frame) & (READ if request.write else WRITE))

    def _move(self, request: Request, frame: Frame) -> None:
        start = (frame.number << PAGE_SHIFT) + request.offset
        view = self._kernel.memory.view[start : start + request.count * SECTOR_SIZE]
        if request.write:
            self.medium.write(request.sector, request.data or view)
            request.environment.accounts.sectors_written += request.count
        else:
            view[:] = self.medium.read(request.sector, request.count)
            request.environment.accounts.sectors_read += request.count

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return bool(self._queue)

    def frames_in_flight(self) -> Iterator[Frame]:
        """The frames that requests in the queue use."""
        return (request.frame for request in self._queue if request.frame is not None)

    def _show(self) -> None:
        self._kernel.exposed.disk_queue(
            [
                {
                    "environment": request.environment.number,
                    "request": request.number & 0xFFFF_FFFF,
                    "sector": request.sector,
                    "count": request.count,
                    "write": int(request.write),
                    "frame": request.frame.number if request.frame is not None else ANY,
                }
                for request in self._queue
            ]
        )
