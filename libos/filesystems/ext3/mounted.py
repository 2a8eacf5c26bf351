"""What the parts of a mounted ext3 share."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from libos.filesystems.ext3.allocation import Allocation
from libos.filesystems.ext3.blockmap import BlockMaps
from libos.filesystems.ext3.geometry import Geometry
from libos.filesystems.ext3.inodes import Inodes
from libos.filesystems.ext3.orphans import Orphans
from libos.filesystems.ext3.superblock import LiveSuperblock
from libos.filesystems.ext3.transactions import Transactions
from libos.filesystems.ext3.xattrs import Attributes
from libos.storage.cache import BlockCache


@dataclass
class Mounted:
    """A mounted file system, part by part.  `time` gives seconds since 1970 by the virtual clock."""

    cache: BlockCache
    geometry: Geometry
    journal: Transactions
    allocation: Allocation
    inodes: Inodes
    maps: BlockMaps
    orphans: Orphans
    attributes: Attributes
    superblock: LiveSuperblock
    time: Callable[[], Awaitable[int]]
    read_only: bool = False
    given_up: bool = False

    def give_up(self) -> None:
        """Something on the disk makes no sense, or the disk fails: nothing is changed any more, and what has been since the
        last commit never happened on the disk."""
        self.read_only = self.given_up = True

    @asynccontextmanager
    async def operation(self, credits: int, blocks: int = 0, inodes: int = 0) -> AsyncIterator[None]:
        """An operation that changes up to `credits` metadata blocks, and allocates up to `blocks` blocks and `inodes`
        inodes.  Raises ENOSPC before anything is changed if there are not so many."""
        await self.allocation.reserve(blocks, inodes)
        async with self.journal.operation(credits):
            yield
