"""Random replacement."""

from random import Random
from typing import ClassVar

from libos.replacement.strategy import Bits, NothingResident, Strategy


class RandomChoice(Strategy):
    """Evicts any resident page, each with the same probability, as the seed decides."""

    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "evicts any page, as the seed decides"

    def __init__(self, frames: int, seed: int = 0) -> None:
        super().__init__(frames, seed)
        self._dice = Random(seed)
        self._pages: list[int] = []
        self._place: dict[int, int] = {}

    def admit(self, page: int) -> None:
        self._place[page] = len(self._pages)
        self._pages.append(page)

    def forget(self, page: int) -> None:
        place, last = self._place.pop(page), self._pages.pop()
        if last != page:
            self._pages[place] = last
            self._place[last] = place

    def victim(self, bits: Bits) -> int:
        if not self._pages:
            raise NothingResident(self.name)
        return self._pages[self._dice.randrange(len(self._pages))]
