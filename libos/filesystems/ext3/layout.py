"""What ext3 has on the disk, declared: every structure, field by field, with the constants that go with them.

These declarations are the definition.  Where reading with construct would be too slow, `records` derives `struct` formats
from them; nothing else in this package says at which offset a field lies.

Everything is little-endian except the journal, which is big-endian.  The names are those of the Linux headers (ext3_fs.h,
jbd.h, xattr.h of Linux 2.6) without their prefixes; the shape is described in Card, Ts'o and Tweedie, Design and
Implementation of the Second Extended Filesystem (1994), and Tweedie, Journaling the Linux ext2fs Filesystem (1998).
Fields that came with ext4 are named too, since they must survive.

An image: block 0 (1 KiB blocks: block 1) holds the superblock at byte 1024.  Then, group by group, each of
`blocks_per_group` blocks: a copy of the superblock and of all group descriptors (in groups 0, 1 and the powers of 3, 5 and
7 with sparse_super), reserved blocks for more descriptors, the block bitmap, the inode bitmap, the inode table, data.
"""

from enum import IntEnum, IntFlag
from typing import Final

from construct import Array, Bytes, Int8ul, Int16sl, Int16ul, Int32sb, Int32ub, Int32ul, Int64ub, Int64ul, Struct

from exokernel.abi.direct import direct

SUPERBLOCK_OFFSET: Final = 1024
SUPERBLOCK_SIZE: Final = 1024
MAGIC: Final = 0xEF53
DYNAMIC_REVISION: Final = 1
BLOCK_SIZES: Final = (1024, 2048, 4096)

BAD_BLOCKS_INODE: Final = 1
ROOT_INODE: Final = 2
RESIZE_INODE: Final = 7
JOURNAL_INODE: Final = 8
FIRST_INODE: Final = 11
"""The first inode that is not reserved, in every file system that mkfs makes."""

DIRECT_BLOCKS: Final = 12
INDIRECT: Final = 12
DOUBLE_INDIRECT: Final = 13
TRIPLE_INDIRECT: Final = 14
BLOCK_POINTERS: Final = 15
LINK_MAXIMUM: Final = 32000
GOOD_OLD_INODE_SIZE: Final = 128


@direct
class State(IntFlag):
    """`state` of the superblock."""

    CLEAN = 1
    ERRORS = 2
    ORPHANS = 4


@direct
class Compatible(IntFlag):
    """`feature_compat`: one may use the file system without knowing them."""

    DIR_PREALLOC = 0x1
    IMAGIC_INODES = 0x2
    HAS_JOURNAL = 0x4
    EXT_ATTR = 0x8
    RESIZE_INODE = 0x10
    DIR_INDEX = 0x20


@direct
class Incompatible(IntFlag):
    """`feature_incompat`: who does not know one of them must not even read."""

    COMPRESSION = 0x1
    FILETYPE = 0x2
    RECOVER = 0x4
    JOURNAL_DEV = 0x8
    META_BG = 0x10
    EXTENTS = 0x40
    BITS_64 = 0x80
    MMP = 0x100
    FLEX_BG = 0x200
    EA_INODE = 0x400
    DIRDATA = 0x1000
    CSUM_SEED = 0x2000
    LARGEDIR = 0x4000
    INLINE_DATA = 0x8000
    ENCRYPT = 0x10000
    CASEFOLD = 0x20000


@direct
class ReadOnlyCompatible(IntFlag):
    """`feature_ro_compat`: who does not know one of them may read."""

    SPARSE_SUPER = 0x1
    LARGE_FILE = 0x2
    BTREE_DIR = 0x4
    HUGE_FILE = 0x8
    GDT_CSUM = 0x10
    DIR_NLINK = 0x20
    EXTRA_ISIZE = 0x40
    QUOTA = 0x100
    BIGALLOC = 0x200
    METADATA_CSUM = 0x400
    READONLY = 0x1000
    PROJECT = 0x2000
    VERITY = 0x8000
    ORPHAN_PRESENT = 0x10000


@direct
class HashFlags(IntFlag):
    """`flags` of the superblock: how the machine that made it sees a `char` when it hashes a name."""

    SIGNED = 1
    UNSIGNED = 2


