"""Sectors: who may use which extent.

An extent is a run of sectors with holders, loans and an access list, like a frame.  Sectors are erased before somebody
gets them, and are nobody's again only when no request uses them any more.  A *lasting* extent has contents of its own, an
image's or a host file's: it is never erased and stays when nobody holds it."""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exokernel.abi.errors import Error
from exokernel.abi.flags import ANY, Rights
from exokernel.kernel.capabilities import ACCESS_ENTRIES, EVERY_RIGHT, AccessList, Capability, rights
from exokernel.kernel.environment import Environment
from exokernel.kernel.refusal import Refusal
from exokernel.machine.disk import Disk

if TYPE_CHECKING:
    from exokernel.kernel.partitions import RecordedAccess

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
    requests: int = 0
    """Disk requests under way that use it."""
    everybody: int = 0
    """What anybody may do with it."""
    recorded: RecordedAccess | None = None
    """A partition's access list, which is on the disk."""


class SectorTable:
    """Extents over one disk."""

    def __init__(self, disk: Disk) -> None:
        self.medium = disk
        self._extents: dict[int, Extent] = {}
        self._starts: list[int] = []

    def attach(self, owner: Environment, start: int, count: int, allowed: int = READ_ONLY_RIGHTS) -> None:
        """Sectors with contents, such as a host file that has been attached: the first environment holds them."""
        extent = self._extents.get(start) or self.put(Extent(start, count, allowed=allowed, lasting=True))
        extent.holders.append(owner)

    def put(self, extent: Extent) -> Extent:
        """An extent from now on, in place of another of the same sectors that was there when the machine was switched on
        before."""
        if extent.start not in self._extents:
            insort(self._starts, extent.start)
        self._extents[extent.start] = extent
        return extent

    def extent(self, start: int) -> Extent:
        """The extent that begins at `start`.  Raises Refusal (BAD_SECTOR)."""
        extent = self._extents.get(start)
        if extent is None:
            raise Refusal(Error.BAD_SECTOR)
        return extent

    def allocate(self, environment: Environment, count: int, start: int) -> int:
        """The first free run of `count` sectors, or the one from `start`.  Raises Refusal (NO_SECTORS, BAD_SECTOR).

        The last sectors of an image always belong to an extent, so no run reaches from it into the memory behind it.
        """
        limit = self.medium.sectors
        if start != ANY:
            if start + count > limit:
                raise Refusal(Error.BAD_SECTOR)
            if any(s < start + count and start < s + self._extents[s].count for s in self._starts):
                raise Refusal(Error.BAD_SECTOR)
        else:
            start = 0
            for taken in self._starts:
                if taken - start >= count:
                    break
                start = max(start, taken + self._extents[taken].count)
            if start + count > limit:
                raise Refusal(Error.NO_SECTORS)
        self.medium.erase(start, count)
        self.put(Extent(start, count, [environment]))
        return start

    def rights(self, environment: Environment, extent: Extent) -> int:
        """What an environment may do with an extent."""
        allowed = self._own_rights(environment, extent)
        for (lender, borrower), granted in extent.loans.items():
            if borrower is environment and self._own_rights(lender, extent) & CONTROL:
                allowed |= granted
        return allowed & extent.allowed

    def _own_rights(self, environment: Environment, extent: Extent) -> int:
        """What it may do with an extent but for loans, and whatever is the most anybody may."""
        if environment in extent.holders:
            return EVERY_RIGHT
        allowed = extent.everybody
        if extent.recorded is not None:
            allowed |= rights(environment.ring, extent.recorded.entries)
        for entries in extent.access.values():
            allowed |= rights(environment.ring, entries)
        if any(rights(environment.ring, holder.access) & CONTROL for holder in extent.holders):
            return EVERY_RIGHT
        return allowed

    def set_access(self, environment: Environment, extent: Extent, index: int, entry: Capability | None) -> None:
        """Write an entry of the access list that `environment` may write: a partition's, its own, or the first holder's.
        Refused without CONTROL."""
        if not self.rights(environment, extent) & CONTROL:
            raise Refusal(Error.DENIED)
        if extent.recorded is not None:
            extent.recorded.set(index, entry)
            return
        holder = environment if environment in extent.holders else extent.holders[0]
        extent.access.setdefault(holder, [None] * ACCESS_ENTRIES)[index] = entry

    def lend(self, environment: Environment, extent: Extent, borrower: Environment, granted: int) -> None:
        """Lend an extent that one holds, or a partition that one controls, until the lender ends it, lets go or dies, or
        controls the partition no longer."""
        if environment not in extent.holders and extent.recorded is None:
            raise Refusal(Error.DENIED)
        extent.loans[environment, borrower] = granted

    def let_go(self, environment: Environment, extent: Extent) -> None:
        """End a hold and the loans that came of it; the last one frees the sectors."""
        if environment not in extent.holders:
            raise Refusal(Error.DENIED)
        extent.holders.remove(environment)
        extent.access.pop(environment, None)
        for pair in [pair for pair in extent.loans if pair[0] is environment]:
            del extent.loans[pair]
        if not extent.holders:
            self._recycle(extent)

    def _recycle(self, extent: Extent) -> None:
        """Nobody holds the sectors: let others have them, unless a request under way still uses them."""
        if not extent.requests and not extent.lasting:
            del self._extents[extent.start]
            self._starts.remove(extent.start)

    def let_go_of_everything(self, environment: Environment) -> None:
        """The environment ends."""
        for extent in list(self._extents.values()):
            for pair in [pair for pair in extent.loans if environment in pair]:
                del extent.loans[pair]
            if environment in extent.holders:
                self.let_go(environment, extent)

    def _used_by(self, environment: Environment, sector: int, count: int, right: int) -> Extent | None:
        """The extent in which these sectors lie, if the environment has this right to it."""
        index = bisect_right(self._starts, sector) - 1
        if index < 0:
            return None
        extent = self._extents[self._starts[index]]
        if sector + count > extent.start + extent.count:
            return None
        if environment in extent.holders and extent.allowed & right:
            return extent
        return extent if self.rights(environment, extent) & right else None

    def may_write(self, environment: Environment, sector: int, count: int) -> bool:
        """Whether these sectors lie in one extent that the environment may write."""
        return self._used_by(environment, sector, count, WRITE) is not None
