"""The disk: sectors of 512 bytes that are read and written whole, and how long that takes.

The first `sectors` sectors are the medium, in memory or in a host file.  Behind them lie attachments: host files, each
beginning on a sector of its own and read-only, the last sector filled up with zeros.  The disk serves one request at a
time; which is next, and who may ask, is not its business.
"""

import mmap
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from exokernel.abi.layout import SECTOR_SIZE
from exokernel.machine.costs import DISK_LATENCY, DISK_SECTOR

_ZEROS = bytes(1 << 20)


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


class Disk:
    """`sectors` sectors, zero at first, or those of the image file at `path`, which must be a whole number of them."""

    def __init__(self, sectors: int = 0, path: Path | None = None) -> None:
        self._file: BinaryIO | None = None
        if path is not None:
            sectors, self._medium = self._open(path)
        else:
            self._medium = mmap.mmap(-1, max(sectors, 1) * SECTOR_SIZE)
        self.sectors = sectors
        self.end = sectors
        self._attachments: list[Attachment] = []
        self._starts: list[int] = []
        self._maps: list[mmap.mmap | None] = []

    def _open(self, path: Path) -> tuple[int, mmap.mmap]:
        try:
            self._file = open(path, "r+b")  # noqa: SIM115 - stays open until close()
            size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise DiskError(f"The disk image {path} cannot be opened for reading and writing: {error.strerror}.") from None
        if size == 0 or size % SECTOR_SIZE:
            self._file.close()
            raise DiskError(
                f"The disk image {path} has {size} bytes, which is not a whole number of {SECTOR_SIZE}-byte sectors; "
                f"make one with: truncate -s 64M {path}"
            )
        return size // SECTOR_SIZE, mmap.mmap(self._file.fileno(), size)

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

    def read(self, sector: int, count: int) -> bytes:
        """The bytes of `count` sectors; they must lie within the medium or within one attachment."""
        if sector < self.sectors:
            return self._medium[sector * SECTOR_SIZE : (sector + count) * SECTOR_SIZE]
        index = bisect_right(self._starts, sector) - 1
        mapped, offset = self._maps[index], (sector - self._starts[index]) * SECTOR_SIZE
        data = mapped[offset : offset + count * SECTOR_SIZE] if mapped is not None else b""
        return data.ljust(count * SECTOR_SIZE, b"\0")

    def write(self, sector: int, data: bytes | memoryview) -> None:
        """Store whole sectors on the medium."""
        assert sector * SECTOR_SIZE + len(data) <= self.sectors * SECTOR_SIZE, "attachments are read-only"
        self._medium[sector * SECTOR_SIZE : sector * SECTOR_SIZE + len(data)] = bytes(data)

    def erase(self, sector: int, count: int) -> None:
        """Fill sectors of the medium with zeros; attachments stay as they are."""
        if sector < self.sectors:
            for start in range(sector * SECTOR_SIZE, (sector + count) * SECTOR_SIZE, len(_ZEROS)):
                size = min(len(_ZEROS), (sector + count) * SECTOR_SIZE - start)
                self._medium[start : start + size] = _ZEROS[:size]

    def service_cycles(self, count: int) -> int:
        """How long a request for `count` sectors takes once it is its turn."""
        return DISK_LATENCY + DISK_SECTOR * count

    def close(self) -> None:
        """Write everything to the image file, if there is one, and let go of the host's files."""
        if self._file is not None:
            self._medium.flush()
        self._medium.close()
        for mapped in self._maps:
            if mapped is not None:
                mapped.close()
        self._maps = []
        if self._file is not None:
            self._file.close()
