"""Directories of ext3: names to inodes, in blocks one after the other or, beyond one block, with an index by hash.

A directory is an inode whose contents are blocks of entries (`dirblocks`).  Where the file system has dir_index, one that
outgrows its first block gets an index (`htree`).  An index that makes no sense, or is of a kind this library does not know,
is left aside for looking up and forgotten when a name is added, as Linux' ext3 does.

Adding has two steps, since it may need blocks and there may be none: `prepare` finds a place, changes nothing and says how
many blocks it takes; `fill` puts the name there.  All changes are parts of an operation of the journal that the caller has
opened, and the caller stores the directory's inode.
"""

from dataclasses import replace
from functools import partial
from typing import Final

from libos.filesystems.ext3 import dirblocks
from libos.filesystems.ext3.dirblocks import Change, length_for
from libos.filesystems.ext3.htree import BadIndex, Index
from libos.filesystems.ext3.inodes import Inode
from libos.filesystems.ext3.layout import InodeFlags
from libos.filesystems.ext3.leaves import Leaf, Leaves, Place
from libos.filesystems.ext3.mounted import Mounted
from libos.filesystems.ext3.records import DIRECTORY_ENTRY
from libos.filesystems.interface import CorruptFileSystem, Entry, Errno, FileSystemError, Kind

DOT: Final = b"."
DOTS: Final = b".."
_KINDS: Final = {int(kind): kind for kind in Kind}


