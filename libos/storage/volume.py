"""A volume: an extent of sectors that this environment may use, moved to and from frames it holds, by down-calls alone.

Requests are asynchronous.  `begin_read` and `begin_write` give a request's number at once and `wait` ends when the request
has; every request must be waited for, since the kernel's table of them is bounded.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import Event
from exokernel.abi.layout import SECTOR_SIZE

_RETRY_AFTER: Final = 100_000


class VolumeError(Exception):
    """The disk, or the kernel, did not do what was asked of the volume."""


class Volume:
    """Sectors `start` to `start + sectors` of the disk; sectors are numbered from 0 within the volume.

    Nothing outside is ever asked for: a sector beyond the end is a VolumeError here, before the kernel has to refuse it.
    """

    def __init__(self, exo: Exo, start: int, sectors: int) -> None:
        self.exo = exo
        self.start = start
        self.sectors = sectors

    @property
    def size(self) -> int:
        """In bytes."""
        return self.sectors * SECTOR_SIZE

    async def begin_read(self, sector: int, count: int, frame: int, offset: int = 0, flags: int = 0) -> int:
        """Begin to read `count` sectors (1 to 8) into `frame`, `offset` bytes from its start; gives the request."""
        return await self._begin(False, sector, count, frame, offset, flags)

    async def begin_write(self, sector: int, count: int, frame: int, offset: int = 0, flags: int = 0) -> int:
        """Begin to write `count` sectors (1 to 8) from `frame`, `offset` bytes from its start; gives the request.
        `flags`: Transfer."""
        return await self._begin(True, sector, count, frame, offset, flags)

    async def begin_flush(self) -> int:
        """Begin a request that ends when every write begun before it is on the medium; gives it."""
        return await self._retried(self.exo.flush)

    async def wait(self, request: int) -> None:
        """Wait until a request has ended.  Raises VolumeError if the disk reported an error."""
        try:
            await self.exo.block(Event.DISK, request)
        except Refused as refused:
            raise VolumeError(f"The disk could not do what was asked of it: {refused}.") from None

    async def flush(self) -> None:
        """Wait until every write begun before is on the medium."""
        await self.wait(await self.begin_flush())

    async def _begin(self, write: bool, sector: int, count: int, frame: int, offset: int, flags: int) -> int:
        if not 0 <= sector <= sector + count <= self.sectors:
            raise VolumeError(f"Sectors {sector} to {sector + count} lie outside the volume of {self.sectors} sectors.")
        call = self.exo.write_sectors if write else self.exo.read_sectors
        return await self._retried(partial(call, self.start + sector, count, frame, offset, flags))

    async def _retried(self, call: Callable[[], Awaitable[int]]) -> int:
        """Make a call that begins a request, as often as it takes while the table of requests is full."""
        while True:
            try:
                return await call()
            except Refused as refused:
                if refused.error is not Error.TOO_MANY:
                    raise VolumeError(f"The kernel refuses what was asked of the volume: {refused}.") from None
            await self.exo.block(Event.TIME, 0, await self.exo.time() + _RETRY_AFTER)


__all__ = ["Volume", "VolumeError"]
