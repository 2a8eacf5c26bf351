"""Pages taken by force: the books are brought in line with the kernel's records in the own page.

Record n lies at n modulo TAKEN_RECORDS, so after a long sleep the oldest may be gone.  Then the page tables tell which
pages are missing.  Where a backing sector was named for every page, its place in the swap extent has the contents,
whether the kernel had to write them or not, because no page that was never written had a backing (see `libos.paging`).
"""

from contextlib import suppress
from typing import Any, Final

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Refused
from exokernel.abi.flags import Taken
from exokernel.abi.layout import OWN_PAGE, PAGE_SHIFT
from exokernel.abi.pages import TAKEN_RECORDS, OwnPage, TakenRecord, offset_of
from libos.books import Books, Origin, Page
from libos.page_tables import frame_in, read_entry

_TOTAL: Final = OWN_PAGE + offset_of(OwnPage, "taken_total")
_RECORDS: Final = OWN_PAGE + offset_of(OwnPage, "taken")
_SIZE: Final = TakenRecord.sizeof()


class TakenRecords:
    """Reads each record once.  `backed`: a backing sector is named for every page of the program."""

    def __init__(self, exo: Exo, books: Books, backed: bool) -> None:
        self._exo = exo
        self._books = books
        self._backed = backed
        self._settled = 0

    async def settle(self) -> None:
        """Bring the books in line with what has been taken since the last time."""
        total = int.from_bytes(await self._exo.read(_TOTAL, 8), "little")
        if total == self._settled:
            return
        ring = await self._exo.read(_RECORDS, TAKEN_RECORDS * _SIZE)
        overflow = total - self._settled > TAKEN_RECORDS
        begin = max(self._settled, total - TAKEN_RECORDS)
        self._settled = total
        for index in range(begin, total):
            place = index % TAKEN_RECORDS * _SIZE
            await self._settle_record(TakenRecord.parse(ring[place : place + _SIZE]))
        for number in list(self._books.resident) if overflow else ():
            await self._settle_without_record(number)

    async def settle_missing(self, number: int) -> None:
        """Settle a page that is not mapped although it should be, record or not."""
        await self.settle()
        await self._settle_without_record(number)

    async def _settle_record(self, record: Any) -> None:
        number = record.va >> PAGE_SHIFT
        page = self._books.resident.get(number)
        if page is None or page.frame != record.frame:
            # The mapping may have gone before the frame, or have been that of a hidden page: look for the frame.
            number = next((n for n, row in self._books.resident.items() if row.frame == record.frame), -1)
        page = self._books.resident.get(number)
        if page is not None and page.frame == record.frame and page.shared:
            # An entry says nothing here: whoever made the other holder may map the frame without holding it.
            await self._unmap(number)
        if await self._is_missing(number):
            self._forget(number, Taken(record.state))

    async def _unmap(self, number: int) -> None:
        with suppress(Refused):
            await self._exo.remove_mapping(self._books.place(number) << PAGE_SHIFT)

    async def _settle_without_record(self, number: int) -> None:
        if await self._is_missing(number):
            self._forget(number, Taken.SAVED if self._backed else Taken.LOST)

    async def _is_missing(self, number: int) -> bool:
        page = self._books.resident.get(number)
        return page is not None and frame_in(await read_entry(self._exo, self._books.place(number))) != page.frame

    def _forget(self, number: int, state: Taken) -> None:
        page = self._books.resident[number]
        self._books.forget(number, self._origin(number, page, state))

    def _origin(self, number: int, page: Page, state: Taken) -> Origin:
        """Where the contents of a page are that was taken."""
        if page.origin is Origin.FILE or number == self._books.untouched:
            return page.origin
        if page.recomputable:
            return Origin.ZERO
        if state is Taken.SAVED:
            return Origin.SWAP
        return page.origin if state is Taken.CLEAN else Origin.LOST
