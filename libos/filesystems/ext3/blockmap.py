"""Which block of the disk has which block of a file: direct block numbers in the inode, then trees of one, two and three
levels of blocks full of block numbers; 0 is a hole, which reads as zeros.

Blocks of numbers are kept decoded, since a file is mostly read and written in order.
"""

import sys
from array import array
from dataclasses import dataclass, field
from typing import Final

from libos.filesystems.ext3.allocation import Allocation
from libos.filesystems.ext3.geometry import Geometry
from libos.filesystems.ext3.inodes import Inode
from libos.filesystems.ext3.layout import DIRECT_BLOCKS, INDIRECT, TRIPLE_INDIRECT
from libos.filesystems.ext3.transactions import Deferred, Transactions
from libos.filesystems.interface import CorruptFileSystem, Errno, FileSystemError
from libos.storage.cache import BlockCache

_KEPT: Final = 512
"""How many blocks of numbers stay decoded when nothing in them has changed."""
_MOST_SECTORS: Final = 0xFFFF_FFFF
_CODE: Final = "I" if array("I").itemsize == 4 else "L"
_SWAPPED: Final = sys.byteorder != "little"


def _decode(block: bytes) -> "array[int]":
    table = array(_CODE, block)
    if _SWAPPED:
        table.byteswap()
    return table


def _encode(table: "array[int]") -> bytes:
    if not _SWAPPED:
        return table.tobytes()
    swapped = array(_CODE, table)
    swapped.byteswap()
    return swapped.tobytes()


def encode_numbers(numbers: list[int]) -> bytes:
    """The bytes of a block that begins with these block numbers."""
    return _encode(array(_CODE, numbers))


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive blocks of a file that are consecutive on the disk, from `block` on; 0: a hole.  `fresh`: they have just
    been allocated, and what they contain is somebody else's."""

    block: int
    count: int
    fresh: bool = False


@dataclass
class Budget:
    """What one operation may free: blocks of numbers and of contents, in so many groups."""

    groups: int
    blocks: int
    touched: set[int] = field(default_factory=set)

    @property
    def spent(self) -> bool:
        """Whether nothing more may be freed."""
        return self.blocks <= 0 or len(self.touched) >= self.groups


