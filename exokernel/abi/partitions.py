"""Partitions: the GUID partition table of a disk image, as in the UEFI specification 2.10, chapter 5, and the records of
who may use a partition, which are ours.

    sector 0                 protective MBR: one partition over everything, so that old tools keep their hands off
    sector 1                 primary header
    sectors 2 to 33          128 entries of 128 bytes
    ...                      the partitions, within the usable sectors
    last 33 sectors          the entries again, and in the very last one the backup header

A header has a checksum of itself and one of the entries.  If the primary is damaged the backup stands for it; if both
are, the table cannot be used.  There is a backup only where the first two sectors say that there is a table: the last
sectors of an image without one may be a file's, and what stands in it is for anybody to choose.  Access records fill a
partition of a type of its own that only the kernel writes: four for each entry of the table, a sector each, so that a
record is written whole or not at all.  Names in them are relative to the first environment's, which is the root of all
names.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID
from zlib import crc32

from construct import (
    Array,
    Bytes,
    Check,
    Const,
    ConstructError,
    Int8ul,
    Int16ul,
    Int32ul,
    Int64ul,
    Padded,
    Padding,
    Struct,
    this,
)

from exokernel.abi.layout import SECTOR_SIZE

ENTRIES: Final = 128
ENTRY_SIZE: Final = 128
ENTRY_SECTORS: Final = ENTRIES * ENTRY_SIZE // SECTOR_SIZE
TABLE_SECTORS: Final = ENTRY_SECTORS + 1
"""A header and its entries: at the end of the disk; at the beginning one more, for the protective MBR."""
ALIGNMENT: Final = 2048
"""Partitions begin on a multiple of so many sectors, 1 MiB, as everybody's tools have them."""
NAME_MAXIMUM: Final = 36
"""Of a partition, in UTF-16 code units."""
_LARGEST_TABLE: Final = 1 << 20
"""Bytes of entries: a table that claims more is damaged."""

DATA_TYPE: Final = UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
"""The type of a partition with a Linux file system, which is what tools expect of one with anything in it."""
ACCESS_TYPE: Final = UUID("5c1e7a52-0b5d-4e0e-9d0a-6b1f3a9c4e58")
"""The type of the partition with the access records."""
UNUSED: Final = UUID(int=0)

MbrPartition: Final = Struct(
    "status" / Int8ul,
    "first_chs" / Bytes(3),
    "type" / Int8ul,
    "last_chs" / Bytes(3),
    "first" / Int32ul,
    "sectors" / Int32ul,
)
ProtectiveMbr: Final = Struct(
    "code" / Bytes(440),
    "signature" / Int32ul,
    Padding(2),
    "partitions" / Array(4, MbrPartition),
    "end" / Const(0xAA55, Int16ul),
)
PROTECTIVE: Final = 0xEE

Header: Final = Struct(
    "signature" / Const(b"EFI PART"),
    "revision" / Const(0x0001_0000, Int32ul),
    "size" / Int32ul,
    Check(this.size >= 92),
    Check(this.size <= SECTOR_SIZE),
    "checksum" / Int32ul,
    Padding(4),
    "here" / Int64ul,
    "other" / Int64ul,
    "first_usable" / Int64ul,
    "last_usable" / Int64ul,
    "disk" / Bytes(16),
    "entries_at" / Int64ul,
    "entries" / Int32ul,
    "entry_size" / Int32ul,
    "entries_checksum" / Int32ul,
)
"""92 bytes; sectors are numbered from 0.  `checksum` is of `size` bytes with itself as zeros."""
CHECKSUM_OFFSET: Final = 16

Entry: Final = Struct(
    "type" / Bytes(16),
    "unique" / Bytes(16),
    "first" / Int64ul,
    "last" / Int64ul,
    "attributes" / Int64ul,
    "name" / Bytes(2 * NAME_MAXIMUM),
)

COMPONENTS: Final = 64
ENTRY_RECORDS: Final = 4
"""Access records of a partition: entries of its access list."""
ACCESS_SECTORS: Final = ENTRIES * ENTRY_RECORDS
AccessRecord: Final = Padded(
    SECTOR_SIZE,
    Struct(
        "magic" / Const(b"EXOACCES"),
        "checksum" / Int32ul,
        "version" / Const(1, Int32ul),
        "partition" / Bytes(16),
        "index" / Int32ul,
        "permissions" / Int32ul,
        "length" / Int32ul,
        Check(this.length <= COMPONENTS),
        "name" / Array(COMPONENTS, Int32ul),
    ),
)
"""Entry `index` of the access list of the partition with this unique GUID; `name` has `length` components.  `checksum` is
of the sector with itself as zeros."""
RECORD_CHECKSUM_OFFSET: Final = 8


