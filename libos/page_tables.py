"""Accessed and dirty bits, read from the page tables that the kernel shows the environment as an array of words.

One load gets the entries of the 512 pages of a last-level table, so a look at all resident pages costs about as many
loads as they span stretches of 2 MiB.
"""

from collections.abc import Iterable
from typing import Final

from exokernel.abi.downcalls import Exo
from exokernel.abi.flags import PageBits
from exokernel.abi.layout import PAGE_SHIFT, PAGE_SIZE, PAGE_TABLES, page_table_entry
from libos.books import LEAF_SHIFT, Books

_PRESENT: Final = 1
_FRAME: Final = 0x000F_FFFF_FFFF_F000
_ACCESSED: Final = int(PageBits.ACCESSED | PageBits.ACCESSED_BEFORE)
_NONE: Final = memoryview(bytes(PAGE_SIZE)).cast("Q")
_IN_LEAF: Final = (1 << LEAF_SHIFT) - 1


def frame_in(entry: int) -> int | None:
    """The frame a page-table entry leads to, None if it is not present."""
    return (entry & _FRAME) >> PAGE_SHIFT if entry & _PRESENT else None


def dirty_in(entry: int) -> bool:
    """Whether the page was written through this entry."""
    return bool(entry & PageBits.DIRTY)


async def read_entry(exo: Exo, number: int) -> int:
    """The page-table entry of a page; 0 if there is not even a table."""
    word = await exo.read_if_mapped(page_table_entry(number << PAGE_SHIFT), 8)
    return int.from_bytes(word, "little") if word is not None else 0


class Look:
    """One look at all resident pages: the `Bits` a replacement strategy gets.

    What the strategy asks for is collected and done by `carry_out` after the call.
    """

    def __init__(self, books: Books, now: int, leaves: dict[int, "memoryview[int]"]) -> None:
        self.now = now
        self._books = books
        self._leaves = leaves
        self._cleared: set[int] = set()
        self.to_clean: list[int] = []

    @classmethod
    async def at(cls, exo: Exo, books: Books) -> "Look":
        """Read the clock and the tables."""
        now = await exo.time()
        leaves = {}
        for leaf in list(books.leaves):
            words = await exo.read_if_mapped(PAGE_TABLES + (leaf << PAGE_SHIFT), PAGE_SIZE)
            leaves[leaf] = _NONE if words is None else memoryview(words).cast("Q")
        return cls(books, now, leaves)

    def entry(self, number: int) -> int:
        """The page-table entry as it was."""
        return self._leaves.get(number >> LEAF_SHIFT, _NONE)[number & _IN_LEAF]

    def accessed(self, page: int) -> bool:
        """Whether the page was used since its bit was last cleared."""
        return bool(self.entry(page) & _ACCESSED) and page not in self._cleared

    def dirty(self, page: int) -> bool:
        """Whether evicting the page would cost a write, or wait for one that is under way."""
        row = self._books.resident[page]
        return not row.recomputable and (row.dirty or dirty_in(self.entry(page)) or self._books.is_being_cleaned(page))

    def clear_accessed(self, page: int) -> None:
        """Note that the bit is to be cleared."""
        self._cleared.add(page)

    def schedule_write(self, page: int) -> None:
        """Note that the page should be cleaned."""
        if not self._books.is_being_cleaned(page):
            self.to_clean.append(page)

    async def carry_out(self, exo: Exo) -> None:
        """Clear the bits, neighbours by one down-call."""
        set_now = sorted(page for page in self._cleared if self.entry(page) & _ACCESSED)
        for first, count in _runs(set_now):
            await exo.clear_page_bits(first << PAGE_SHIFT, count, _ACCESSED)


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers in a sorted sequence: first and length."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and sum(runs[-1]) == number:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((number, 1))
    return runs
