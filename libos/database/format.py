"""What a store has on the disk, declared: every structure, field by field.

These declarations are the definition.  Where reading with construct would be too slow, `struct` formats are derived from
them; nothing else in this package says at which offset a field lies.  All integers are little-endian.  The unit is the page
of 4096 bytes, numbered from the beginning of the storage:

    0, 1                   two superblocks, each in the first sector of its page; of those that are whole, the later counts
    2 ...                  the log: records of transactions, each group beginning on a sector of its own
    then twice             the map of used pages, one bit a page: that of generation g is copy g modulo 2
    then                   nodes of the tree

A node is never overwritten while a superblock on the disk leads to it: what changes is written elsewhere (shadow pages:
Lorie, Physical Integrity in a Large Segmented Database, 1977; Rodeh, B-trees, Shadowing, and Clones, ACM Transactions on
Storage 2008).  A page carries a CRC-32, seeded with the store's identity, and its own number; who refers to a node knows
the generation in which it was written, so that a page that was not written, or written elsewhere, is found out.
"""

import struct
import zlib
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Final

from construct import Array, Bytes, Const, Int8ul, Int16ul, Int32ul, Int64ul, Padded, Struct, this

from exokernel.abi.direct import direct
from exokernel.abi.layout import PAGE_SIZE, SECTOR_SIZE, SECTORS_PER_PAGE
from libos.database.errors import CorruptStore, DatabaseError
from libos.storage.formats import derive

MAGIC: Final = b"EXOSTORE"
VERSION: Final = 1
RECORD_MAGIC: Final = 0x44524358
KEY_MAXIMUM: Final = 255
VALUE_MAXIMUM: Final = 1024
"""So that three of the largest entries fit into a node; what is larger, the program divides."""
DELETED: Final = 0xFFFF
"""In place of a value's length in the log."""
LOG_BEGIN: Final = 2

Pointer: Final = Struct("page" / Int32ul, "generation" / Int64ul)
"""Where a node is, and in which generation it was written."""

Superblock: Final = Padded(
    SECTOR_SIZE,
    Struct(
        "checksum" / Int32ul,
        "magic" / Const(MAGIC),
        "version" / Int32ul,
        "identity" / Bytes(16),
        "generation" / Int64ul,
        "pages" / Int32ul,
        "log_pages" / Int32ul,
        "root" / Pointer,
        "levels" / Int32ul,
        "sequence" / Int64ul,
        "entries" / Int64ul,
    ),
)
"""`checksum` is that of the rest of the sector.  `generation` counts checkpoints; `pages` is the size of the storage;
`levels` that of the tree, 1 for a single leaf; `sequence` the number of the last transaction that is in the tree: what
came after it is in the log; `entries` how many keys there are."""

PageHeader: Final = Struct(
    "checksum" / Int32ul,
    "page" / Int32ul,
    "generation" / Int64ul,
    "kind" / Int8ul,
    "level" / Int8ul,
    "count" / Int16ul,
)
"""`checksum` is that of the rest of the page."""

NodePage: Final = Padded(
    PAGE_SIZE,
    Struct(
        "header" / PageHeader,
        "key_lengths" / Array(this.header.count, Int8ul),
        "value_lengths" / Array(this.header.count, Int16ul),
        "keys" / Array(this.header.count, Bytes(lambda here: here.key_lengths[here._index])),
        "values" / Array(this.header.count, Bytes(lambda here: here.value_lengths[here._index])),
    ),
)
"""Entries in the order of their keys.  On level 0 they are the store's; above, the values are Pointers, each to the node
whose keys are below the next entry's key, and not below its own unless it is the first."""

MapPage: Final = Padded(PAGE_SIZE, Struct("header" / PageHeader, "bits" / Bytes(PAGE_SIZE - PageHeader.sizeof())))
"""One bit for each page of the storage, 1 for a used one; `level` is this page's place among the pages of the map."""

RecordHeader: Final = Struct(
    "checksum" / Int32ul,
    "magic" / Int32ul,
    "generation" / Int64ul,
    "sequence" / Int64ul,
    "group" / Int64ul,
    "length" / Int32ul,
    "changes" / Int32ul,
)
"""One transaction in the log: `checksum` is that of the rest of the header and of the `length` bytes that follow.  `group`
is the number of the first transaction that was written together with this one."""

Change: Final = Struct("key_length" / Int8ul, "value_length" / Int16ul)
"""Then the key, then the value; a `value_length` of DELETED and no value for a key that is deleted."""


@direct
class PageKind(IntEnum):
    """What a page is."""

    NODE = 1
    MAP = 2


def _values(structure: Struct) -> struct.Struct:
    return derive(structure)[0]


POINTER: Final = _values(Pointer)
PAGE_HEADER: Final = _values(PageHeader)
RECORD_HEADER: Final = _values(RecordHeader)
CHANGE: Final = _values(Change)
CAPACITY: Final = PAGE_SIZE - PAGE_HEADER.size
"""Bytes of entries in a node."""
ENTRY_OVERHEAD: Final = CHANGE.size
MAP_BITS: Final = 8 * CAPACITY
_CHECKSUM: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class NodePointer:
    """See Pointer."""

    page: int
    generation: int

    def pack(self) -> bytes:
        return POINTER.pack(self.page, self.generation)


