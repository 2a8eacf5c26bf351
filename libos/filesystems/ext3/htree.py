"""Hashed directories: an index of a directory's blocks by the hash of the names in them.

Block 0 begins with `.` and `..`, whose entry covers the rest of the block, so that whoever does not know the index sees an
ordinary directory; behind it lies the root of the index.  An index block is a sorted table of (hash, logical block): a name
whose hash is at least the one of an entry, and less than the next one's, lies there.  A root has leaves, or inner blocks
that have leaves; there are no further levels.  Leaves are ordinary blocks of entries, in no order.

Names of one hash may be more than one leaf holds.  Then the entry of the leaf where they go on has the lowest bit of its
hash set, which no hash of a name has.

The design is Phillips, A Directory Index for Ext2 (Ottawa Linux Symposium, 2002), the form on disk that of Linux 2.6.  An
index that makes no sense does not make the directory unreadable: `BadIndex` tells the caller to go through every block.
"""

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Final

from libos.filesystems.ext3 import dirblocks
from libos.filesystems.ext3.dirblocks import length_for
from libos.filesystems.ext3.geometry import Geometry
from libos.filesystems.ext3.hashing import Hash, hashing
from libos.filesystems.ext3.inodes import Inode
from libos.filesystems.ext3.layout import HashVersion, InodeFlags
from libos.filesystems.ext3.leaves import Leaf, Leaves, Place
from libos.filesystems.ext3.records import (
    DIRECTORY_ENTRY,
    INDEX_COUNT_LIMIT,
    INDEX_ENTRY,
    INDEX_NODE,
    INDEX_ROOT,
    INDEX_ROOT_NAMES,
)
from libos.filesystems.interface import CorruptFileSystem, Errno, FileSystemError

_ROOT_INFORMATION: Final = 8
_INCOMPATIBLE_FLAG: Final = 1
_LEVELS: Final = 1
_BLOCK_MASK: Final = 0x0FFF_FFFF
_CONTINUED: Final = 1
_HASHES_KEPT: Final = 1 << 13
_ENTRY: Final = INDEX_ENTRY.size
_HASH_VERSION: Final = INDEX_ROOT_NAMES.index("hash_version")
_INDIRECT_LEVELS: Final = INDEX_ROOT_NAMES.index("indirect_levels")
_DOTS: Final = ((0, 1, b".\0\0\0"), (12, 2, b"..\0\0"))
"""Where `.` and `..` lie in the first block, how long they are, and their names with what follows."""

Named = tuple[bytes, int, int]
"""A name, its inode and its kind."""


class BadIndex(CorruptFileSystem):
    """The index of a directory makes no sense, or is of a kind this library does not know; the directory may be well."""


@dataclass(slots=True)
class Table:
    """An index block: which of the directory's, where on the disk, its bytes, at which byte its entries begin and how many
    there are; `at` is the one that was followed."""

    logical: int
    block: int
    data: bytes
    start: int
    count: int
    at: int = 0

    @property
    def full(self) -> bool:
        """Whether there is no room for one more entry."""
        return self.start + _ENTRY * (self.count + 1) > len(self.data)

    def hash(self, index: int) -> int:
        """The lowest hash of an entry; that of the first is not stored."""
        where = self.start + _ENTRY * index
        return int.from_bytes(self.data[where : where + 4], "little") if index else 0

    def target(self, index: int) -> int:
        """The logical block that an entry leads to."""
        where = self.start + _ENTRY * index + 4
        return int.from_bytes(self.data[where : where + 4], "little") & _BLOCK_MASK

    def follow(self, wanted: int) -> int:
        """Choose the entry for a hash; gives the logical block it leads to."""
        low, high = 0, self.count
        data, start = self.data, self.start
        while high - low > 1:
            middle = (low + high) // 2
            where = start + _ENTRY * middle
            if int.from_bytes(data[where : where + 4], "little") <= wanted:
                low = middle
            else:
                high = middle
        self.at = low
        return self.target(low)

    def pairs(self) -> list[tuple[int, int]]:
        """Every entry: the hash and the logical block."""
        return [(self.hash(index), self.target(index)) for index in range(self.count)]


