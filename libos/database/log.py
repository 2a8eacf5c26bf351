"""The log: what transactions have changed since the last checkpoint.

A transaction is one record: its number, its changes, and a checksum over all of it.  What has been committed since the log
was last written goes to the disk as one group, beginning on a sector of its own, so that a sector with a record that
somebody relies on is never written again.

One write is enough to commit.  The usual commit mark is a second write that must not reach the medium before the first,
which takes a flush between them and another behind.  Here the checksum is the mark: a record is committed if and only if
all of its sectors are on the medium, in whatever order they came there, and of a record that is not the checksum tells.  So
a group needs no order within, and the transaction is durable when the one forced write, or the one flush, has ended.
(Prabhakaran et al., IRON File Systems, SOSP 2005, section 6.1, call it a transactional checksum.)

What may not be taken for a record: a record names the generation of the checkpoint that it comes after and its number,
which must be the next; so what was there before counts for nothing.  The next group is not begun before the last is on the
medium; so behind a torn group there is nothing, and a record that is damaged with a later group behind it was committed.
"""

from dataclasses import dataclass
from typing import Final

from exokernel.abi.layout import SECTOR_SIZE
from libos.database.errors import CorruptStore, StoreFull
from libos.database.format import RECORD_HEADER, RECORD_MAGIC, Geometry, Seal, unpack_changes
from libos.database.sectors import SectorBuffer
from libos.database.tree import Changes

_CHECKSUM_BYTES: Final = 4
_READ_AT_ONCE: Final = 32 * 1024


@dataclass(frozen=True)
class _Record:
    """A transaction found in the log; `size` in bytes, with its header."""

    generation: int
    number: int
    group: int
    changes: Changes
    size: int


class Log:
    """The log of one store.  `generation` is that of the superblock on the disk."""

    def __init__(self, buffer: SectorBuffer, geometry: Geometry, seal: Seal, generation: int, sequence: int) -> None:
        self._buffer = buffer
        self._geometry = geometry
        self._seal = seal
        self.generation = generation
        self.sequence = sequence
        """The number of the last transaction of all."""
        self.durable = sequence
        """The number of the last transaction that is on the medium."""
        self.groups = 0
        """How many groups have been written."""
        self._sectors = 0
        self._waiting = bytearray()
        self._group = 0
        """The number of the first transaction in line."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in it since the last checkpoint."""
        return not self._sectors and not self._waiting

    def check(self, body: bytes) -> None:
        """Raise StoreFull if no log of this size could hold a transaction with such a body."""
        size = RECORD_HEADER.size + len(body)
        if size > self._geometry.log_bytes:
            raise StoreFull(
                f"The transaction takes {size} bytes of the log, which has {self._geometry.log_bytes}; "
                "divide it, or make the store with a larger log."
            )

    def has_room(self, body: bytes) -> bool:
        """Whether a transaction fits in without a checkpoint."""
        in_line = len(self._waiting) + RECORD_HEADER.size + len(body)
        return self._sectors * SECTOR_SIZE + in_line <= self._geometry.log_bytes

    def append(self, body: bytes, changes: int) -> int:
        """Put the next transaction, whose packed changes are `body`, in line for the disk; gives its number."""
        self.sequence += 1
        if not self._waiting:
            self._group = self.sequence
        head = RECORD_HEADER.pack(0, RECORD_MAGIC, self.generation, self.sequence, self._group, len(body), changes)
        rest = head[_CHECKSUM_BYTES:] + body
        self._waiting += self._seal.sum(rest).to_bytes(_CHECKSUM_BYTES, "little") + rest
        return self.sequence

    async def write(self) -> None:
        """Write everything in line as one group; it is on the medium when this ends."""
        data, sequence = bytes(self._waiting), self.sequence
        self._waiting.clear()
        first = self._geometry.log_sector + self._sectors
        self._sectors += -(-len(data) // SECTOR_SIZE)
        await self._buffer.write(first, data)
        self.groups += 1
        self.durable = sequence

    def restart(self, generation: int) -> None:
        """A checkpoint has everything: begin again in front."""
        self.generation = generation
        self.durable = self.sequence
        self._sectors = 0
        self._waiting.clear()

    async def erase(self) -> None:
        """Fill the whole log with zeros, which are no record."""
        step = bytes(_READ_AT_ONCE)
        for begin in range(0, self._geometry.log_bytes, len(step)):
            zeros = step[: self._geometry.log_bytes - begin]
            await self._buffer.write(self._geometry.log_sector + begin // SECTOR_SIZE, zeros)

    async def committed(self) -> list[Changes]:
        """The transactions after the last checkpoint that are whole on the medium, in their order.

        Raises CorruptStore if one is damaged that was durable: a later group is there, which was begun after it.  Damage to
        the last group cannot be told from a power cut while it was written.
        """
        found: list[Changes] = []
        data, at = bytearray(), 0
        while True:
            number = self.sequence + len(found) + 1
            record = await self._record(data, at)
            if record is not None and (record.generation, record.number) == (self.generation, number):
                found.append(record.changes)
                at += record.size
                continue
            padding = -at % SECTOR_SIZE
            if padding and not any(data[at : at + padding]):
                at += padding
                continue
            await self._look_behind(data, at, number)
            return found

    async def _look_behind(self, data: bytearray, at: int, number: int) -> None:
        """Raise CorruptStore if behind a place there is a group that was begun when transaction `number` was durable."""
        for sector in range(at + -at % SECTOR_SIZE, self._geometry.log_bytes, SECTOR_SIZE):
            record = await self._record(data, sector)
            if record is not None and record.generation == self.generation and record.group > number:
                raise CorruptStore(
                    f"Transaction {number} in the log of the store is damaged; it was committed before {record.number} was."
                )

    async def begins_with(self, generation: int) -> bool:
        """Whether the first record in the log is one of this generation, whatever its number."""
        record = await self._record(bytearray(), 0)
        return record is not None and record.generation == generation

    async def _record(self, data: bytearray, at: int) -> _Record | None:
        """The whole record at a place of the log, if there is one; `data` is what has been read of the log's beginning."""
        begin = at + RECORD_HEADER.size
        await self._have(data, begin)
        if begin > len(data):
            return None
        checksum, magic, generation, number, group, length, count = RECORD_HEADER.unpack_from(data, at)
        if magic != RECORD_MAGIC or begin + length > self._geometry.log_bytes:
            return None
        await self._have(data, begin + length)
        if checksum != self._seal.sum(memoryview(data)[at + _CHECKSUM_BYTES : begin + length]):
            return None
        changes = unpack_changes(bytes(memoryview(data)[begin : begin + length]), count)
        return _Record(generation, number, group, changes, RECORD_HEADER.size + length)

    async def _have(self, data: bytearray, size: int) -> None:
        """Read on until there are so many bytes, or the log ends."""
        while len(data) < min(size, self._geometry.log_bytes):
            more = min(_READ_AT_ONCE, self._geometry.log_bytes - len(data))
            data += await self._buffer.read(self._geometry.log_sector + len(data) // SECTOR_SIZE, more)
