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
medium; so behind a torn group there is nothing.
"""

from typing import Final

from exokernel.abi.layout import SECTOR_SIZE
from libos.database.errors import StoreFull
from libos.database.format import RECORD_HEADER, RECORD_MAGIC, Geometry, Seal, pack_changes, unpack_changes
from libos.database.sectors import SectorBuffer
from libos.database.tree import Changes

_CHECKSUM_BYTES: Final = 4
_READ_AT_ONCE: Final = 32 * 1024


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

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in it since the last checkpoint."""
        return not self._sectors and not self._waiting

    def record(self, changes: Changes) -> bytes:
        """The record of the next transaction.  Raises StoreFull if no log of this size could hold it."""
        body = pack_changes(changes)
        head = RECORD_HEADER.pack(0, RECORD_MAGIC, self.generation, self.sequence + 1, len(body), len(changes))
        if len(head) + len(body) > self._geometry.log_bytes:
            raise StoreFull(
                f"The transaction takes {len(head) + len(body)} bytes of the log, which has {self._geometry.log_bytes}; "
                "divide it, or make the store with a larger log."
            )
        rest = head[_CHECKSUM_BYTES:] + body
        return self._seal.sum(rest).to_bytes(_CHECKSUM_BYTES, "little") + rest

    def has_room(self, record: bytes) -> bool:
        """Whether a record fits in without a checkpoint."""
        return self._sectors * SECTOR_SIZE + len(self._waiting) + len(record) <= self._geometry.log_bytes

    def append(self, record: bytes) -> int:
        """Put a record in line for the disk; gives its transaction's number."""
        self._waiting += record
        self.sequence += 1
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
        """The transactions after the last checkpoint that are whole on the medium, in their order."""
        found: list[Changes] = []
        data, at = b"", 0
        while True:
            data = await self._have(data, at + RECORD_HEADER.size)
            length = self._record_length(data, at, self.generation, self.sequence + len(found) + 1)
            if length is not None:
                data = await self._have(data, at + RECORD_HEADER.size + length)
                changes = self._changes(data, at, length)
                if changes is not None:
                    found.append(changes)
                    at += RECORD_HEADER.size + length
                    continue
            padding = -at % SECTOR_SIZE
            if not padding or any(data[at : at + padding]):
                return found
            at += padding

    async def begins_with(self, generation: int) -> bool:
        """Whether the first record in the log is one of this generation, whatever its number."""
        data = await self._have(b"", RECORD_HEADER.size)
        length = self._record_length(data, 0, generation, None)
        if length is None:
            return False
        data = await self._have(data, RECORD_HEADER.size + length)
        return self._changes(data, 0, length) is not None

    async def _have(self, data: bytes, size: int) -> bytes:
        """The log's first bytes, of which `data` have been read, `size` of them or more; fewer if it ends before."""
        while len(data) < min(size, self._geometry.log_bytes):
            more = min(_READ_AT_ONCE, self._geometry.log_bytes - len(data))
            data += await self._buffer.read(self._geometry.log_sector + len(data) // SECTOR_SIZE, more)
        return data

    def _record_length(self, data: bytes, at: int, generation: int, sequence: int | None) -> int | None:
        """The length of the body of a record at a place of the log; None if none of this number begins there."""
        if at + RECORD_HEADER.size > self._geometry.log_bytes:
            return None
        _, magic, of_generation, number, length, _ = RECORD_HEADER.unpack_from(data, at)
        if magic != RECORD_MAGIC or of_generation != generation or sequence not in (None, number):
            return None
        return int(length) if at + RECORD_HEADER.size + length <= self._geometry.log_bytes else None

    def _changes(self, data: bytes, at: int, length: int) -> Changes | None:
        """The changes in a record, or None if it is not whole."""
        end = at + RECORD_HEADER.size + length
        checksum, *_, count = RECORD_HEADER.unpack_from(data, at)
        if checksum != self._seal.sum(data[at + _CHECKSUM_BYTES : end]):
            return None
        return unpack_changes(data[at + RECORD_HEADER.size : end], count)
