"""ARC: recency and frequency share memory, and what was evicted too early decides how."""

from collections import OrderedDict
from typing import ClassVar

from libos.replacement.strategy import Bits, NothingResident, ReferenceStrategy


class Arc(ReferenceStrategy):
    """Two LRU lists, of pages seen once (`t1`) and more often (`t2`), each continued by a list of evicted pages.

    A miss that finds its page among those evicted from `t1` (`b1`) means that `t1` was too short, and raises its target
    size; one found in `b2` lowers it. The target is a real number, as the paper's ratios make it. `t1` and `b1`
    together hold at most as many pages as there are frames, all four at most twice as many. Source: N. Megiddo and D.
    S. Modha, ARC: A Self-Tuning, Low Overhead Replacement Cache, FAST 2003.
    """

    name: ClassVar[str] = "arc"
    summary: ClassVar[str] = "balances recency and frequency by which evictions it came to regret"

    def __init__(self, frames: int, seed: int = 0) -> None:
        super().__init__(frames, seed)
        self._t1: OrderedDict[int, None] = OrderedDict()
        self._t2: OrderedDict[int, None] = OrderedDict()
        self._b1: OrderedDict[int, None] = OrderedDict()
        self._b2: OrderedDict[int, None] = OrderedDict()
        self._target = 0.0
        self._returning: int | None = None
        self._from_b2 = False
        self._chosen: int | None = None

    def missed(self, page: int) -> None:
        self._returning, self._from_b2 = None, False
        if page in self._b1:
            step = max(len(self._b2) / len(self._b1), 1.0)
            self._target = min(self._target + step, self.frames)
            del self._b1[page]
            self._returning = page
        elif page in self._b2:
            step = max(len(self._b1) / len(self._b2), 1.0)
            self._target = max(self._target - step, 0.0)
            del self._b2[page]
            self._returning, self._from_b2 = page, True

    def admit(self, page: int) -> None:
        if page in self._b1 or page in self._b2:
            self.missed(page)
        if page == self._returning:
            self._t2[page] = None
        else:
            # The paper shortens the lists of evicted pages before it evicts. Done after, as here, it comes to the same:
            # where it would evict from a full t1 without remembering the page, the page is dropped here at once.
            while self._b1 and len(self._t1) + len(self._b1) >= self.frames:
                self._b1.popitem(last=False)
            while self._b2 and self._known() >= 2 * self.frames:
                self._b2.popitem(last=False)
            self._t1[page] = None
        self._returning, self._from_b2 = None, False

    def _known(self) -> int:
        return len(self._t1) + len(self._t2) + len(self._b1) + len(self._b2)

    def referenced(self, page: int) -> None:
        self._t1.pop(page, None)
        self._t2[page] = None
        self._t2.move_to_end(page)

    def forget(self, page: int) -> None:
        pages, evicted = (self._t1, self._b1) if page in self._t1 else (self._t2, self._b2)
        del pages[page]
        if page == self._chosen:
            evicted[page] = None
        self._chosen = None

    def victim(self, bits: Bits) -> int:
        recent = len(self._t1)
        t1_is_long = recent > self._target or (recent == self._target and self._from_b2)
        pages = self._t1 if self._t1 and (t1_is_long or not self._t2) else self._t2
        if not pages:
            raise NothingResident(self.name)
        self._chosen = next(iter(pages))
        return self._chosen
