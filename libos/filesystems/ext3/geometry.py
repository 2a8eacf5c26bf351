"""The shape of an ext3, from its superblock: every number checked before anything is computed from it."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag
from typing import Any, Final

from construct import ConstructError

from libos.filesystems.ext3.layout import (
    BLOCK_SIZES,
    DIRECT_BLOCKS,
    DYNAMIC_REVISION,
    FIRST_INODE,
    GOOD_OLD_INODE_SIZE,
    MAGIC,
    SUPERBLOCK_OFFSET,
    SUPERBLOCK_SIZE,
    Compatible,
    HashFlags,
    Incompatible,
    ReadOnlyCompatible,
    Superblock,
)
from libos.filesystems.ext3.records import GROUP_DESCRIPTOR
from libos.filesystems.interface import CorruptFileSystem

KNOWN_INCOMPATIBLE: Final = Incompatible.FILETYPE | Incompatible.RECOVER
KNOWN_READ_ONLY: Final = ReadOnlyCompatible.SPARSE_SUPER | ReadOnlyCompatible.LARGE_FILE | ReadOnlyCompatible.BTREE_DIR
_COMPRESSED_BITMAPS: Final = 32
_FEATURE_NAMES: Final = {
    Incompatible.EXTENTS: "extents",
    Incompatible.BITS_64: "64bit",
    ReadOnlyCompatible.DIR_NLINK: "dir_nlink",
}
_LATER_HASH: Final = 3
"""What is added to the number of a hash function for its unsigned variant."""


def _names(features: int, kind: type[IntFlag]) -> str:
    """Feature bits in words, as mke2fs writes them."""
    words = []
    for position in range(32):
        bit = features & 1 << position
        if bit:
            known = [flag for flag in kind if flag == bit]
            words.append(_FEATURE_NAMES.get(known[0], known[0].name.lower()) if known else f"{bit:#x}")  # type: ignore[union-attr]
    return ", ".join(words)


@dataclass(frozen=True)
class Geometry:
    """Where everything is.  Blocks are of `block_size` bytes and numbered from 0; groups from 0; inodes from 1."""

    block_size: int
    blocks: int
    first_data_block: int
    blocks_per_group: int
    inodes: int
    inodes_per_group: int
    inode_size: int
    first_inode: int
    reserved_blocks: int
    reserved_descriptor_blocks: int
    compatible: Compatible
    incompatible: Incompatible
    read_only_compatible: int
    revision: int
    journal_inode: int
    uuid: bytes
    label: bytes
    hash_seed: bytes
    hash_version: int

    @property
    def groups(self) -> int:
        """How many groups of blocks there are."""
        return -(-(self.blocks - self.first_data_block) // self.blocks_per_group)

    @property
    def pointers(self) -> int:
        """How many block numbers fit into a block."""
        return self.block_size // 4

    @property
    def sectors_per_block(self) -> int:
        """Sectors of 512 bytes in a block."""
        return self.block_size // 512

    @property
    def descriptors_per_block(self) -> int:
        """How many group descriptors a block holds."""
        return self.block_size // GROUP_DESCRIPTOR.size

    @property
    def descriptor_blocks(self) -> int:
        """How many blocks all group descriptors take."""
        return -(-self.groups // self.descriptors_per_block)

    @property
    def inode_table_blocks(self) -> int:
        """How many blocks the inode table of a group takes."""
        return -(-self.inodes_per_group * self.inode_size // self.block_size)

    @property
    def superblock_block(self) -> int:
        """The block that holds the superblock."""
        return SUPERBLOCK_OFFSET // self.block_size

    @property
    def superblock_offset(self) -> int:
        """Where in that block it begins, in bytes."""
        return SUPERBLOCK_OFFSET % self.block_size

    @property
    def has_journal(self) -> bool:
        """Whether it is an ext3 and not an ext2."""
        return bool(self.compatible & Compatible.HAS_JOURNAL)

    @property
    def has_index(self) -> bool:
        """Whether directories may be hashed."""
        return bool(self.compatible & Compatible.DIR_INDEX)

    @property
    def has_file_types(self) -> bool:
        """Whether directory entries say what an inode is."""
        return bool(self.incompatible & Incompatible.FILETYPE)

    @property
    def needs_recovery(self) -> bool:
        """Whether the journal may hold what is not in its place."""
        return bool(self.incompatible & Incompatible.RECOVER)

    @property
    def unknown_read_only(self) -> int:
        """The features because of which it can only be read."""
        return self.read_only_compatible & ~int(KNOWN_READ_ONLY)

    @property
    def maximum_size(self) -> int:
        """The largest size of a file in bytes: what its block map reaches and its count of sectors can count."""
        pointers = self.pointers
        counted = 0xFFFF_FFFF // self.sectors_per_block
        counted -= 1 + 1 + pointers + 1 + pointers + pointers**2
        mapped = DIRECT_BLOCKS + pointers + pointers**2 + pointers**3
        return min(mapped, counted) * self.block_size

    def has_backup(self, group: int) -> bool:
        """Whether a group begins with a copy of the superblock and the descriptors."""
        if group <= 1 or not self.read_only_compatible & ReadOnlyCompatible.SPARSE_SUPER:
            return True
        return any(_is_power(group, base) for base in (3, 5, 7))

    def group_start(self, group: int) -> int:
        """The first block of a group."""
        return self.first_data_block + group * self.blocks_per_group

    def group_blocks(self, group: int) -> int:
        """How many blocks a group has; the last may have fewer than the others."""
        return min(self.blocks_per_group, self.blocks - self.group_start(group))

    def group_overhead(self, group: int) -> int:
        """How many blocks at a group's start are copies of the superblock and the descriptors, or kept for more of them."""
        return 1 + self.descriptor_blocks + self.reserved_descriptor_blocks if self.has_backup(group) else 0

    def backups(self) -> Iterator[int]:
        """The groups that have a copy of the superblock, the first included."""
        return (group for group in range(self.groups) if self.has_backup(group))

    def group_of_inode(self, number: int) -> int:
        """The group whose table holds an inode."""
        return (number - 1) // self.inodes_per_group