class BlockMaps:
    """The block maps of a mounted file system.  Whoever changes one says `put` of the inode afterwards."""

    def __init__(
        self, cache: BlockCache, geometry: Geometry, journal: Transactions, deferred: Deferred, allocation: Allocation
    ) -> None:
        self._cache = cache
        self._geometry = geometry
        self._journal = journal
        self._deferred = deferred
        self._allocation = allocation
        self._pointers = geometry.pointers
        self._tables: dict[int, array[int]] = {}
        self._changed: dict[int, array[int]] = {}
        journal.before_commit.append(self._stored)

    # Looking.

    async def find(self, inode: Inode, logical: int) -> int:
        """The block that has the file's block `logical`; 0 for a hole, and for what no file can have."""
        if logical < DIRECT_BLOCKS:
            block = inode.block[logical]
            if block >= self._geometry.blocks:
                raise self._wild(block)
            return block
        found = await self._leaf(inode, logical)
        return found[0][found[1]] if found else 0

    async def runs(self, inode: Inode, logical: int, count: int) -> list[Run]:
        """The file's blocks `logical` to `logical + count`, in order."""
        runs: list[Run] = []
        first = length = 0
        limit = self._geometry.blocks
        while count > 0:
            numbers, step = await self._stretch(inode, logical, count)
            for block in numbers if numbers is not None else (0,):
                if block >= limit:
                    raise self._wild(block)
                size = step if numbers is None else 1
                if length and (block == first + length if first else not block):
                    length += size
                else:
                    if length:
                        runs.append(Run(first, length))
                    first, length = block, size
            logical += step
            count -= step
        if length:
            runs.append(Run(first, length))
        return runs

    async def _stretch(self, inode: Inode, logical: int, count: int) -> "tuple[list[int] | array[int] | None, int]":
        """The numbers of blocks from `logical` on that stand in one place, up to `count`, and how many; None: all holes."""
        if logical < DIRECT_BLOCKS:
            numbers = inode.block[logical : min(logical + count, DIRECT_BLOCKS)]
            return numbers, len(numbers)
        found = await self._leaf(inode, logical)
        if found is None:
            return None, min(count, self._pointers - (logical - DIRECT_BLOCKS) % self._pointers)
        table, index = found
        part = table[index : index + count]
        return part, len(part)

    def path(self, logical: int) -> list[int]:
        """The way to a file's block: the index in the inode, then one for each level.  Raises EFBIG beyond the last."""
        if logical < DIRECT_BLOCKS:
            return [logical]
        pointers = self._pointers
        rest, span = logical - DIRECT_BLOCKS, pointers
        for index in range(INDIRECT, TRIPLE_INDIRECT + 1):
            if rest < span:
                way = [index]
                while span > 1:
                    span //= pointers
                    way.append(rest // span)
                    rest %= span
                return way
            rest -= span
            span *= pointers
        raise FileSystemError(Errno.EFBIG)

    async def _leaf(self, inode: Inode, logical: int) -> "tuple[array[int], int] | None":
        """The block of numbers that has the one of `logical`, and at which index; None if it lies in a hole."""
        way = self.path(logical)
        block = inode.block[way[0]]
        for index in way[1:-1]:
            if not block:
                return None
            block = (self._tables.get(block) or await self._table(block))[index]
        return ((self._tables.get(block) or await self._table(block)), way[-1]) if block else None

    async def _table(self, block: int) -> "array[int]":
        table = self._changed.get(block)
        if table is None:
            if self._allocation.is_metadata(block):
                raise self._wild(block)
            table = _decode(await self._cache.read(block))
            worst = max(table)
            if worst >= self._geometry.blocks:
                raise self._wild(worst)
        self._tables[block] = table
        if len(self._tables) > _KEPT:
            del self._tables[next(iter(self._tables))]
        return table

    def _wild(self, block: int) -> CorruptFileSystem:
        return CorruptFileSystem(f"The block map of a file has block {block}, which no file can have.")

    async def missing(self, inode: Inode, logical: int) -> int:
        """How many blocks of numbers are missing on the way to the file's block `logical`."""
        way = self.path(logical)
        block = inode.block[way[0]]
        for level, index in enumerate(way[1:]):
            if not block:
                return len(way) - 1 - level
            block = (self._tables.get(block) or await self._table(block))[index]
        return 0

    # Allocating.

    async def ensure(self, inode: Inode, logical: int) -> tuple[int, bool]:
        """The block that has the file's block `logical`, allocated if it was a hole, and whether that was so.  What is
        needed on the way is allocated too.  Raises ENOSPC, EFBIG."""
        run = (await self.ensure_runs(inode, logical, 1))[0]
        return run.block, run.fresh

    def most_new(self, logical: int, count: int) -> int:
        """The most blocks that it can take to fill the file's blocks `logical` to `logical + count`."""
        return count + self.most_numbers(logical, count)

    def most_numbers(self, logical: int, count: int) -> int:
        """How many of those are blocks of numbers: those that list the blocks, those that list these, and one on top."""
        return 2 * (count // self._pointers + 2) + 1 if logical + count > DIRECT_BLOCKS else 0

    async def ensure_runs(self, inode: Inode, logical: int, count: int) -> list[Run]:
        """As `ensure` for `count` blocks of the file, in order."""
        runs: list[Run] = []
        while count > 0:
            table, index, block = await self._ensure_leaf(inode, logical)
            step = min(count, (DIRECT_BLOCKS if block == 0 else self._pointers) - index)
            at = index
            changed = False
            while at < index + step:
                there = table[at]
                if there:
                    length = 1
                    while at + length < index + step and table[at + length] == there + length:
                        length += 1
                    if self._allocation.is_metadata(there, length):
                        raise self._wild(there)
                    self._extend(runs, there, length, False)
                    at += length
                    continue
                end = at + 1
                while end < index + step and not table[end]:
                    end += 1
                first, length = await self._allocation.blocks(
                    self._goal(inode, logical + at - index, table, at, block), end - at
                )
                for position in range(length):
                    table[at + position] = first + position
                changed = True
                self._count(inode, length)
                inode.last_logical, inode.last_block = logical + at - index + length - 1, first + length - 1
                self._extend(runs, first, length, True)
                at += length
            if changed and isinstance(table, array):
                await self._change(block, table)
            logical += step
            count -= step
        return runs

    def _count(self, inode: Inode, blocks: int) -> None:
        """An inode has so many blocks more."""
        inode.sectors += blocks * self._geometry.sectors_per_block
        if inode.sectors > _MOST_SECTORS:
            raise CorruptFileSystem(f"The blocks of inode {inode.number} cannot be as many as it says.")

    def _extend(self, runs: list[Run], block: int, count: int, fresh: bool) -> None:
        if runs:
            last = runs[-1]
            if last.fresh == fresh and last.block + last.count == block:
                runs[-1] = Run(last.block, last.count + count, fresh)
                return
        runs.append(Run(block, count, fresh))

    def _goal(self, inode: Inode, logical: int, table: "list[int] | array[int]", index: int, table_block: int) -> int:
        """Where a new block is best: behind the one before it, else behind the block of numbers it is in, else at the
        start of the inode's group."""
        if inode.last_block and logical == inode.last_logical + 1:
            return inode.last_block + 1
        for before in range(index - 1, max(-1, index - 16), -1):
            if table[before]:
                return table[before] + index - before
        if table_block:
            return table_block + 1
        return self._geometry.group_start(self._geometry.group_of_inode(inode.number))

    async def _ensure_leaf(self, inode: Inode, logical: int) -> "tuple[list[int] | array[int], int, int]":
        """Where the number of `logical` stands: the table, the index, and the table's block (0: the inode)."""
        if logical < DIRECT_BLOCKS:
            return inode.block, logical, 0
        way = self.path(logical)
        above: list[int] | array[int] = inode.block
        above_block = 0
        for index in way[:-1]:
            block = above[index]
            if block:
                table = self._tables.get(block) or await self._table(block)
            else:
                block = await self._allocation.block(self._goal(inode, logical, above, index, above_block))
                await self._journal.fresh(block)
                self._deferred.begun(block)
                table = array(_CODE, bytes(self._geometry.block_size))
                await self._change(block, table)
                above[index] = block
                if isinstance(above, array):
                    await self._change(above_block, above)
                self._count(inode, 1)
                inode.last_logical, inode.last_block = logical - 1, block
            above, above_block = table, block
        return above, way[-1], above_block

    async def _change(self, block: int, table: "array[int]") -> None:
        self._tables[block] = self._changed[block] = table
        await self._deferred.changed(block, 0, lambda: _encode(table))

    async def _stored(self) -> None:
        """The bytes of all changed blocks of numbers have been handed on: they need not be kept any longer."""
        self._changed.clear()

    async def replace(self, inode: Inode, logical: int) -> int:
        """Put a newly allocated block in the place of one of a file's, which is freed; gives it.  Raises ENOSPC."""
        table, index, block = await self._ensure_leaf(inode, logical)
        old = table[index]
        new = await self._allocation.block(old)
        await self._free(inode, old, 1, Budget(1, 1), numbers=False)
        self._count(inode, 1)
        table[index] = new
        if isinstance(table, array):
            await self._change(block, table)
        return new

    # Freeing.

    async def cut(self, inode: Inode, blocks: int) -> None:
        """Free everything from the file's block `blocks` on, in one operation."""
        await self.trim(inode, blocks, Budget(self._geometry.groups + 1, self._geometry.blocks + 1))

    async def trim(self, inode: Inode, blocks: int, budget: Budget) -> bool:
        """Free from the file's block `blocks` on as much as the budget allows; gives whether all of it is free."""
        start = DIRECT_BLOCKS
        starts = []
        for level in range(1, 4):
            starts.append((DIRECT_BLOCKS + level - 1, level, start))
            start += self._pointers**level
        inode.last_block = 0
        for index, level, first in reversed(starts):
            block = inode.block[index]
            if block and blocks < first + self._pointers**level:
                done, empty = await self._trim_table(inode, block, level, max(0, blocks - first), budget)
                if empty:
                    inode.block[index] = 0
                if not done:
                    return False
        if blocks < DIRECT_BLOCKS:
            return await self._trim_numbers(inode, inode.block, blocks, DIRECT_BLOCKS, budget)
        return True

    async def _trim_table(self, inode: Inode, block: int, level: int, keep: int, budget: Budget) -> tuple[bool, bool]:
        """Free what hangs on a block of numbers from its block `keep` on, and itself if nothing stays; gives whether all of
        that is done, and whether itself is free."""
        table = self._tables.get(block) or await self._table(block)
        done, changed = True, False
        if level == 1:
            changed = any(table[keep:])
            done = await self._trim_numbers(inode, table, keep, self._pointers, budget)
        else:
            span = self._pointers ** (level - 1)
            for index in range(self._pointers - 1, keep // span - 1, -1):
                if not table[index]:
                    continue
                if budget.spent:
                    done = False
                    break
                rest = max(0, keep - index * span)
                done, empty = await self._trim_table(inode, table[index], level - 1, rest, budget)
                if empty:
                    table[index] = 0
                    changed = True
                if not done:
                    break
        if done and keep == 0:
            self._tables.pop(block, None)
            self._changed.pop(block, None)
            await self._free(inode, block, 1, budget, numbers=True)
            return True, True
        if changed:
            await self._change(block, table)
        return done, False

    async def _trim_numbers(
        self, inode: Inode, table: "list[int] | array[int]", start: int, end: int, budget: Budget
    ) -> bool:
        """Free the blocks that stand in a table, as runs; gives whether all of them are free."""
        at = start
        while at < end:
            first = table[at]
            if not first:
                at += 1
                continue
            if budget.spent:
                return False
            length = 1
            while at + length < end and table[at + length] == first + length and length < budget.blocks:
                length += 1
            await self._free(inode, first, length, budget, numbers=False)
            for position in range(at, at + length):
                table[position] = 0
            at += length
        return True

    async def _free(self, inode: Inode, block: int, count: int, budget: Budget, numbers: bool) -> None:
        geometry = self._geometry
        if self._allocation.is_metadata(block, count):
            raise self._wild(block)
        if numbers or not inode.is_regular:
            for one in range(block, block + count):
                self._deferred.gone(one)
                await self._journal.forget(one)
        else:
            for one in range(block, block + count):
                self._journal.forget_data(one)
        await self._allocation.free_run(block, count)
        inode.sectors = max(0, inode.sectors - count * geometry.sectors_per_block)
        budget.blocks -= count
        per_group = geometry.blocks_per_group
        budget.touched.update(
            range(
                (block - geometry.first_data_block) // per_group,
                (block + count - 1 - geometry.first_data_block) // per_group + 1,
            )
        )


__all__ = ["BlockMaps", "Budget", "Run", "encode_numbers"]
