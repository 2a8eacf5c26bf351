"""Disk requests: who may make which, in what order they may begin, and what becomes of them.

A request moves one to eight sectors between the disk and one frame.  Rights are checked when it is made, before the
disk sees it, and again before data moves; the frame is not given to anybody else until it has ended.  The disk serves
one at a time.  Which is next is the global disk policy's choice, among those whose own library lets them begin: a
request waits there for those its environment made before it, as far as barriers, ordering or a flush say so, and for
what the kernel itself writes onto its sectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from exokernel.abi.errors import Error
from exokernel.abi.flags import Event, Transfer
from exokernel.abi.layout import PAGE_SHIFT, SECTOR_SIZE, SECTORS_PER_PAGE
from exokernel.kernel.environment import REQUESTS_MAXIMUM, Environment, State
from exokernel.kernel.frames import Frame
from exokernel.kernel.refusal import Refusal
from exokernel.kernel.sectors import READ, WRITE, Extent, SectorTable
from exokernel.machine.disk import Disk
from exokernel.policy.disk_scheduling import DiskPolicy, DiskRequest

if TYPE_CHECKING:
    from exokernel.kernel.kernel import Kernel

FORCED, BARRIER, ORDERED = int(Transfer.FORCED), int(Transfer.BARRIER), int(Transfer.ORDERED)
FLAGS = FORCED | BARRIER | ORDERED


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
    flags: int = 0
    extent: Extent | None = None
    kernel: bool = False
    data: bytes = b""
    """What a write-back stores: the frame as it was when its holder lost it, whatever another holder does to it since."""
    arrived: int = 0
    row: int | None = None
    """In the exposed disk queue."""
    waits: int = 0
    """Requests that have to end before it begins."""
    followers: list[Request] = field(default_factory=list)
    """Those that wait for this one."""


@dataclass(frozen=True)
class RequestDone:
    """Timed event: the disk has finished the request it was serving."""


DONE = RequestDone()


class DiskRequests(SectorTable):
    """The requests under way over one disk."""

    def __init__(self, kernel: Kernel, disk: Disk, policy: DiskPolicy) -> None:
        super().__init__(disk)
        self._kernel = kernel
        self.policy = policy
        self.queue: dict[int, Request] = {}
        """All that have not ended, by number."""
        self._served: Request | None = None
        self._write_backs = 0
        self._serial = 0

    # Making them.

    def request(
        self, environment: Environment, write: bool, sector: int, count: int, frame: Frame, offset: int, flags: int
    ) -> int:
        """Queue a transfer after checking every right to it.  Gives its number.  Raises Refusal."""
        if (
            count > SECTORS_PER_PAGE
            or offset % SECTOR_SIZE
            or offset + count * SECTOR_SIZE > 1 << PAGE_SHIFT
            or flags > FLAGS
        ):
            raise Refusal(Error.BAD_ARGUMENT)
        extent = self._used_by(environment, sector, count, WRITE if write else READ)
        if extent is None:
            raise Refusal(Error.BAD_SECTOR)
        frames = self._kernel.frames
        if environment not in frame.holders and not frames.rights(environment, frame) & (READ if write else WRITE):
            raise Refusal(Error.DENIED)
        self._bound(environment)
        frames.begin_io(frame, not write)
        extent.requests += 1
        return self._enqueue(Request(0, environment, write, sector, count, frame, offset, flags, extent))

    def flush(self, environment: Environment) -> int:
        """Queue a request that ends when everything the environment wrote before is on the medium.  Gives its number.
        Raises Refusal (TOO_MANY)."""
        self._bound(environment)
        return self._enqueue(Request(0, environment, False, 0, 0, None))

    def _bound(self, environment: Environment) -> None:
        if len(environment.outstanding) >= REQUESTS_MAXIMUM:
            raise Refusal(Error.TOO_MANY)

    def write_back(self, environment: Environment, frame: Frame, sector: int) -> None:
        """The kernel saves a frame it is about to take; charged to its holder, who may write these sectors."""
        extent = self._used_by(environment, sector, SECTORS_PER_PAGE, WRITE)
        assert extent is not None
        self._kernel.frames.begin_io(frame, False)
        extent.requests += 1
        self._write_backs += 1
        start = frame.number << PAGE_SHIFT
        data = bytes(self._kernel.memory.view[start : start + (1 << PAGE_SHIFT)])
        request = Request(0, environment, True, sector, SECTORS_PER_PAGE, frame, 0, 0, extent, kernel=True, data=data)
        self._enqueue(request)

    def _enqueue(self, request: Request) -> int:
        kernel, environment = self._kernel, request.environment
        self._serial += 1
        number = request.number = self._serial
        request.arrived = kernel.clock.now
        if request.flags or not request.count or self._write_backs or environment.barrier is not None:
            for earlier in self._before(request):
                earlier.followers.append(request)
                request.waits += 1
        if request.flags & BARRIER:
            environment.barrier = request
        if request.flags & ORDERED:
            environment.ordered = request
        if not request.kernel:
            environment.outstanding[number] = None
            if request.write:
                environment.writes += 1
                environment.last_write = request.arrived
        self.queue[number] = request
        kernel.exposed.disk_request(request)
        if not request.waits:
            self._admit(request)
            if self._served is None:
                self._serve()
        return number

    def _before(self, request: Request) -> Iterable[Request]:
        """The requests under way that have to end before this one begins."""
        environment, flags = request.environment, request.flags
        for other in self.queue.values():
            if other.environment is environment and not request.kernel and not other.kernel:
                ordered = flags & ORDERED and other is environment.ordered
                flushed = not request.count and other.write
                if flags & BARRIER or flushed or ordered or other is environment.barrier:
                    yield other
                    continue
            if (other.kernel or request.kernel) and (
                other.sector < request.sector + request.count and request.sector < other.sector + other.count
            ):
                yield other

    # Serving them.

    def _admit(self, request: Request) -> None:
        """A request may begin: the policy knows of it from now on."""
        sector = request.sector if request.count else self.medium.drive.position
        self.policy.add(
            DiskRequest(request.number, request.environment.number, sector, request.count, request.write, request.arrived)
        )

    def _serve(self) -> None:
        clock, drive = self._kernel.clock, self.medium.drive
        choice = self.policy.next(drive.position, clock.now)
        if choice is None:
            return
        request = self._served = self.queue[choice.request]
        cycles = self.medium.service_cycles(
            clock.now, request.sector, request.count, request.write, request.flags & FORCED != 0, choice.through
        )
        clock.at(clock.now + cycles, DONE)

    def done(self) -> None:
        """The request that was served has ended: move the data, let go of the frame, tell whoever made it."""
        request = self._served
        assert request is not None
        self._served = None
        kernel, environment, frame, status = self._kernel, request.environment, request.frame, 0
        del self.queue[request.number]
        if frame is None:
            self.medium.flushed()
        else:
            if self._may_move(request, frame):
                self._move(request, frame)
            else:
                status = -int(Error.IO_ERROR)
            kernel.frames.end_io(frame, not request.write)
        extent = request.extent
        if extent is not None:
            extent.requests -= 1
            if not extent.holders:
                self._recycle(extent)
        self._write_backs -= request.kernel
        kernel.exposed.disk_request_ended(request)
        if environment.barrier is request:
            environment.barrier = None
        for follower in request.followers:
            follower.waits -= 1
            if not follower.waits:
                self._admit(follower)
        self._serve()
        if not request.kernel and environment.state is not State.DEAD:
            environment.writes -= request.write
            environment.outstanding[request.number] = status
            kernel.count_event(environment, Event.DISK, request.number, status)

    def _may_move(self, request: Request, frame: Frame) -> bool:
        """Whether sectors and frame are still the requester's to use, or still nobody else's.  The disk is as slow as it
        likes, and a loan that has ended since must not read or write what the lender keeps there now."""
        environment, extent = request.environment, request.extent
        assert extent is not None
        somebodys = extent.holders or extent.recorded is not None
        if somebodys and environment not in extent.holders:
            allowed = self.rights(environment, extent)
            if not allowed & (WRITE if request.write else READ):
                return False
        if request.kernel or frame.lost or environment in frame.holders:
            return True
        living = environment.state is not State.DEAD
        return living and bool(self._kernel.frames.rights(environment, frame) & (READ if request.write else WRITE))

    def _move(self, request: Request, frame: Frame) -> None:
        if request.write:
            self.medium.store(request.sector, self._data(request, frame), request.flags & FORCED != 0)
            request.environment.accounts.sectors_written += request.count
        else:
            start = (frame.number << PAGE_SHIFT) + request.offset
            self._kernel.memory.view[start : start + request.count * SECTOR_SIZE] = self.medium.read(
                request.sector, request.count
            )
            request.environment.accounts.sectors_read += request.count

    def _data(self, request: Request, frame: Frame) -> bytes:
        start = (frame.number << PAGE_SHIFT) + request.offset
        return request.data or bytes(self._kernel.memory.view[start : start + request.count * SECTOR_SIZE])

    def power_cut(self, random: Random) -> None:
        """The power goes now: the machine is over, and what a disk keeps then is on it.  The write that the disk was
        transferring may be torn."""
        request, under_way = self._served, None
        if request is not None and request.write and request.frame is not None and self._may_move(request, request.frame):
            under_way = request.sector, self._data(request, request.frame)
        self.medium.power_cut(random, self._kernel.clock.now, under_way)

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return bool(self.queue)

    def frames_in_flight(self) -> Iterator[Frame]:
        """The frames that requests under way use."""
        return (request.frame for request in self.queue.values() if request.frame is not None)
