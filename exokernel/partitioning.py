"""Making disk images with partitions, from outside the machine."""

import os
import random
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from exokernel.abi.layout import SECTOR_SIZE
from exokernel.abi.partitions import (
    ACCESS_SECTORS,
    ACCESS_TYPE,
    ALIGNMENT,
    DATA_TYPE,
    ENTRIES,
    TABLE_SECTORS,
    Partition,
    PartitionError,
    PartitionTable,
    build,
    parse,
)
from exokernel.machine.disk import DiskError

ACCESS_NAME = "exokernel access"


def plan(size: int, partitions: Sequence[tuple[str, int]], seed: int | None = None) -> PartitionTable:
    """A table for an image of `size` bytes: each partition with its name and size in bytes, one after the other from the
    first MiB on, and before them the one with the access records.  A size of 0, of the last one only: all that is left.

    `seed`: of the GUIDs; None takes the host's randomness.  Raises PartitionError if they do not fit.
    """
    if size % SECTOR_SIZE or any(length < 0 or length % SECTOR_SIZE for _, length in partitions):
        raise PartitionError(f"has sizes that are multiples of {SECTOR_SIZE} bytes, a sector")
    if len(partitions) >= ENTRIES:
        raise PartitionError(f"has room for {ENTRIES - 1} partitions")
    if any(not length for _, length in partitions[:-1]):
        raise PartitionError("has sizes for all partitions but the last, which may have the rest")
    chance = random.Random(seed) if seed is not None else random.SystemRandom()

    def guid() -> UUID:
        return UUID(int=chance.getrandbits(128), version=4)

    sectors, disk = size // SECTOR_SIZE, guid()
    first, last = TABLE_SECTORS + 1, sectors - TABLE_SECTORS - 1
    made = [Partition(0, ACCESS_NAME, ALIGNMENT, ACCESS_SECTORS, ACCESS_TYPE, guid())]
    for index, (name, length) in enumerate(partitions, 1):
        before = made[-1]
        start = -(-(before.start + before.sectors) // ALIGNMENT) * ALIGNMENT
        made.append(Partition(index, name, start, length // SECTOR_SIZE or last + 1 - start, DATA_TYPE, guid()))
    end = made[-1].start + made[-1].sectors
    if end > last + 1 or made[-1].sectors < 1:
        short = max(end - last - 1, 1 - made[-1].sectors) * SECTOR_SIZE
        raise PartitionError(
            f"needs {short} bytes more than the {size} the image has; make it larger or the partitions smaller"
        )
    return PartitionTable(disk, first, last, tuple(made))


def create_image(path: Path, size: int, partitions: Sequence[tuple[str, int]], seed: int | None = None) -> PartitionTable:
    """Make the file `path`, `size` bytes of zeros with a partition table: see `plan`.  An existing file is replaced.

    Raises DiskError if the partitions do not fit or the file cannot be written.
    """
    try:
        table = plan(size, partitions, seed)
        first, last = build(table, size // SECTOR_SIZE)
    except PartitionError as error:
        raise DiskError(f"The partition table of {path} {error}.") from None
    try:
        with open(path, "wb") as file:
            file.truncate(size)
            file.write(first)
            file.seek(size - len(last))
            file.write(last)
    except OSError as error:
        raise DiskError(f"The disk image {path} cannot be written: {error.strerror}.") from None
    return table


def read_table(path: Path) -> PartitionTable | None:
    """The partition table of an image file; None if it has none.  Raises DiskError for a damaged one or an unreadable
    file."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size

            def read(sector: int, count: int) -> bytes:
                file.seek(sector * SECTOR_SIZE)
                return file.read(count * SECTOR_SIZE)

            return parse(read, size // SECTOR_SIZE)
    except OSError as error:
        raise DiskError(f"The disk image {path} cannot be read: {error.strerror}.") from None
    except PartitionError as error:
        raise DiskError(f"The partition table of {path} {error}.") from None
