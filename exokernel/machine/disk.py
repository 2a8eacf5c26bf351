"""The disk: sectors of 512 bytes that are read and written whole, what a power cut leaves of them, and how long they take.

The first sectors are those of a host file, the image, if there is one; behind it lie sectors in memory, zero at first and
gone at the end.  Together they are the medium.  Behind the medium lie attachments: host files, each beginning on a sector
of its own and read-only, the last sector filled up with zeros.  The disk serves one request at a time; which is next, and
who may ask, is not its business, and how long it takes is its drive's.

A request comes in two steps: `service_cycles` when its turn comes, and when that time has passed `store`, `read` or
`flushed`.  What has been stored is read back at once, but is durable only if it was forced, if the drive has moved it out
of its write cache, or after a flush.  `write` and `erase` put contents there from outside, durable at once."""

import fcntl
import mmap
import os
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from exokernel.abi.layout import SECTOR_SIZE
from exokernel.abi.partitions import PartitionError, PartitionTable, parse
from exokernel.machine.drives import Drive, SolidState
from exokernel.machine.volatile import VolatileSectors, chosen

_ZEROS = bytes(1 << 20)
_CHUNK_SHIFT = 7
"""Sectors in memory are known to be zero by chunks of so many (2^7 sectors, 64 KiB)."""
_LIKELIHOODS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""With which a sector in the cache survives a power cut in its latest version: one of these for all sectors of a cut, so
that cuts that lose all and cuts that lose nothing are among them."""


class DiskError(Exception):
    """The disk image or an attachment cannot be used; the message says which file, why, and what to do."""


@dataclass(frozen=True)
class Attachment:
    """A host file behind the medium: its first sector and its size in bytes."""

    name: str
    sector: int
    size: int

    @property
    def sectors(self) -> int:
        return -(-self.size // SECTOR_SIZE)


@dataclass(frozen=True, slots=True)
class Written:
    """A write that has reached the device, whole sectors from `sector` on; `forced`: onto the medium."""

    sector: int
    data: bytes
    forced: bool


@dataclass(frozen=True, slots=True)
class Flushed:
    """Everything written before is on the medium."""


class Disk:
    """The sectors of the image file at `path`, if one is given, which must be a whole number of them, and `sectors` in
    memory behind it.  `drive` makes the model of the drive for so many sectors, a solid-state disk by default.  With
    `private` the image file is only read, and what is written to its sectors is gone at the end.  An image in use by
    somebody else is refused, unless both only read it.

    `record`: a list to which every write and flush that reaches the device is appended, or None.
    """

    def __init__(
        self,
        sectors: int = 0,
        path: Path | None = None,
        drive: Callable[[int], Drive] = SolidState,
        private: bool = False,
    ) -> None:
        self._file: BinaryIO | None = None
        self._image: mmap.mmap | None = None
        self.image_sectors = self.sectors = 0
        self.partitions: PartitionTable | None = None
        if path is not None:
            self.image_sectors, self._image = self._open(path, private)
            self.sectors = self.image_sectors
            try:
                self.partitions = parse(self.read, self.image_sectors)
            except PartitionError as error:
                self._image.close()
                if self._file is not None:
                    self._file.close()
                raise DiskError(
                    f"The partition table of {path} {error}; repair it with gdisk or sgdisk, or make another image."
                ) from None
        self._memory = mmap.mmap(-1, max(sectors, 1) * SECTOR_SIZE)
        self.sectors += sectors
        self.end = self.sectors
        self._make_drive = drive
        self.drive = drive(self.sectors)
        self.record: list[Written | Flushed] | None = None
        self._volatile = VolatileSectors()
        self._ends = 0
        """The cycle in which the request under way, or the last one, ends."""
        self._used: set[int] = set()
        """Chunks of the memory that may not be zero."""
        self._attachments: list[Attachment] = []
        self._starts: list[int] = []
        self._maps: list[mmap.mmap | None] = []

    def _open(self, path: Path, private: bool) -> tuple[int, mmap.mmap]:
        how = "reading" if private else "reading and writing"
        try:
            self._file = open(path, "rb" if private else "r+b")  # noqa: SIM115 - stays open until close()
            size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise DiskError(f"The disk image {path} cannot be opened for {how}: {error.strerror}.") from None
        self._lock(self._file, path, private)
        if size == 0 or size % SECTOR_SIZE:
            self._file.close()
            what = f"has {size} bytes, which is not a whole number of {SECTOR_SIZE}-byte sectors" if size else "is empty"
            raise DiskError(f"{path} {what}, so it is no disk image; a new one is made by: truncate -s 64M NEW.img")
        access = mmap.ACCESS_COPY if private else mmap.ACCESS_WRITE
        return size // SECTOR_SIZE, mmap.mmap(self._file.fileno(), size, access=access)

    @staticmethod
    def _lock(file: BinaryIO, path: Path, private: bool) -> None:
        """Keep others from changing the image, and from looking at it while it changes, until the file is closed."""
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if private else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise DiskError(f"The disk image {path} is in use by another exo command; wait until that has ended.") from None
        except OSError:  # the host's file system has no locks
            return

    def attach(self, path: Path, name: str = "") -> Attachment:
        """Put a host file behind the medium.  Raises DiskError if it cannot be read."""
        try:
            with open(path, "rb") as file:
                if not os.path.isfile(path):
                    raise DiskError(f"{path} is not a regular file and cannot be attached as sectors.")
                size = os.fstat(file.fileno()).st_size
                mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else None
        except OSError as error:
            raise DiskError(f"The file {path} cannot be read: {error.strerror}.") from None
        attachment = Attachment(name or str(path), self.end, size)
        self._attachments.append(attachment)
        self._starts.append(self.end)
        self._maps.append(mapped)
        self.end += max(attachment.sectors, 1)
        return attachment

    @property
    def attachments(self) -> Sequence[Attachment]:
        return self._attachments

    # Contents.  No run of sectors reaches from the image into the memory or from the medium into an attachment.

    def _place(self, sector: int) -> tuple[mmap.mmap, int]:
        if sector < self.image_sectors:
            assert self._image is not None
            return self._image, sector * SECTOR_SIZE
        return self._memory, (sector - self.image_sectors) * SECTOR_SIZE

    def read(self, sector: int, count: int) -> bytes:
        """The bytes of `count` sectors; they must lie within the image, the memory or one attachment."""
        if sector < self.sectors:
            medium, at = self._place(sector)
            return medium[at : at + count * SECTOR_SIZE]
        index = bisect_right(self._starts, sector) - 1
        mapped, offset = self._maps[index], (sector - self._starts[index]) * SECTOR_SIZE
        data = mapped[offset : offset + count * SECTOR_SIZE] if mapped is not None else b""
        return data.ljust(count * SECTOR_SIZE, b"\0")

    def write(self, sector: int, data: bytes | memoryview) -> None:
        """Put whole sectors onto the medium from outside: durable, and not recorded."""
        count = len(data) // SECTOR_SIZE
        self._put(sector, count, bytes(data))
        self._volatile.durable(sector, count)

    def store(self, sector: int, data: bytes, forced: bool = False) -> None:
        """The data of a write has come: onto the medium if it is forced or nothing is volatile here, else into the
        cache."""
        count = len(data) // SECTOR_SIZE
        if self.record is not None:
            self.record.append(Written(sector, data, forced))
        drive = self.drive
        if drive.volatile:
            if drive.settled:
                self._settle(self._ends)
            if forced:
                self._volatile.durable(sector, count)
            else:
                self._volatile.remember(sector, count, self.read(sector, count))
        self._put(sector, count, data)

    def flushed(self) -> None:
        """A flush has ended: everything stored before is durable."""
        if self.record is not None:
            self.record.append(Flushed())
        self.drive.settled.clear()
        self._volatile.clear()

    def _put(self, sector: int, count: int, data: bytes) -> None:
        assert sector + count <= self.sectors, "attachments are read-only"
        medium, at = self._place(sector)
        medium[at : at + count * SECTOR_SIZE] = data
        if sector >= self.image_sectors:
            first, last = sector >> _CHUNK_SHIFT, (sector + count - 1) >> _CHUNK_SHIFT
            self._used.add(first)
            if last != first:
                self._used.update(range(first, last + 1))

    def erase(self, sector: int, count: int) -> None:
        """Fill sectors of the medium with zeros, durably; attachments stay as they are.  Sectors in memory that nobody has
        written since they were zero cost nothing."""
        if sector >= self.sectors:
            return
        self._volatile.durable(sector, count)
        end = sector + count
        if sector < self.image_sectors:
            self._zero(sector, end)
            return
        for chunk in range(sector >> _CHUNK_SHIFT, (end - 1 >> _CHUNK_SHIFT) + 1):
            if chunk in self._used:
                first, last = chunk << _CHUNK_SHIFT, chunk + 1 << _CHUNK_SHIFT
                self._zero(max(first, sector), min(last, end))
                if sector <= first and last <= end:
                    self._used.discard(chunk)

    def _zero(self, sector: int, end: int) -> None:
        medium, start = self._place(sector)
        for at in range(start, start + (end - sector) * SECTOR_SIZE, len(_ZEROS)):
            size = min(len(_ZEROS), start + (end - sector) * SECTOR_SIZE - at)
            medium[at : at + size] = _ZEROS[:size]

    # Time.

    def service_cycles(
        self, now: int, sector: int, count: int, write: bool = False, forced: bool = False, through: Sequence[int] = ()
    ) -> int:
        """How long a request takes whose turn comes at cycle `now`; it must be the only one.  No sectors: a flush.
        `through`: where the head goes first."""
        drive = self.drive
        cycles = drive.transfer(now, write, sector, count, forced, through) if count else drive.flush(now)
        self._ends = now + cycles
        return cycles

    # Power.

    def _settle(self, now: int) -> None:
        """What the drive has moved to the medium by itself until `now`."""
        settled = self.drive.settled
        while settled and settled[0].cycle <= now:
            one = settled.pop(0)
            self._volatile.durable(one.sector, one.count)

    def power_cut(self, random: random.Random, now: int | None = None, under_way: tuple[int, bytes] | None = None) -> None:
        """The power goes at cycle `now` (None: at the end of the last request): of what is volatile, each sector keeps its
        latest contents or any it has had since it was last durable.  `under_way`: sector and data of the write being
        transferred, of which any sectors may have arrived.  What is left is durable, and in the image file.
        """
        now = self._ends if now is None else now
        self.drive.idle_until(now)
        self._settle(now)
        latest = random.choice(_LIKELIHOODS)
        left = {
            sector: version
            for sector, versions in self._volatile.versions().items()
            if (version := chosen(versions, latest, random)) is not None
        }
        if under_way is not None:
            first, data = under_way
            torn = random.choice(_LIKELIHOODS)
            for index in range(len(data) // SECTOR_SIZE):
                if random.random() < torn:
                    left[first + index] = data[index * SECTOR_SIZE : (index + 1) * SECTOR_SIZE]
        for sector, version in left.items():
            self._put(sector, 1, version)
        self.switch_off()
        if self._image is not None:
            self._image.flush()

    def switch_off(self) -> None:
        """The machine ends: what is still volatile reaches the medium, and the drive begins anew with the next machine's
        clock."""
        self._volatile.clear()
        self.drive = self._make_drive(self.sectors)
        self._ends = 0

    def close(self) -> None:
        """Write everything to the image file, if there is one, and let go of the host's files."""
        if self._image is not None:
            self._image.flush()
            self._image.close()
        self._memory.close()
        for mapped in self._maps:
            if mapped is not None:
                mapped.close()
        self._maps = []
        if self._file is not None:
            self._file.close()
