"""SIEVE: a clock whose pages keep their places in order of arrival."""

from typing import ClassVar

from libos.replacement.ring import Ring
from libos.replacement.strategy import Bits, NothingResident, ReferenceStrategy


class Sieve(ReferenceStrategy):
    """A hand sweeps from the oldest page to the newest, spares those referenced since it last passed, evicts the first
    other, and stays there. New pages are always the newest: they are not put behind the hand, as Clock's are, so those
    not wanted soon are sifted out quickly. Source: Y. Zhang, J. Yang, Y. Yue, Y. Vigfusson and K. V. Rashmi, SIEVE is
    Simpler than LRU: an Efficient Turn-Key Eviction Algorithm for Web Caches, NSDI 2024.
    """

    name: ClassVar[str] = "sieve"
    summary: ClassVar[str] = "a clock that keeps pages in order of arrival and sifts out new ones quickly"

    def __init__(self, frames: int, seed: int = 0) -> None:
        super().__init__(frames, seed)
        # From the oldest page to the newest, and round to the oldest.
        self._ring = Ring()
        self._oldest: int | None = None
        self._hand: int | None = None
        self._visited: set[int] = set()

    def admit(self, page: int) -> None:
        self._ring.insert(page, before=self._oldest)
        if self._oldest is None:
            self._oldest = self._hand = page

    def referenced(self, page: int) -> None:
        self._visited.add(page)

    def forget(self, page: int) -> None:
        after = self._ring.remove(page)
        self._visited.discard(page)
        if self._hand == page:
            self._hand = after
        if self._oldest == page:
            self._oldest = after

    def victim(self, bits: Bits) -> int:
        if self._hand is None:
            raise NothingResident(self.name)
        while self._hand in self._visited:
            self._visited.remove(self._hand)
            self._hand = self._ring.after(self._hand)
        return self._hand