@direct
class InodeFlags(IntFlag):
    """`flags` of an inode, those that mean something here."""

    IMMUTABLE = 0x10
    APPEND_ONLY = 0x20
    INDEX = 0x1000
    IMAGIC = 0x2000
    JOURNAL_DATA = 0x4000
    EXTENTS = 0x80000
    EA_INODE = 0x200000
    INLINE_DATA = 0x10000000


@direct
class HashVersion(IntEnum):
    """`def_hash_version` of the superblock and `hash_version` of a hashed directory."""

    LEGACY = 0
    HALF_MD4 = 1
    TEA = 2
    LEGACY_UNSIGNED = 3
    HALF_MD4_UNSIGNED = 4
    TEA_UNSIGNED = 5


Superblock: Final = Struct(
    "inodes_count" / Int32ul,
    "blocks_count" / Int32ul,
    "r_blocks_count" / Int32ul,
    "free_blocks_count" / Int32ul,
    "free_inodes_count" / Int32ul,
    "first_data_block" / Int32ul,
    "log_block_size" / Int32ul,
    "log_frag_size" / Int32ul,
    "blocks_per_group" / Int32ul,
    "frags_per_group" / Int32ul,
    "inodes_per_group" / Int32ul,
    "mtime" / Int32ul,
    "wtime" / Int32ul,
    "mnt_count" / Int16ul,
    "max_mnt_count" / Int16sl,
    "magic" / Int16ul,
    "state" / Int16ul,
    "errors" / Int16ul,
    "minor_rev_level" / Int16ul,
    "lastcheck" / Int32ul,
    "checkinterval" / Int32ul,
    "creator_os" / Int32ul,
    "rev_level" / Int32ul,
    "def_resuid" / Int16ul,
    "def_resgid" / Int16ul,
    "first_ino" / Int32ul,
    "inode_size" / Int16ul,
    "block_group_nr" / Int16ul,
    "feature_compat" / Int32ul,
    "feature_incompat" / Int32ul,
    "feature_ro_compat" / Int32ul,
    "uuid" / Bytes(16),
    "volume_name" / Bytes(16),
    "last_mounted" / Bytes(64),
    "algorithm_usage_bitmap" / Int32ul,
    "prealloc_blocks" / Int8ul,
    "prealloc_dir_blocks" / Int8ul,
    "reserved_gdt_blocks" / Int16ul,
    "journal_uuid" / Bytes(16),
    "journal_inum" / Int32ul,
    "journal_dev" / Int32ul,
    "last_orphan" / Int32ul,
    "hash_seed" / Bytes(16),
    "def_hash_version" / Int8ul,
    "jnl_backup_type" / Int8ul,
    "desc_size" / Int16ul,
    "default_mount_opts" / Int32ul,
    "first_meta_bg" / Int32ul,
    "mkfs_time" / Int32ul,
    "jnl_blocks" / Array(17, Int32ul),
    "blocks_count_hi" / Int32ul,
    "r_blocks_count_hi" / Int32ul,
    "free_blocks_hi" / Int32ul,
    "min_extra_isize" / Int16ul,
    "want_extra_isize" / Int16ul,
    "flags" / Int32ul,
    "raid_stride" / Int16ul,
    "mmp_update_interval" / Int16ul,
    "mmp_block" / Int64ul,
    "raid_stripe_width" / Int32ul,
    "log_groups_per_flex" / Int8ul,
    "checksum_type" / Int8ul,
    "encryption_level" / Int8ul,
    "reserved_pad" / Int8ul,
    "kbytes_written" / Int64ul,
    "snapshot_inum" / Int32ul,
    "snapshot_id" / Int32ul,
    "snapshot_r_blocks_count" / Int64ul,
    "snapshot_list" / Int32ul,
    "error_count" / Int32ul,
    "first_error_time" / Int32ul,
    "first_error_ino" / Int32ul,
    "first_error_block" / Int64ul,
    "first_error_func" / Bytes(32),
    "first_error_line" / Int32ul,
    "last_error_time" / Int32ul,
    "last_error_ino" / Int32ul,
    "last_error_line" / Int32ul,
    "last_error_block" / Int64ul,
    "last_error_func" / Bytes(32),
    "mount_opts" / Bytes(64),
    "usr_quota_inum" / Int32ul,
    "grp_quota_inum" / Int32ul,
    "overhead_blocks" / Int32ul,
    "backup_bgs" / Array(2, Int32ul),
    "encrypt_algos" / Bytes(4),
    "encrypt_pw_salt" / Bytes(16),
    "lpf_ino" / Int32ul,
    "prj_quota_inum" / Int32ul,
    "checksum_seed" / Int32ul,
    "times_hi" / Bytes(8),
    "encoding" / Int16ul,
    "encoding_flags" / Int16ul,
    "orphan_file_inum" / Int32ul,
    "reserved" / Bytes(376),
    "checksum" / Int32ul,
)
"""1024 bytes.  `jnl_blocks` (with `jnl_backup_type` 1) is a copy of the journal inode's block pointers and size, for the
case that the inode is lost.  `last_orphan` begins the list of orphans, which goes on in their `dtime`."""

