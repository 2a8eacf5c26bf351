"""Which pages of a store are used: a bit for each, in memory while the store is open and on the disk at each checkpoint."""

from libos.database.errors import CorruptStore, StoreFull
from libos.database.format import CAPACITY, PAGE_HEADER, Geometry, PageKind, Seal


class Space:
    """The pages of one store.

    A page that the last checkpoint leads to must stay as it is until the next, so who frees one only says that it is
    `leaving`.  A page that was taken since is `fresh`: nobody but this run knows it, and it is free at once.
    """

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._used = bytearray(-(-geometry.pages // 8))
        self.fresh: set[int] = set()
        """Pages that were taken since the last checkpoint."""
        self._leaving: list[int] = []
        self._next = geometry.nodes_begin
        self.free = geometry.pages - geometry.nodes_begin
        for page in range(geometry.nodes_begin):
            self._used[page >> 3] |= 1 << (page & 7)

    @property
    def leaving(self) -> int:
        """How many pages the next checkpoint will free."""
        return len(self._leaving)

    @property
    def used(self) -> int:
        """How many pages the tree has."""
        return self._geometry.pages - self._geometry.nodes_begin - self.free - len(self._leaving)

    def is_fresh(self, page: int) -> bool:
        """Whether a page may be written in place: no checkpoint leads to it."""
        return page in self.fresh

    def is_used(self, page: int) -> bool:
        """Whether a page is somebody's, be it the last checkpoint's."""
        return bool(self._used[page >> 3] >> (page & 7) & 1)

    def take(self) -> int:
        """A free page, the next one on the disk if possible.  Raises StoreFull if there is none."""
        if not self.free:
            raise StoreFull("Every page of the store is used.")
        page, end = self._next, self._geometry.pages
        while True:
            if page >= end:
                page = self._geometry.nodes_begin
            if not page & 7 and self._used[page >> 3] == 0xFF:
                page += 8
            elif self.is_used(page):
                page += 1
            else:
                break
        self._used[page >> 3] |= 1 << (page & 7)
        self.fresh.add(page)
        self._next = page + 1
        self.free -= 1
        return page

    def let_go(self, page: int) -> bool:
        """A node is not needed any more; gives whether nothing leads to its page even on the disk."""
        if page not in self.fresh:
            self._leaving.append(page)
            return False
        self.fresh.remove(page)
        self._used[page >> 3] &= ~(1 << (page & 7))
        self.free += 1
        return True

    def checkpointed(self) -> None:
        """The superblock on the disk leads to the tree as it is now."""
        for page in self._leaving:
            self._used[page >> 3] &= ~(1 << (page & 7))
        self.free += len(self._leaving)
        self._leaving.clear()
        self.fresh.clear()

    def pack(self, seal: Seal, generation: int) -> bytes:
        """The pages of the map, as they will be right when the superblock of `generation` is on the disk."""
        used = bytearray(self._used)
        for page in self._leaving:
            used[page >> 3] &= ~(1 << (page & 7))
        begin, pages = self._geometry.map_begin(generation), []
        for place in range(self._geometry.map_pages):
            bits = bytes(used[place * CAPACITY : (place + 1) * CAPACITY])
            pages.append(seal.page(begin + place, generation, PageKind.MAP, place, 0, bits))
        return b"".join(pages)

    def unpack(self, pages: list[bytes], seal: Seal, generation: int) -> None:
        """Take over the map that was written with the superblock of `generation`.  Raises CorruptStore."""
        begin, bits = self._geometry.map_begin(generation), bytearray()
        for place, page in enumerate(pages):
            seal.check_page(page, begin + place, generation, PageKind.MAP, place)
            bits += page[PAGE_HEADER.size :]
        self._used = bits[: len(self._used)]
        if not all(self.is_used(page) for page in range(self._geometry.nodes_begin)):
            raise CorruptStore("The map of used pages says that the log or the map itself is free.")
        self.free = self._geometry.pages - sum(byte.bit_count() for byte in self._used)