class Directories:
    """The directories of a mounted file system."""

    def __init__(self, mounted: Mounted) -> None:
        geometry = mounted.geometry
        self._size = geometry.block_size
        self._typed = geometry.has_file_types
        self._indexed = geometry.has_index
        self._leaves = Leaves(mounted)
        self._index = Index(geometry, self._leaves)

    # Looking.

    async def find(self, directory: Inode, name: bytes) -> tuple[int, int] | None:
        """The inode and the kind (Kind; 0 where the file system does not store it) that a name stands for."""
        found = await self._find(directory, name)
        return dirblocks.read(found[0].data, found[1]) if found else None

    async def entries(self, directory: Inode) -> list[Entry]:
        """Every entry, `.` and `..` too; none once the directory has been removed.  The kind is UNKNOWN where the file
        system does not store it."""
        if not directory.links:
            return []
        found = []
        for logical in range(self._leaves.count(directory)):
            leaf = await self._leaves.read_in_turn(directory, logical)
            for _, inode, _, _, kind, name in self._leaves.walk(leaf):
                if inode:
                    if b"/" in name or b"\0" in name:
                        raise CorruptFileSystem(f"Directory {directory.number} has the impossible name {name!r}.")
                    found.append(Entry(name, inode, _KINDS.get(kind, Kind.UNKNOWN) if self._typed else Kind.UNKNOWN))
        return found

    async def is_empty(self, directory: Inode) -> bool:
        """Whether there is nothing but `.` and `..`."""
        for logical in range(self._leaves.count(directory)):
            leaf = await self._leaves.read_in_turn(directory, logical)
            if any(slot.inode and slot.name not in (DOT, DOTS) for slot in self._leaves.walk(leaf)):
                return False
        return True

    async def parent(self, directory: Inode) -> int:
        """The inode that `..` stands for.  Raises CorruptFileSystem if there is none."""
        leaf, at = await self._parent(directory)
        return dirblocks.read(leaf.data, at)[0]

    async def _parent(self, directory: Inode) -> tuple[Leaf, int]:
        found = await self._in_leaf(directory, 0, DOTS)
        if found is None:
            raise CorruptFileSystem(f"Directory {directory.number} has no entry for its parent.")
        return found

    async def _find(self, directory: Inode, name: bytes) -> tuple[Leaf, int] | None:
        """The block that has a name, and at which byte its entry begins."""
        if name in (DOT, DOTS):
            return await self._in_leaf(directory, 0, name)
        if self._uses_index(directory):
            try:
                return await self._index.find(directory, name)
            except BadIndex:
                pass
        for logical in range(self._leaves.count(directory)):
            leaf = await self._leaves.read_in_turn(directory, logical)
            at = dirblocks.locate(leaf.data, leaf.slots, name)
            if at >= 0:
                return leaf, at
        return None

    async def _in_leaf(self, directory: Inode, logical: int, name: bytes) -> tuple[Leaf, int] | None:
        leaf = await self._leaves.read(directory, logical)
        at = dirblocks.locate(leaf.data, leaf.slots, name)
        return (leaf, at) if at >= 0 else None

    def _uses_index(self, directory: Inode) -> bool:
        return self._indexed and directory.uses_index

    # Adding.

    async def prepare(self, directory: Inode, name: bytes) -> Place:
        """Find a place for a name that is not there yet, changing nothing.  Raises EEXIST, ENOSPC if an index is full."""
        if self._uses_index(directory):
            try:
                return await self._index.prepare(directory, name)
            except BadIndex:
                pass
        needed = length_for(name)
        vacant: Leaf | None = None
        last: Leaf | None = None
        for logical in range(self._leaves.count(directory)):
            leaf = await self._leaves.read_in_turn(directory, logical)
            if dirblocks.locate(leaf.data, leaf.slots, name) >= 0:
                raise FileSystemError(Errno.EEXIST)
            if vacant is None and dirblocks.has_room(leaf.data, leaf.slots, needed):
                vacant = leaf
            last = leaf
        if vacant is not None:
            return Place(directory, name, 0, partial(self._insert, vacant))
        assert last is not None
        if not last.logical and self._indexed and self._index.convertible(last):
            return self._index.prepare_conversion(last, name)
        return Place(directory, name, self._leaves.cost(directory, 1), partial(self._append, directory))

    async def fill(self, place: Place, inode: int, kind: int) -> None:
        """Put a name where a place was prepared for it."""
        await place.store(place.name, inode, kind if self._typed else 0)

    async def add(self, directory: Inode, name: bytes, inode: int, kind: int) -> None:
        """Both steps in one, for a caller that knows that there is space."""
        await self.fill(await self.prepare(directory, name), inode, kind)

    async def _insert(self, leaf: Leaf, name: bytes, inode: int, kind: int) -> None:
        leaf.directory.flags &= ~InodeFlags.INDEX
        await self._leaves.insert(leaf, name, inode, kind)

    async def _append(self, directory: Inode, name: bytes, inode: int, kind: int) -> None:
        directory.flags &= ~InodeFlags.INDEX
        await self._leaves.append(directory, dirblocks.packed([(name, inode, kind)], self._size))

    async def begin(self, directory: Inode, parent: int) -> None:
        """Give a new directory, which has no block yet, its first, with `.` and `..`."""
        self._leaves.forget(directory)
        kind = Kind.DIRECTORY if self._typed else 0
        dots = [(DOT, directory.number, int(kind)), (DOTS, parent, int(kind))]
        await self._leaves.append(directory, dirblocks.packed(dots, self._size))

    # Changing.

    async def remove(self, directory: Inode, name: bytes) -> None:
        """Take a name out.  Raises ENOENT."""
        leaf, at = await self._required(directory, name)
        await self._leaves.change(leaf, dirblocks.remove(leaf.data, leaf.slots, at))

    async def replace(self, directory: Inode, name: bytes, inode: int, kind: int) -> None:
        """Let a name stand for another inode.  Raises ENOENT."""
        await self._redirect(*await self._required(directory, name), inode, kind)

    async def set_parent(self, directory: Inode, parent: int) -> None:
        """Let `..` stand for another directory."""
        await self._redirect(*await self._parent(directory), parent, Kind.DIRECTORY)

    async def _required(self, directory: Inode, name: bytes) -> tuple[Leaf, int]:
        found = await self._find(directory, name)
        if found is None:
            raise FileSystemError(Errno.ENOENT)
        return found

    async def _redirect(self, leaf: Leaf, at: int, inode: int, kind: int) -> None:
        _, length, name_length, _ = DIRECTORY_ENTRY.unpack_from(leaf.data, at)
        data = DIRECTORY_ENTRY.pack(inode, length, name_length, kind if self._typed else 0)
        await self._leaves.change(leaf, Change(at, data, replace(leaf.slots)))
