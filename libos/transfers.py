"""Moving pages between frames and the disk, for a library OS: requests begun, and waited for."""

from typing import Final

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import Event
from libos.ending import BROKEN_LIBRARY, end

GONE: Final = frozenset((Error.DENIED, Error.NO_SUCH_FRAME, Error.NOT_MAPPED))
"""How the kernel refuses a down-call on a frame that has been taken by force a moment ago."""
_RETRY_AFTER: Final = 100_000


async def let_go(exo: Exo, frame: int) -> None:
    """Give a frame back, unless it has been taken already."""
    try:
        await exo.dealloc_page(frame)
    except Refused as refused:
        if refused.error not in GONE:
            raise


async def begin_transfer(exo: Exo, write: bool, sector: int, sectors: int, frame: int) -> int | None:
    """Begin to write a frame to sectors or to read it from them; gives the request, None if the frame has been
    taken."""
    while True:
        try:
            return await (exo.write_sectors if write else exo.read_sectors)(sector, sectors, frame)
        except Refused as refused:
            if refused.error in GONE:
                return None
            if refused.error is not Error.TOO_MANY:
                raise
        # Somebody else in this environment has filled the table of requests, and only time empties it.
        await exo.block(Event.TIME, 0, await exo.time() + _RETRY_AFTER)


async def wait_for(exo: Exo, request: int) -> None:
    """Wait for a transfer to end; a disk error ends the program."""
    try:
        await exo.block(Event.DISK, request)
    except Refused:
        await end(exo, "The disk reported an error while the library OS was moving a page.", BROKEN_LIBRARY)
