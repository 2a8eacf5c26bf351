"""`struct` formats for what is read and written thousands of times, derived from the declarations in `layout`.

Each is a pair: the format and the names of its values in order.  A structure inside another is spread out
(`header.magic`), an array too (`block.0`).  Nothing here is written by hand, so the two cannot drift apart.
"""

import struct
from typing import Any, Final

from construct import Array, Bytes, FormatField, Renamed, Struct

from libos.filesystems.ext3 import layout


def derive(structure: Any) -> tuple[struct.Struct, tuple[str, ...]]:
    """The `struct` format of a construct structure of integers, bytes, arrays and structures, and the names of its values.

    Raises TypeError for a part that has no fixed format, or if little- and big-endian parts are mixed.
    """
    parts: list[tuple[str, str]] = []
    orders: set[str] = set()
    _spread("", structure, parts, orders)
    if len(orders) > 1:
        raise TypeError("The structure mixes byte orders.")
    order = orders.pop() if orders else "<"
    return struct.Struct(order + "".join(part for _, part in parts)), tuple(name for name, _ in parts)


def _spread(name: str, part: Any, parts: list[tuple[str, str]], orders: set[str]) -> None:
    if isinstance(part, Renamed):
        _spread(f"{name}.{part.name}" if name else part.name, part.subcon, parts, orders)
    elif isinstance(part, Struct):
        for inner in part.subcons:
            _spread(name, inner, parts, orders)
    elif isinstance(part, Array):
        for index in range(part.count):
            _spread(f"{name}.{index}", part.subcon, parts, orders)
    elif isinstance(part, FormatField):
        if part.length > 1:
            orders.add(part.fmtstr[0])
        parts.append((name, part.fmtstr[1:]))
    elif isinstance(part, Bytes):
        parts.append((name, f"{part.length}s"))
    else:
        raise TypeError(f"{name} has no fixed format.")


def offsets(structure: Any) -> dict[str, int]:
    """At which byte of a structure each of its values lies, by the names that `derive` gives."""
    form, names = derive(structure)
    where: dict[str, int] = {}
    at = 0
    for name, part in zip(names, _parts(form.format), strict=True):
        where[name] = at
        at += struct.calcsize("<" + part)
    return where


def _parts(form: str) -> list[str]:
    """The single formats of a whole one, without its byte order: `<I16sH` is I, 16s, H."""
    found: list[str] = []
    count = ""
    for character in form[1:]:
        count += character
        if not character.isdigit():
            found.append(count)
            count = ""
    return found


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
