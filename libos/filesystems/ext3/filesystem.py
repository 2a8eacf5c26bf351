"""A mounted ext3 as a library OS offers it: every operation under the file system's lock, in one place.

Those that only look go in together; whoever changes something is alone.  Times of access are changed in memory when they
lag behind (as Linux' relatime has it) and reach the disk with the next change of the inode, a sync or the unmounting.

What on the disk makes no sense puts an end to changes, not to reading: the running transaction is given up, what was
committed before stays, and from then on the file system is read-only.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from libos.filesystems.ext3.directories import Directories
from libos.filesystems.ext3.files import Files
from libos.filesystems.ext3.geometry import Geometry
from libos.filesystems.ext3.inodes import Inode
from libos.filesystems.ext3.layout import ROOT_INODE
from libos.filesystems.ext3.mounted import Mounted
from libos.filesystems.ext3.mounting import mount as mount_parts
from libos.filesystems.ext3.mounting import unmount as unmount_parts
from libos.filesystems.ext3.namespace import Namespace
from libos.filesystems.interface import (
    MODE_BITS,
    Attributes,
    CorruptFileSystem,
    Entry,
    Errno,
    FileSystem,
    FileSystemError,
    Kind,
    Usage,
)
from libos.storage.lock import ReadersWriter
from libos.storage.volume import Volume, VolumeError

_DAY: Final = 86400
_MOST_READ: Final = 2048
"""Times of access that are kept in memory only, until something else is changed."""
_DEVICES: Final = (Kind.BLOCK_DEVICE, Kind.CHARACTER_DEVICE)


@dataclass(frozen=True)
class Statistics:
    """What a mounted file system has done: blocks found in the cache and not, frames it holds, transactions committed."""

    hits: int
    misses: int
    frames: int
    transactions: int


class Ext3(FileSystem):
    """A mounted ext3: see `mount`."""

    root = ROOT_INODE

    def __init__(self, mounted: Mounted, mode: str) -> None:
        self._mounted = mounted
        self._files = Files(mounted, logs_contents=mode == "journal" and mounted.geometry.has_journal)
        self._directories = Directories(mounted)
        self._names = Namespace(mounted, self._directories)
        self._lock = ReadersWriter(mounted.cache.volume.exo)
        self._open: dict[int, Inode] = {}
        self._read: dict[int, Inode] = {}
        """Inodes whose time of access has changed in memory only."""

    @classmethod
    async def mount(
        cls,
        volume: Volume,
        *,
        base: int,
        capacity: int = 1024,
        mode: str = "ordered",
        read_only: bool = False,
        epoch: int = 0,
    ) -> "Ext3":
        """Mount the ext3 (or ext2) on a volume.

        The cache has up to `capacity` frames, mapped from the address `base` on; `mode` is what is done about contents
        (`ordered`, `writeback`, `journal`); `epoch` is the time, in seconds since 1970, at which the virtual clock was 0;
        0: when the file system was last written, so that the same run gives the same image.
        A journal that has to be recovered is recovered, also if it is mounted read-only, as Linux does.  Raises
        CorruptFileSystem, with a sentence, if there is none, it makes no sense, or it needs what this library does not
        know; and FileSystemError (EIO) if the disk fails.
        """
        try:
            mounted = await mount_parts(volume, base=base, capacity=capacity, mode=mode, read_only=read_only, epoch=epoch)
        except VolumeError as error:
            raise FileSystemError(Errno.EIO, str(error)) from None
        return cls(mounted, mode)

    @property
    def read_only(self) -> bool:  # type: ignore[override]
        """Whether nothing can be changed."""
        return self._mounted.read_only

    @property
    def geometry(self) -> Geometry:
        """The shape of what is on the disk."""
        return self._mounted.geometry

    @property
    def statistics(self) -> Statistics:
        """What has been done since it was mounted."""
        cache = self._mounted.cache
        return Statistics(cache.hits, cache.misses, cache.frames, self._mounted.journal.committed)

    # How every method begins and ends.

    @asynccontextmanager
    async def _looking(self) -> AsyncIterator[None]:
        async with self._lock.shared():
            try:
                yield
            except VolumeError as error:
                raise FileSystemError(Errno.EIO, str(error)) from None

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[None]:
        async with self._lock.exclusive():
            if self._mounted.read_only:
                raise FileSystemError(Errno.EROFS)
            try:
                if len(self._read) >= _MOST_READ:
                    await self._store_access_times()
                yield
            except CorruptFileSystem:
                self._mounted.give_up()
                raise
            except VolumeError as error:
                self._mounted.give_up()
                raise FileSystemError(Errno.EIO, str(error)) from None

    async def _contents_of(self, number: int) -> Inode:
        """An inode that has contents.  Raises ENOENT, EISDIR, EINVAL."""
        inode = await self._mounted.inodes.live(number)
        if inode.is_directory:
            raise FileSystemError(Errno.EISDIR, f"inode {number}")
        if not inode.is_regular:
            raise FileSystemError(Errno.EINVAL, f"inode {number}")
        return inode

    async def _directory(self, number: int) -> Inode:
        inode = await self._mounted.inodes.live(number)
        if not inode.is_directory:
            raise FileSystemError(Errno.ENOTDIR, f"inode {number}")
        return inode

    async def _accessed(self, inode: Inode) -> None:
        """Somebody has read it: its time of access is now, if it was before the last change or more than a day ago."""
        if self._mounted.read_only:
            return
        if inode.atime > inode.mtime and inode.atime > inode.ctime and inode.number in self._read:
            return
        now = await self._mounted.time()
        if inode.atime <= inode.mtime or inode.atime <= inode.ctime or now - inode.atime >= _DAY:
            inode.atime = now
            self._read[inode.number] = inode

    # What is there.

    async def lookup(self, directory: int, name: bytes) -> int:
        async with self._looking():
            return await self._names.lookup(await self._directory(directory), name)

    async def attributes(self, inode: int) -> Attributes:
        async with self._looking():
            found = await self._mounted.inodes.live(inode)
            device = 0
            if found.kind in _DEVICES:
                device = found.block[0] or found.block[1]
            return Attributes(
                found.number, found.kind, found.permissions, found.links, found.uid, found.gid, found.size, found.sectors,
                found.atime, found.mtime, found.ctime, device,
            )  # fmt: skip

    async def entries(self, directory: int) -> list[Entry]:
        async with self._looking():
            found = await self._directory(directory)
            await self._accessed(found)
            return await self._directories.entries(found)

    async def read(self, inode: int, offset: int, size: int) -> bytes:
        if offset < 0 or size < 0:
            raise FileSystemError(Errno.EINVAL, f"inode {inode}")
        async with self._looking():
            found = await self._contents_of(inode)
            if size:
                await self._accessed(found)
            return await self._files.read(found, offset, size)

    async def read_link(self, inode: int) -> bytes:
        async with self._looking():
            found = await self._mounted.inodes.live(inode)
            if not found.is_symlink:
                raise FileSystemError(Errno.EINVAL, f"inode {inode}")
            await self._accessed(found)
            return await self._files.target(found)

    async def usage(self) -> Usage:
        geometry, allocation = self._mounted.geometry, self._mounted.allocation
        return Usage(geometry.block_size, geometry.blocks, allocation.free_blocks, geometry.inodes, allocation.free_inodes)

    async def extended_attributes(self, inode: int) -> dict[bytes, bytes]:
        async with self._looking():
            return await self._mounted.attributes.read(await self._mounted.inodes.live(inode))

    # Files.

    async def write(self, inode: int, offset: int, contents: bytes) -> int:
        if offset < 0:
            raise FileSystemError(Errno.EINVAL, f"inode {inode}")
        async with self._changing():
            return await self._files.write(await self._contents_of(inode), offset, contents)

    async def set_size(self, inode: int, size: int) -> None:
        if size < 0:
            raise FileSystemError(Errno.EINVAL, f"inode {inode}")
        async with self._changing():
            await self._files.set_size(await self._contents_of(inode), size)

    async def set_attributes(
        self,
        inode: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        accessed: int | None = None,
        modified: int | None = None,
    ) -> None:
        async with self._changing():
            found = await self._mounted.inodes.live(inode)
            if not all(value is None or 0 <= value <= 0xFFFF_FFFF for value in (mode, uid, gid, accessed, modified)):
                raise FileSystemError(Errno.EINVAL, f"inode {inode}")
            async with self._mounted.journal.operation(1):
                if mode is not None:
                    found.mode = found.mode & ~MODE_BITS | mode & MODE_BITS
                found.uid = found.uid if uid is None else uid
                found.gid = found.gid if gid is None else gid
                found.atime = found.atime if accessed is None else accessed
                found.mtime = found.mtime if modified is None else modified
                found.ctime = await self._mounted.time()
                await self._mounted.inodes.put(found)

    async def open(self, inode: int) -> None:
        async with self._looking():
            found = await self._mounted.inodes.live(inode)
            found.users += 1
            self._open[inode] = found

    async def close(self, inode: int) -> None:
        found = self._open.get(inode)
        if found is None:
            raise FileSystemError(Errno.EBADF, f"inode {inode}")
        found.users -= 1
        if found.users:
            return
        del self._open[inode]
        if not found.links and not self._mounted.read_only:
            async with self._changing():
                if not found.users:
                    await self._mounted.orphans.reclaim(found)

    # Names.

    async def create(
        self, directory: int, name: bytes, mode: int, uid: int = 0, gid: int = 0, kind: Kind = Kind.FILE, device: int = 0
    ) -> int:
        async with self._changing():
            return await self._names.create(await self._directory(directory), name, mode, uid, gid, kind, device)

    async def make_directory(self, directory: int, name: bytes, mode: int, uid: int = 0, gid: int = 0) -> int:
        async with self._changing():
            return await self._names.make_directory(await self._directory(directory), name, mode, uid, gid)

    async def symlink(self, directory: int, name: bytes, target: bytes, uid: int = 0, gid: int = 0) -> int:
        async with self._changing():
            return await self._names.symlink(await self._directory(directory), name, target, uid, gid)

    async def link(self, inode: int, directory: int, name: bytes) -> None:
        async with self._changing():
            found = await self._mounted.inodes.live(inode)
            await self._names.link(found, await self._directory(directory), name)

    async def unlink(self, directory: int, name: bytes) -> None:
        async with self._changing():
            await self._names.unlink(await self._directory(directory), name)

    async def remove_directory(self, directory: int, name: bytes) -> None:
        async with self._changing():
            await self._names.remove_directory(await self._directory(directory), name)

    async def rename(self, directory: int, name: bytes, new_directory: int, new_name: bytes) -> None:
        async with self._changing():
            await self._names.rename(await self._directory(directory), name, await self._directory(new_directory), new_name)

    # The disk.

    def _has_nothing_to_sync(self) -> bool:
        """Whether it is read-only.  Raises EIO if it is so because something went wrong: changes may have been lost."""
        if self._mounted.given_up:
            raise FileSystemError(Errno.EIO)
        return self._mounted.read_only

    async def sync(self) -> None:
        if self._has_nothing_to_sync():
            return
        async with self._changing():
            await self._store_access_times()
            await self._mounted.journal.commit()

    async def fsync(self, inode: int) -> None:
        if self._has_nothing_to_sync():
            return
        async with self._looking():
            found = await self._mounted.inodes.live(inode)
        wanted = found.changed_in
        if wanted <= self._mounted.journal.stored:
            return
        async with self._changing():
            # Whoever held the lock meanwhile may have committed for others too (group commit).
            if wanted > self._mounted.journal.stored:
                await self._mounted.journal.commit()
            found.overwritten.clear()

    async def fdatasync(self, inode: int) -> None:
        if self._has_nothing_to_sync():
            return
        async with self._looking():
            found = await self._mounted.inodes.live(inode)
        if found.needed_in > self._mounted.journal.stored:
            await self.fsync(inode)
        elif found.overwritten:
            async with self._changing():
                await self._files.store_overwritten(found)

    async def unmount(self) -> None:
        async with self._lock.exclusive():
            try:
                try:
                    if not self._mounted.read_only:
                        await self._store_access_times()
                except (VolumeError, FileSystemError):
                    self._mounted.give_up()
                    raise
                finally:
                    await unmount_parts(self._mounted)
            except VolumeError as error:
                raise FileSystemError(Errno.EIO, str(error)) from None

    async def release(self, frames: int) -> int:
        return await self._mounted.cache.release(frames)

    async def _store_access_times(self) -> None:
        read, self._read = list(self._read.values()), {}
        step = max(1, self._mounted.journal.limit // 2)
        for start in range(0, len(read), step):
            part = [inode for inode in read[start : start + step] if inode.links]
            async with self._mounted.journal.operation(len(part)):
                for inode in part:
                    await self._mounted.inodes.put(inode)


__all__ = ["Ext3", "Statistics"]
