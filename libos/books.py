"""What a Python library OS knows of its program's pages, apart from what stands in the page tables.

A page that has been touched has a row; it is resident if the row has a frame, and exactly then the replacement strategy
knows it.  A clean page equals its origin: nothing but zeros, its place in the swap extent, or its file.  The books are
changed in the same step in which something is decided.  If the kernel then refuses the down-call, the frame has been
taken by force, and its record says what became of it.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from exokernel.abi.flags import Rights
from exokernel.abi.layout import PAGE_SHIFT
from libos.regions import Regions
from libos.replacement import Strategy
from libos.startup import HIDDEN, RegionKind

LEAF_SHIFT: Final = 9
"""A last-level page table has the entries of 512 pages."""
READ_WRITE: Final = int(Rights.READ | Rights.WRITE)
_HIDDEN_PAGES: Final = HIDDEN >> PAGE_SHIFT


class Origin(Enum):
    """What a page's contents are when it is not resident, or is and has not been written since."""

    ZERO = "zeros"
    SWAP = "its place in the swap extent"
    FILE = "its file"
    LOST = "nowhere: it was taken by force"


_FIRST: Final = {
    RegionKind.DATA: Origin.SWAP,
    RegionKind.ZERO: Origin.ZERO,
    RegionKind.HEAP: Origin.ZERO,
    RegionKind.FILE: Origin.FILE,
    RegionKind.FILES: Origin.FILE,
}


@dataclass(slots=True)
class Page:
    """The row of one page.  `dirty`: written since it equalled its origin, although its page-table entry need not say
    so (an entry that was replaced has forgotten).  `shared`: mapped read-only because another environment may hold the
    frame.  `recomputable`: the program does not want it written to swap.  `allowed`: what the program lets itself do with
    it, as far as the region's rights go."""

    origin: Origin
    frame: int | None = None
    dirty: bool = False
    shared: bool = False
    recomputable: bool = False
    allowed: int = READ_WRITE


@dataclass(slots=True)
class Counts:
    """Pages since the program began, as the own page shows them: three words in this order."""

    evictions: int = 0
    swap_in: int = 0
    swap_out: int = 0


class Books:
    """The rows by page number; `resident` are those with a frame, and `leaves` counts them by last-level table."""

    def __init__(self, regions: Regions, strategy: Strategy) -> None:
        self.regions = regions
        self.strategy = strategy
        self.pages: dict[int, Page] = {}
        self.resident: dict[int, Page] = {}
        self.leaves: Counter[int] = Counter()
        self.cleaning: dict[int, int] = {}
        """Disk requests by number that write a page which stays, and the page."""
        self.untouched: int | None = None
        """A page that equals its origin whatever a record says, because the program has not run since it came to."""
        self.counts = Counts()

    def page(self, number: int) -> Page:
        """The row of a page, made when first asked for.  Raises KeyError for a page of no region."""
        page = self.pages.get(number)
        if page is None:
            page = self.pages[number] = Page(_FIRST[self.regions.of(number).kind])
        return page

    def place(self, number: int) -> int:
        """The page number at which a page is mapped if it is resident: its own, or if it may not be read another."""
        page = self.pages.get(number)
        return number if page is None or page.allowed else number + _HIDDEN_PAGES

    def admit(self, number: int, frame: int) -> None:
        """The page has been mapped."""
        page = self.page(number)
        page.frame = frame
        self.resident[number] = page
        self.leaves[number >> LEAF_SHIFT] += 1
        self.strategy.admit(number)

    def forget(self, number: int, origin: Origin) -> None:
        """The page has left, or was taken; `origin` has its contents now."""
        page = self.resident.pop(number)
        page.frame, page.dirty, page.shared, page.origin = None, False, False, origin
        leaf = number >> LEAF_SHIFT
        self.leaves[leaf] -= 1
        if not self.leaves[leaf]:
            del self.leaves[leaf]
        self.strategy.forget(number)

    def is_being_cleaned(self, number: int) -> bool:
        """Whether a write of the page, which stays, is under way."""
        return number in self.cleaning.values()

    def inherit(self, pages: Mapping[int, Page]) -> None:
        """Take over a parent's rows in the books of its child.  Its places in the swap extent have only what was not
        resident, so what is counts as dirty.  The strategy starts anew."""
        for number, page in pages.items():
            self.pages[number] = replace(page, frame=None)
            if page.frame is not None:
                self.admit(number, page.frame)
                self.pages[number].dirty = self.regions.of(number).kind.swappable
