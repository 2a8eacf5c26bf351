"""One block of a directory, as bytes: where its entries begin, where there is room, what changes when one comes or goes.

The entries of a block follow one another, each leading to the next by its `rec_len`, and together they fill the block.  An
entry with inode 0 is free.  What an entry does not need of its length is room for another, so removing one means making the
entry before it longer.  (Card, Ts'o and Tweedie, Design and Implementation of the Second Extended Filesystem, 1994.)

Nothing here reads or writes the disk.  A block that comes from it is surveyed once, which checks every entry; from then on
its `Slots` are kept true by those who change it, and finding a name needs no walk from entry to entry.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from libos.filesystems.ext3.layout import DirectoryEntry
from libos.filesystems.ext3.records import DIRECTORY_ENTRY
from libos.filesystems.interface import CorruptFileSystem
from libos.storage.formats import offsets

HEADER: Final = DIRECTORY_ENTRY.size
_ALIGNMENT: Final = 4
_OFFSETS: Final = offsets(DirectoryEntry)
_REC_LEN: Final = _OFFSETS["rec_len"]
_NAME_LEN: Final = _OFFSETS["name_len"]
_SHORTEST: Final = 12
_header = DIRECTORY_ENTRY.unpack_from
_pack = DIRECTORY_ENTRY.pack


class Slot(NamedTuple):
    """An entry in a block: `at` which byte it begins, how long it is (`length`, of which `used` are needed)."""

    at: int
    inode: int
    length: int
    used: int
    kind: int
    name: bytes


@dataclass(slots=True)
class Slots:
    """What is known of a block.  Bit n of `starts`: an entry, free or not, begins at byte 4 n.  Behind what the entry at
    byte `roomy` needs, there are `room` bytes; `largest`: no other entry has more."""

    starts: int
    roomy: int
    room: int
    largest: bool


class Change(NamedTuple):
    """What a block becomes: `data` from byte `at` on, and what is then known of it."""

    at: int
    data: bytes
    slots: Slots


def length_for(name: bytes) -> int:
    """How many bytes an entry with this name needs."""
    return HEADER + len(name) + _ALIGNMENT - 1 & -_ALIGNMENT


def walk(data: bytes, inodes: int, about: str) -> Iterator[Slot]:
    """The entries of a block, the free ones too, in order; there are `inodes` inodes in the file system.

    Raises CorruptFileSystem, with `about` for the beginning of its sentence, if an entry makes no sense.
    """
    at, size = 0, len(data)
    while at < size:
        if size - at < HEADER:
            raise CorruptFileSystem(f"{about}: the entries do not end where the block does.")
        inode, length, name_length, kind = _header(data, at)
        used = HEADER + name_length + _ALIGNMENT - 1 & -_ALIGNMENT
        end = at + length
        if length < used or length % _ALIGNMENT or end > size or (length < _SHORTEST and inode):
            raise CorruptFileSystem(f"{about}: the entry at byte {at} has the impossible length {length}.")
        if inode > inodes:
            raise CorruptFileSystem(f"{about}: the entry at byte {at} refers to inode {inode}; there are {inodes}.")
        if inode and not name_length:
            raise CorruptFileSystem(f"{about}: the entry at byte {at} has no name.")
        yield Slot(at, inode, length, used if inode else 0, kind, data[at + HEADER : at + HEADER + name_length])
        at = end


def survey(data: bytes, inodes: int, about: str) -> Slots:
    """Learn where everything is in a block; see `walk` for what it raises."""
    starts, roomy, room = 0, 0, -1
    for slot in walk(data, inodes, about):
        starts |= 1 << (slot.at >> 2)
        if slot.length - slot.used > room:
            roomy, room = slot.at, slot.length - slot.used
    return Slots(starts, roomy, room, True)


def locate(data: bytes, slots: Slots, name: bytes) -> int:
    """At which byte the entry with this name begins; -1: there is none."""
    length = len(name)
    at = data.find(name, HEADER)
    while at >= 0:
        start = at - HEADER
        if (
            not start & 3
            and data[start + _NAME_LEN] == length
            and slots.starts >> (start >> 2) & 1
            and data[start : start + 4] != b"\0\0\0\0"
        ):
            return start
        at = data.find(name, at + 1)
    return -1


def read(data: bytes, at: int) -> tuple[int, int]:
    """The inode and the kind of the entry at byte `at`."""
    inode, _, _, kind = _header(data, at)
    return inode, kind


def has_room(data: bytes, slots: Slots, needed: int) -> bool:
    """Whether an entry of so many bytes fits between those that are there; if need be, `slots` learn where."""
    if slots.room < needed and not slots.largest:
        slots.room = -1
        rest = slots.starts
        while rest:
            bit = rest & -rest
            rest ^= bit
            at = (bit.bit_length() - 1) * _ALIGNMENT
            inode, length, name_length, _ = _header(data, at)
            room = length - (HEADER + name_length + _ALIGNMENT - 1 & -_ALIGNMENT if inode else 0)
            if room > slots.room:
                slots.roomy, slots.room = at, room
        slots.largest = True
    return slots.room >= needed


def insert(data: bytes, slots: Slots, name: bytes, inode: int, kind: int) -> Change:
    """One entry more, where `has_room` has found room."""
    before = slots.roomy
    old, length, old_name_length, old_kind = _header(data, before)
    used = length - slots.room
    at = before + used
    entry = _pack(inode, slots.room, len(name), kind) + name
    if used:
        head = _pack(old, used, old_name_length, old_kind) + data[before + HEADER : at]
        entry = head + entry
    left = slots.room - length_for(name)
    return Change(before, entry, Slots(slots.starts | 1 << (at >> 2), at, left, False))


def remove(data: bytes, slots: Slots, at: int) -> Change:
    """One entry less: the one at byte `at`."""
    _, length, _, _ = _header(data, at)
    earlier = slots.starts & (1 << (at >> 2)) - 1
    if not earlier:
        roomy, room, starts = at, length, slots.starts
        change = bytes(4)
        place = at
    else:
        roomy = (earlier.bit_length() - 1) * _ALIGNMENT
        inode, before, name_length, _ = _header(data, roomy)
        whole = before + length
        room = whole - (HEADER + name_length + _ALIGNMENT - 1 & -_ALIGNMENT if inode else 0)
        starts = slots.starts & ~(1 << (at >> 2))
        change = whole.to_bytes(2, "little")
        place = roomy + _REC_LEN
    if room >= slots.room:
        return Change(place, change, Slots(starts, roomy, room, slots.largest))
    return Change(place, change, Slots(starts, slots.roomy, slots.room, slots.largest))


def packed(entries: Iterable[tuple[bytes, int, int]], size: int) -> bytes:
    """A block of `size` bytes with these entries (name, inode, kind) and no room but behind the last."""
    parts = []
    at = 0
    pending = list(entries)
    for index, (name, inode, kind) in enumerate(pending):
        used = length_for(name)
        length = used if index + 1 < len(pending) else size - at
        parts.append(_pack(inode, length, len(name), kind) + name.ljust(used - HEADER, b"\0"))
        at += used
    if not parts:
        parts.append(_pack(0, size, 0, 0))
    return b"".join(parts).ljust(size, b"\0")
