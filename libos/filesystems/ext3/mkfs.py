"""Making a file system: the same shape, and the same defaults, as mkfs.ext3 with its usual configuration.

The features are has_journal, ext_attr, resize_inode, dir_index, filetype, sparse_super and large_file.  Sizes follow
mke2fs.conf and libext2fs (e2fsprogs 1.47): blocks of 1 KiB below 512 MiB and of 4 KiB otherwise, an inode for each 4 or 16
KiB, a journal of 1024 to 262144 blocks.  Everything that is metadata is written, inode tables and the journal included, so
it does not matter what the volume had before.  The superblock of group 0 comes last: before, there is no file system.
"""

from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from libos.filesystems.ext3.bitmaps import Bitmap
from libos.filesystems.ext3.blockmap import encode_numbers
from libos.filesystems.ext3.geometry import Geometry, decode
from libos.filesystems.ext3.layout import (
    BLOCK_POINTERS,
    BLOCK_SIZES,
    DIRECT_BLOCKS,
    DOUBLE_INDIRECT,
    DYNAMIC_REVISION,
    FIRST_INODE,
    GOOD_OLD_INODE_SIZE,
    INDIRECT,
    JOURNAL_INODE,
    JOURNAL_MAGIC,
    MAGIC,
    RESIZE_INODE,
    ROOT_INODE,
    TRIPLE_INDIRECT,
    Compatible,
    HashFlags,
    HashVersion,
    Incompatible,
    JournalBlock,
    JournalSuperblock,
    ReadOnlyCompatible,
    State,
    Superblock,
)
from libos.filesystems.ext3.records import DIRECTORY_ENTRY, GROUP_DESCRIPTOR, INODE, INODE_EXTRA, SUPERBLOCK_NAMES
from libos.filesystems.interface import Errno, FileSystemError, Kind
from libos.storage.cache import BlockCache
from libos.storage.volume import Volume

DEFAULT_BASE: Final = 0x1_0000_0000
_CAPACITY: Final = 256
_FLOPPY, _SMALL, _BIG, _HUGE = 3 << 20, 512 << 20, 4 << 40, 16 << 40
_RESERVED_PERCENT: Final = 5
_LAST_GROUP_ROOM: Final = 50
"""A last group with fewer blocks for data than this is left out."""
_LOST_FOUND_SIZE: Final = 16 << 10
_ACL, _USER_XATTR = 8, 4
_DIRECTORY, _REGULAR = 0o040000, 0o100000
_JOURNAL_SIZES: Final = (
    (2048, 0), (32768, 1024), (256 << 10, 4096), (512 << 10, 8192), (4096 << 10, 16384), (8192 << 10, 32768),
    (16384 << 10, 65536), (32768 << 10, 131072),
)  # fmt: skip
"""Below how many blocks a file system gets a journal of how many."""
_LARGEST_JOURNAL: Final = 262144
_SMALLEST_JOURNAL: Final = 1024


class CannotMake(FileSystemError):
    """A file system of this kind cannot be made on this volume; the message says why."""

    def __init__(self, what: str) -> None:
        super().__init__(Errno.EINVAL)
        self.what = what
        self.args = (what,)


@dataclass
class _Plan:
    """What is to be where: by block, all that is not zeros; by number, the inodes."""

    geometry: Geometry
    bitmaps: list[Bitmap]
    contents: dict[int, bytes] = field(default_factory=dict)
    inodes: dict[int, bytes] = field(default_factory=dict)

    def take(self, count: int, group: int) -> list[int]:
        """Allocate blocks, in order from a group's start on.  Raises CannotMake."""
        taken: list[int] = []
        for step in range(len(self.bitmaps)):
            index = (group + step) % len(self.bitmaps)
            bitmap, bit = self.bitmaps[index], 0
            while len(taken) < count and (bit := bitmap.find(bit)) >= 0:
                length = bitmap.run(bit, min(count - len(taken), bitmap.length - bit))
                bitmap.set(bit, length)
                first = self.geometry.group_start(index) + bit
                taken.extend(range(first, first + length))
        if len(taken) < count:
            raise CannotMake("The volume is too small for a file system with what it is to have.")
        return taken


