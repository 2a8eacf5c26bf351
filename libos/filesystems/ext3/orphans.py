"""Orphans: inodes that are to be freed or cut off once nobody needs them, found again after a crash.

The superblock's `last_orphan` and then each inode's `dtime` make a chain of numbers.  An inode joins it in the transaction
that takes its last name away, or when cutting it off takes more than one transaction, and leaves it in the one that
finishes.  Mounting goes through the chain: what has no name is freed, what has one is cut off at its size.  (Linux 2.6,
fs/ext3/namei.c and super.c.)
"""

from typing import Final

from libos.filesystems.ext3.allocation import Allocation
from libos.filesystems.ext3.blockmap import BlockMaps, Budget
from libos.filesystems.ext3.geometry import Geometry
from libos.filesystems.ext3.inodes import Inode, Inodes
from libos.filesystems.ext3.superblock import LiveSuperblock
from libos.filesystems.ext3.transactions import Transactions
from libos.filesystems.ext3.xattrs import Attributes
from libos.filesystems.interface import CorruptFileSystem

_GROUPS: Final = 16
_BLOCKS: Final = 16384
_OWN: Final = 12
"""Metadata blocks that freeing changes beside bitmaps, descriptors and revocations: the inode and its neighbours in the
chain, blocks of numbers cut in the middle, attributes, the superblock, the inode's bitmap and descriptor."""


class Orphans:
    """The chain, newest first, and what is done to those on it."""

    def __init__(
        self,
        geometry: Geometry,
        journal: Transactions,
        superblock: LiveSuperblock,
        allocation: Allocation,
        inodes: Inodes,
        maps: BlockMaps,
        attributes: Attributes,
    ) -> None:
        self._geometry = geometry
        self._journal = journal
        self._superblock = superblock
        self._allocation = allocation
        self._inodes = inodes
        self._maps = maps
        self._attributes = attributes
        self._chain: list[int] = []
        """Oldest first: the reverse of the chain on the disk."""

    def __len__(self) -> int:
        return len(self._chain)

    @property
    def credits(self) -> int:
        """How many metadata blocks one step of freeing changes at most."""
        return self._budget()[1]

    def _budget(self) -> tuple[Budget, int]:
        """What one step may free, and how many metadata blocks that changes at most."""
        geometry = self._geometry
        groups, blocks = min(_GROUPS, geometry.groups), _BLOCKS
        limit = max(32, self._journal.limit // 2)
        revoked = geometry.pointers - 4
        while groups > 1 and 2 * groups + _OWN > limit // 2:
            groups //= 2
        while blocks > 64 and blocks // revoked > limit // 4:
            blocks //= 2
        return Budget(groups, blocks), 2 * (groups + 1) + _OWN + blocks // revoked

    async def add(self, inode: Inode) -> None:
        """Put an inode on the list, as a part of the running operation; nothing happens if it is there."""
        if inode.number in self._chain:
            return
        inode.dtime = self._chain[-1] if self._chain else 0
        self._chain.append(inode.number)
        await self._inodes.put(inode)
        await self._superblock.change("last_orphan", inode.number)

    async def remove(self, inode: Inode) -> None:
        """Take an inode off the list, as a part of the running operation; nothing happens if it is not there."""
        if inode.number not in self._chain:
            return
        index = self._chain.index(inode.number)
        if index == len(self._chain) - 1:
            await self._superblock.change("last_orphan", inode.dtime)
        else:
            newer = await self._inodes.load(self._chain[index + 1])
            newer.dtime = inode.dtime
            await self._inodes.put(newer)
        del self._chain[index]
        inode.dtime = 0
        await self._inodes.put(inode)

    async def reclaim(self, inode: Inode) -> None:
        """Free an inode without names or users, contents and all; in as many operations as that takes.  To be called
        outside of one."""
        done = False
        while not done:
            budget, credits = self._budget()
            async with self._journal.operation(credits):
                done = await self._free_blocks(inode, budget)
                if done:
                    await self._attributes.release(inode)
                    await self.remove(inode)
                    await self._inodes.free(inode)
                else:
                    await self.add(inode)
                    await self._inodes.put(inode)

    async def _free_blocks(self, inode: Inode, budget: Budget) -> bool:
        has_blocks = inode.is_regular or inode.is_directory or (inode.is_symlink and not self.is_fast_symlink(inode))
        return await self._maps.trim(inode, 0, budget) if has_blocks else True

    def is_fast_symlink(self, inode: Inode) -> bool:
        """Whether a symbolic link's target stands where the block numbers would: it has no block but that of attributes."""
        return inode.sectors == (self._geometry.sectors_per_block if inode.file_acl else 0)

    async def truncate(self, inode: Inode, blocks: int) -> None:
        """Free everything of a file from its block `blocks` on, its size being what it is to be already; in as many
        operations as that takes, safely if there is a crash between them.  To be called outside of one."""
        done = False
        while not done:
            budget, credits = self._budget()
            async with self._journal.operation(credits):
                done = await self._step(inode, blocks, budget)

    async def begin_truncating(self, inode: Inode, blocks: int) -> bool:
        """The first step of `truncate`, as a part of the running operation, which needs `credits` for it; gives whether it
        was all."""
        return await self._step(inode, blocks, self._budget()[0])

    async def _step(self, inode: Inode, blocks: int, budget: Budget) -> bool:
        done = await self._maps.trim(inode, blocks, budget)
        if done:
            await self.remove(inode)
        else:
            await self.add(inode)
        await self._inodes.put(inode)
        return done

    async def load(self) -> None:
        """Follow the chain on the disk.  Raises CorruptFileSystem if it leads nowhere or in a circle."""
        number = self._superblock.get("last_orphan")
        found: dict[int, None] = {}
        while number:
            if not self._geometry.first_inode <= number <= self._geometry.inodes or number in found:
                raise CorruptFileSystem(f"The list of orphans leads to inode {number}, which cannot be one.")
            found[number] = None
            if not await self._allocation.inode_in_use(number):
                raise CorruptFileSystem(f"The list of orphans leads to inode {number}, which is free.")
            number = (await self._inodes.load(number)).dtime
        self._chain = list(reversed(found))

    async def process(self) -> int:
        """After `load`: finish what was begun to all of them; gives how many there were."""
        count = 0
        while self._chain:
            inode = await self._inodes.load(self._chain[-1])
            if inode.links:
                await self.truncate(inode, -(-inode.size // self._geometry.block_size))
            else:
                await self.reclaim(inode)
            count += 1
        return count
