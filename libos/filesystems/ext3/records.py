"""`struct` formats for what is read and written thousands of times, derived from the declarations in `layout`.

Each is a pair: the format and the names of its values in order, as `libos.storage.formats.derive` gives them.  Nothing here
is written by hand, so the two cannot drift apart.
"""

from typing import Final

from libos.filesystems.ext3 import layout
from libos.storage.formats import derive, offsets

SUPERBLOCK, SUPERBLOCK_NAMES = derive(layout.Superblock)
SUPERBLOCK_OFFSETS: Final = offsets(layout.Superblock)
GROUP_DESCRIPTOR, GROUP_DESCRIPTOR_NAMES = derive(layout.GroupDescriptor)
INODE, INODE_NAMES = derive(layout.InodeRecord)
INODE_OFFSETS: Final = offsets(layout.InodeRecord)
INODE_EXTRA, INODE_EXTRA_NAMES = derive(layout.InodeExtra)
DIRECTORY_ENTRY, DIRECTORY_ENTRY_NAMES = derive(layout.DirectoryEntry)
INDEX_ROOT, INDEX_ROOT_NAMES = derive(layout.IndexRoot)
INDEX_NODE, INDEX_NODE_NAMES = derive(layout.IndexNode)
INDEX_COUNT_LIMIT, INDEX_COUNT_LIMIT_NAMES = derive(layout.IndexCountLimit)
INDEX_ENTRY, INDEX_ENTRY_NAMES = derive(layout.IndexEntry)
JOURNAL_HEADER, JOURNAL_HEADER_NAMES = derive(layout.JournalHeader)
JOURNAL_SUPERBLOCK, JOURNAL_SUPERBLOCK_NAMES = derive(layout.JournalSuperblock)
JOURNAL_SUPERBLOCK_OFFSETS: Final = offsets(layout.JournalSuperblock)
JOURNAL_BLOCK_TAG, JOURNAL_BLOCK_TAG_NAMES = derive(layout.JournalBlockTag)
JOURNAL_REVOKE_HEADER, JOURNAL_REVOKE_HEADER_NAMES = derive(layout.JournalRevokeHeader)
COMMIT_HEADER, COMMIT_HEADER_NAMES = derive(layout.CommitHeader)
XATTR_HEADER, XATTR_HEADER_NAMES = derive(layout.XattrHeader)
XATTR_ENTRY, XATTR_ENTRY_NAMES = derive(layout.XattrEntry)
