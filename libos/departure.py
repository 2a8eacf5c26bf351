"""How pages leave: chosen by the replacement strategy, written only if they must be, given back when the kernel asks.

A page is taken out of the tables first, as another thread may write to it until then, and what the kernel says of its bits
in the end decides whether it is written.  Until the write is under way the frame stands in the books.
"""

from dataclasses import dataclass
from typing import Final

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Refused
from exokernel.abi.flags import ANY, PageBits
from exokernel.abi.layout import OWN_PAGE, PAGE_SHIFT, SECTORS_PER_PAGE
from exokernel.abi.pages import OwnPage, offset_of
from libos.books import Books, Origin
from libos.ending import BROKEN_LIBRARY, end
from libos.page_tables import Look, dirty_in, frame_in, read_entry
from libos.pins import Pins
from libos.taken import TakenRecords
from libos.transfers import GONE, begin_transfer, let_go, wait_for

AT_ONCE: Final = 16
"""Writes begun before the first of them is waited for."""
_WANTED: Final = OWN_PAGE + offset_of(OwnPage, "frames_wanted")


@dataclass(frozen=True, slots=True)
class Departure:
    """A page that has left: its frame, still held, and the request that saves its contents, if they had to be saved."""

    frame: int
    request: int | None


class Departures:
    """Takes pages out of memory.  Everything here runs inside the section."""

    def __init__(self, exo: Exo, books: Books, taken: TakenRecords, pins: Pins) -> None:
        self._exo = exo
        self._books = books
        self._taken = taken
        self._pins = pins
        self._to_clean: list[int] = []

    async def victim(self, look: Look) -> int:
        """The page the strategy names; one that is not resident ends the program, saying so."""
        strategy = self._books.strategy
        number = strategy.victim(look)
        await look.carry_out(self._exo)
        self._to_clean += look.to_clean
        look.to_clean = []
        if number not in self._books.resident:
            sentence = f"The strategy '{strategy.name}' named as its victim page {number!r}, which is not resident."
            await end(self._exo, sentence, BROKEN_LIBRARY)
        return number

    async def sample(self) -> None:
        """Give the strategy its tick."""
        look = await Look.at(self._exo, self._books)
        self._books.strategy.sample(look)
        await look.carry_out(self._exo)
        self._to_clean += look.to_clean

    async def depart(self, number: int) -> Departure | None:
        """Take a resident page out of memory; None if it turns out to have been taken."""
        books, page = self._books, self._books.resident[number]
        for waited in [request for request, cleaned in books.cleaning.items() if cleaned == number]:
            del books.cleaning[waited]
            await wait_for(self._exo, waited)
        # Not what the strategy saw: the program may have run since.
        place = books.place(number)
        entry = await read_entry(self._exo, place)
        frame = page.frame
        assert frame is not None
        if frame_in(entry) != frame or not await self._pins.pin(frame):
            await self._taken.settle_missing(number)
            return None
        # Another thread may write until the page has gone, so only what the kernel says of it then counts.
        try:
            entry = await self._exo.remove_mapping(place << PAGE_SHIFT)
        except Refused as refused:
            if refused.error not in GONE:
                raise
            await self._taken.settle_missing(number)
            return None
        request, origin = None, page.origin
        if page.recomputable:
            origin = Origin.ZERO
        elif page.dirty or dirty_in(entry):
            request = await begin_transfer(self._exo, True, books.regions.slot(number), SECTORS_PER_PAGE, frame)
            if request is None:
                await self._taken.settle_missing(number)
                return None
            books.counts.swap_out += 1
            origin = Origin.SWAP
        books.counts.evictions += 1
        books.forget(number, origin)
        return Departure(frame, request)

    async def finish(self, departure: Departure) -> None:
        """Wait until the contents are safe, and give the frame back."""
        if departure.request is not None:
            await wait_for(self._exo, departure.request)
        await let_go(self._exo, departure.frame)

    async def one(self, number: int | None = None) -> bool:
        """Give back the frame of one page, of the strategy's choice unless it is named.  False if none is resident."""
        if not self._books.resident:
            return False
        if number is None:
            number = await self.victim(await Look.at(self._exo, self._books))
        departure = await self.depart(number)
        if departure is not None:
            await self.finish(departure)
        return True

    async def give_what_is_wanted(self) -> None:
        """Give back as many frames as the kernel asks for in the own page, or the very one; all there are if it wants
        more.

        The writes of a bunch of victims are begun together, for the disk to put in order.  A bunch after which the
        kernel wants no fewer is the last: its frames have other holders, as after a fork, and more would not help.
        """
        before = None
        while self._books.resident:
            count, wanted = await self._wanted()
            if not count or (before is not None and count >= before):
                return
            if wanted != ANY:
                number = next((number for number, page in self._books.resident.items() if page.frame == wanted), None)
                if number is not None:
                    await self.one(number)
                return
            before = count
            look = await Look.at(self._exo, self._books)
            leaving = []
            for _ in range(min(count, AT_ONCE, len(self._books.resident))):
                departure = await self.depart(await self.victim(look))
                if departure is None:
                    break
                leaving.append(departure)
            for departure in leaving:
                await self.finish(departure)

    async def _wanted(self) -> tuple[int, int]:
        """How many frames the kernel wants back, and which if it is a certain one (else ANY)."""
        words = await self._exo.read(_WANTED, 16)
        return int.from_bytes(words[:8], "little"), int.from_bytes(words[8:], "little")

    async def clean(self) -> None:
        """Begin to write the pages that the strategy wants cleaned while they stay.

        The write is begun first, so the frame cannot be taken, and then the dirty bit is cleared: what the program
        writes from now on makes the page dirty again.
        """
        books, numbers = self._books, self._to_clean
        self._to_clean = []
        for number in numbers:
            page = books.resident.get(number)
            if page is None or page.frame is None or page.recomputable or not books.regions.of(number).kind.swappable:
                continue
            if books.is_being_cleaned(number) or len(books.cleaning) >= AT_ONCE:
                continue
            frame = page.frame
            request = await begin_transfer(self._exo, True, books.regions.slot(number), SECTORS_PER_PAGE, frame)
            if request is None:
                continue
            books.cleaning[request] = number
            books.counts.swap_out += 1
            page.origin, page.dirty, books.untouched = Origin.SWAP, False, number
            await self._exo.clear_page_bits(number << PAGE_SHIFT, 1, PageBits.DIRTY)
            books.untouched = None

    async def cleaned(self, request: int) -> None:
        """A disk request has ended that nobody waited for: if it cleaned a page, take it off the kernel's list."""
        if self._books.cleaning.pop(request, None) is not None:
            await wait_for(self._exo, request)
