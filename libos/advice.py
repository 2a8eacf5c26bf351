"""What a program knows of its pages and no kernel can: `os_advise`.

Only whole pages inside the range are meant.  A discarded page gives its frame up at once and reads as zeros; a
recomputable one is never written out, and reads as zeros once it had to go.
"""

from enum import IntEnum

from exokernel.abi.direct import direct
from exokernel.abi.layout import PAGE_SHIFT
from libos.books import Origin
from libos.interface import ADVICE
from libos.paging import Paging
from libos.transfers import let_go


@direct
class Advice(IntEnum):
    """The values of the interface's OS_NEEDED and so on."""

    NEEDED = ADVICE["OS_NEEDED"][0]
    DISCARD = ADVICE["OS_DISCARD"][0]
    RECOMPUTABLE = ADVICE["OS_RECOMPUTABLE"][0]


async def advise(paging: Paging, va: int, size: int, advice: int) -> bool:
    """Take the advice for `size` bytes from `va` on; False if the range is not the program's or the advice is
    unknown."""
    if advice not in Advice.__members__.values():
        return False
    numbers = range(-(-va >> PAGE_SHIFT), va + size >> PAGE_SHIFT)
    for number in numbers:
        region = paging.regions.at(number << PAGE_SHIFT)
        if region is None or not region.kind.swappable:
            return False
    await paging.enter()
    for number in numbers:
        page = paging.books.page(number)
        if advice == Advice.DISCARD:
            frame = page.frame
            if frame is None:
                page.origin = Origin.ZERO
            else:
                paging.books.forget(number, Origin.ZERO)
                await let_go(paging.exo, frame)
        else:
            page.recomputable = advice == Advice.RECOMPUTABLE
    await paging.leave()
    return True