def encode(pairs: list[tuple[int, int]], room: int) -> bytes:
    """The entries of an index block, in `room` bytes."""
    head = INDEX_COUNT_LIMIT.pack(room // _ENTRY, len(pairs), pairs[0][1])
    return head + b"".join(INDEX_ENTRY.pack(*pair) for pair in pairs[1:])


def halves(entries: list[tuple[int, Named]], size: int) -> tuple[list[Named], list[Named], int]:
    """Entries with their hashes, in two blocks of `size` bytes: those with lower hashes, the others, which are about half a
    block, and the hash of which an index entry says that these begin there."""
    entries = sorted(entries, key=lambda entry: entry[0])
    upper = 0
    first = len(entries)
    while first > 1:
        length = length_for(entries[first - 1][1][0])
        if upper + length // 2 > size // 2:
            break
        upper += length
        first -= 1
    boundary = entries[first][0]
    if boundary == entries[first - 1][0]:
        boundary |= _CONTINUED
    return [named for _, named in entries[:first]], [named for _, named in entries[first:]], boundary


class Index:
    """The indexes of all directories of a mounted file system."""

    def __init__(self, geometry: Geometry, leaves: Leaves) -> None:
        self._geometry = geometry
        self._size = geometry.block_size
        self._leaves = leaves
        self._unsigned = geometry.hash_version >= HashVersion.LEGACY_UNSIGNED
        self._hashes: dict[int, Hash] = {}

    # Finding.

    async def find(self, directory: Inode, name: bytes) -> tuple[Leaf, int] | None:
        """The leaf that has a name, and at which byte its entry begins."""
        path, wanted = await self._path(directory, name)
        while True:
            leaf = await self._leaf(directory, path)
            at = dirblocks.locate(leaf.data, leaf.slots, name)
            if at >= 0:
                return leaf, at
            if not await self._next(directory, path, wanted):
                return None

    async def _path(self, directory: Inode, name: bytes) -> tuple[list[Table], int]:
        """The index blocks from the root to the one that leads to the first leaf where a name may be, and its hash."""
        block, data = await self._leaves.bytes_of(directory, 0)
        root = INDEX_ROOT.unpack_from(data)
        zero, version, length, levels, flags = root[_HASH_VERSION - 1 : _HASH_VERSION + 4]
        if (
            zero
            or version > HashVersion.TEA
            or length != _ROOT_INFORMATION
            or flags & _INCOMPATIBLE_FLAG
            or levels > _LEVELS
        ):
            raise BadIndex(
                f"The root of the index of directory {directory.number} is of a kind that this library does not know."
            )
        wanted = self._hash(version)(name)
        path = [self._table(directory, 0, block, data, INDEX_ROOT.size)]
        target = path[0].follow(wanted)
        if levels:
            path.append(await self._inner(directory, target))
            path[1].follow(wanted)
        return path, wanted

    async def _inner(self, directory: Inode, logical: int) -> Table:
        self._check_target(directory, logical)
        block, data = await self._leaves.bytes_of(directory, logical)
        inode, length, _, _ = DIRECTORY_ENTRY.unpack_from(data)
        if inode or length != self._size:
            raise BadIndex(f"Block {logical} of directory {directory.number} is not one of its index, which says so.")
        return self._table(directory, logical, block, data, INDEX_NODE.size)

    def _table(self, directory: Inode, logical: int, block: int, data: bytes, start: int) -> Table:
        limit, count, _ = INDEX_COUNT_LIMIT.unpack_from(data, start)
        if limit != (self._size - start) // _ENTRY or not 0 < count <= limit:
            raise BadIndex(
                f"Block {logical} of directory {directory.number} claims {count} index entries of at most {limit}."
            )
        return Table(logical, block, data, start, count)

    def _check_target(self, directory: Inode, logical: int) -> None:
        if not 0 < logical < self._leaves.count(directory):
            raise BadIndex(
                f"The index of directory {directory.number} leads to block {logical}, which is none of its leaves."
            )

    async def _leaf(self, directory: Inode, path: list[Table]) -> Leaf:
        table = path[-1]
        logical = table.target(table.at)
        self._check_target(directory, logical)
        return await self._leaves.read(directory, logical)

    async def _next(self, directory: Inode, path: list[Table], wanted: int) -> bool:
        """Go on to the next leaf, if names with the hash `wanted` may go on there."""
        deepest = len(path) - 1
        while path[deepest].at + 1 >= path[deepest].count:
            if not deepest:
                return False
            deepest -= 1
        table = path[deepest]
        if table.hash(table.at + 1) & ~_CONTINUED != wanted:
            return False
        table.at += 1
        if deepest < len(path) - 1:
            path[1] = await self._inner(directory, table.target(table.at))
        return True

    def _hash(self, version: int) -> Hash:
        """The hash function of a directory that names `version` in its root."""
        found = self._hashes.get(version)
        if found is None:
            number = version + HashVersion.LEGACY_UNSIGNED if self._unsigned else version
            found = lru_cache(_HASHES_KEPT)(hashing(number, self._geometry.hash_seed))
            self._hashes[version] = found
        return found

    # Adding.

    async def prepare(self, directory: Inode, name: bytes) -> Place:
        """Find a place for a new name, changing nothing.  Raises EEXIST if it is there, ENOSPC if the index is full."""
        path, wanted = await self._path(directory, name)
        leaf = first = await self._leaf(directory, path)
        further = [replace(table) for table in path]
        while dirblocks.locate(leaf.data, leaf.slots, name) < 0:
            if not await self._next(directory, further, wanted):
                break
            leaf = await self._leaf(directory, further)
        else:
            raise FileSystemError(Errno.EEXIST)
        if dirblocks.has_room(first.data, first.slots, length_for(name)):
            return Place(directory, name, 0, partial(self._leaves.insert, first))
        if self._used(first) + length_for(name) <= self._size:
            return Place(directory, name, 0, partial(self._repack, first))
        blocks = 1
        if path[-1].full:
            if len(path) > _LEVELS and path[0].full:
                raise FileSystemError(Errno.ENOSPC, f"the index of directory {directory.number}")
            blocks = 2
        return Place(directory, name, self._leaves.cost(directory, blocks), partial(self._split, first, path))

    def _used(self, leaf: Leaf) -> int:
        """How many bytes the entries of a leaf need."""
        return sum(slot.used for slot in self._leaves.walk(leaf))

    def _named(self, leaf: Leaf) -> list[Named]:
        return [(slot.name, slot.inode, slot.kind) for slot in self._leaves.walk(leaf) if slot.inode]

    async def _repack(self, leaf: Leaf, name: bytes, inode: int, kind: int) -> None:
        """Bring the room of a leaf together, and put one entry there."""
        data = dirblocks.packed([*self._named(leaf), (name, inode, kind)], self._size)
        await self._leaves.rewrite(leaf.directory, leaf.logical, leaf.block, data)

    async def _split(self, leaf: Leaf, path: list[Table], name: bytes, inode: int, kind: int) -> None:
        """Make two leaves out of one that is full, and put one entry where it belongs."""
        hash_of = self._hash(INDEX_ROOT.unpack_from(path[0].data)[_HASH_VERSION])
        entries = [(hash_of(named[0]), named) for named in [*self._named(leaf), (name, inode, kind)]]
        lower, upper, boundary = halves(entries, self._size)
        if path[-1].full:
            await self._split_table(leaf.directory, path)
        logical, _ = await self._leaves.append(leaf.directory, dirblocks.packed(upper, self._size))
        await self._leaves.rewrite(leaf.directory, leaf.logical, leaf.block, dirblocks.packed(lower, self._size))
        await self._insert(leaf.directory, path[-1], boundary, logical)

    async def _insert(self, directory: Inode, table: Table, boundary: int, logical: int) -> None:
        """Put an entry behind the one that was followed."""
        pairs = table.pairs()
        pairs.insert(table.at + 1, (boundary, logical))
        await self._store(directory, table, pairs)

    async def _store(self, directory: Inode, table: Table, pairs: list[tuple[int, int]]) -> None:
        contents = encode(pairs, self._size - table.start)
        table.data = table.data[: table.start] + contents + table.data[table.start + len(contents) :]
        table.count = len(pairs)
        await self._leaves.rewrite(directory, table.logical, table.block, contents, table.start)

    async def _split_table(self, directory: Inode, path: list[Table]) -> None:
        """Make room in the lowest index block of a path: a full root goes down one level, an inner block becomes two."""
        table = path[-1]
        pairs = table.pairs()
        deeper = len(path) == 1
        kept = 0 if deeper else len(pairs) // 2
        moved = pairs[kept:]
        start = INDEX_NODE.size
        data = DIRECTORY_ENTRY.pack(0, self._size, 0, 0) + encode(moved, self._size - start)
        data = data.ljust(self._size, b"\0")
        logical, block = await self._leaves.append(directory, data)
        new = Table(logical, block, data, start, len(moved), table.at - kept)
        if deeper:
            root = list(INDEX_ROOT.unpack_from(table.data))
            root[_INDIRECT_LEVELS] = _LEVELS
            head = INDEX_ROOT.pack(*root)
            await self._leaves.rewrite(directory, 0, table.block, head)
            table.data = head + table.data[len(head) :]
            table.at = 0
            await self._store(directory, table, [(0, logical)])
            path.append(new)
            return
        await self._store(directory, table, pairs[:kept])
        await self._insert(directory, path[0], moved[0][0], logical)
        if table.at >= kept:
            path[1] = new

    # The first index of a directory.

    def convertible(self, leaf: Leaf) -> bool:
        """Whether the only block of a directory can become the root of an index: it begins as every directory should."""
        return all(dirblocks.locate(leaf.data, leaf.slots, name[:length]) == at for at, length, name in _DOTS)

    def prepare_conversion(self, leaf: Leaf, name: bytes) -> Place:
        """A place for a name in a directory of one full block, which becomes a hashed one."""
        return Place(leaf.directory, name, self._leaves.cost(leaf.directory, 2), partial(self._convert, leaf))

    async def _convert(self, leaf: Leaf, name: bytes, inode: int, kind: int) -> None:
        directory = leaf.directory
        version = self._geometry.hash_version % HashVersion.LEGACY_UNSIGNED
        hash_of = self._hash(version)
        dots, rest = self._named(leaf)[:2], self._named(leaf)[2:]
        entries = [(hash_of(named[0]), named) for named in [*rest, (name, inode, kind)]]
        lower, upper, boundary = halves(entries, self._size)
        first, _ = await self._leaves.append(directory, dirblocks.packed(lower, self._size))
        second, _ = await self._leaves.append(directory, dirblocks.packed(upper, self._size))
        lengths = (_DOTS[1][0], self._size - _DOTS[1][0])
        head: list[int | bytes] = []
        for (_, number, sort), length, (_, size, text) in zip(dots, lengths, _DOTS, strict=True):
            head += [number, length, size, sort, text]
        root = INDEX_ROOT.pack(*head, 0, version, _ROOT_INFORMATION, 0, 0)
        table = encode([(0, first), (boundary, second)], self._size - len(root))
        await self._leaves.rewrite(directory, 0, leaf.block, (root + table).ljust(self._size, b"\0"))
        directory.flags |= InodeFlags.INDEX
