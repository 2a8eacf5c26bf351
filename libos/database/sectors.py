"""Bytes to and from sectors, through a few frames of the library's own: for what is not kept in memory, the log and the
superblocks."""

from typing import Final

from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import Event, Rights, Transfer
from exokernel.abi.layout import OWN_PAGE, PAGE_SIZE, SECTOR_SIZE, SECTORS_PER_PAGE
from exokernel.abi.pages import OwnPage, offset_of
from libos.storage.cache import BlockCache
from libos.storage.volume import Volume, VolumeError

_FRAMES: Final = OWN_PAGE + offset_of(OwnPage, "events") + 8 * Event.FRAMES
_READ_WRITE: Final = int(Rights.READ | Rights.WRITE)


class SectorBuffer:
    """Up to `most` frames at the pages from `base` on.  One caller at a time; the first frame is kept once it is there.

    With no frame to be had, one of the `cache`'s is used instead.
    """

    def __init__(self, storage: Volume, cache: BlockCache, base: int, most: int = 8) -> None:
        self._storage = storage
        self._exo = storage.exo
        self._cache = cache
        self._base = base
        self._most = most
        self._frames: list[int] = []

    async def read(self, sector: int, size: int) -> bytes:
        """`size` bytes from a sector on."""
        parts = []
        sectors = -(-size // SECTOR_SIZE)
        await self._have(-(-sectors // SECTORS_PER_PAGE))
        step = len(self._frames) * SECTORS_PER_PAGE
        for begin in range(0, sectors, step):
            firsts = range(begin, min(begin + step, sectors), SECTORS_PER_PAGE)
            runs = [min(SECTORS_PER_PAGE, sectors - first) for first in firsts]
            requests = [
                await self._storage.begin_read(sector + first, run, frame)
                for first, run, frame in zip(firsts, runs, self._frames, strict=False)
            ]
            for place, request in enumerate(requests):
                await self._storage.wait(request)
                data = await self._exo.read_if_mapped(self._base + place * PAGE_SIZE, runs[place] * SECTOR_SIZE)
                if data is None:
                    raise VolumeError("The kernel took by force a frame into which the log was being read.")
                parts.append(data)
        await self.trim()
        return b"".join(parts)[:size]

    async def write(self, sector: int, data: bytes) -> None:
        """Store `data` from a sector on, filled up with zeros to a whole one; it is on the medium when this ends.

        What goes in one request is one forced write; what takes several is written in any order, and flushed.
        """
        data += bytes(-len(data) % SECTOR_SIZE)
        pieces = [data[at : at + PAGE_SIZE] for at in range(0, len(data), PAGE_SIZE)]
        await self._have(len(pieces))
        flags = Transfer.FORCED if len(pieces) == 1 else 0
        step = len(self._frames)
        for begin in range(0, len(pieces), step):
            requests = []
            for place, piece in enumerate(pieces[begin : begin + step]):
                await self._fill(place, piece)
                first = sector + (begin + place) * SECTORS_PER_PAGE
                request = self._storage.begin_write(first, len(piece) // SECTOR_SIZE, self._frames[place], 0, flags)
                requests.append(await request)
            for request_number in requests:
                await self._storage.wait(request_number)
        if not flags:
            await self._storage.flush()
            await self.trim()

    async def _fill(self, place: int, data: bytes) -> None:
        while not await self._exo.write_if_mapped(self._base + place * PAGE_SIZE, data):
            self._frames[place] = await self._frame(place)

    async def _have(self, count: int) -> None:
        """As many frames as can be had without waiting, up to `count`; at least one."""
        if self._frames and await self._exo.read_if_mapped(self._base, 1) is None:
            self._frames[0] = await self._frame(0)
        while len(self._frames) < min(count, self._most):
            frame = await self._try_frame(len(self._frames))
            if frame is None:
                if self._frames:
                    return
                frame = await self._frame(0)
            self._frames.append(frame)

    async def _frame(self, place: int) -> int:
        while True:
            seen = int.from_bytes(await self._exo.read(_FRAMES, 8), "little")
            frame = await self._try_frame(place)
            if frame is not None:
                return frame
            if not await self._cache.release(1):
                await self._exo.block(Event.FRAMES, seen)

    async def _try_frame(self, place: int) -> int | None:
        frame = None
        try:
            frame = await self._exo.alloc_page()
            await self._exo.create_mapping(self._base + place * PAGE_SIZE, frame, _READ_WRITE)
        except Refused as refused:
            if frame is not None:
                await self._exo.dealloc_page(frame)
            if refused.error not in (Error.NO_FRAME, Error.OVER_QUOTA):
                raise VolumeError(f"The store can have no memory: {refused}.") from None
            return None
        return frame

    async def trim(self, keep: int = 1) -> int:
        """Give back all frames but the first `keep`; gives how many."""
        given = 0
        while len(self._frames) > keep:
            try:
                await self._exo.dealloc_page(self._frames.pop())
                given += 1
            except Refused:
                continue
        return given
