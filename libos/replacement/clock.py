"""Strategies with a hand that sweeps over pages in a circle: Clock and WSClock."""

from collections.abc import Sequence
from typing import ClassVar, Self

from libos.replacement.ring import Ring
from libos.replacement.strategy import Bits, NothingResident, Strategy


class Clock(Strategy):
    """A hand sweeps over the pages, clears accessed bits, and stops at the first page whose bit was clear already.

    A new page is put behind the hand, to be looked at last. If every page was used, the hand comes round to where it
    began and takes that page. Source: F. J. Corbató, A Paging Experiment with the Multics System, MIT Project MAC
    report MAC-M-384, 1968.
    """

    name: ClassVar[str] = "clock"
    summary: ClassVar[str] = "a hand sweeps round and takes the first page not used since it last came by"

    def __init__(self, frames: int, seed: int = 0) -> None:
        super().__init__(frames, seed)
        self._ring = Ring()
        self._hand: int | None = None

    def admit(self, page: int) -> None:
        self._ring.insert(page, before=self._hand)
        if self._hand is None:
            self._hand = page

    def forget(self, page: int) -> None:
        after = self._ring.remove(page)
        if self._hand == page:
            self._hand = after

    def victim(self, bits: Bits) -> int:
        if self._hand is None:
            raise NothingResident(self.name)
        for page in self._ring.once_around(self._hand):
            if not bits.accessed(page):
                self._hand = page
                break
            bits.clear_accessed(page)
        return self._hand


class WSClock(Clock):
    """A clock that spares the working set: pages used within the last `window` of virtual time.

    Per page it notes when the sweep last found it used. The hand takes the first page that is older than the window and
    clean; on its way it suggests up to `writes` dirty old pages for cleaning. If one turn finds none, memory is smaller
    than the working set: it takes the clean page with the oldest use, and if all are dirty the dirty one. Where the
    paper would wait for a write to end, the driver decides: the victim is dirty, and it may wait or evict another.

    `window` is in cycles, in a replay in references. Source: R. W. Carr and J. L. Hennessy, WSClock: A Simple and
    Effective Algorithm for Virtual Memory Management, SOSP 1981.
    """

    name: ClassVar[str] = "wsclock"
    summary: ClassVar[str] = "a clock that spares pages used lately and prefers clean ones"

    def __init__(self, frames: int, seed: int = 0, window: int = 1_000_000, writes: int = 8) -> None:
        super().__init__(frames, seed)
        self.window = window
        self.writes = writes
        # None until the first sweep: admit() is not told the time, and the access that faulted counts as a use.
        self._last_use: dict[int, int | None] = {}

    @classmethod
    def for_trace(cls, pages: Sequence[int], frames: int, seed: int = 0) -> Self:
        """With a window of twice as many references as there are frames."""
        return cls(frames, seed, window=2 * frames)

    def admit(self, page: int) -> None:
        super().admit(page)
        self._last_use[page] = None

    def forget(self, page: int) -> None:
        super().forget(page)
        del self._last_use[page]

    def victim(self, bits: Bits) -> int:
        if self._hand is None:
            raise NothingResident(self.name)
        now, writes = bits.now, 0
        best = (True, now, self._hand)
        for page in self._ring.once_around(self._hand):
            used, dirty = self._last_use[page], bits.dirty(page)
            if bits.accessed(page):
                bits.clear_accessed(page)
                used = None
            if used is None:
                used = self._last_use[page] = now
            elif now - used > self.window:
                if not dirty:
                    self._hand = page
                    return page
                if writes < self.writes:
                    bits.schedule_write(page)
                    writes += 1
            if (dirty, used) < best[:2]:
                best = (dirty, used, page)
        self._hand = best[2]
        return self._hand
