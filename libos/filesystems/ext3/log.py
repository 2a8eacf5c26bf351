"""The format of the journal's blocks: what the running journal writes and recovery reads.

The log is a ring of blocks `first` to `end` of the journal, whose block 0 is its superblock.  A transaction with a sequence
number lies in it as revoke blocks (numbers of blocks of which no earlier copy may be replayed), descriptor blocks, each
followed by the copies of the blocks that its tags name, and at the end a commit block.  A copy never begins with the
journal's magic number: where the block does, the copy begins with zeros and its tag says so.  Everything is big-endian.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from libos.filesystems.ext3.layout import JOURNAL_MAGIC, JournalBlock, JournalIncompatible, TagFlags
from libos.filesystems.ext3.records import (
    COMMIT_HEADER,
    JOURNAL_BLOCK_TAG,
    JOURNAL_HEADER,
    JOURNAL_REVOKE_HEADER,
    JOURNAL_SUPERBLOCK,
    JOURNAL_SUPERBLOCK_OFFSETS,
)
from libos.filesystems.interface import CorruptFileSystem
from libos.storage.cache import BlockCache

UUID_SIZE = 16
MAGIC_BYTES = JOURNAL_MAGIC.to_bytes(4, "big")
SEQUENCES = 1 << 32
_WORD = struct.Struct(">I")
_KNOWN = int(JournalIncompatible.REVOKE)
_VERSION_1_BYTES = JOURNAL_SUPERBLOCK_OFFSETS["feature_compat"]


def is_later(sequence: int, other: int) -> bool:
    """Whether a sequence number comes after another; they wrap around at 32 bits."""
    return 0 < (sequence - other) % SEQUENCES < SEQUENCES // 2


@dataclass(frozen=True)
class Tag:
    """A copy in the log: of which block, and whether its first four bytes were the magic number."""

    block: int
    escaped: bool


class Log:
    """The ring of blocks and the journal's superblock; `places` are the block numbers of the journal in their order."""

    def __init__(self, places: Sequence[int], block_size: int, superblock: bytes) -> None:
        self.block_size = block_size
        self._raw = bytearray(superblock[: JOURNAL_SUPERBLOCK.size])
        magic, kind = JOURNAL_HEADER.unpack_from(superblock)[:2]
        if magic != JOURNAL_MAGIC or kind not in (JournalBlock.SUPERBLOCK_V1, JournalBlock.SUPERBLOCK_V2):
            raise CorruptFileSystem("The journal does not begin with a superblock of a journal.")
        self.version = 1 if kind == JournalBlock.SUPERBLOCK_V1 else 2
        size = self._get("blocksize")
        if size != block_size:
            raise CorruptFileSystem(f"The journal has blocks of {size} bytes, the file system of {block_size}.")
        self.end = self._get("maxlen")
        self.first = self._get("first")
        if self.end > len(places):
            raise CorruptFileSystem(f"The journal says it has {self.end} blocks, and its inode {len(places)}.")
        if not 1 <= self.first < self.end:
            raise CorruptFileSystem(f"The journal's log cannot be blocks {self.first} to {self.end} of it.")
        self.places = tuple(places[: self.end])
        self.sequence = self._get("sequence")
        self.start = self._get("start")
        if self.start and not self.first <= self.start < self.end:
            raise CorruptFileSystem(f"The journal's log begins at block {self.start}, outside {self.first} to {self.end}.")
        self._check_features()

    @classmethod
    async def load(cls, cache: BlockCache, places: Sequence[int]) -> "Log":
        """Read the journal's superblock.  Raises CorruptFileSystem for one that makes no sense or asks for what this
        library does not know."""
        if not places:
            raise CorruptFileSystem("The journal is empty: its inode has no blocks.")
        for place in places:
            if not 0 < place < cache.blocks:
                raise CorruptFileSystem(f"Block {place} of the journal lies outside the file system.")
        return cls(places, cache.block_size, await cache.read(places[0]))

    def _check_features(self) -> None:
        if self.version == 1:
            return
        unknown = self._get("feature_incompat") & ~_KNOWN
        if unknown or self._get("feature_ro_compat"):
            names = [feature.name or "" for feature in JournalIncompatible if feature & unknown]
            rest = unknown & ~sum(JournalIncompatible)
            names += [f"{rest:#x}"] if rest else []
            names += [f"read-only {self._get('feature_ro_compat'):#x}"] if self._get("feature_ro_compat") else []
            raise CorruptFileSystem(f"The journal needs {', '.join(names)}, which this library does not know.")
        if self._get("nr_users") > 1:
            raise CorruptFileSystem("The journal is shared by several file systems, which this library does not support.")

    def _get(self, name: str) -> int:
        value: int = _WORD.unpack_from(self._raw, JOURNAL_SUPERBLOCK_OFFSETS[name])[0]
        return value

    def _set(self, name: str, value: int) -> None:
        _WORD.pack_into(self._raw, JOURNAL_SUPERBLOCK_OFFSETS[name], value)

    # The ring.

    @property
    def size(self) -> int:
        """Blocks in the ring."""
        return self.end - self.first

    def after(self, position: int, count: int = 1) -> int:
        """The position `count` blocks further on."""
        return self.first + (position - self.first + count) % self.size

    # The superblock.

    def superblock(self, start: int, sequence: int) -> bytes:
        """The superblock of a log that begins with this transaction at this position (0: that is empty, and in which this
        transaction would be the next)."""
        if self.version == 1:
            self._raw[_VERSION_1_BYTES:] = bytes(len(self._raw) - _VERSION_1_BYTES)
            self._set("header.blocktype", JournalBlock.SUPERBLOCK_V2)
            self._set("nr_users", 1)
            self.version = 2
        self.start, self.sequence = start, sequence
        self._set("feature_incompat", _KNOWN)
        self._set("start", start)
        self._set("sequence", sequence)
        return bytes(self._raw)

    # Blocks of the log.

    @property
    def tags_in_a_descriptor(self) -> int:
        """How many copies one descriptor block can announce."""
        return (self.block_size - JOURNAL_HEADER.size - UUID_SIZE) // JOURNAL_BLOCK_TAG.size

    @property
    def revokes_in_a_block(self) -> int:
        """How many block numbers one revoke block takes."""
        return (self.block_size - JOURNAL_REVOKE_HEADER.size) // _WORD.size

    def header(self, block: bytes) -> tuple[int, int] | None:
        """The kind and the sequence number of a block of the log; None for one that is not the journal's own."""
        magic, kind, sequence = JOURNAL_HEADER.unpack_from(block)
        return (kind, sequence) if magic == JOURNAL_MAGIC else None

    def descriptor(self, sequence: int, tags: Sequence[Tag]) -> bytes:
        """A descriptor block; the copies follow it in this order."""
        parts = [JOURNAL_HEADER.pack(JOURNAL_MAGIC, JournalBlock.DESCRIPTOR, sequence)]
        for index, tag in enumerate(tags):
            flags = TagFlags.ESCAPED if tag.escaped else 0
            flags |= TagFlags.SAME_UUID if index else 0
            flags |= TagFlags.LAST if index == len(tags) - 1 else 0
            parts.append(JOURNAL_BLOCK_TAG.pack(tag.block, flags))
            if not index:
                parts.append(bytes(UUID_SIZE))
        return b"".join(parts)

    def tags(self, block: bytes) -> Iterator[Tag]:
        """What a descriptor block announces."""
        at = JOURNAL_HEADER.size
        flags = 0
        while not flags & TagFlags.LAST and at + JOURNAL_BLOCK_TAG.size <= self.block_size:
            number, flags = JOURNAL_BLOCK_TAG.unpack_from(block, at)
            yield Tag(number, bool(flags & TagFlags.ESCAPED))
            at += JOURNAL_BLOCK_TAG.size + (0 if flags & TagFlags.SAME_UUID else UUID_SIZE)

    def revoke(self, sequence: int, blocks: Sequence[int]) -> bytes:
        """A revoke block."""
        header = (JOURNAL_MAGIC, JournalBlock.REVOKE, sequence)
        size = JOURNAL_REVOKE_HEADER.size + _WORD.size * len(blocks)
        return JOURNAL_REVOKE_HEADER.pack(*header, size) + struct.pack(f">{len(blocks)}I", *blocks)

    def revoked(self, block: bytes) -> Sequence[int]:
        """The numbers in a revoke block.  Raises CorruptFileSystem for one whose length cannot be."""
        *_, sequence, size = JOURNAL_REVOKE_HEADER.unpack_from(block)
        count, rest = divmod(size - JOURNAL_REVOKE_HEADER.size, _WORD.size)
        if rest or not 0 <= count <= self.revokes_in_a_block:
            raise CorruptFileSystem(f"A revoke block of transaction {sequence} in the journal cannot have {size} bytes.")
        return struct.unpack_from(f">{count}I", block, JOURNAL_REVOKE_HEADER.size)

    def commit(self, sequence: int) -> bytes:
        """A commit block."""
        return COMMIT_HEADER.pack(
            JOURNAL_MAGIC, JournalBlock.COMMIT, sequence, b"\0", b"\0", bytes(2), *[0] * 8, 0, 0
        )  # fmt: skip
