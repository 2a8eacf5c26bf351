"""Which blocks and inodes are free: group descriptors, bitmaps, and where new things go.

Blocks are given from a goal on, in runs, so that a file that grows lies in one piece.  Directories are spread over the
groups and everything else stays near its directory, as Orlov's allocator does it (Linux 2.6, fs/ext3/ialloc.c, after
Grigoriy Orlov's for BSD).  A block freed is not given away before the transaction that freed it is durable: else an old
file could be found after a crash with a new one's contents (Tweedie, Journaling the Linux ext2fs Filesystem, 1998).
Bitmaps are read when they are first needed.  Root's reserve of blocks is not kept: who mounts a volume owns it.
"""

from dataclasses import dataclass
from typing import Final

from libos.filesystems.ext3.bitmaps import Bitmap
from libos.filesystems.ext3.geometry import Geometry
from libos.filesystems.ext3.layout import ReadOnlyCompatible
from libos.filesystems.ext3.records import GROUP_DESCRIPTOR
from libos.filesystems.ext3.transactions import Deferred, Transactions
from libos.filesystems.interface import CorruptFileSystem, Errno, FileSystemError
from libos.storage.cache import BlockCache

_KEPT: Final = 256
"""How many bitmaps stay decoded when nothing in them has changed."""
_DEBT: Final = 16


@dataclass(slots=True)
class Group:
    """A group descriptor.  `free_blocks`, `free_inodes` and `directories` are counts; the others block numbers."""

    block_bitmap: int
    inode_bitmap: int
    inode_table: int
    free_blocks: int
    free_inodes: int
    directories: int
    pad: int
    reserved: bytes
    new_directories: int = 0
    """Directories made here since it was mounted, less what else was: Orlov's debt."""

    def encode(self) -> bytes:
        """Its 32 bytes."""
        return GROUP_DESCRIPTOR.pack(
            self.block_bitmap, self.inode_bitmap, self.inode_table, self.free_blocks, self.free_inodes,
            self.directories, self.pad, self.reserved,
        )  # fmt: skip


