"""One handler at a time in the state of a library OS.

Handlers are coroutines of one environment: while one waits for the disk, another may be started.  The rules:

 1. Whoever reads the books and then changes them, with anything awaited in between, does so between `enter` and
    `leave`. A page fault, advice or a fork that finds the section occupied waits for its turn.
 2. A request (`please_release_page`, `pages_taken`) does not wait: it leaves a note, and whoever is inside sees to it
    before it leaves.  So a request is honoured although a page fault is being handled, and nobody waits for one
    another.
 3. Inside, nobody touches the program's memory in a way that could page-fault: there is `read_if_mapped`.
 4. Inside, one waits for a disk request of one's own, which ends by itself, or, having nothing left to give, for
    frames.
"""

from typing import Final

from exokernel.abi.downcalls import Exo
from exokernel.abi.flags import SELF, Event
from exokernel.abi.layout import OWN_PAGE
from exokernel.abi.pages import OwnPage, offset_of

_WOKEN: Final = OWN_PAGE + offset_of(OwnPage, "events") + 8 * Event.WOKEN


class Section:
    """The lock itself; who waits for it sleeps until it is woken by the one who leaves."""

    def __init__(self, exo: Exo) -> None:
        self._exo = exo
        self._waiting = 0
        self.occupied = False

    async def enter(self) -> None:
        """Wait until nobody is inside, and be inside."""
        while self.occupied:
            self._waiting += 1
            # Whoever leaves after this look at the counter also counts it up, so the wait ends at once.
            seen = int.from_bytes(await self._exo.read(_WOKEN, 8), "little")
            if self.occupied:
                await self._exo.block(Event.WOKEN, seen)
            self._waiting -= 1
        self.occupied = True

    async def leave(self) -> None:
        """Let the next one in."""
        self.occupied = False
        if self._waiting:
            await self._exo.wake(SELF)
