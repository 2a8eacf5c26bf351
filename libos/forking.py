"""Fork for native programs over a Python library OS, made by down-calls alone.

Resident pages of the program become co-held and read-only on both sides, and whoever writes first gets a copy
(`libos.paging`).  Pages in the swap extent are copied to the child's own.  Shared text is mapped by the capability in
SHARED_SLOT, which the child is given.  The library's own state is copied field by field (`LibraryOS.fork`).

The child is started at address 0, which is never mapped: its first act is a page fault, in which its own library puts
its registers in place.  So it does not matter whether it gets the CPU before its parent has come to an end.  Vector
registers are not copied: os_fork is a function, and by the System V ABI they are its caller's to save.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import ANY, Event, Rights, Sharing
from exokernel.abi.layout import PAGE_SHIFT, PAGE_SIZE, SECTORS_PER_PAGE
from libos.books import Origin, Page
from libos.filesystems.interface import FileSystemError
from libos.page_tables import dirty_in, frame_in, read_entry
from libos.paging import COPY_PAGE
from libos.startup import SHARED_SLOT, RegionKind
from libos.transfers import GONE, begin_transfer, let_go, wait_for

if TYPE_CHECKING:
    from libos.base import LibraryOS

_EVERYTHING: Final = int(Rights.READ | Rights.WRITE | Rights.CONTROL)
_NO_ADDRESS: Final = 0
_PATIENCE: Final = 5_000_000
"""Cycles to wait for a frame that somebody else must give."""


class _NoRoom(Exception):
    """There are not enough frames for a child."""


async def fork(parent: LibraryOS, context: int) -> int:
    """Make a copy of the environment, whose context `context` called os_fork; gives the child's number.

    Gives -1 if there is no room, with everything undone but the marks of copying on write.
    """
    registers = await parent.registers(context)
    await parent.paging.enter()
    parent.paging.pins.has_children = True
    # No record may be older than what is shared from now on.
    await parent.paging.taken.settle()
    under_way = _Fork(parent)
    try:
        await under_way.make((0, *registers[1:]))
        child = under_way.child
    except (Refused, _NoRoom):
        child = -1
    await under_way.tidy_up(failed=child < 0)
    await parent.paging.leave()
    return child


async def be_born(child: LibraryOS, context: int) -> None:
    """A child's first act: put the registers in place with which it goes on."""
    registers, child.unborn = child.unborn, ()
    for index, value in enumerate(registers):
        # A base that no program could have set by a down-call stays 0.
        with suppress(Refused):
            await child.exo.set_register(context, index, value)


