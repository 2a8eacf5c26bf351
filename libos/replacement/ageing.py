"""Strategies that count, at timer ticks, which pages were used: ageing, NFU and MRU.

At each tick (`sample`) the accessed bits of all resident pages are read and cleared. The interval that began with the
last tick counts too: its bits are looked at when a victim is chosen.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, Self

from libos.replacement.strategy import Bits, NothingResident, Strategy

DEFAULT_INTERVAL = 100_000


class Ageing(Strategy):
    """Least recently used, by shift registers: evicts the page whose last uses lie furthest back.

    Each tick shifts a page's register of `width` bits right and puts its accessed bit in on the left. The lowest value
    goes, the bit of the running interval counting above all others; among equals the one admitted first. What was used
    more than `width` ticks ago is forgotten, and the order within an interval was never known: that is the difference
    from true LRU. `sample_every` is in cycles, in a replay in references. Described by A. S. Tanenbaum, Modern
    Operating Systems.
    """

    name: ClassVar[str] = "ageing"
    summary: ClassVar[str] = "least recently used, approximately, by accessed bits shifted into a register at each tick"

    def __init__(self, frames: int, seed: int = 0, sample_every: int = DEFAULT_INTERVAL, width: int = 8) -> None:
        super().__init__(frames, seed)
        self.sample_every = sample_every
        self.width = width
        # In order of admission, which settles ties.
        self._register: dict[int, int] = {}

    @classmethod
    def for_trace(cls, pages: Sequence[int], frames: int, seed: int = 0) -> Self:
        """With a tick after as many references as there are frames."""
        return cls(frames, seed, sample_every=frames)

    def admit(self, page: int) -> None:
        self._register[page] = 0

    def forget(self, page: int) -> None:
        del self._register[page]

    def sample(self, bits: Bits) -> None:
        newest = 1 << (self.width - 1)
        for page, register in self._register.items():
            self._register[page] = register >> 1
            if bits.accessed(page):
                self._register[page] |= newest
                bits.clear_accessed(page)

    def _recency(self, bits: Bits) -> Callable[[int], int]:
        """A function that says how lately a page was used: higher is later."""
        registers, accessed, this_interval = self._register, bits.accessed, 1 << self.width
        return lambda page: registers[page] + this_interval if accessed(page) else registers[page]

    def victim(self, bits: Bits) -> int:
        if not self._register:
            raise NothingResident(self.name)
        return min(self._register, key=self._recency(bits))


class Mru(Ageing):
    """Evicts the page used most recently: right for a loop over more pages than there are frames.

    Recency is that of ageing; among equals the page admitted last goes. The `spare` pages admitted last are kept,
    because an instruction may need several pages at once: a strategy that always takes the newest would exchange them
    for one another for ever. Eight is more than one x86 instruction touches without vector gathers (two of code, two
    each for a source and a destination that straddle a boundary).
    """

    name: ClassVar[str] = "mru"
    summary: ClassVar[str] = "evicts the page used most recently, for loops larger than memory"

    def __init__(
        self, frames: int, seed: int = 0, sample_every: int = DEFAULT_INTERVAL, width: int = 8, spare: int = 8
    ) -> None:
        super().__init__(frames, seed, sample_every, width)
        self.spare = spare

    @classmethod
    def for_trace(cls, pages: Sequence[int], frames: int, seed: int = 0) -> Self:
        """With a tick after as many references as there are frames; a reference needs one page, so none is spared."""
        return cls(frames, seed, sample_every=frames, spare=0)

    def victim(self, bits: Bits) -> int:
        if not self._register:
            raise NothingResident(self.name)
        newest_first = list(reversed(self._register))
        candidates = newest_first[min(self.spare, len(newest_first) - 1) :]
        return max(candidates, key=self._recency(bits))


class Nfu(Strategy):
    """Not frequently used: evicts the page that was found used at the fewest ticks since it came.

    Nothing is ever forgotten while the page is resident, so a page once busy stays long after its time: the fault that
    ageing mends. Among equals the page admitted first goes. Described by A. S. Tanenbaum, Modern Operating Systems.
    """

    name: ClassVar[str] = "nfu"
    summary: ClassVar[str] = "evicts the page found used at the fewest ticks"

    def __init__(self, frames: int, seed: int = 0, sample_every: int = DEFAULT_INTERVAL) -> None:
        super().__init__(frames, seed)
        self.sample_every = sample_every
        self._uses: dict[int, int] = {}

    @classmethod
    def for_trace(cls, pages: Sequence[int], frames: int, seed: int = 0) -> Self:
        """With a tick after as many references as there are frames."""
        return cls(frames, seed, sample_every=frames)

    def admit(self, page: int) -> None:
        self._uses[page] = 0

    def forget(self, page: int) -> None:
        del self._uses[page]

    def sample(self, bits: Bits) -> None:
        for page in self._uses:
            if bits.accessed(page):
                self._uses[page] += 1
                bits.clear_accessed(page)

    def victim(self, bits: Bits) -> int:
        if not self._uses:
            raise NothingResident(self.name)
        return min(self._uses, key=lambda page: self._uses[page] + bits.accessed(page))
