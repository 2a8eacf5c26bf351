"""A storage that is a file of a file system: the same store over it, for comparison with the one on its own sectors."""

from enum import Enum
from typing import Final, Self

from exokernel.abi.direct import direct
from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Refused
from exokernel.abi.flags import Rights, Transfer
from exokernel.abi.layout import PAGE_SHIFT, SECTOR_SIZE
from libos.filesystems.interface import FileSystem, FileSystemError
from libos.storage.volume import Volume, VolumeError

WINDOWS: Final = 0x38_0000_0000
"""Where frames are mapped to copy between them and the file: each at a page of its own, by its number."""
_READ_WRITE: Final = int(Rights.READ | Rights.WRITE)
_AT_ONCE: Final = 1 << 16
_DONE: Final = 0
"""The number of every request: it has ended when it has begun."""


@direct
class Sync(Enum):
    """How a file storage makes what it has written durable."""

    FSYNC = "fsync"
    FDATASYNC = "fdatasync"
    LEFT_OUT = "nothing"
    """Not at all: what that costs is what the demonstration shows."""


class FileStorage(Volume):
    """The first `sectors` sectors of a file, which acts like a volume that begins at its first byte.

    The file system copies, so a request moves bytes between it and the frame before it has a number.
    """

    def __init__(
        self, exo: Exo, files: FileSystem, inode: int, sectors: int, sync: Sync = Sync.FSYNC, windows: int = WINDOWS
    ) -> None:
        super().__init__(exo, 0, sectors)
        self._files = files
        self._inode = inode
        self._sync = sync
        self._windows = windows

    @classmethod
    async def make(
        cls,
        exo: Exo,
        files: FileSystem,
        directory: int,
        name: bytes,
        sectors: int,
        sync: Sync = Sync.FSYNC,
        windows: int = WINDOWS,
    ) -> Self:
        """Make a file for a store.  It gets its blocks now, and is on the medium, so that a commit changes nothing of the
        file system but times.  Raises FileSystemError."""
        inode = await files.create(directory, name, 0o600)
        end = sectors * SECTOR_SIZE
        at = 0
        while at < end:
            at += await files.write(inode, at, bytes(min(_AT_ONCE, end - at)))
        await files.sync()
        return cls(exo, files, inode, sectors, sync, windows)

    async def begin_read(self, sector: int, count: int, frame: int, offset: int = 0, flags: int = 0) -> int:
        self._check(sector, count)
        try:
            data = await self._files.read(self._inode, sector * SECTOR_SIZE, count * SECTOR_SIZE)
        except FileSystemError as error:
            raise VolumeError(f"The file of the store cannot be read: {error}.") from None
        data += bytes(count * SECTOR_SIZE - len(data))
        while not await self.exo.write_if_mapped(self._window(frame) + offset, data):
            await self._map(frame)
        return _DONE

    async def begin_write(self, sector: int, count: int, frame: int, offset: int = 0, flags: int = 0) -> int:
        self._check(sector, count)
        while (data := await self.exo.read_if_mapped(self._window(frame) + offset, count * SECTOR_SIZE)) is None:
            await self._map(frame)
        try:
            written = 0
            while written < len(data):
                written += await self._files.write(self._inode, sector * SECTOR_SIZE + written, data[written:])
        except FileSystemError as error:
            raise VolumeError(f"The file of the store cannot be written: {error}.") from None
        return await self.begin_flush() if flags & Transfer.FORCED else _DONE

    async def begin_flush(self) -> int:
        try:
            if self._sync is Sync.FSYNC:
                await self._files.fsync(self._inode)
            elif self._sync is Sync.FDATASYNC:
                await self._files.fdatasync(self._inode)
        except FileSystemError as error:
            raise VolumeError(f"The file of the store cannot be made durable: {error}.") from None
        return _DONE

    async def wait(self, request: int) -> None:
        """Every request has ended when it has begun."""

    def _check(self, sector: int, count: int) -> None:
        if not 0 <= sector <= sector + count <= self.sectors:
            raise VolumeError(f"Sectors {sector} to {sector + count} lie outside the file of {self.sectors} sectors.")

    def _window(self, frame: int) -> int:
        return self._windows + (frame << PAGE_SHIFT)

    async def _map(self, frame: int) -> None:
        try:
            await self.exo.create_mapping(self._window(frame), frame, _READ_WRITE)
        except Refused as refused:
            raise VolumeError(f"A frame of the store cannot be mapped: {refused}.") from None