def _is_power(number: int, base: int) -> bool:
    while number % base == 0:
        number //= base
    return number == 1


def decode(superblock: bytes, available: int) -> Geometry:
    """The geometry that the 1024 bytes of a superblock describe, on a volume of `available` bytes.

    Raises CorruptFileSystem, with a sentence for the user, if it is none, makes no sense, or has an incompatible feature
    that this library does not know.
    """
    try:
        fields = Superblock.parse(superblock[:SUPERBLOCK_SIZE])
    except ConstructError:
        raise CorruptFileSystem("The volume is too small to hold a file system.") from None
    if fields.magic != MAGIC:
        raise CorruptFileSystem("There is no ext2 or ext3 file system here: the superblock's magic number is missing.")
    if fields.rev_level > DYNAMIC_REVISION:
        raise CorruptFileSystem(f"The file system is of revision {fields.rev_level}, which this library does not know.")
    dynamic = fields.rev_level == DYNAMIC_REVISION
    unknown = (fields.feature_incompat & ~int(KNOWN_INCOMPATIBLE)) if dynamic else 0
    if unknown:
        names = _names(unknown, Incompatible)
        many = unknown & (unknown - 1) != 0
        raise CorruptFileSystem(
            f"The file system has the incompatible feature{'s' if many else ''} {names}, which this library does not know."
        )
    size = 1024 << fields.log_block_size if fields.log_block_size < 8 else 0
    _require(size in BLOCK_SIZES, "block size", f"1024 << {fields.log_block_size}")
    geometry = Geometry(
        block_size=size,
        blocks=fields.blocks_count,
        first_data_block=fields.first_data_block,
        blocks_per_group=fields.blocks_per_group,
        inodes=fields.inodes_count,
        inodes_per_group=fields.inodes_per_group,
        inode_size=fields.inode_size if dynamic else GOOD_OLD_INODE_SIZE,
        first_inode=fields.first_ino if dynamic else FIRST_INODE,
        reserved_blocks=fields.r_blocks_count,
        reserved_descriptor_blocks=fields.reserved_gdt_blocks if fields.feature_compat & Compatible.RESIZE_INODE else 0,
        compatible=Compatible(fields.feature_compat if dynamic else 0),
        incompatible=Incompatible(fields.feature_incompat if dynamic else 0),
        read_only_compatible=fields.feature_ro_compat if dynamic else 0,
        revision=fields.rev_level,
        journal_inode=fields.journal_inum,
        uuid=fields.uuid,
        label=fields.volume_name.rstrip(b"\0"),
        hash_seed=fields.hash_seed,
        hash_version=_hash_version(fields),
    )
    _check(geometry, fields, available)
    return geometry