class Allocation:
    """The books of a mounted file system."""

    def __init__(
        self, cache: BlockCache, geometry: Geometry, journal: Transactions, deferred: Deferred, groups: list[Group]
    ) -> None:
        self._cache = cache
        self._geometry = geometry
        self._journal = journal
        self._deferred = deferred
        self.groups = groups
        self._blocks: dict[int, Bitmap] = {}
        self._inodes: dict[int, Bitmap] = {}
        self._pending: dict[int, Bitmap] = {}
        self._pending_count = 0
        self.journal: list[tuple[int, int]] = []
        """Where the journal lies: pairs of a first block and a number of blocks."""
        self.free_blocks = sum(group.free_blocks for group in groups)
        self.free_inodes = sum(group.free_inodes for group in groups)
        self._first = geometry.first_data_block
        self._per_group = geometry.blocks_per_group
        self._counted = not geometry.read_only_compatible & (ReadOnlyCompatible.GDT_CSUM | ReadOnlyCompatible.METADATA_CSUM)
        journal.before_commit.append(self._settle)

    # Places.

    def inode_place(self, number: int) -> tuple[int, int]:
        """The block of an inode's bytes, and where they begin in it."""
        geometry = self._geometry
        group, index = divmod(number - 1, geometry.inodes_per_group)
        block, offset = divmod(index * geometry.inode_size, geometry.block_size)
        return self.groups[group].inode_table + block, offset

    def is_metadata(self, block: int, count: int = 1) -> bool:
        """Whether one of `count` blocks is a superblock, a descriptor, a bitmap, of an inode table or of the journal, or
        none at all: no file can have it."""
        geometry = self._geometry
        if not (self._first <= block and block + count <= geometry.blocks):
            return True
        for index in range(
            (block - self._first) // self._per_group, (block + count - 1 - self._first) // self._per_group + 1
        ):
            start = geometry.group_start(index)
            if block < start + geometry.group_overhead(index):
                return True
            group = self.groups[index]
            for first, length in (
                (group.block_bitmap, 1), (group.inode_bitmap, 1), (group.inode_table, geometry.inode_table_blocks),
            ):  # fmt: skip
                if first < block + count and block < first + length:
                    return True
        return any([first < block + count and block < first + length for first, length in self.journal])

    # Blocks.

    async def reserve(self, blocks: int, inodes: int = 0) -> None:
        """Make sure, before an operation, that so many blocks and inodes can be allocated.  Raises ENOSPC."""
        if self.free_blocks < blocks or self.free_inodes < inodes:
            raise FileSystemError(Errno.ENOSPC)
        if self.free_blocks - self._pending_count < blocks:
            await self._journal.commit()
            if self.free_blocks - self._pending_count < blocks:
                raise FileSystemError(Errno.ENOSPC)

    @property
    def ready_blocks(self) -> int:
        """How many blocks can be allocated with no commit before."""
        return self.free_blocks - self._pending_count

    async def block(self, goal: int) -> int:
        """Allocate a block, preferably `goal` or one behind it.  Raises ENOSPC."""
        return (await self.blocks(goal, 1))[0]

    async def blocks(self, goal: int, most: int) -> tuple[int, int]:
        """Allocate a run of up to `most` blocks, preferably from `goal` on; gives the first and the length.  Raises
        ENOSPC."""
        geometry = self._geometry
        if not self._first <= goal < geometry.blocks:
            goal = self._first
        first_group, bit = divmod(goal - self._first, self._per_group)
        count = len(self.groups)
        for step in range(count):
            index = (first_group + step) % count
            group = self.groups[index]
            if not group.free_blocks:
                continue
            bitmap = self._blocks.get(index) or await self._block_bitmap(index)
            length = bitmap.run(bit, most) if not step and bit < bitmap.length else 0
            if not length:
                bit = bitmap.find_room(0 if step else bit)
                if bit < 0:
                    bit = 0
                    continue
                length = bitmap.run(bit, most)
            bitmap.set(bit, length)
            group.free_blocks -= length
            self.free_blocks -= length
            await self._changed(index, group, group.block_bitmap, bitmap)
            return self._first + index * self._per_group + bit, length
        if self.ready_blocks:
            raise CorruptFileSystem(f"There should be {self.ready_blocks} free blocks, but the bitmaps have none.")
        raise FileSystemError(Errno.ENOSPC)

    async def free_block(self, block: int) -> None:
        """Give a block back.  Raises CorruptFileSystem if it is not one that could have been given away."""
        await self.free_run(block, 1)

    async def free_run(self, block: int, count: int) -> None:
        """Give `count` consecutive blocks back, of which the journal has been told that they are forgotten.  Raises
        CorruptFileSystem if one is free already, or is none that could have been given away."""
        if self.is_metadata(block, count):
            raise CorruptFileSystem(f"Blocks {block} to {block + count - 1}, of a file, are not ones that a file can have.")
        while count:
            index, bit = divmod(block - self._first, self._per_group)
            length = min(count, self._per_group - bit)
            group = self.groups[index]
            bitmap = self._blocks.get(index) or await self._block_bitmap(index)
            if bitmap.any_clear(bit, length):
                raise CorruptFileSystem(f"Blocks {block} to {block + length - 1} are of a file, but not all in use.")
            pending = not self._journal.may_reuse(block)
            bitmap.clear(bit, length, pending)
            if pending:
                self._pending[index] = bitmap
                self._pending_count += length
            group.free_blocks += length
            self.free_blocks += length
            await self._changed(index, group, group.block_bitmap, bitmap)
            block += length
            count -= length

    # Inodes.

    async def inode_in_use(self, number: int) -> bool:
        """Whether an inode is allocated."""
        index, bit = divmod(number - 1, self._geometry.inodes_per_group)
        return (self._inodes.get(index) or await self._inode_bitmap(index)).test(bit)

    async def inode_number(self, parent_group: int, directory: bool, top: bool = False) -> int:
        """Allocate an inode: of a directory in its parent's group or, if that is much used or the parent is the root
        (`top`), in another; of anything else as near to the parent as can be.  Raises ENOSPC."""
        if not self.free_inodes:
            raise FileSystemError(Errno.ENOSPC)
        for index in self._directory_groups(parent_group, top) if directory else self._file_groups(parent_group):
            group = self.groups[index]
            if not group.free_inodes:
                continue
            bitmap = self._inodes.get(index) or await self._inode_bitmap(index)
            bit = bitmap.find(self._geometry.first_inode - 1 if index == 0 else 0)
            if bit < 0:
                continue
            bitmap.set(bit)
            group.free_inodes -= 1
            self.free_inodes -= 1
            if directory:
                group.directories += 1
            group.new_directories = max(0, min(255, group.new_directories + (1 if directory else -1)))
            await self._changed(index, group, group.inode_bitmap, bitmap)
            return index * self._geometry.inodes_per_group + bit + 1
        raise CorruptFileSystem(f"There should be {self.free_inodes} free inodes, but the bitmaps have none.")

    async def free_inode(self, number: int, directory: bool) -> None:
        """Give an inode back.  Raises CorruptFileSystem if it is free already."""
        index, bit = divmod(number - 1, self._geometry.inodes_per_group)
        bitmap = self._inodes.get(index) or await self._inode_bitmap(index)
        if not bitmap.test(bit):
            raise CorruptFileSystem(f"Inode {number} is in use, but the bitmap says that it is free.")
        bitmap.clear(bit)
        group = self.groups[index]
        group.free_inodes += 1
        self.free_inodes += 1
        if directory:
            group.directories = max(0, group.directories - 1)
        await self._changed(index, group, group.inode_bitmap, bitmap)

    def _file_groups(self, parent: int) -> list[int]:
        count = len(self.groups)
        order = sorted(range(count), key=lambda index: (index - parent) % count)
        return [index for index in order if self.groups[index].free_blocks] + order

    def _directory_groups(self, parent: int, top: bool) -> list[int]:
        groups, count = self.groups, len(self.groups)
        blocks, inodes = self.free_blocks // count, self.free_inodes // count
        near = sorted(range(count), key=lambda index: (index - parent) % count)
        if top:
            good = [i for i in near if groups[i].free_inodes >= inodes and groups[i].free_blocks >= blocks]
            return sorted(good, key=lambda index: groups[index].directories) + near
        directories = sum(group.directories for group in groups)
        most = directories // count + self._geometry.inodes_per_group // 16
        least_inodes = inodes - self._geometry.inodes_per_group // 4
        least_blocks = blocks - self._per_group // 4
        good = [
            index
            for index in near
            if groups[index].directories < most
            and groups[index].free_inodes >= least_inodes
            and groups[index].free_blocks >= least_blocks
            and groups[index].new_directories < _DEBT
        ]
        return good + [index for index in near if groups[index].free_inodes >= inodes] + near

    # Books.

    async def _changed(self, index: int, group: Group, block: int, bitmap: Bitmap) -> None:
        await self._deferred.changed(block, 0, bitmap.encode)
        per_block = self._geometry.descriptors_per_block
        table = self._geometry.superblock_block + 1 + index // per_block
        await self._deferred.changed(table, index % per_block * GROUP_DESCRIPTOR.size, group.encode)

    async def _block_bitmap(self, index: int) -> Bitmap:
        geometry, group = self._geometry, self.groups[index]
        bitmap = Bitmap(await self._cache.read(group.block_bitmap), geometry.group_blocks(index))
        start = geometry.group_start(index)
        for first, count in (
            (start, geometry.group_overhead(index)),
            (group.block_bitmap, 1),
            (group.inode_bitmap, 1),
            (group.inode_table, geometry.inode_table_blocks),
        ):
            if count and bitmap.any_clear(first - start, count):
                raise CorruptFileSystem(f"The block bitmap of group {index} says that the group's own metadata is free.")
        if bitmap.clear_bits != group.free_blocks:
            raise CorruptFileSystem(
                f"Group {index} should have {group.free_blocks} free blocks, but its bitmap has {bitmap.clear_bits}."
            )
        self._blocks[index] = bitmap
        return bitmap

    async def _inode_bitmap(self, index: int) -> Bitmap:
        group = self.groups[index]
        bitmap = Bitmap(await self._cache.read(group.inode_bitmap), self._geometry.inodes_per_group)
        if index in self._inodes:
            # Somebody else who only looks has read it meanwhile.
            return self._inodes[index]
        if self._counted and bitmap.clear_bits != group.free_inodes:
            raise CorruptFileSystem(
                f"Group {index} should have {group.free_inodes} free inodes, but its bitmap has {bitmap.clear_bits}."
            )
        self._inodes[index] = bitmap
        return bitmap

    async def _settle(self) -> None:
        """A commit begins: what was freed can be given away when it has ended, and nothing is until then.  Every bitmap's
        bytes have been handed on, so the books may be shortened."""
        for bitmap in self._pending.values():
            bitmap.pending = 0
        self._pending.clear()
        self._pending_count = 0
        for books in (self._blocks, self._inodes):
            if len(books) > _KEPT:
                books.clear()