async def make(
    volume: Volume,
    *,
    base: int = DEFAULT_BASE,
    block_size: int | None = None,
    inode_size: int = 256,
    inodes: int | None = None,
    label: bytes = b"",
    uuid: bytes | None = None,
    hash_seed: bytes | None = None,
    hash_version: int = HashVersion.HALF_MD4,
    journal_blocks: int | None = None,
    now: int = 0,
    seed: int = 0,
) -> Geometry:
    """Make an empty ext3 on a volume; gives its shape.  What the volume had is lost.

    Without a `block_size` (1024, 2048 or 4096 bytes) and a number of `inodes` they depend on the volume's size, and so does
    the journal's, `journal_blocks` (0: none, an ext2).  `uuid` and `hash_seed` are 16 bytes each, and come from `seed` if
    they are not given; `now` is in seconds since 1970.  The cache used is mapped from `base` on.  Raises CannotMake.
    """
    size = block_size or (1024 if volume.size < _SMALL else 4096)
    if size not in BLOCK_SIZES:
        raise CannotMake(f"Blocks have 1024, 2048 or 4096 bytes, not {size}.")
    if inode_size not in (GOOD_OLD_INODE_SIZE, 256):
        raise CannotMake(f"Inodes have 128 or 256 bytes, not {inode_size}.")
    if len(label) > 16:
        raise CannotMake("A label has at most 16 bytes.")
    if hash_version not in (HashVersion.LEGACY, HashVersion.HALF_MD4, HashVersion.TEA):
        raise CannotMake(f"There is no hash function {hash_version}.")
    random = Random(seed)
    chosen = random.randbytes(16), random.randbytes(16)
    fields = _shape(volume.size, size, inode_size, inodes, journal_blocks)
    fields.update(
        uuid=uuid or chosen[0], hash_seed=hash_seed or chosen[1], volume_name=label.ljust(16, b"\0"),
        def_hash_version=int(hash_version), wtime=now, lastcheck=now, mkfs_time=now,
    )  # fmt: skip
    geometry = decode(Superblock.build(fields), volume.size)
    plan = _Plan(geometry, _bitmaps(geometry))
    _plan_directories(plan, now)
    if geometry.compatible & Compatible.RESIZE_INODE:
        _plan_resize_inode(plan, now)
    if geometry.has_journal:
        _plan_journal(plan, fields, _journal_size(geometry.blocks, journal_blocks), now)
    fields["overhead_blocks"] = geometry.first_data_block + sum(_overhead(geometry, g) for g in range(geometry.groups))
    if geometry.has_journal:
        fields["overhead_blocks"] += _journal_size(geometry.blocks, journal_blocks)
    cache = BlockCache(volume, size, base, _CAPACITY)
    try:
        await _write(cache, plan, fields)
    finally:
        await cache.close()
    return geometry


# The shape.


