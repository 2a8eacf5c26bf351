"""S3-FIFO: three queues, none of which is ever reordered by a hit."""

from collections import OrderedDict
from typing import ClassVar

from libos.replacement.strategy import Bits, NothingResident, ReferenceStrategy

MOST_USES_COUNTED = 3


class S3Fifo(ReferenceStrategy):
    """New pages enter a small queue and move to the main one only if used again before they reach its end.

    Pages evicted from the small queue are remembered; a remembered page that is missed enters the main queue directly.
    The main queue is a clock with counters up to 3. Source: J. Yang, Y. Zhang, Z. Qiu, Y. Yue and R. Vinayak, FIFO
    Queues are All You Need for Cache Eviction, SOSP 2023.

    `small_ratio` of the frames is the aim of the small queue (rounded down, at least 1). `ghost_ratio` times the frames
    is how many evicted pages are remembered (as many as the main queue holds, says the paper). A page moves on with
    `uses_to_move` uses since it was admitted (more than one, says the paper). With `fill_main` new pages enter the main
    queue while the small one has its size, which happens before the first eviction and after losses. In the paper all
    enter the small one; its authors' later simulator fills the main one.
    """

    name: ClassVar[str] = "s3-fifo"
    summary: ClassVar[str] = "a small queue filters out pages used once, a main queue keeps the rest"

    def __init__(
        self,
        frames: int,
        seed: int = 0,
        small_ratio: float = 0.1,
        ghost_ratio: float = 0.9,
        uses_to_move: int = 2,
        fill_main: bool = False,
    ) -> None:
        super().__init__(frames, seed)
        self.small_ratio = small_ratio
        self.ghost_ratio = ghost_ratio
        self.uses_to_move = uses_to_move
        self.fill_main = fill_main
        self._small: OrderedDict[int, int] = OrderedDict()
        self._main: OrderedDict[int, int] = OrderedDict()
        self._ghost: OrderedDict[int, None] = OrderedDict()
        self._returning: int | None = None
        self._chosen: int | None = None

    def _small_size(self) -> int:
        return max(1, int(self.frames * self.small_ratio))

    def missed(self, page: int) -> None:
        self._returning = page if page in self._ghost else None
        self._ghost.pop(page, None)

    def admit(self, page: int) -> None:
        if page in self._ghost:
            self.missed(page)
        to_main = page == self._returning or (self.fill_main and len(self._small) >= self._small_size())
        (self._main if to_main else self._small)[page] = 0
        self._returning = None

    def referenced(self, page: int) -> None:
        queue = self._small if page in self._small else self._main
        queue[page] = min(queue[page] + 1, MOST_USES_COUNTED)

    def forget(self, page: int) -> None:
        if page in self._main:
            del self._main[page]
        else:
            del self._small[page]
            if page == self._chosen:
                self._ghost[page] = None
                while len(self._ghost) > int(self.frames * self.ghost_ratio):
                    self._ghost.popitem(last=False)
        self._chosen = None

    def victim(self, bits: Bits) -> int:
        small_is_full = len(self._small) >= self._small_size() or not self._main
        page = self._from_small() if small_is_full else None
        self._chosen = self._from_main() if page is None else page
        return self._chosen

    def _from_small(self) -> int | None:
        """The first page of the small queue not used enough to move; those before it move. None if all move."""
        while self._small:
            page, uses = next(iter(self._small.items()))
            if uses < self.uses_to_move:
                return page
            del self._small[page]
            self._main[page] = 0
        return None

    def _from_main(self) -> int:
        if not self._main:
            raise NothingResident(self.name)
        while True:
            page, uses = next(iter(self._main.items()))
            if uses == 0:
                return page
            self._main[page] = uses - 1
            self._main.move_to_end(page)
