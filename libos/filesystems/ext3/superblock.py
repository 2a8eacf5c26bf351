"""The superblock of a mounted file system: its bytes, of which single fields change."""

from typing import Final

from libos.filesystems.ext3.geometry import Geometry
from libos.filesystems.ext3.layout import SUPERBLOCK_SIZE, Incompatible, ReadOnlyCompatible, State
from libos.filesystems.ext3.records import SUPERBLOCK_OFFSETS
from libos.filesystems.ext3.transactions import Deferred
from libos.storage.cache import BlockCache

_WIDTHS: Final = {"state": 2, "mnt_count": 2}


class LiveSuperblock:
    """Fields change in a transaction (`change`) or, when none runs, in memory until `write` puts all into place."""

    def __init__(self, raw: bytes, geometry: Geometry, deferred: Deferred) -> None:
        self.raw = bytearray(raw[:SUPERBLOCK_SIZE])
        self._geometry = geometry
        self._deferred = deferred
        self._was_clean = False

    def get(self, field: str) -> int:
        """The value of an integer field."""
        at = SUPERBLOCK_OFFSETS[field]
        return int.from_bytes(self.raw[at : at + _WIDTHS.get(field, 4)], "little")

    def set(self, field: str, value: int) -> None:
        """Change an integer field in memory."""
        at, width = SUPERBLOCK_OFFSETS[field], _WIDTHS.get(field, 4)
        self.raw[at : at + width] = value.to_bytes(width, "little")

    async def change(self, field: str, value: int) -> None:
        """Change an integer field, as a part of the running operation."""
        self.set(field, value)
        at, width = SUPERBLOCK_OFFSETS[field], _WIDTHS.get(field, 4)
        geometry = self._geometry
        await self._deferred.changed(
            geometry.superblock_block, geometry.superblock_offset + at, lambda: bytes(self.raw[at : at + width])
        )

    async def allow_large_files(self) -> None:
        """A file of 2 GiB or more is about to be: say so, as a part of the running operation."""
        features = self.get("feature_ro_compat")
        if not features & ReadOnlyCompatible.LARGE_FILE:
            await self.change("feature_ro_compat", features | ReadOnlyCompatible.LARGE_FILE)

    def begin(self, now: int, journal: bool) -> None:
        """In memory: the file system is in use from `now` (seconds) on.  With a journal it can be made clean at any time;
        without, it is not until the unmounting."""
        self.set("mtime", now)
        self.set("wtime", now)
        self.set("mnt_count", min(self.get("mnt_count") + 1, 0xFFFF))
        self._was_clean = bool(self.get("state") & State.CLEAN)
        if journal:
            self.set("feature_incompat", self.get("feature_incompat") | Incompatible.RECOVER)
        else:
            self.set("state", self.get("state") & ~State.CLEAN)

    def end(self, now: int, journal: bool) -> None:
        """In memory: nobody uses the file system any more.  It is as clean as it was."""
        self.set("wtime", now)
        if journal:
            self.set("feature_incompat", self.get("feature_incompat") & ~Incompatible.RECOVER)
        elif self._was_clean:
            self.set("state", self.get("state") | State.CLEAN)

    def record(self, free_blocks: int, free_inodes: int) -> None:
        """In memory: the totals of what the group descriptors say."""
        self.set("free_blocks_count", free_blocks)
        self.set("free_inodes_count", free_inodes)

    async def record_changes(self, free_blocks: int, free_inodes: int) -> None:
        """The same as a part of the running transaction, if they have changed.  Linux leaves them to the unmounting; here
        they are a part of every transaction, so that they are right as soon as a journal has been replayed."""
        for field, value in (("free_blocks_count", free_blocks), ("free_inodes_count", free_inodes)):
            if self.get(field) != value:
                await self.change(field, value)

    async def write(self, cache: BlockCache) -> None:
        """Put the bytes into place, past any journal, and wait until they are on the medium."""
        block = self._geometry.superblock_block
        await cache.write(block, bytes(self.raw), self._geometry.superblock_offset)
        await cache.write_back([block])
        await cache.flush()