async def load(cache: BlockCache, geometry: Geometry, journal: Transactions, deferred: Deferred) -> Allocation:
    """Read the group descriptors.  Raises CorruptFileSystem if one names a block outside its group, or one block twice, or
    counts too much."""
    table = await cache.read_run(geometry.superblock_block + 1, geometry.descriptor_blocks)
    groups = []
    for index in range(geometry.groups):
        group = Group(*GROUP_DESCRIPTOR.unpack_from(table, index * GROUP_DESCRIPTOR.size))
        first = geometry.group_start(index) + geometry.group_overhead(index)
        end = geometry.group_start(index) + geometry.group_blocks(index)
        for block, count in (
            (group.block_bitmap, 1),
            (group.inode_bitmap, 1),
            (group.inode_table, geometry.inode_table_blocks),
        ):
            if not first <= block <= end - count:
                raise CorruptFileSystem(
                    f"The descriptor of group {index} puts its metadata at block {block}, outside the group."
                )
        places = range(group.inode_table, group.inode_table + geometry.inode_table_blocks)
        if group.block_bitmap == group.inode_bitmap or group.block_bitmap in places or group.inode_bitmap in places:
            raise CorruptFileSystem(f"The descriptor of group {index} puts bitmaps and the inode table in one place.")
        if group.free_blocks > geometry.group_blocks(index) or group.free_inodes > geometry.inodes_per_group:
            raise CorruptFileSystem(f"The descriptor of group {index} counts more free blocks or inodes than there are.")
        groups.append(group)
    return Allocation(cache, geometry, journal, deferred, groups)


__all__ = ["Allocation", "Group", "load"]