GroupDescriptor: Final = Struct(
    "block_bitmap" / Int32ul,
    "inode_bitmap" / Int32ul,
    "inode_table" / Int32ul,
    "free_blocks_count" / Int16ul,
    "free_inodes_count" / Int16ul,
    "used_dirs_count" / Int16ul,
    "pad" / Int16ul,
    "reserved" / Bytes(12),
)
"""32 bytes; block numbers are those of the whole file system."""

InodeRecord: Final = Struct(
    "mode" / Int16ul,
    "uid" / Int16ul,
    "size" / Int32ul,
    "atime" / Int32ul,
    "ctime" / Int32ul,
    "mtime" / Int32ul,
    "dtime" / Int32ul,
    "gid" / Int16ul,
    "links_count" / Int16ul,
    "blocks" / Int32ul,
    "flags" / Int32ul,
    "version" / Int32ul,
    "block" / Array(BLOCK_POINTERS, Int32ul),
    "generation" / Int32ul,
    "file_acl" / Int32ul,
    "size_high" / Int32ul,
    "faddr" / Int32ul,
    "blocks_high" / Int16ul,
    "file_acl_high" / Int16ul,
    "uid_high" / Int16ul,
    "gid_high" / Int16ul,
    "checksum_lo" / Int16ul,
    "reserved" / Int16ul,
)
"""The first 128 bytes of an inode.  `blocks` counts sectors of 512 bytes.  `size_high` belongs to regular files only."""

InodeExtra: Final = Struct(
    "extra_isize" / Int16ul,
    "checksum_hi" / Int16ul,
    "ctime_extra" / Int32ul,
    "mtime_extra" / Int32ul,
    "atime_extra" / Int32ul,
    "crtime" / Int32ul,
    "crtime_extra" / Int32ul,
    "version_hi" / Int32ul,
    "projid" / Int32ul,
)
"""What follows at byte 128 of a larger inode; valid as far as `extra_isize` bytes reach.  Attributes follow behind that."""

DirectoryEntry: Final = Struct("inode" / Int32ul, "rec_len" / Int16ul, "name_len" / Int8ul, "file_type" / Int8ul)
"""The 8 bytes before a name.  `rec_len` leads to the next entry of the block; `inode` 0 is a free one."""

IndexRoot: Final = Struct(
    "dot" / DirectoryEntry,
    "dot_name" / Bytes(4),
    "dotdot" / DirectoryEntry,
    "dotdot_name" / Bytes(4),
    "reserved_zero" / Int32ul,
    "hash_version" / Int8ul,
    "info_length" / Int8ul,
    "indirect_levels" / Int8ul,
    "unused_flags" / Int8ul,
)
"""The first 32 bytes of a hashed directory; an IndexCountLimit and IndexEntries follow."""

IndexNode: Final = Struct("fake" / DirectoryEntry)
"""The first 8 bytes of an inner block of the index: one free entry that covers the block; then as in the root."""

