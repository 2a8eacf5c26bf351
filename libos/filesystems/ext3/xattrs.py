"""Extended attributes: in the inode behind its fields, and in a block that inodes with equal attributes share.

They are read, and kept whatever else changes; when an inode is freed its part in the block is given back.  (Grünbacher,
POSIX Access Control Lists on Linux, USENIX 2003; Linux 2.6, fs/ext3/xattr.c.)
"""

from libos.filesystems.ext3.allocation import Allocation
from libos.filesystems.ext3.geometry import Geometry
from libos.filesystems.ext3.inodes import Inode
from libos.filesystems.ext3.layout import GOOD_OLD_INODE_SIZE, XATTR_MAGIC, XATTR_PREFIXES
from libos.filesystems.ext3.records import INODE_EXTRA, XATTR_ENTRY, XATTR_HEADER
from libos.filesystems.ext3.transactions import Transactions
from libos.filesystems.interface import CorruptFileSystem
from libos.storage.cache import BlockCache

_MAGIC_SIZE = 4
_REFERENCES_AT = 4


def _entries(area: bytes, first: int, base: int) -> dict[bytes, bytes]:
    """The attributes of an area whose entries begin at `first` and whose values are found from `base` on."""
    found: dict[bytes, bytes] = {}
    at = first
    while at + 4 <= len(area) and area[at : at + 4] != bytes(4):
        if at + XATTR_ENTRY.size > len(area):
            raise CorruptFileSystem("An extended attribute begins at the very end of its block or inode.")
        length, index, offset, block, size, _hash = XATTR_ENTRY.unpack_from(area, at)
        name = area[at + XATTR_ENTRY.size : at + XATTR_ENTRY.size + length]
        value = area[base + offset : base + offset + size]
        if len(name) < length or len(value) < size or block:
            raise CorruptFileSystem("An extended attribute reaches beyond its block or inode.")
        found[XATTR_PREFIXES.get(index, b"%d." % index) + name] = value
        at += (XATTR_ENTRY.size + length + 3) & ~3
    return found


def in_inode(inode: Inode) -> dict[bytes, bytes]:
    """The attributes behind an inode's fields.  Raises CorruptFileSystem."""
    raw = bytes(inode.raw)
    if len(raw) <= GOOD_OLD_INODE_SIZE:
        return {}
    extra = INODE_EXTRA.unpack_from(raw, GOOD_OLD_INODE_SIZE)[0]
    start = GOOD_OLD_INODE_SIZE + extra
    if extra % 4 or start > len(raw):
        raise CorruptFileSystem(f"Inode {inode.number} says that {extra} bytes of fields follow the first 128.")
    if int.from_bytes(raw[start : start + _MAGIC_SIZE], "little") != XATTR_MAGIC:
        return {}
    return _entries(raw, start + _MAGIC_SIZE, start + _MAGIC_SIZE)


class Attributes:
    """The extended attributes of a mounted file system."""

    def __init__(self, cache: BlockCache, geometry: Geometry, journal: Transactions, allocation: Allocation) -> None:
        self._cache = cache
        self._geometry = geometry
        self._journal = journal
        self._allocation = allocation

    async def read(self, inode: Inode) -> dict[bytes, bytes]:
        """All attributes of an inode.  Raises CorruptFileSystem."""
        found = in_inode(inode)
        if inode.file_acl:
            block = await self._cache.read(self._checked(inode))
            self._references(inode, block)
            found.update(_entries(block, XATTR_HEADER.size, 0))
        return found

    async def release(self, inode: Inode) -> None:
        """An inode that is being freed has no attributes any more: the last one to share a block frees it."""
        if not inode.file_acl:
            return
        block = self._checked(inode)
        references = self._references(inode, await self._cache.read(block))
        if references > 1:
            await self._journal.update(block, (references - 1).to_bytes(4, "little"), _REFERENCES_AT)
        else:
            await self._journal.forget(block)
            await self._allocation.free_block(block)
        inode.file_acl = 0
        inode.sectors = max(0, inode.sectors - self._geometry.sectors_per_block)

    def _checked(self, inode: Inode) -> int:
        if self._allocation.is_metadata(inode.file_acl):
            raise CorruptFileSystem(f"The extended attributes of inode {inode.number} cannot be in block {inode.file_acl}.")
        return inode.file_acl

    def _references(self, inode: Inode, block: bytes) -> int:
        magic, references, blocks = XATTR_HEADER.unpack_from(block)[:3]
        if magic != XATTR_MAGIC or blocks != 1 or not references:
            raise CorruptFileSystem(f"Block {inode.file_acl} has no extended attributes, as inode {inode.number} says.")
        return int(references)