def unpack_pointer(data: bytes) -> NodePointer:
    """The pointer that is a value in a node above the leaves."""
    return NodePointer(*POINTER.unpack(data))


@dataclass(frozen=True)
class Checkpoint:
    """What a superblock says; see Superblock."""

    identity: bytes
    generation: int
    pages: int
    log_pages: int
    root: NodePointer
    levels: int
    sequence: int
    entries: int

    def pack(self) -> bytes:
        """The sector."""
        sector = bytearray(Superblock.build({"checksum": 0, "version": VERSION, **asdict(self)}))
        _CHECKSUM.pack_into(sector, 0, zlib.crc32(sector[_CHECKSUM.size :]))
        return bytes(sector)


def unpack_superblock(sector: bytes) -> Checkpoint | None:
    """What a sector says that is a superblock and not damaged; None for any other.  Raises DatabaseError for one of a
    version that this library does not know."""
    magic = sector[_CHECKSUM.size : _CHECKSUM.size + len(MAGIC)]
    if magic != MAGIC or _CHECKSUM.unpack_from(sector)[0] != zlib.crc32(sector[_CHECKSUM.size :]):
        return None
    fields = Superblock.parse(sector)
    if fields.version != VERSION:
        raise DatabaseError(f"The store is of version {fields.version}; this library knows version {VERSION}.")
    root = NodePointer(fields.root.page, fields.root.generation)
    return Checkpoint(
        fields.identity, fields.generation, fields.pages, fields.log_pages, root, fields.levels, fields.sequence,
        fields.entries,
    )  # fmt: skip


@dataclass(frozen=True)
class Geometry:
    """Which pages of a storage are what."""

    pages: int
    log_pages: int

    @property
    def map_pages(self) -> int:
        """Of one copy of the map."""
        return -(-self.pages // MAP_BITS)

    def map_begin(self, generation: int) -> int:
        return LOG_BEGIN + self.log_pages + generation % 2 * self.map_pages

    @property
    def nodes_begin(self) -> int:
        return LOG_BEGIN + self.log_pages + 2 * self.map_pages

    @property
    def log_sector(self) -> int:
        return LOG_BEGIN * SECTORS_PER_PAGE

    @property
    def log_bytes(self) -> int:
        return self.log_pages * PAGE_SIZE

    @staticmethod
    def superblock_sector(generation: int) -> int:
        return generation % 2 * SECTORS_PER_PAGE


class Seal:
    """Checksums of one store."""

    def __init__(self, identity: bytes) -> None:
        self._seed = zlib.crc32(identity)

    def sum(self, data: bytes | memoryview) -> int:
        return zlib.crc32(data, self._seed)

    def page(self, page: int, generation: int, kind: PageKind, level: int, count: int, body: bytes) -> bytes:
        """A page with its header and checksum."""
        whole = bytearray(PAGE_HEADER.pack(0, page, generation, kind, level, count))
        whole += body
        whole += bytes(PAGE_SIZE - len(whole))
        _CHECKSUM.pack_into(whole, 0, self.sum(memoryview(whole)[_CHECKSUM.size :]))
        return bytes(whole)

    def check_page(self, data: bytes, page: int, generation: int, kind: PageKind, level: int) -> int:
        """The count in the header of a page that must be this one.  Raises CorruptStore if it is not."""
        checksum, *header, count = PAGE_HEADER.unpack_from(data)
        if checksum != self.sum(memoryview(data)[_CHECKSUM.size :]):
            raise CorruptStore(f"Page {page} of the store is damaged: its checksum does not agree with its contents.")
        if header != [page, generation, kind, level]:
            raise CorruptStore(
                f"Page {page} of the store is not the one that was written there in generation {generation}: "
                "the disk has lost a write, or has put another in its place."
            )
        return int(count)


def pack_entries(entries: list[tuple[bytes, bytes]]) -> bytes:
    """The entries of a node, as they lie behind its header."""
    count = len(entries)
    keys = [key for key, _ in entries]
    values = [value for _, value in entries]
    lengths = struct.pack(f"<{count}B{count}H", *map(len, keys), *map(len, values))
    return lengths + b"".join(keys) + b"".join(values)


def unpack_entries(data: bytes, count: int) -> list[tuple[bytes, bytes]]:
    """The entries of a node page."""
    lengths = struct.unpack_from(f"<{count}B{count}H", data, PAGE_HEADER.size)
    at = PAGE_HEADER.size + count * ENTRY_OVERHEAD
    parts = []
    for length in lengths:
        parts.append(data[at : at + length])
        at += length
    return list(zip(parts[:count], parts[count:], strict=True))


def pack_changes(changes: list[tuple[bytes, bytes | None]]) -> bytes:
    """The body of a record."""
    parts = []
    for key, value in changes:
        parts.append(CHANGE.pack(len(key), DELETED if value is None else len(value)))
        parts.append(key)
        parts.append(value or b"")
    return b"".join(parts)


def unpack_changes(data: bytes, count: int) -> list[tuple[bytes, bytes | None]]:
    """The changes in the body of a record whose checksum is right."""
    changes: list[tuple[bytes, bytes | None]] = []
    at = 0
    for _ in range(count):
        key_length, value_length = CHANGE.unpack_from(data, at)
        at += CHANGE.size
        key = data[at : at + key_length]
        at += key_length
        value = None if value_length == DELETED else data[at : at + value_length]
        at += len(value or b"")
        changes.append((key, value))
    return changes