def _shape(available: int, size: int, inode_size: int, inodes: int | None, journal: int | None) -> dict[str, Any]:
    """The superblock's fields for a volume of `available` bytes."""
    blocks = available // size
    first = 1 if size == 1024 else 0
    per_group = 8 * size
    wanted = inodes or max(1, blocks * size // _inode_ratio(available))
    if blocks > 0xFFFF_FFFF:
        raise CannotMake(f"The volume is too large for blocks of {size} bytes.")
    while True:
        if blocks - first < 64:
            raise CannotMake(f"The volume has {available} bytes, too few for a file system.")
        groups = -(-(blocks - first) // per_group)
        reserved = _reserved_descriptors(blocks, first, size, groups)
        a_group = -(-max(wanted, FIRST_INODE + 1) // groups)
        a_group = -(-a_group * inode_size // size) * size // inode_size & ~7 or 8
        if not inodes:
            a_group = min(a_group, per_group)
        if a_group > per_group:
            raise CannotMake(f"{wanted} inodes are too many for a volume of {available} bytes.")
        table = -(-a_group * inode_size // size)
        descriptors = -(-groups * GROUP_DESCRIPTOR.size // size)
        rest = (blocks - first) % per_group
        # Of the last group only the metadata counts that it may have in the worst case.
        if rest and rest < 2 + table + 1 + descriptors + reserved + _LAST_GROUP_ROOM and groups > 1:
            blocks -= rest
            continue
        break
    features = Compatible.EXT_ATTR | Compatible.RESIZE_INODE | Compatible.DIR_INDEX
    if _journal_size(blocks, journal):
        features |= Compatible.HAS_JOURNAL
    fields = dict.fromkeys((name.partition(".")[0] for name in SUPERBLOCK_NAMES), 0) | {
        "last_mounted": bytes(64), "journal_uuid": bytes(16), "jnl_blocks": [0] * 17, "first_error_func": bytes(32),
        "last_error_func": bytes(32), "mount_opts": bytes(64), "backup_bgs": [0, 0], "encrypt_algos": bytes(4),
        "encrypt_pw_salt": bytes(16), "times_hi": bytes(8), "reserved": bytes(376),
    }  # fmt: skip
    extra = INODE_EXTRA.size if inode_size > GOOD_OLD_INODE_SIZE else 0
    fields |= {
        "inodes_count": a_group * groups, "blocks_count": blocks, "r_blocks_count": blocks * _RESERVED_PERCENT // 100,
        "first_data_block": first, "log_block_size": size.bit_length() - 11, "log_frag_size": size.bit_length() - 11,
        "blocks_per_group": per_group, "frags_per_group": per_group, "inodes_per_group": a_group, "max_mnt_count": -1,
        "magic": MAGIC, "state": int(State.CLEAN), "errors": 1, "rev_level": DYNAMIC_REVISION, "first_ino": FIRST_INODE,
        "inode_size": inode_size, "feature_compat": int(features), "feature_incompat": int(Incompatible.FILETYPE),
        "feature_ro_compat": int(ReadOnlyCompatible.SPARSE_SUPER | ReadOnlyCompatible.LARGE_FILE),
        "reserved_gdt_blocks": reserved, "journal_inum": JOURNAL_INODE if features & Compatible.HAS_JOURNAL else 0,
        "default_mount_opts": _ACL | _USER_XATTR, "min_extra_isize": extra, "want_extra_isize": extra,
        "flags": int(HashFlags.SIGNED),
    }  # fmt: skip
    return fields


def _inode_ratio(available: int) -> int:
    """Bytes of the volume for each inode."""
    for limit, ratio in ((_FLOPPY, 8192), (_SMALL, 4096), (_BIG, 16384), (_HUGE, 32768)):
        if available < limit:
            return ratio
    return 65536


def _reserved_descriptors(blocks: int, first: int, size: int, groups: int) -> int:
    """How many blocks to keep for more descriptors, so that the file system can grow to 1024 times its size."""
    most = min(0xFFFF_FFFF, blocks * 1024)
    descriptors = -(-groups * GROUP_DESCRIPTOR.size // size)
    most_groups = -(-(most - first) // (8 * size))
    wanted = -(-most_groups * GROUP_DESCRIPTOR.size // size) - descriptors
    return min(wanted, size // 4)


def _journal_size(blocks: int, wanted: int | None) -> int:
    """How many blocks the journal has; raises CannotMake for an impossible wish."""
    if wanted is None:
        return next((journal for limit, journal in _JOURNAL_SIZES if blocks < limit), _LARGEST_JOURNAL)
    if wanted and not _SMALLEST_JOURNAL <= wanted <= blocks // 2:
        raise CannotMake(
            f"A journal has at least {_SMALLEST_JOURNAL} blocks and at most half of all {blocks}, not {wanted}."
        )
    return wanted


def _overhead(geometry: Geometry, group: int) -> int:
    """How many blocks of a group are metadata."""
    return geometry.group_overhead(group) + 2 + geometry.inode_table_blocks


def _bitmaps(geometry: Geometry) -> list[Bitmap]:
    """The block bitmaps, with the groups' metadata in use and what the last group does not have."""
    found = []
    for group in range(geometry.groups):
        count = geometry.group_blocks(group)
        behind = (1 << 8 * geometry.block_size) - (1 << count)
        bitmap = Bitmap(behind.to_bytes(geometry.block_size, "little"), count)
        bitmap.set(0, _overhead(geometry, group))
        found.append(bitmap)
    return found


# Inodes.


def _inode(plan: _Plan, number: int, mode: int, links: int, size: int, pointers: list[int], blocks: int, now: int) -> None:
    """An inode with `blocks` blocks, those of numbers included."""
    sectors = blocks * plan.geometry.sectors_per_block
    raw = INODE.pack(
        mode, 0, size & 0xFFFF_FFFF, now, now, now, 0, 0, links, sectors, 0, 0, *pointers, 0, 0, size >> 32, *[0] * 7
    )
    if plan.geometry.inode_size > GOOD_OLD_INODE_SIZE:
        raw += INODE_EXTRA.pack(INODE_EXTRA.size, 0, 0, 0, 0, now, 0, 0, 0)
    plan.inodes[number] = raw.ljust(plan.geometry.inode_size, b"\0")


def _map(plan: _Plan, blocks: list[int], group: int) -> tuple[list[int], int]:
    """Block numbers as an inode has them, with blocks of numbers as far as needed, and how many of those."""
    pointers = blocks[:DIRECT_BLOCKS] + [0] * (BLOCK_POINTERS - len(blocks[:DIRECT_BLOCKS]))
    rest, step, tables = blocks[DIRECT_BLOCKS:], plan.geometry.pointers, 0
    for level, index in enumerate((INDIRECT, DOUBLE_INDIRECT, TRIPLE_INDIRECT), 1):
        numbers, rest = rest[: step**level], rest[step**level :]
        for _ in range(level if numbers else 0):
            places = plan.take(-(-len(numbers) // step), group)
            for position, place in enumerate(places):
                plan.contents[place] = encode_numbers(numbers[position * step : (position + 1) * step])
            numbers = places
            tables += len(places)
        pointers[index] = numbers[0] if numbers else 0
    return pointers, tables


def _entry(number: int, name: bytes, length: int) -> bytes:
    header = DIRECTORY_ENTRY.pack(number, length, len(name), Kind.DIRECTORY)
    return (header + name).ljust(length, b"\0")


def _plan_directories(plan: _Plan, now: int) -> None:
    """The root, and lost+found with room for what e2fsck may find."""
    size = plan.geometry.block_size
    root = plan.take(1, 0)
    name = b"lost+found"
    entries = _entry(ROOT_INODE, b".", 12) + _entry(ROOT_INODE, b"..", 12) + _entry(FIRST_INODE, name, size - 24)
    plan.contents[root[0]] = entries
    _inode(plan, ROOT_INODE, _DIRECTORY | 0o755, 3, size, root + [0] * 14, 1, now)
    lost = plan.take(min(DIRECT_BLOCKS, max(2, _LOST_FOUND_SIZE // size)), 0)
    plan.contents[lost[0]] = _entry(FIRST_INODE, b".", 12) + _entry(ROOT_INODE, b"..", size - 12)
    for block in lost[1:]:
        plan.contents[block] = _entry(0, b"", size)
    pointers = lost + [0] * (BLOCK_POINTERS - len(lost))
    _inode(plan, FIRST_INODE, _DIRECTORY | 0o700, 2, size * len(lost), pointers, len(lost), now)


def _plan_resize_inode(plan: _Plan, now: int) -> None:
    """The inode that owns the blocks kept for more descriptors: its double indirect block names those of group 0, and each
    of them, as an indirect block, names its copies in the other groups."""
    geometry = plan.geometry
    table = plan.take(1, 0)[0]
    first = geometry.superblock_block + 1 + geometry.descriptor_blocks
    others = [group for group in geometry.backups() if group]
    numbers = [0] * geometry.pointers
    for position in range(geometry.reserved_descriptor_blocks):
        block = first + position
        numbers[(geometry.descriptor_blocks + position) % geometry.pointers] = block
        plan.contents[block] = encode_numbers([block + group * geometry.blocks_per_group for group in others])
    plan.contents[table] = encode_numbers(numbers)
    reach = DIRECT_BLOCKS + geometry.pointers + geometry.pointers**2
    pointers = [0] * DOUBLE_INDIRECT + [table, 0]
    count = 1 + geometry.reserved_descriptor_blocks * (1 + len(others))
    _inode(plan, RESIZE_INODE, _REGULAR | 0o600, 1, reach * geometry.block_size, pointers, count, now)


def _plan_journal(plan: _Plan, fields: dict[str, Any], count: int, now: int) -> None:
    """The journal's inode, and in its first block its superblock; a copy of where it lies in the file system's."""
    geometry = plan.geometry
    group = geometry.groups // 2
    blocks = plan.take(count, group)
    pointers, tables = _map(plan, blocks, group)
    size = count * geometry.block_size
    _inode(plan, JOURNAL_INODE, _REGULAR | 0o600, 1, size, pointers, count + tables, now)
    for block in blocks:
        plan.contents[block] = b""
    plan.contents[blocks[0]] = JournalSuperblock.build(
        {
            "header": {"magic": JOURNAL_MAGIC, "blocktype": JournalBlock.SUPERBLOCK_V2, "sequence": 0},
            "blocksize": geometry.block_size, "maxlen": count, "first": 1, "sequence": 1, "start": 0, "errno": 0,
            "feature_compat": 0, "feature_incompat": 0, "feature_ro_compat": 0, "uuid": geometry.uuid, "nr_users": 1,
            "dynsuper": 0, "max_transaction": 0, "max_trans_data": 0, "checksum_type": bytes(1), "padding2": bytes(3),
            "num_fc_blks": 0, "head": 0, "padding": bytes(160), "checksum": 0, "users": bytes(768),
        }
    )  # fmt: skip
    fields["jnl_blocks"] = [*pointers, size >> 32, size & 0xFFFF_FFFF]
    fields["jnl_backup_type"] = 1


# Writing.


async def _write(cache: BlockCache, plan: _Plan, fields: dict[str, Any]) -> None:
    geometry = plan.geometry
    size = geometry.block_size
    descriptors = b""
    for group, bitmap in enumerate(plan.bitmaps):
        start = geometry.group_start(group) + geometry.group_overhead(group)
        free_inodes = geometry.inodes_per_group - (FIRST_INODE if not group else 0)
        descriptors += GROUP_DESCRIPTOR.pack(
            start, start + 1, start + 2, bitmap.clear_bits, free_inodes, 0 if group else 2, 0, bytes(12)
        )
    fields["free_blocks_count"] = sum(bitmap.clear_bits for bitmap in plan.bitmaps)
    fields["free_inodes_count"] = geometry.inodes - FIRST_INODE
    await cache.write(0, b"", fresh=True)
    for group, bitmap in enumerate(plan.bitmaps):
        await _write_group(cache, plan, group, bitmap)
    for block, contents in sorted(plan.contents.items()):
        await cache.write(block, contents, fresh=True)
    for group in reversed([*geometry.backups()]):
        first = geometry.group_start(group) if group else geometry.superblock_block
        for position in range(geometry.descriptor_blocks):
            part = descriptors[position * size : (position + 1) * size]
            await cache.write(first + 1 + position, part, fresh=True)
        if not group:
            await cache.write_back()
            await cache.flush()
        superblock = Superblock.build(fields | {"block_group_nr": group})
        await cache.write(first, superblock, 0 if group else geometry.superblock_offset, fresh=True)
    await cache.write_back()
    await cache.flush()


async def _write_group(cache: BlockCache, plan: _Plan, group: int, bitmap: Bitmap) -> None:
    """A group's bitmaps, its inode table, and the blocks kept for descriptors."""
    geometry = plan.geometry
    size = geometry.block_size
    start = geometry.group_start(group) + geometry.group_overhead(group)
    if geometry.has_backup(group):
        for block in range(start - geometry.reserved_descriptor_blocks, start):
            await cache.write(block, b"", fresh=True)
    await cache.write(start, bitmap.encode(), fresh=True)
    used = (1 << FIRST_INODE) - 1 if not group else 0
    behind = (1 << 8 * size) - (1 << geometry.inodes_per_group)
    await cache.write(start + 1, (used | behind).to_bytes(size, "little"), fresh=True)
    per_block = size // geometry.inode_size
    for position in range(geometry.inode_table_blocks):
        numbers = range(position * per_block + 1, (position + 1) * per_block + 1)
        empty = bytes(geometry.inode_size)
        table = b"" if group else b"".join(plan.inodes.get(number, empty) for number in numbers)
        await cache.write(start + 2 + position, table, fresh=True)


__all__ = ["DEFAULT_BASE", "CannotMake", "make"]