class _Fork:
    """One fork under way, inside the parent's section.

    While pages are being shared, room is made only with pages whose turn has not come: those before it stay in the
    child's tables, so nothing would come free.
    """

    def __init__(self, parent: LibraryOS) -> None:
        self._parent = parent
        self._paging = parent.paging
        self._exo = parent.exo
        self._start = parent.start
        self._given: dict[int, Page] = {}
        """The rows of the pages as the child got them; the parent may lose a page again before it is done."""
        self._between: int | None = None
        """A frame by way of which pages are copied in the swap extent."""
        self._sector: int | None = None
        self._deadline: int | None = None
        self.child = 0

    async def make(self, registers: tuple[int, ...]) -> None:
        """Make the child, give it all it needs, and start it.  Raises Refused or _NoRoom when there is too little."""
        exo = self._exo
        self.child = await self._with_room(exo.create_environment)
        if self._start.swap_pages:
            self._sector = await exo.alloc_sectors(self._start.swap_pages * SECTORS_PER_PAGE)
            self._start = self._start.at_swap(self._sector)
            await exo.share_sectors(self._sector, self.child, Sharing.HOLD, _EVERYTHING)
        await self._give_resident_regions()
        await self._give_shared_pages()
        await self._give_files()
        await self._give_pages()
        library = self._parent.shallow_copy()
        self._parent.fork(library, self._start, self._given)
        library.unborn = registers
        await exo.set_library(self.child, library)
        await exo.start(self.child, _NO_ADDRESS, 0)

    async def tidy_up(self, failed: bool) -> None:
        """Let go of what is the child's alone now, and of the child too if it cannot be."""
        if self._between is not None:
            await let_go(self._exo, self._between)
        if failed and self.child:
            with suppress(Refused):
                await self._exo.destroy(self.child)
        if self._sector is not None:
            await self._exo.free_sectors(self._sector)

    async def _give_pages(self) -> None:
        """Give the child every page that the program has touched; pages taken meanwhile have another turn."""
        pages = self._paging.books.pages
        while waiting := [number for number in pages if number not in self._given]:
            for number in waiting:
                page = pages[number]
                given = replace(page)
                if page.frame is None:
                    if page.origin is Origin.SWAP:
                        await self._copy_swapped(number)
                elif await self._share(number, page, page.frame):
                    given.shared = page.shared
                else:
                    await self._paging.taken.settle_missing(number)
                    continue
                self._given[number] = given

    async def _with_room(self, call: Callable[[], Awaitable[int]]) -> int:
        """Make a down-call that needs a frame; while there is none, let a page leave that is not the child's yet, and
        then wait for a while.  Raises Refused for any other reason, _NoRoom when the time is over."""
        seen: int | None = None
        while True:
            try:
                return await call()
            except Refused as refused:
                if refused.error is not Error.NO_FRAME:
                    raise
            resident = self._paging.books.resident
            number = next((number for number in resident if number not in self._given), None)
            if number is not None:
                await self._paging.departures.one(number)
            elif seen is None:
                seen = await self._paging.frames_seen()
            else:
                await self._wait(seen)
                seen = None

    async def _wait(self, seen: int) -> None:
        now = await self._exo.time()
        if self._deadline is None:
            self._deadline = now + _PATIENCE
        try:
            await self._exo.block(Event.FRAMES, seen, self._deadline)
        except Refused:
            raise _NoRoom from None

    async def _map(self, va: int, frame: int, rights: int) -> None:
        await self._with_room(lambda: self._exo.create_mapping(va, frame, rights, self.child))

    async def _give_resident_regions(self) -> None:
        """Map shared text in the child, and give it copies of what is private and not pageable."""
        await self._exo.give_capability(self.child, SHARED_SLOT, Rights.READ | Rights.EXECUTE, SHARED_SLOT)
        for region in self._start.regions:
            if region.kind.pageable:
                continue
            for va in range(region.va, region.end, PAGE_SIZE):
                frame = frame_in(await read_entry(self._exo, va >> PAGE_SHIFT))
                if frame is None:
                    continue
                if region.kind is RegionKind.PRIVATE:
                    frame = await self._copy_private(va)
                await self._map(va, frame, region.rights)

    async def _give_shared_pages(self) -> None:
        """Let the child hold the pages that stay shared, and be a member of the pipes."""
        shared = self._parent.shared
        for place, frame in shared.frames.items():
            await self._exo.share_page(frame, self.child, Sharing.HOLD, _EVERYTHING)
            await self._exo.reserve_page(frame, 1, self.child)
            await self._map(shared.address(place), frame, Rights.READ | Rights.WRITE)
        if not await self._parent.pipes.give(self.child):
            raise _NoRoom

    async def _give_files(self) -> None:
        """Let the child have the same files open."""
        try:
            await self._parent.files.give(self.child)
        except FileSystemError:
            raise _NoRoom from None

    async def _copy_private(self, va: int) -> int:
        contents = await self._exo.read(va, PAGE_SIZE)
        frame = await self._with_room(lambda: self._exo.alloc_page(ANY, self.child))
        await self._paging.map(self._start.window, frame, Rights.READ | Rights.WRITE)
        await self._exo.write(self._start.window, contents)
        await self._exo.remove_mapping(self._start.window)
        await self._exo.charge(COPY_PAGE)
        return frame

    async def _share(self, number: int, page: Page, frame: int) -> bool:
        """Make a resident page read-only on both sides; False if it has been taken."""
        place = self._paging.books.place(number)
        entry = await read_entry(self._exo, place)
        if frame_in(entry) != frame or not await self._paging.pins.pin(frame):
            return False
        va, region = place << PAGE_SHIFT, self._paging.regions.of(number)
        # Noted before the entry is replaced, which forgets it.
        page.dirty = page.dirty or dirty_in(entry)
        page.shared = bool(region.rights & Rights.WRITE)
        try:
            await self._exo.create_mapping(va, frame, Rights.READ)
            await self._exo.share_page(frame, self.child, Sharing.HOLD, _EVERYTHING)
            if self._paging.backed and region.kind.swappable:
                await self._exo.set_backing(frame, self._slot(number), self.child)
            await self._map(va, frame, Rights.READ)
        except Refused as refused:
            if refused.error not in GONE:
                raise
            return False
        finally:
            await self._paging.pins.unpin(frame)
        return True

    def _slot(self, number: int) -> int:
        """A page's place in the child's swap extent."""
        return self._paging.regions.slot(number) - self._parent.start.swap_sector + self._start.swap_sector

    async def _copy_swapped(self, number: int) -> None:
        """Copy a page from the parent's swap extent to the child's, again if the frame between is taken on the way."""
        places = (False, self._paging.regions.slot(number)), (True, self._slot(number))
        done = 0
        while done < len(places):
            if self._between is None:
                self._between, done = await self._with_room(self._exo.alloc_page), 0
                if not await self._paging.pins.pin(self._between):
                    self._between = None
                    continue
            write, sector = places[done]
            request = await begin_transfer(self._exo, write, sector, SECTORS_PER_PAGE, self._between)
            if request is None:
                self._between = None
                await self._paging.taken.settle()
            else:
                await wait_for(self._exo, request)
                done += 1
