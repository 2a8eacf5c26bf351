"""2Q: a page proves itself before it is kept."""

from collections import OrderedDict
from typing import ClassVar

from libos.replacement.strategy import Bits, NothingResident, ReferenceStrategy


class TwoQueue(ReferenceStrategy):
    """New pages pass through a short queue; only those wanted again after leaving it enter the main LRU list.

    `a1in` holds new pages, first in first out, and aims at `in_ratio` of the frames. Pages evicted from it are
    remembered in `a1out`, up to `out_ratio` as many as there are frames. A remembered page that is missed goes to `am`,
    kept by recency; pages evicted from `am` are not remembered. Source: T. Johnson and D. Shasha, 2Q: A Low Overhead
    High Performance Buffer Management Replacement Algorithm, VLDB 1994 (the full version; its ratios are the defaults).
    The sizes are rounded down; `a1in` aims at 1 page at least.
    """

    name: ClassVar[str] = "2q"
    summary: ClassVar[str] = "keeps by recency only pages wanted again after a first stay"

    def __init__(self, frames: int, seed: int = 0, in_ratio: float = 0.25, out_ratio: float = 0.5) -> None:
        super().__init__(frames, seed)
        self.in_ratio = in_ratio
        self.out_ratio = out_ratio
        self._a1in: OrderedDict[int, None] = OrderedDict()
        self._a1out: OrderedDict[int, None] = OrderedDict()
        self._am: OrderedDict[int, None] = OrderedDict()
        self._proven: int | None = None
        self._chosen: int | None = None

    def missed(self, page: int) -> None:
        # Out of a1out before the eviction that may put another page there, so that this one does not take its place.
        self._proven = page if page in self._a1out else None
        self._a1out.pop(page, None)

    def admit(self, page: int) -> None:
        if page in self._a1out:
            self.missed(page)
        (self._am if page == self._proven else self._a1in)[page] = None
        self._proven = None

    def referenced(self, page: int) -> None:
        if page in self._am:
            self._am.move_to_end(page)

    def forget(self, page: int) -> None:
        if page in self._am:
            del self._am[page]
        else:
            del self._a1in[page]
            if page == self._chosen:
                self._a1out[page] = None
                while len(self._a1out) > int(self.frames * self.out_ratio):
                    self._a1out.popitem(last=False)
        self._chosen = None

    def victim(self, bits: Bits) -> int:
        in_is_long = len(self._a1in) > max(1, int(self.frames * self.in_ratio))
        queue = self._a1in if self._a1in and (in_is_long or not self._am) else self._am
        if not queue:
            raise NothingResident(self.name)
        self._chosen = next(iter(queue))
        return self._chosen