class PartitionError(Exception):
    """The table is damaged, or the partitions do not fit; the message is the rest of a sentence."""


@dataclass(frozen=True)
class Partition:
    """Entry `index` of the table: `sectors` from `start` on."""

    index: int
    name: str
    start: int
    sectors: int
    type: UUID
    unique: UUID


@dataclass(frozen=True)
class PartitionTable:
    """A valid table; the usable sectors are those from `first_usable` to `last_usable`."""

    disk: UUID
    first_usable: int
    last_usable: int
    partitions: tuple[Partition, ...]
    from_backup: bool = False
    """The primary was damaged."""

    @property
    def access(self) -> Partition | None:
        """The partition with the access records, if there is one of full size."""
        return next((one for one in self.partitions if one.type == ACCESS_TYPE and one.sectors >= ACCESS_SECTORS), None)

    def find(self, name: str) -> Partition | None:
        """The first partition of this name."""
        return next((one for one in self.partitions if one.name == name), None)


def parse(read: Callable[[int, int], bytes], sectors: int) -> PartitionTable | None:
    """The table of a disk of so many `sectors`; `read(sector, count)` gives their bytes.  None if the disk has no table.

    Raises PartitionError for a table that is damaged in both places or makes no sense.
    """
    if sectors < 2 * TABLE_SECTORS + 1:
        return None
    if not read(1, 1).startswith(b"EFI PART") and not _is_protective(read(0, 1)):
        return None
    problems = []
    for place in (1, sectors - 1):
        try:
            header = _header(read, place, sectors)
        except PartitionError as error:
            problems.append(str(error))
            continue
        return _table(header, read, place != 1)
    raise PartitionError(f"is damaged ({problems[0]}; {problems[1]})")


def _is_protective(sector: bytes) -> bool:
    try:
        return any(one.type == PROTECTIVE for one in ProtectiveMbr.parse(sector).partitions)
    except ConstructError:
        return False


