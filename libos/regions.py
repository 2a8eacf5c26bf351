"""The regions of a program's address space: which page is the program's, and where its contents come from.

A page is known by its virtual page number, the address divided by 4096.  A HEAP region is the program's up to the
break, which `grow` moves, and a FILE region from the moment it was asked for.
"""

from bisect import bisect_right
from dataclasses import replace
from typing import Self

from exokernel.abi.layout import PAGE_SHIFT, PAGE_SIZE, SECTOR_SIZE, SECTORS_PER_PAGE
from libos.startup import Region, RegionKind, StartBlock


class Regions:
    """The regions of a start block, with what has been handed out of them."""

    def __init__(self, start: StartBlock) -> None:
        self.start = start
        pageable = (region for region in start.regions if region.kind.pageable)
        self._regions = sorted(pageable, key=lambda region: region.va)
        self._begins = [region.va for region in self._regions]
        self._break = {region.va: region.va for region in self._regions if region.kind is RegionKind.HEAP}
        self._opened: set[int] = set()

    def copy(self, start: StartBlock) -> Self:
        """The same with the same handed out, in the start block of a child."""
        child = type(self)(start)
        child._regions, child._begins = self._regions.copy(), self._begins.copy()
        child._break = self._break.copy()
        child._opened = self._opened.copy()
        return child

    def at(self, va: int) -> Region | None:
        """The pageable region of an address that is the program's now; None if it is nobody's."""
        region = self._around(va)
        if region is None or region.kind is RegionKind.FILES:
            return None
        if region.kind is RegionKind.HEAP and va >= self._break[region.va]:
            return None
        return None if region.kind is RegionKind.FILE and region.va not in self._opened else region

    def of(self, number: int) -> Region:
        """The region of a page, handed out or not.  Raises KeyError for a page of no pageable region."""
        region = self._around(number << PAGE_SHIFT)
        if region is None:
            raise KeyError(number)
        return region

    def _around(self, va: int) -> Region | None:
        place = bisect_right(self._begins, va) - 1
        return self._regions[place] if place >= 0 and va < self._regions[place].end else None

    def slot(self, number: int) -> int:
        """The first of the eight sectors that are a page's place in the swap extent."""
        region = self.of(number)
        return self.start.slot_of(region.first_page + number - (region.va >> PAGE_SHIFT))

    def file_sectors(self, number: int) -> tuple[int, int]:
        """Where a page of a file lies: its first sector and how many it has, 1 to 8."""
        region = self.of(number)
        first = (number - (region.va >> PAGE_SHIFT)) * SECTORS_PER_PAGE
        return region.sector + first, min(SECTORS_PER_PAGE, -(-region.size // SECTOR_SIZE) - first)

    def grow(self, size: int) -> int | None:
        """Hand out `size` bytes, rounded up to pages, of the heap region: their address, or None if there are not so
        many."""
        size = (size + PAGE_SIZE - 1) & -PAGE_SIZE
        for region in self._regions:
            if region.kind is RegionKind.HEAP and 0 < size <= region.end - self._break[region.va]:
                begin = self._break[region.va]
                self._break[region.va] += size
                return begin
        return None

    def open_file(self, name: str) -> Region | None:
        """Let the program have the file of this name; None if it was given none."""
        for region in self._regions:
            if region.kind is RegionKind.FILE and region.name == name:
                self._opened.add(region.va)
                return region
        return None

    def serve_file(self, handle: int, size: int) -> Region | None:
        """Let the program have a file of the mounted file system, by its handle, of `size` bytes; None if there is not so
        much address space for files."""
        pages = -(-size // PAGE_SIZE)
        for index, space in enumerate(self._regions):
            if space.kind is RegionKind.FILES and pages <= space.pages:
                made = replace(space, pages=pages, kind=RegionKind.FILE, size=size, name=str(handle))
                if not pages:
                    return made
                rest = replace(
                    space,
                    va=made.end,
                    pages=space.pages - pages,
                    first_page=space.first_page + pages,
                )
                self._regions[index : index + 1] = [made, rest]
                self._begins[index : index + 1] = [made.va, rest.va]
                self._opened.add(made.va)
                return made
        return None
