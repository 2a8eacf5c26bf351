"""Strategies that are one queue: first in first out, and second chance."""

from collections import OrderedDict
from typing import ClassVar

from libos.replacement.strategy import Bits, NothingResident, Strategy


class Fifo(Strategy):
    """Evicts the page that has been resident longest, used or not."""

    name: ClassVar[str] = "fifo"
    summary: ClassVar[str] = "evicts the page that came first"

    def __init__(self, frames: int, seed: int = 0) -> None:
        super().__init__(frames, seed)
        # Not a dict: the first key of one that is emptied from the front takes ever longer to find.
        self._queue: OrderedDict[int, None] = OrderedDict()

    def admit(self, page: int) -> None:
        self._queue[page] = None

    def forget(self, page: int) -> None:
        del self._queue[page]

    def victim(self, bits: Bits) -> int:
        if not self._queue:
            raise NothingResident(self.name)
        return next(iter(self._queue))


class SecondChance(Fifo):
    """First in first out, but a page used since it was last looked at goes to the back of the queue.

    If every page was used, the one that was first in the queue is evicted after all. Described by A. S. Tanenbaum,
    Modern Operating Systems; the idea is that of Corbató's clock, with the pages moving and the hand standing still.
    """

    name: ClassVar[str] = "second-chance"
    summary: ClassVar[str] = "first in first out, but used pages go round once more"

    def victim(self, bits: Bits) -> int:
        for _ in range(len(self._queue)):
            page = next(iter(self._queue))
            if not bits.accessed(page):
                return page
            bits.clear_accessed(page)
            self._queue.move_to_end(page)
        return super().victim(bits)