def _hash_version(fields: Any) -> int:
    """The hash function of new directories, unsigned if the machine that made the file system had unsigned characters."""
    version = int(fields.def_hash_version)
    if version < _LATER_HASH and fields.flags & HashFlags.UNSIGNED:
        return version + _LATER_HASH
    return version


def _check(geometry: Geometry, fields: Any, available: int) -> None:
    size = geometry.block_size
    bits = 8 * size
    _require(fields.log_frag_size == fields.log_block_size, "fragment size", f"1024 << {fields.log_frag_size}")
    _require(geometry.first_data_block == (1 if size == 1024 else 0), "first data block", geometry.first_data_block)
    per_group = geometry.blocks_per_group
    _require(per_group % 8 == 0 and 256 <= per_group <= bits, "number of blocks per group", per_group)
    inode_size = geometry.inode_size
    _require(GOOD_OLD_INODE_SIZE <= inode_size <= size and not inode_size & inode_size - 1, "inode size", inode_size)
    inodes = geometry.inodes_per_group
    _require(inodes % 8 == 0 and size // inode_size <= inodes <= bits, "number of inodes per group", inodes)
    _require(geometry.first_data_block + 8 < geometry.blocks, "number of blocks", geometry.blocks)
    if geometry.blocks * size > available:
        raise CorruptFileSystem(
            f"The superblock speaks of {geometry.blocks} blocks of {size} bytes, but the volume has only {available} bytes."
        )
    _require(geometry.inodes == geometry.groups * inodes, "number of inodes", geometry.inodes)
    _require(FIRST_INODE <= geometry.first_inode <= geometry.inodes, "first inode", geometry.first_inode)
    _require(geometry.reserved_blocks <= geometry.blocks, "number of reserved blocks", geometry.reserved_blocks)
    reserved = geometry.reserved_descriptor_blocks
    _require(reserved <= geometry.pointers, "number of reserved descriptor blocks", reserved)
    for group in (0, geometry.groups - 1):
        overhead = geometry.group_overhead(group) + 2 + geometry.inode_table_blocks
        _require(overhead <= geometry.group_blocks(group), "number of inodes per group", inodes)
    if geometry.has_journal and not geometry.journal_inode:
        raise CorruptFileSystem("The file system keeps its journal on another device, which this library does not do.")
    if geometry.has_journal:
        number = geometry.journal_inode
        _require(number == 8 or geometry.first_inode <= number <= geometry.inodes, "journal inode", number)
    _require(geometry.hash_version <= 5 or not geometry.has_index, "hash function", geometry.hash_version)


def _require(holds: bool, what: str, value: object) -> None:
    if not holds:
        raise CorruptFileSystem(f"The superblock makes no sense: its {what} is {value}.")


def why_read_only(geometry: Geometry) -> str:
    """Why a file system can only be read, as a sentence; empty if it can be written."""
    unknown = geometry.unknown_read_only
    if not unknown:
        return ""
    names = _names(unknown, ReadOnlyCompatible)
    return f"The file system has features with which this library can only read it: {names}."


__all__ = ["KNOWN_INCOMPATIBLE", "KNOWN_READ_ONLY", "Geometry", "decode", "why_read_only"]
