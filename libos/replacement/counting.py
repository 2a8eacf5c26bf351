"""Strategies that order resident pages by their references and remember nothing else: LRU and LFU."""

from collections import OrderedDict
from typing import ClassVar

from libos.replacement.strategy import Bits, NothingResident, ReferenceStrategy


class Lru(ReferenceStrategy):
    """Evicts the page whose last reference lies furthest back."""

    name: ClassVar[str] = "lru"
    summary: ClassVar[str] = "evicts the page not used for longest"

    def __init__(self, frames: int, seed: int = 0) -> None:
        super().__init__(frames, seed)
        self._by_last_use: OrderedDict[int, None] = OrderedDict()

    def admit(self, page: int) -> None:
        self._by_last_use[page] = None

    def referenced(self, page: int) -> None:
        self._by_last_use.move_to_end(page)

    def forget(self, page: int) -> None:
        del self._by_last_use[page]

    def victim(self, bits: Bits) -> int:
        if not self._by_last_use:
            raise NothingResident(self.name)
        return next(iter(self._by_last_use))


class Lfu(ReferenceStrategy):
    """Evicts the page referenced least often since it was admitted; among equals, the one that got there first.

    Counts start anew when a page returns.
    """

    name: ClassVar[str] = "lfu"
    summary: ClassVar[str] = "evicts the page used least often since it came"

    def __init__(self, frames: int, seed: int = 0) -> None:
        super().__init__(frames, seed)
        self._count: dict[int, int] = {}
        self._with_count: dict[int, OrderedDict[int, None]] = {}
        # A lower bound of the smallest count, exact unless pages were lost.
        self._least = 1

    def _enter(self, page: int, count: int) -> None:
        self._count[page] = count
        self._with_count.setdefault(count, OrderedDict())[page] = None

    def _leave(self, page: int) -> int:
        count = self._count.pop(page)
        peers = self._with_count[count]
        del peers[page]
        if not peers:
            del self._with_count[count]
        return count

    def admit(self, page: int) -> None:
        self._enter(page, 1)
        self._least = 1

    def referenced(self, page: int) -> None:
        count = self._leave(page)
        self._enter(page, count + 1)

    def forget(self, page: int) -> None:
        self._leave(page)

    def victim(self, bits: Bits) -> int:
        if not self._count:
            raise NothingResident(self.name)
        if self._least not in self._with_count:
            self._least = min(self._with_count)
        return next(iter(self._with_count[self._least]))
