"""Pages that stay shared when the environment forks.

Each lies in a frame of which every environment that has it is a holder, so that it is there for as long as one of them
lives; it is reserved in all of them and never leaves.  They lie at the end of the stretch of 2 MiB in which the library's
window is, where there is a page table already, and at the same address in parent and child.
"""

from typing import Final, Self

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Refused
from exokernel.abi.flags import Rights
from exokernel.abi.layout import PAGE_SIZE
from libos.paging import Paging
from libos.transfers import let_go

PLACES: Final = 8
_STRETCH: Final = 1 << 21
_READ_WRITE: Final = int(Rights.READ | Rights.WRITE)


async def resident_page(exo: Exo, paging: Paging, va: int) -> int | None:
    """Map a reserved frame of zeros at `va` (bytes); the frame, None if it cannot be reserved."""
    await paging.enter()
    frame: int | None = await paging.take_frame()
    assert frame is not None
    try:
        await exo.reserve_page(frame)
        await paging.map(va, frame, _READ_WRITE)
    except Refused:
        await let_go(exo, frame)
        frame = None
    await paging.leave()
    return frame


class SharedPages:
    """The shared pages of one environment, each at one of a few places."""

    def __init__(self, exo: Exo, paging: Paging) -> None:
        self._exo = exo
        self._paging = paging
        self._end = (paging.start.window & -_STRETCH) + _STRETCH
        self.frames: dict[int, int] = {}
        """By place."""

    def copy(self, paging: Paging) -> Self:
        """The same pages, of a child whose paging this is."""
        child = type(self)(self._exo, paging)
        child.frames = self.frames.copy()
        return child

    def address(self, place: int) -> int:
        """Where the page at a place lies."""
        return self._end - (PLACES - place) * PAGE_SIZE

    async def make(self) -> int | None:
        """Make a page of zeros; gives its place, None if there is no room."""
        place = next((place for place in range(PLACES) if place not in self.frames), None)
        frame = await resident_page(self._exo, self._paging, self.address(place)) if place is not None else None
        if place is None or frame is None:
            return None
        self.frames[place] = frame
        return place

    async def drop(self, place: int) -> None:
        """Let go of a page; whoever else has it keeps it."""
        await self._exo.dealloc_page(self.frames.pop(place))
