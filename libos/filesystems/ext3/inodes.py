"""Inodes: read from the inode tables, kept decoded, written back with whatever else their bytes hold.

There is one object for each inode number while anybody has it, so a change made through one reference is seen by all.
`put` says that an inode has changed; its bytes follow into the journal before the commit at the latest.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

from libos.filesystems.ext3.allocation import Allocation
from libos.filesystems.ext3.geometry import Geometry
from libos.filesystems.ext3.layout import (
    GOOD_OLD_INODE_SIZE,
    ROOT_INODE,
    InodeFlags,
)
from libos.filesystems.ext3.records import INODE, INODE_EXTRA
from libos.filesystems.ext3.transactions import Deferred, Transactions
from libos.filesystems.interface import KIND_OF_FORMAT, MODE_BITS, CorruptFileSystem, Errno, FileSystemError, Kind
from libos.storage.cache import BlockCache

_FORMAT: Final = 0o170000
_DIRECTORY: Final = 0o040000
_REGULAR: Final = 0o100000
_SYMLINK: Final = 0o120000
_KEPT: Final = 4096
"""How many inodes stay decoded."""
_UNKNOWN_FLAGS: Final = InodeFlags.EXTENTS | InodeFlags.INLINE_DATA
EXTRA_SIZE: Final = INODE_EXTRA.size
"""How many bytes beyond the first 128 a new, larger inode uses for fields."""


@dataclass(slots=True, weakref_slot=True, eq=False)
class Inode:
    """An inode in memory.  `size` in bytes, times in seconds since 1970, `sectors` of 512 bytes; `block` has the 12 direct
    block numbers, then those of the indirect, the double and the triple indirect block; `raw` is all its bytes on the disk,
    in which what is not a field here survives.  `users` counts who has it open."""

    number: int
    raw: bytearray
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    atime: int = 0
    ctime: int = 0
    mtime: int = 0
    dtime: int = 0
    links: int = 0
    sectors: int = 0
    flags: int = 0
    block: list[int] = field(default_factory=list)
    generation: int = 0
    file_acl: int = 0
    users: int = 0
    read_end: int = 0
    """Where the last read ended, in bytes: whoever goes on there reads sequentially."""
    ahead: int = 0
    """Up to which logical block contents were asked for ahead of the reader."""
    changed_in: int = 0
    """The transaction that changed it last."""
    needed_in: int = 0
    """The last one without which what it contains cannot be read: times alone do not count."""
    overwritten: set[int] = field(default_factory=set)
    """Blocks whose contents have been replaced where they are; perhaps they are not on the medium yet."""
    last_logical: int = -1
    last_block: int = 0
    """Which block of the file was allocated last, and where: the next one is best put behind it."""

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return self.mode & _FORMAT == _DIRECTORY

    @property
    def is_regular(self) -> bool:
        """Whether it is an ordinary file."""
        return self.mode & _FORMAT == _REGULAR

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return self.mode & _FORMAT == _SYMLINK

    @property
    def kind(self) -> Kind:
        """What it is."""
        return KIND_OF_FORMAT[self.mode & _FORMAT]

    @property
    def permissions(self) -> int:
        """Its mode without the kind."""
        return self.mode & MODE_BITS

    @property
    def uses_index(self) -> bool:
        """Whether it is a directory with a hash tree."""
        return bool(self.flags & InodeFlags.INDEX)

    def decode(self) -> None:
        """Take the fields from `raw`."""
        (
            self.mode, uid, size, self.atime, self.ctime, self.mtime, self.dtime, gid, self.links, self.sectors, self.flags,
            _version, *self.block, self.generation, self.file_acl, size_high, _faddr, _blocks_high, _acl_high,
            uid_high, gid_high, _checksum, _reserved,
        ) = INODE.unpack_from(self.raw)  # fmt: skip
        self.uid = uid | uid_high << 16
        self.gid = gid | gid_high << 16
        self.size = size | size_high << 32 if self.is_regular else size

    def encode(self) -> bytes:
        """Put the fields into `raw` and give it."""
        raw = self.raw
        old = INODE.unpack_from(raw)
        size_high = self.size >> 32 if self.is_regular else old[29]
        INODE.pack_into(
            raw, 0, self.mode, self.uid & 0xFFFF, self.size & 0xFFFF_FFFF, self.atime, self.ctime, self.mtime, self.dtime,
            self.gid & 0xFFFF, self.links, self.sectors, self.flags, old[11], *self.block, self.generation, self.file_acl,
            size_high, *old[30:33], self.uid >> 16, self.gid >> 16, *old[35:],
        )  # fmt: skip
        return bytes(raw)


class Inodes:
    """The inodes of a mounted file system."""

    def __init__(
        self,
        cache: BlockCache,
        geometry: Geometry,
        journal: Transactions,
        deferred: Deferred,
        allocation: Allocation,
        time: Callable[[], Awaitable[int]],
    ) -> None:
        self._cache = cache
        self._geometry = geometry
        self._journal = journal
        self._deferred = deferred
        self._allocation = allocation
        self._time = time
        self._recent: dict[int, Inode] = {}
        self._alive: WeakValueDictionary[int, Inode] = WeakValueDictionary()
        self._changed: dict[int, Inode] = {}
        self._generation = 0
        journal.before_commit.append(self._stored)

    async def get(self, number: int) -> Inode:
        """The inode of a number found on the disk.  Raises CorruptFileSystem if it is nobody's or makes no sense."""
        inode = self._recent.get(number)
        if inode is not None:
            return inode
        if number != ROOT_INODE and not self._geometry.first_inode <= number <= self._geometry.inodes:
            raise CorruptFileSystem(f"Something refers to inode {number}, which is not one that files can have.")
        inode = await self.load(number)
        if not inode.links and not inode.users:
            raise CorruptFileSystem(f"Something refers to inode {number}, which is free.")
        return inode

    async def live(self, number: int) -> Inode:
        """The inode of a number that a caller gave.  Raises ENOENT if it is nobody's."""
        inode = self._recent.get(number)
        if inode is None:
            if number != ROOT_INODE and not self._geometry.first_inode <= number <= self._geometry.inodes:
                raise FileSystemError(Errno.ENOENT, f"inode {number}")
            inode = self._alive.get(number)
            if inode is None and not await self._allocation.inode_in_use(number):
                raise FileSystemError(Errno.ENOENT, f"inode {number}")
            inode = await self.load(number)
        if not inode.links and not inode.users:
            raise FileSystemError(Errno.ENOENT, f"inode {number}")
        return inode

    async def load(self, number: int) -> Inode:
        """Any inode of the tables, reserved and deleted ones too.  Raises CorruptFileSystem if it makes no sense."""
        inode = self._alive.get(number)
        if inode is None:
            if not 1 <= number <= self._geometry.inodes:
                raise CorruptFileSystem(f"Something refers to inode {number}; there are {self._geometry.inodes}.")
            block, offset = self._allocation.inode_place(number)
            inode = Inode(number, bytearray(await self._cache.read(block, offset, self._geometry.inode_size)))
            inode.decode()
            self._check(inode)
            inode = self._alive.setdefault(number, inode)
        self._keep(inode)
        return inode

    async def put(self, inode: Inode, *, times_alone: bool = False) -> None:
        """An inode has changed, or nothing of it but times."""
        self._changed[inode.number] = inode
        inode.changed_in = self._journal.transaction
        if not times_alone:
            inode.needed_in = inode.changed_in
        block, offset = self._allocation.inode_place(inode.number)
        await self._deferred.changed(block, offset, inode.encode)

    async def create(self, mode: int, uid: int, gid: int, parent: Inode) -> Inode:
        """A new inode with `mode` (kind and permissions), no links and no blocks, near `parent`.  Raises ENOSPC."""
        directory = mode & _FORMAT == _DIRECTORY
        number = await self._allocation.inode_number(self._geometry.group_of_inode(parent.number), directory)
        now = await self._time()
        raw = bytearray(self._geometry.inode_size)
        if len(raw) > GOOD_OLD_INODE_SIZE:
            INODE_EXTRA.pack_into(raw, GOOD_OLD_INODE_SIZE, EXTRA_SIZE, 0, 0, 0, 0, now & 0xFFFF_FFFF, 0, 0, 0)
        self._generation += 1
        inode = Inode(
            number, raw, mode, uid, gid, atime=now, ctime=now, mtime=now, block=[0] * 15,
            generation=(now + self._generation) & 0xFFFF_FFFF,
        )  # fmt: skip
        self._alive[number] = inode
        self._keep(inode)
        await self.put(inode)
        return inode

    async def free(self, inode: Inode) -> None:
        """Give an inode back that has neither links nor blocks."""
        directory = inode.is_directory
        # A smaller one would be taken for the number of the next orphan.
        inode.dtime = max(self._geometry.inodes, await self._time())
        inode.size = 0
        await self.put(inode)
        await self._allocation.free_inode(inode.number, directory)
        self._recent.pop(inode.number, None)
        self._alive.pop(inode.number, None)

    def _keep(self, inode: Inode) -> None:
        self._recent[inode.number] = inode
        if len(self._recent) > _KEPT:
            del self._recent[next(iter(self._recent))]

    def _check(self, inode: Inode) -> None:
        if inode.mode & _FORMAT not in KIND_OF_FORMAT and inode.links:
            raise CorruptFileSystem(f"Inode {inode.number} is of no kind there is (mode {inode.mode:#o}).")
        if inode.flags & _UNKNOWN_FLAGS:
            raise CorruptFileSystem(f"Inode {inode.number} stores its contents in a way that ext3 does not have.")
        geometry = self._geometry
        if inode.is_directory and (inode.size % geometry.block_size or inode.size > geometry.blocks * geometry.block_size):
            raise CorruptFileSystem(f"Directory {inode.number} has a size of {inode.size} bytes, which none can have.")
        if inode.is_regular and inode.size > geometry.maximum_size:
            raise CorruptFileSystem(f"File {inode.number} has a size of {inode.size} bytes, which none can have.")

    async def _stored(self) -> None:
        """The bytes of all changed inodes have been handed on: they need not be kept any longer."""
        self._changed.clear()