IndexCountLimit: Final = Struct("limit" / Int16ul, "count" / Int16ul, "block" / Int32ul)
"""The first entry of an index block: its hash is 0, and in its place stand how many entries fit and how many there are."""

IndexEntry: Final = Struct("hash" / Int32ul, "block" / Int32ul)
"""Names whose hash is `hash` or more lie in the logical block `block` of the directory.  Bit 0 of `hash`: names of the
same hash begin in the block before."""

JOURNAL_MAGIC: Final = 0xC03B3998


@direct
class JournalBlock(IntEnum):
    """`blocktype` of a journal block's header."""

    DESCRIPTOR = 1
    COMMIT = 2
    SUPERBLOCK_V1 = 3
    SUPERBLOCK_V2 = 4
    REVOKE = 5


@direct
class TagFlags(IntFlag):
    """`flags` of a tag in a descriptor block."""

    ESCAPED = 1
    SAME_UUID = 2
    DELETED = 4
    LAST = 8


@direct
class JournalIncompatible(IntFlag):
    """`feature_incompat` of the journal."""

    REVOKE = 0x1
    BITS_64 = 0x2
    ASYNC_COMMIT = 0x4
    CSUM_V2 = 0x8
    CSUM_V3 = 0x10
    FAST_COMMIT = 0x20


JournalHeader: Final = Struct("magic" / Int32ub, "blocktype" / Int32ub, "sequence" / Int32ub)
"""The 12 bytes with which every block of the journal that is not a copy begins."""

JournalSuperblock: Final = Struct(
    "header" / JournalHeader,
    "blocksize" / Int32ub,
    "maxlen" / Int32ub,
    "first" / Int32ub,
    "sequence" / Int32ub,
    "start" / Int32ub,
    "errno" / Int32sb,
    "feature_compat" / Int32ub,
    "feature_incompat" / Int32ub,
    "feature_ro_compat" / Int32ub,
    "uuid" / Bytes(16),
    "nr_users" / Int32ub,
    "dynsuper" / Int32ub,
    "max_transaction" / Int32ub,
    "max_trans_data" / Int32ub,
    "checksum_type" / Bytes(1),
    "padding2" / Bytes(3),
    "num_fc_blks" / Int32ub,
    "head" / Int32ub,
    "padding" / Bytes(160),
    "checksum" / Int32ub,
    "users" / Bytes(768),
)
"""1024 bytes at the start of the journal's first block.  `start` 0: the journal is empty."""

JournalBlockTag: Final = Struct("block" / Int32ub, "flags" / Int32ub)
"""Which block the next copy in the log is of; 16 bytes of UUID follow unless SAME_UUID is set."""

JournalRevokeHeader: Final = Struct("header" / JournalHeader, "count" / Int32ub)
"""`count`: how many bytes of the block are used, these 16 included; then block numbers of four bytes."""

CommitHeader: Final = Struct(
    "header" / JournalHeader,
    "checksum_type" / Bytes(1),
    "checksum_size" / Bytes(1),
    "padding" / Bytes(2),
    "checksum" / Array(8, Int32ub),
    "commit_sec" / Int64ub,
    "commit_nsec" / Int32ub,
)
"""The block that makes a transaction valid; what lies behind the header may be zeros."""


XATTR_MAGIC: Final = 0xEA020000

XattrHeader: Final = Struct(
    "magic" / Int32ul,
    "refcount" / Int32ul,
    "blocks" / Int32ul,
    "hash" / Int32ul,
    "checksum" / Int32ul,
    "reserved" / Bytes(12),
)
"""The start of a block of extended attributes, which `refcount` inodes share.  In an inode there is only the magic."""

XattrEntry: Final = Struct(
    "name_len" / Int8ul,
    "name_index" / Int8ul,
    "value_offs" / Int16ul,
    "value_block" / Int32ul,
    "value_size" / Int32ul,
    "hash" / Int32ul,
)
"""Before an attribute's name; four zero bytes end the list.  `value_offs` counts from the block's start, in an inode from
the first entry."""

XATTR_PREFIXES: Final = {
    0: b"",
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
    7: b"system.",
    8: b"system.richacl",
}
"""What `name_index` stands for."""
