"""Demand paging with swap: how a page comes in, and the section in which everything about pages happens.

Which page leaves is said by a replacement strategy (`libos.replacement`), how it leaves by `libos.departure`, and what
was taken by force is put right by `libos.taken`.

Where backing is named for every frame (START_REGISTER_BACKING), three things keep a page's place in the swap extent the
truth at every instant: the frame has its contents before the backing is named, the backing is named before the frame is
mapped, and a page of zeros is written to at once, so that after a forced taking nobody asks whether it still was zeros.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import ANY, Access, Event, PageBits, Rights
from exokernel.abi.layout import FRAME_TABLE, OWN_PAGE, PAGE_SHIFT, PAGE_SIZE, SECTORS_PER_PAGE
from exokernel.abi.pages import FRAME_HOLDER_MASK, FRAME_HOLDERS_SHIFT, OwnPage, offset_of
from libos.books import READ_WRITE, Books, Counts, Origin, Page
from libos.departure import Departures
from libos.ending import BROKEN_LIBRARY, LOST_PAGE, end
from libos.filesystems.interface import FileSystemError
from libos.page_tables import dirty_in, frame_in, read_entry
from libos.pins import Pins
from libos.regions import Regions
from libos.replacement import Strategy
from libos.section import Section
from libos.startup import Region, StartBlock, StartFlag
from libos.taken import TakenRecords
from libos.transfers import GONE, begin_transfer, let_go, wait_for

if TYPE_CHECKING:
    from libos.files.client import FileClient

COPY_PAGE: Final = PAGE_SIZE // 8
"""Cycles declared for copying a page: a word a cycle."""
_FRAMES: Final = OWN_PAGE + offset_of(OwnPage, "events") + 8 * Event.FRAMES
_NUMBER: Final = OWN_PAGE + offset_of(OwnPage, "environment")
_COUNTS: Final = OWN_PAGE + offset_of(OwnPage, "evictions")
_SHORT: Final = frozenset((Error.NO_FRAME, Error.OVER_QUOTA))


class Paging:
    """The pages of one program.  `make_strategy` is called with the number of frames to expect and a seed."""

    def __init__(self, exo: Exo, start: StartBlock, make_strategy: Callable[[int, int], Strategy]) -> None:
        self.exo = exo
        self.start = start
        self.limit = start.frames
        self.backed = bool(start.flags & StartFlag.REGISTER_BACKING)
        self.regions = Regions(start)
        self.books = Books(self.regions, make_strategy(max(1, start.frames or start.pages), start.seed))
        self.taken = TakenRecords(exo, self.books, self.backed)
        self.pins = Pins(exo)
        self.departures = Departures(exo, self.books, self.taken, self.pins)
        self.section = Section(exo)
        self.files: FileClient | None = None
        """Where pages of files come from that have no sectors."""
        self.has_threads = False
        """Whether the program may run while one of its pages is being moved."""
        self._make_strategy = make_strategy
        self._frames_are_wanted = False
        self._pages_were_taken = False
        self._counts_shown = Counts()
        self._next_sample: int | None = None

    def fork(self, start: StartBlock, pages: Mapping[int, Page]) -> Self:
        """The paging of a child that has been given `pages` of this one's: frames, and copies in the swap extent."""
        child = type(self)(self.exo, start, self._make_strategy)
        child.regions = child.books.regions = self.regions.copy(start)
        child.books.inherit(pages)
        return child

    # The section.

    async def enter(self) -> None:
        """Begin to change the books."""
        await self.section.enter()
        if self._pages_were_taken:
            self._pages_were_taken = False
            await self.taken.settle()

    async def leave(self) -> None:
        """See to what was noted meanwhile, show the counts, and let the next one in."""
        await self.departures.clean()
        while self._frames_are_wanted or self._pages_were_taken:
            if self._pages_were_taken:
                self._pages_were_taken = False
                await self.taken.settle()
            else:
                self._frames_are_wanted = False
                await self.departures.give_what_is_wanted()
        counts = self.books.counts
        if counts != self._counts_shown:
            self._counts_shown = Counts(counts.evictions, counts.swap_in, counts.swap_out)
            words = (counts.evictions, counts.swap_in, counts.swap_out)
            await self.exo.write(_COUNTS, b"".join(word.to_bytes(8, "little") for word in words))
        self.books.untouched = None
        await self.section.leave()

    async def release(self) -> None:
        """The kernel wants frames back; how many stands in the own page."""
        self._frames_are_wanted = True
        if not self.section.occupied:
            await self.enter()
            await self.leave()

    async def were_taken(self) -> None:
        """Pages have been taken by force; which stands in the own page."""
        self._pages_were_taken = True
        if not self.section.occupied:
            await self.enter()
            await self.leave()

    async def transfer_ended(self, request: int) -> None:
        """A disk request that nobody waited for has ended."""
        await self.departures.cleaned(request)

    # Frames.

    async def take_frame(self) -> int:
        """A frame of zeros, pinned: a free one within the bound, else after the strategy's victim has left.  Waits for
        frames if nothing is left to give."""
        seen: int | None = None
        while True:
            refused = None
            if not self.limit or len(self.books.resident) < self.limit:
                try:
                    frame = await self.exo.alloc_page()
                except Refused as why:
                    refused = why
                else:
                    if await self.pins.pin(frame):
                        return frame
                    continue
            seen = await self._make_room(refused, seen)

    async def map(self, va: int, frame: int, rights: int) -> None:
        """Map a frame, making room for a page table if need be.  Raises Refused if the frame has been taken."""
        seen: int | None = None
        while True:
            try:
                await self.exo.create_mapping(va, frame, rights)
                return
            except Refused as refused:
                seen = await self._make_room(refused, seen)

    async def _make_room(self, refused: Refused | None, seen: int | None) -> int | None:
        """Let a page leave; with none left, wait for frames or, over the quota, end.  Raises any other refusal again.

        A wait takes two turns: the first gives the counter of frames that came free, and after one more refusal the
        second, given that as `seen`, waits.  So nothing that happens in between is missed.
        """
        if refused is not None and refused.error not in _SHORT:
            raise refused
        if await self.departures.one() or refused is None:
            return None
        if refused.error is Error.OVER_QUOTA:
            await end(self.exo, "The program's quota of frames is too small for it to run.", BROKEN_LIBRARY)
        if seen is None:
            return await self.frames_seen()
        await self.exo.block(Event.FRAMES, seen)
        return None

    async def frames_seen(self) -> int:
        """How often frames have come free, as `block(FRAMES)` wants to know."""
        return int.from_bytes(await self.exo.read(_FRAMES, 8), "little")

    # Coming in.

    async def fault(self, va: int, access: int) -> bool:
        """Make the page at `va` accessible; False if the program may not access it so."""
        region = self.regions.at(va)
        writing = bool(access & Access.WRITE)
        if region is None or access & Access.FETCH or (writing and not region.rights & Rights.WRITE):
            return False
        await self.enter()
        await self._sample_if_due()
        number = va >> PAGE_SHIFT
        page = self.books.page(number)
        if self.forbids(va, access):
            # Another thread has protected it meanwhile.
            pass
        elif page.frame is None:
            await self.bring_in(number, region)
        elif writing and page.shared:
            await self._stop_sharing(number, page, region)
        elif frame_in(await read_entry(self.exo, self.books.place(number))) != page.frame:
            await self.taken.settle_missing(number)
        await self.leave()
        return True

    def forbids(self, va: int, access: int) -> bool:
        """Whether this access is one that the program has forbidden itself by os_protect."""
        page = self.books.pages.get(va >> PAGE_SHIFT)
        if page is None or page.allowed == READ_WRITE or access & Access.FETCH:
            return False
        region = self.regions.at(va)
        needed = Rights.WRITE if access & Access.WRITE else Rights.READ
        return region is not None and bool(region.rights & needed & ~page.allowed)

    async def protect(self, number: int, allowed: int) -> None:
        """Let the program do no more than `allowed` with a page from now on, and no more than its region has; inside the
        section.

        A page that may not be read is mapped read-only elsewhere, so that its entry can still be looked at.
        """
        page, seen = self.books.page(number), None
        while page.frame is not None and page.allowed != allowed:
            old, frame = self.books.place(number), page.frame
            if not await self.pins.pin(frame):
                await self.taken.settle()
                continue
            entry = await read_entry(self.exo, old)
            if frame_in(entry) != frame:
                await self.pins.unpin(frame)
                await self.taken.settle_missing(number)
                continue
            # Noted before the entry is replaced, which forgets it; another thread may write until then.
            writable = bool(self._mapping_rights(number, page) & Rights.WRITE)
            page.dirty = page.dirty or dirty_in(entry) or (self.has_threads and writable)
            before, page.allowed = page.allowed, allowed
            new = self.books.place(number)
            try:
                await self.exo.create_mapping(new << PAGE_SHIFT, frame, self._mapping_rights(number, page))
            except Refused as refused:
                page.allowed = before
                await self.pins.unpin(frame)
                if refused.error in GONE:
                    await self.taken.settle_missing(number)
                else:
                    seen = await self._make_room(refused, seen)
                continue
            if new != old:
                with suppress(Refused):
                    await self.exo.remove_mapping(old << PAGE_SHIFT)
            await self.pins.unpin(frame)
        page.allowed = allowed

    def _mapping_rights(self, number: int, page: Page) -> int:
        """With which rights the page is mapped where it is mapped now."""
        rights = self.regions.of(number).rights & (page.allowed or Rights.READ)
        return rights & ~Rights.WRITE if page.shared else rights

    async def is_dirty(self, number: int) -> bool:
        """Whether evicting the page now would cost a write."""
        page = self.books.page(number)
        return page.frame is not None and (page.dirty or dirty_in(await read_entry(self.exo, self.books.place(number))))

    async def _sample_if_due(self) -> None:
        interval = self.books.strategy.sample_every
        if interval is None:
            return
        now = await self.exo.time()
        if self._next_sample is not None and now < self._next_sample:
            return
        if self._next_sample is not None:
            await self.departures.sample()
        self._next_sample = now + interval

    async def bring_in(self, number: int, region: Region) -> None:
        """Make an absent page resident, inside the section."""
        page = self.books.page(number)
        while page.frame is None:
            if page.origin is Origin.LOST:
                sentence = f"The page at {number << PAGE_SHIFT:#x} was taken by force and its contents are lost."
                await end(self.exo, sentence, LOST_PAGE)
            frame = await self.take_frame()
            if not await self._fill(page, number, frame) or not await self._place(page, number, region, frame):
                await let_go(self.exo, frame)
                await self.taken.settle()
            else:
                await self.pins.unpin(frame)

    async def _fill(self, page: Page, number: int, frame: int) -> bool:
        """Load what the page has on the disk; False if the frame was taken meanwhile."""
        if page.origin is Origin.ZERO:
            return True
        if page.origin is Origin.FILE and self.regions.of(number).sector == ANY:
            return await self._fill_served(number, frame)
        if page.origin is Origin.FILE:
            sector, sectors = self.regions.file_sectors(number)
        else:
            sector, sectors = self.regions.slot(number), SECTORS_PER_PAGE
            self.books.counts.swap_in += 1
        request = await begin_transfer(self.exo, False, sector, sectors, frame)
        if request is None:
            return False
        await wait_for(self.exo, request)
        return True

    async def _fill_served(self, number: int, frame: int) -> bool:
        """Load a page of a file from the file server; False if the frame was taken meanwhile."""
        region = self.regions.of(number)
        assert self.files is not None
        try:
            return await self.files.fill(int(region.name), (number << PAGE_SHIFT) - region.va, frame)
        except FileSystemError as error:
            await end(self.exo, f"A page of a mapped file cannot be read: {error.errno.sentence}.", BROKEN_LIBRARY)

    async def _place(self, page: Page, number: int, region: Region, frame: int) -> bool:
        """Map a filled frame where it belongs; False if it was taken meanwhile."""
        va = number << PAGE_SHIFT
        self.books.untouched = number
        try:
            await self.name_backing(number, frame)
            filled, protected = page.origin is not Origin.ZERO, page.allowed != READ_WRITE
            withheld = self.has_threads and (filled or (protected and not self.backed))
            await self.map(va, frame, region.rights & ~Rights.WRITE if withheld else region.rights)
        except Refused as refused:
            if refused.error not in GONE:
                raise
            return False
        self.books.admit(number, frame)
        if filled:
            await self.exo.clear_page_bits(va, 1, PageBits.DIRTY)
        elif self.backed:
            await self.exo.write_if_mapped(va, b"\0")
        if withheld and not protected:
            await self._allow(va, frame, region.rights)
        elif protected and not withheld:
            allowed, page.allowed = page.allowed, READ_WRITE
            await self.protect(number, allowed)
        return True

    async def _allow(self, va: int, frame: int, rights: int) -> None:
        """Let a page that has been told clean be written: no other thread could before."""
        try:
            await self.exo.create_mapping(va, frame, rights)
        except Refused as refused:
            if refused.error not in GONE:
                raise

    async def name_backing(self, number: int, frame: int) -> None:
        """Tell the kernel where the page goes if its frame is taken, if that was asked for."""
        if self.backed and self.regions.of(number).kind.swappable:
            await self.exo.set_backing(frame, self.regions.slot(number))

    # Copy-on-write.

    async def _stop_sharing(self, number: int, page: Page, region: Region) -> None:
        """A write to a page that may be shared: the frame is ours alone by now, or the page gets a copy.  Whatever
        comes in between, the program tries again."""
        await self.taken.settle()
        va, old = number << PAGE_SHIFT, page.frame
        if old is None or not await self.pins.pin(old):
            await self.taken.settle()
            return
        word = int.from_bytes(await self.exo.read(FRAME_TABLE + 8 * old, 8), "little")
        own_number = int.from_bytes(await self.exo.read(_NUMBER, 8), "little")
        if word >> FRAME_HOLDERS_SHIFT & 0xFF == 1 and word & FRAME_HOLDER_MASK == own_number:
            if await self._remap(va, old, region.rights):
                page.shared = False
            await self.pins.unpin(old)
            return
        frame = await self.take_frame()
        contents = await self.exo.read_if_mapped(va, PAGE_SIZE) if page.frame == old else None
        if contents is None or not await self._copy_to(number, frame, contents, region.rights):
            await let_go(self.exo, frame)
            if page.frame == old:
                await self._remap(va, old, Rights.READ)
            await self.pins.unpin(old)
            await self.taken.settle()
            return
        page.frame, page.shared = frame, False
        await let_go(self.exo, old)
        await self.pins.unpin(frame)

    async def _copy_to(self, number: int, frame: int, contents: bytes, rights: int) -> bool:
        """Put a copy of a page into its place; False if the new frame was taken meanwhile."""
        va = number << PAGE_SHIFT
        try:
            await self.exo.create_mapping(va, frame, rights)
            if not await self.exo.write_if_mapped(va, contents):
                return False
            await self.name_backing(number, frame)
        except Refused as refused:
            if refused.error not in GONE | _SHORT:
                raise
            return False
        await self.exo.charge(COPY_PAGE)
        return True

    async def _remap(self, va: int, frame: int, rights: int) -> bool:
        """Map a frame that was mapped before with other rights; False if it has been taken."""
        try:
            await self.exo.create_mapping(va, frame, rights)
        except Refused as refused:
            if refused.error not in GONE | _SHORT:
                raise
            return False
        return True