def _header(read: Callable[[int, int], bytes], place: int, sectors: int) -> Any:
    """The header in a sector, if it and its entries are sound.  Raises PartitionError."""
    which = "the primary" if place == 1 else "the backup"
    data = read(place, 1)
    try:
        header = Header.parse(data)
    except ConstructError:
        raise PartitionError(f"{which} header is not one") from None
    if header.checksum != _checksum(data[: header.size], CHECKSUM_OFFSET) or header.here != place:
        raise PartitionError(f"{which} header has a wrong checksum or place")
    size = header.entries * header.entry_size
    count = -(-size // SECTOR_SIZE)
    if header.entry_size < ENTRY_SIZE or header.entry_size % 8 or not 0 < size <= _LARGEST_TABLE:
        raise PartitionError(f"{which} header has entries of no sensible size")
    if not header.entries_at + count <= sectors or not 1 < header.first_usable <= header.last_usable + 1 < sectors:
        raise PartitionError(f"{which} header points beyond the disk")
    if header.entries_at <= header.last_usable and header.first_usable < header.entries_at + count:
        raise PartitionError(f"{which} entries lie where anybody's sectors may be")
    if crc32(read(header.entries_at, count)[:size]) != header.entries_checksum:
        raise PartitionError(f"{which} entries have a wrong checksum")
    return header


def _table(header: Any, read: Callable[[int, int], bytes], from_backup: bool) -> PartitionTable:
    size = header.entries * header.entry_size
    data = read(header.entries_at, -(-size // SECTOR_SIZE))
    found = []
    for index in range(header.entries):
        entry = Entry.parse(data[index * header.entry_size :][:ENTRY_SIZE])
        if entry.type != UNUSED.bytes:
            name = entry.name.decode("utf-16-le", "replace").split("\0")[0]
            sectors = entry.last + 1 - entry.first
            kind, unique = UUID(bytes_le=entry.type), UUID(bytes_le=entry.unique)
            found.append(Partition(index, name, entry.first, sectors, kind, unique))
    end = header.first_usable
    for one in sorted(found, key=lambda one: one.start):
        if one.sectors < 1 or one.start < end or one.start + one.sectors > header.last_usable + 1:
            raise PartitionError(f"makes no sense: partition {one.index + 1} lies outside the usable sectors or in another")
        end = one.start + one.sectors
    return PartitionTable(UUID(bytes_le=header.disk), header.first_usable, header.last_usable, tuple(found), from_backup)


def _checksum(data: bytes, offset: int) -> int:
    """CRC-32 with the four bytes of the checksum itself as zeros."""
    return crc32(data[:offset] + bytes(4) + data[offset + 4 :])


def _sealed(data: bytes, offset: int) -> bytes:
    checksum: bytes = Int32ul.build(_checksum(data, offset))
    return data[:offset] + checksum + data[offset + 4 :]


def build(table: PartitionTable, sectors: int) -> tuple[bytes, bytes]:
    """The first and the last sectors of a disk of so many `sectors` with this table: protective MBR, header and entries;
    entries and backup header.  Raises PartitionError for a name that is too long."""
    entries = bytearray(ENTRIES * ENTRY_SIZE)
    for one in table.partitions:
        name = one.name.encode("utf-16-le")
        if len(name) > 2 * NAME_MAXIMUM:
            raise PartitionError(f"cannot have a name as long as {one.name}; {NAME_MAXIMUM} letters are the most")
        fields = {
            "type": one.type.bytes_le, "unique": one.unique.bytes_le, "first": one.start,
            "last": one.start + one.sectors - 1, "attributes": 0, "name": name.ljust(2 * NAME_MAXIMUM, b"\0"),
        }  # fmt: skip
        entries[one.index * ENTRY_SIZE : (one.index + 1) * ENTRY_SIZE] = Entry.build(fields)
    empty = {"status": 0, "first_chs": bytes(3), "type": 0, "last_chs": bytes(3), "first": 0, "sectors": 0}
    protective = {
        "status": 0, "first_chs": b"\0\x02\0", "type": PROTECTIVE, "last_chs": b"\xff\xff\xff",
        "first": 1, "sectors": min(sectors - 1, 0xFFFF_FFFF),
    }  # fmt: skip
    mbr = ProtectiveMbr.build({"code": bytes(440), "signature": 0, "partitions": [protective] + [empty] * 3})
    last = sectors - 1

    def header(here: int, other: int, entries_at: int) -> bytes:
        fields = {
            "size": Header.sizeof(), "checksum": 0, "here": here, "other": other, "first_usable": table.first_usable,
            "last_usable": table.last_usable, "disk": table.disk.bytes_le, "entries_at": entries_at, "entries": ENTRIES,
            "entry_size": ENTRY_SIZE, "entries_checksum": crc32(entries),
        }  # fmt: skip
        return _sealed(Header.build(fields), CHECKSUM_OFFSET).ljust(SECTOR_SIZE, b"\0")

    return bytes(mbr + header(1, last, 2) + entries), bytes(entries) + header(last, 1, last - ENTRY_SECTORS)


def build_access(partition: Partition, index: int, permissions: int, name: Sequence[int]) -> bytes:
    """The sector that records entry `index` of a partition's access list; no permissions: the entry is empty."""
    fields = {
        "checksum": 0, "partition": partition.unique.bytes_le, "index": index, "permissions": permissions,
        "length": len(name), "name": [*name, *[0] * (COMPONENTS - len(name))],
    }  # fmt: skip
    return _sealed(AccessRecord.build(fields), RECORD_CHECKSUM_OFFSET)


def parse_access(data: bytes, partition: Partition, index: int) -> tuple[int, tuple[int, ...]] | None:
    """Permissions and name of entry `index` of a partition's access list out of its sector; None if it is empty, damaged or
    another partition's."""
    try:
        record = AccessRecord.parse(data)
    except ConstructError:
        return None
    if record.checksum != _checksum(data, RECORD_CHECKSUM_OFFSET) or not record.permissions:
        return None
    if record.partition != partition.unique.bytes_le or record.index != index:
        return None
    return record.permissions, tuple(record.name[: record.length])


def access_sector(table: PartitionTable, partition: Partition, index: int) -> int | None:
    """Where entry `index` of a partition's access list is recorded; None if the disk has no place for it."""
    access = table.access
    if access is None or partition.index >= ENTRIES:
        return None
    return access.start + partition.index * ENTRY_RECORDS + index
