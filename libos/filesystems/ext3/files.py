"""The contents of files: reading ahead, writing in pieces that fit into a transaction, cutting off and making longer."""

from typing import Final

from libos.filesystems.ext3.inodes import Inode
from libos.filesystems.ext3.layout import BLOCK_POINTERS
from libos.filesystems.ext3.mounted import Mounted
from libos.filesystems.interface import CorruptFileSystem, Errno, FileSystemError

_PIECE: Final = 128
"""Blocks of a file that one operation writes at most."""
_AHEAD: Final = 24
"""Blocks that are read before they are asked for, once a file is read in order."""
_SMALL_FILE: Final = (1 << 31) - 1
"""The largest size that does without the feature large_file."""
_SHORT_TARGET: Final = 4 * BLOCK_POINTERS


class Files:
    """The contents of the files of a mounted file system.  Everything that changes something is to be called alone."""

    def __init__(self, mounted: Mounted, *, logs_contents: bool) -> None:
        self._mounted = mounted
        self._size = mounted.geometry.block_size
        self._logs_contents = logs_contents
        self._piece = _PIECE
        while self._piece > 1 and self._credits(self._piece) > mounted.journal.limit:
            self._piece //= 2

    # Reading.

    async def read(self, inode: Inode, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset` on; fewer only at the end."""
        size = min(size, inode.size - offset)
        if size <= 0:
            return b""
        first, skip = divmod(offset, self._size)
        count = (offset + size - 1) // self._size - first + 1
        cache = self._mounted.cache
        if offset == inode.read_end and count < _AHEAD and inode.size > self._size:
            await self._read_ahead(inode, first, count)
        inode.read_end = offset + size
        if count == 1:
            block = await self._mounted.maps.find(inode, first)
            return await cache.read(block, skip, size) if block else bytes(size)
        parts = []
        for run in await self._mounted.maps.runs(inode, first, count):
            if not run.block:
                parts.append(bytes(run.count * self._size))
            elif run.count == 1:
                parts.append(await cache.read(run.block))
            else:
                parts.append(await cache.read_run(run.block, run.count))
        contents = parts[0] if len(parts) == 1 else b"".join(parts)
        return contents if len(contents) == size else contents[skip : skip + size]

    async def _read_ahead(self, inode: Inode, first: int, count: int) -> None:
        """Whoever reads on where the last read ended will go on: have what follows underway."""
        if not inode.read_end:
            inode.ahead = 0
        if inode.ahead > first + count + _AHEAD // 2:
            return
        start = max(first, inode.ahead)
        end = min(first + count + _AHEAD, -(-inode.size // self._size))
        if start >= end:
            return
        inode.ahead = end
        wanted: list[int] = []
        for run in await self._mounted.maps.runs(inode, start, end - start):
            if run.block:
                wanted.extend(range(run.block, run.block + run.count))
        await self._mounted.cache.prefetch(wanted)

    async def target(self, inode: Inode) -> bytes:
        """The target of a symbolic link: in the inode itself, or in a block.  Raises CorruptFileSystem."""
        if self._mounted.orphans.is_fast_symlink(inode):
            if inode.size >= _SHORT_TARGET:
                raise CorruptFileSystem(f"Symbolic link {inode.number} has a target of {inode.size} bytes and no block.")
            return b"".join(number.to_bytes(4, "little") for number in inode.block)[: inode.size]
        if not 0 < inode.size < self._size + 1:
            raise CorruptFileSystem(
                f"Symbolic link {inode.number} has a target of {inode.size} bytes, which no block holds."
            )
        return await self.read(inode, 0, inode.size)

    # Writing.

    def _credits(self, count: int) -> int:
        """The most metadata blocks that writing `count` blocks of a file changes."""
        geometry = self._mounted.geometry
        new = count + count // geometry.pointers + 5
        numbers = count // geometry.pointers + 5
        credits = numbers + min(new, geometry.groups) + min(new, geometry.descriptor_blocks) + 2
        return credits + count if self._logs_contents else credits

    async def write(self, inode: Inode, offset: int, contents: bytes) -> int:
        """Store `contents` from `offset` on; gives how many bytes, fewer when the disk becomes full.  Raises ENOSPC,
        EFBIG."""
        limit = self._mounted.geometry.maximum_size
        if offset >= limit and contents:
            raise FileSystemError(Errno.EFBIG, f"inode {inode.number}")
        end = min(offset + len(contents), limit)
        at = offset
        while at < end:
            first = at // self._size
            count = min(self._piece, (end - 1) // self._size - first + 1)
            count = await self._fitting(inode, first, count)
            if not count:
                break
            stop = min(end, (first + count) * self._size)
            async with self._mounted.journal.operation(self._credits(count)):
                await self._store(inode, at, contents[at - offset : stop - offset], first, count)
            at = stop
        if at == offset and contents:
            raise FileSystemError(Errno.ENOSPC, f"inode {inode.number}")
        return at - offset

    async def _fitting(self, inode: Inode, first: int, count: int) -> int:
        """How many of `count` blocks of the file can be stored with the blocks that are free."""
        allocation, maps = self._mounted.allocation, self._mounted.maps
        if allocation.ready_blocks >= maps.most_new(first, count):
            return count
        while count:
            holes = sum(run.count for run in await maps.runs(inode, first, count) if not run.block)
            needed = holes + maps.most_numbers(first, count) if holes else 0
            if needed <= allocation.free_blocks:
                await allocation.reserve(needed)
                return count
            if count == 1 and needed > holes and await self._needs(inode, first) <= allocation.free_blocks:
                await allocation.reserve(await self._needs(inode, first))
                return count
            count //= 2
        return 0

    async def _needs(self, inode: Inode, logical: int) -> int:
        """How many blocks it takes to fill the one hole at `logical`, exactly."""
        return 1 + await self._mounted.maps.missing(inode, logical)

    async def _store(self, inode: Inode, at: int, contents: bytes, first: int, count: int) -> None:
        """Store what fits into one operation, which is open."""
        mounted, size = self._mounted, self._size
        position, skip = 0, at - first * size
        times_alone = not self._logs_contents and at + len(contents) <= inode.size
        for run in await mounted.maps.ensure_runs(inode, first, count):
            if run.fresh:
                times_alone = False
            elif not self._logs_contents:
                inode.overwritten.update(range(run.block, run.block + run.count))
            for block in range(run.block, run.block + run.count):
                part = contents[position : position + size - skip]
                await mounted.journal.data(block, part, skip, fresh=run.fresh)
                position += size - skip
                skip = 0
        if at + len(contents) > inode.size:
            await self._grow(inode, at + len(contents))
        inode.mtime = inode.ctime = await mounted.time()
        await mounted.inodes.put(inode, times_alone=times_alone)

    async def store_overwritten(self, inode: Inode) -> None:
        """Bring to the medium what has been written over contents that were there already."""
        await self._mounted.cache.write_back(inode.overwritten)
        inode.overwritten.clear()
        await self._mounted.cache.flush()

    async def _grow(self, inode: Inode, size: int) -> None:
        inode.size = size
        if size > _SMALL_FILE:
            await self._mounted.superblock.allow_large_files()

    # The size.

    async def set_size(self, inode: Inode, size: int) -> None:
        """Cut a file off, or make it longer by a hole.  Raises EFBIG."""
        mounted = self._mounted
        if size > mounted.geometry.maximum_size:
            raise FileSystemError(Errno.EFBIG, f"inode {inode.number}")
        blocks = -(-size // self._size)
        done = True
        room = mounted.allocation.ready_blocks > 0
        async with mounted.journal.operation(mounted.orphans.credits + self._credits(1)):
            inode.mtime = inode.ctime = await mounted.time()
            if size < inode.size:
                if size % self._size:
                    await self._clear_tail(inode, size, room)
                inode.size = size
                done = await mounted.orphans.begin_truncating(inode, blocks)
            else:
                await self._grow(inode, size)
                await mounted.inodes.put(inode)
        if not done:
            await mounted.orphans.truncate(inode, blocks)

    async def _clear_tail(self, inode: Inode, size: int, room: bool) -> None:
        """What lies behind the new end in its block must read as zeros if the file becomes longer again.

        The block is replaced by a copy: contents reach the disk before the transaction does, and if that never does, the
        file has its old size and must have its old contents.  Only when the disk is full it is cleared where it is.
        """
        mounted = self._mounted
        logical, kept = divmod(size, self._size)
        block = await mounted.maps.find(inode, logical)
        if not block:
            return
        contents = await mounted.cache.read(block)
        if not any(contents[kept:]):
            return
        if room and not self._logs_contents:
            copy = await mounted.maps.replace(inode, logical)
            await mounted.journal.data(copy, contents[:kept], fresh=True)
        else:
            block, _ = await mounted.maps.ensure(inode, logical)
            await mounted.journal.data(block, bytes(self._size - kept), kept)
