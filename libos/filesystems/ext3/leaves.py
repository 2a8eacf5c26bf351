"""The blocks of directories, and what has been learned of each: where it lies on the disk, and its `Slots`.

A directory's blocks stay where they are until the directory itself is freed, and nobody but this class changes their
entries, so what is known stays true.  It is bounded, and lost at the end; nothing depends on it but speed.
"""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from libos.filesystems.ext3.dirblocks import Change, Slot, Slots, insert, survey, walk
from libos.filesystems.ext3.inodes import Inode
from libos.filesystems.ext3.layout import DIRECT_BLOCKS
from libos.filesystems.ext3.mounted import Mounted
from libos.filesystems.interface import CorruptFileSystem

_KNOWN: Final = 256
"""How many directories something is remembered of."""
_AHEAD: Final = 16
"""How many blocks are asked for together when a whole directory is read."""


@dataclass(slots=True)
class Leaf:
    """A block with entries: which of the directory's, where on the disk, its bytes, and where what lies in it."""

    directory: Inode
    logical: int
    block: int
    data: bytes
    slots: Slots


@dataclass(slots=True)
class Place:
    """Where a name that a directory does not have can be put: `store`, given name, inode and kind, does it, and allocates
    up to `blocks` blocks.  Good until the directory changes."""

    directory: Inode
    name: bytes
    blocks: int
    store: Callable[[bytes, int, int], Awaitable[None]]


@dataclass(slots=True)
class _Known:
    """What is known of a directory, by its logical blocks."""

    blocks: dict[int, int] = field(default_factory=dict)
    slots: dict[int, Slots] = field(default_factory=dict)


class Leaves:
    """The blocks of all directories of a mounted file system."""

    def __init__(self, mounted: Mounted) -> None:
        self._mounted = mounted
        self._known: dict[int, _Known] = {}
        self._size = mounted.geometry.block_size
        self._inodes = mounted.geometry.inodes

    def count(self, directory: Inode) -> int:
        """How many blocks a directory has.  Raises CorruptFileSystem if that cannot be."""
        blocks = directory.size // self._size
        if not 0 < blocks <= self._mounted.geometry.blocks:
            raise CorruptFileSystem(f"Directory {directory.number} has the impossible size {directory.size}.")
        return blocks

    async def bytes_of(self, directory: Inode, logical: int) -> tuple[int, bytes]:
        """Where a block of a directory lies, and what is in it, which nobody has looked at."""
        block = await self._block(directory, self._of(directory), logical)
        return block, await self._mounted.cache.read(block)

    async def read(self, directory: Inode, logical: int) -> Leaf:
        """A block with entries.  Raises CorruptFileSystem if they make no sense."""
        known = self._of(directory)
        block = known.blocks.get(logical) or await self._block(directory, known, logical)
        data = await self._mounted.cache.read(block)
        slots = known.slots.get(logical)
        if slots is None:
            slots = survey(data, self._inodes, _about(directory, logical))
            known.slots[logical] = slots
        return Leaf(directory, logical, block, data, slots)

    async def read_in_turn(self, directory: Inode, logical: int) -> Leaf:
        """As `read`, for somebody who goes through all blocks from the first on; those that come next are asked for ahead.
        Blocks of an index look as if they held one free entry."""
        if not logical % _AHEAD:
            known = self._of(directory)
            chunk = range(logical, min(logical + _AHEAD, self.count(directory)))
            if len(chunk) > 1:
                await self._mounted.cache.prefetch([await self._block(directory, known, one) for one in chunk])
        return await self.read(directory, logical)

    def walk(self, leaf: Leaf) -> Iterator[Slot]:
        """The entries of a block, the free ones too."""
        return walk(leaf.data, self._inodes, _about(leaf.directory, leaf.logical))

    async def insert(self, leaf: Leaf, name: bytes, inode: int, kind: int) -> None:
        """One entry more in a block that has room for it."""
        await self.change(leaf, insert(leaf.data, leaf.slots, name, inode, kind))

    async def change(self, leaf: Leaf, change: Change) -> None:
        """Store a change of some entries."""
        await self._mounted.journal.update(leaf.block, change.data, change.at)
        self._of(leaf.directory).slots[leaf.logical] = change.slots

    async def rewrite(self, directory: Inode, logical: int, block: int, data: bytes, at: int = 0) -> None:
        """Store other contents, from byte `at` of a block on; whatever was known of its entries is forgotten."""
        self._of(directory).slots.pop(logical, None)
        await self._mounted.journal.update(block, data, at)

    async def append(self, directory: Inode, data: bytes) -> tuple[int, int]:
        """Make a directory longer by a block with these contents; gives its logical number and where it lies.  Whoever asks
        for it stores the inode, which has changed."""
        logical = directory.size // self._size
        block, _ = await self._mounted.maps.ensure(directory, logical)
        await self._mounted.journal.fresh(block, data)
        directory.size += self._size
        self._of(directory).blocks[logical] = block
        return logical, block

    def cost(self, directory: Inode, more: int) -> int:
        """How many blocks it takes to make a directory longer by `more` blocks, with the indirect blocks that map them."""
        first = directory.size // self._size
        return more + sum(self._mappers(logical) for logical in range(first, first + more))

    def forget(self, directory: Inode) -> None:
        """A directory is a new one, whatever had its number before."""
        self._known.pop(directory.number, None)

    def _mappers(self, logical: int) -> int:
        """How many indirect blocks come with a logical block, if all before it are there."""
        pointers = self._mounted.geometry.pointers
        at, reach = logical - DIRECT_BLOCKS, pointers
        levels = 1
        while at >= reach:
            at, reach = at - reach, reach * pointers
            levels += 1
        return sum(at % pointers**level == 0 for level in range(1, levels + 1)) if at >= 0 else 0

    def _of(self, directory: Inode) -> _Known:
        known = self._known.get(directory.number)
        if known is None:
            if len(self._known) >= _KNOWN:
                del self._known[next(iter(self._known))]
            known = self._known[directory.number] = _Known()
        return known

    async def _block(self, directory: Inode, known: _Known, logical: int) -> int:
        block = known.blocks.get(logical)
        if block is None:
            block = await self._mounted.maps.find(directory, logical)
            if not block or self._mounted.allocation.is_metadata(block):
                raise CorruptFileSystem(
                    f"Block {logical} of directory {directory.number} cannot be block {block} of the disk."
                )
            known.blocks[logical] = block
        return block


def _about(directory: Inode, logical: int) -> str:
    return f"Directory {directory.number}, block {logical}"
