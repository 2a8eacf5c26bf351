"""Disk images as users name them: `IMAGE` is the whole file, `IMAGE:2` and `IMAGE:root` a partition of it by number or
label.  A file that exists under the whole name, colons and all, is meant before anything else.
"""

import difflib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from exokernel.abi.flags import Rights
from exokernel.abi.layout import SECTOR_SIZE
from exokernel.abi.partitions import (
    ACCESS_TYPE,
    DATA_TYPE,
    ENTRY_RECORDS,
    Partition,
    PartitionTable,
    access_sector,
    parse_access,
)
from exokernel.kernel.capabilities import EVERY_RIGHT
from exokernel.machine.disk import Disk
from exokernel.machine.drives import Ideal
from exokernel.partitioning import read_table

LARGEST_IMAGE: Final = 1 << 40


class ImageError(Exception):
    """The image cannot be used as it was named; the message says why and what to do."""


@dataclass(frozen=True)
class Place:
    """An image file, and a partition of it by number or label; none: all of it."""

    image: Path
    partition: str = ""

    def __str__(self) -> str:
        return f"{self.image}:{self.partition}" if self.partition else str(self.image)


def parse_place(text: str) -> Place:
    """What `IMAGE` or `IMAGE:PARTITION` names.  Where neither file exists, all of it is the name of the image."""
    image, colon, partition = text.rpartition(":")
    if colon and image and partition and not os.path.exists(text) and os.path.exists(image):
        return Place(Path(image), partition)
    return Place(Path(text))


def check_size(size: int, what: str) -> None:
    """Raise ImageError unless an image can have so many bytes."""
    if size <= 0 or size % SECTOR_SIZE or size > LARGEST_IMAGE:
        raise ImageError(
            f"{what} of {size} bytes makes no sense; it is a multiple of {SECTOR_SIZE} of at most {LARGEST_IMAGE >> 30}G."
        )


def create_image(path: Path, size: int) -> None:
    """A new image of so many bytes, all zeros and without blocks on the host until they are written.  Raises ImageError."""
    check_size(size, "An image")
    try:
        with open(path, "xb") as file:
            file.truncate(size)
    except FileExistsError:
        raise ImageError(f"{path} exists already; name another, or remove it.") from None
    except OSError as error:
        path.unlink(missing_ok=True)
        raise ImageError(f"{path} cannot be made: {error.strerror}.") from None


@contextmanager
def opened(place: Place, write: bool) -> Iterator[tuple[Disk, tuple[int, int]]]:
    """The disk and the extent (first sector, sectors) that a place names, for as long as the context lasts.

    Without `write` the file is not changed whatever is written to the disk.  Raises ImageError, DiskError.
    """
    _check_there(place.image)
    extent = extent_of(place)
    try:
        disk = Disk(path=place.image, drive=Ideal, private=not write)
    except OSError as error:
        size = place.image.stat().st_size
        raise ImageError(f"{place.image} with its {size} bytes cannot be mapped into memory: {error.strerror}.") from None
    try:
        yield disk, extent or (0, disk.sectors)
    finally:
        disk.close()


def extent_of(place: Place) -> tuple[int, int] | None:
    """The extent of the partition that a place names; None if it names the image and that has none."""
    table = read_table(place.image)
    if table is None:
        if place.partition:
            raise ImageError(f"{place.image} has no partitions; make one that has with: exo disk new")
        return None
    partitions = [one for one in table.partitions if one.type != ACCESS_TYPE]
    for one in partitions:
        if place.partition == str(one.index + 1):
            return one.start, one.sectors
    for one in partitions:
        if place.partition and place.partition == one.name:
            return one.start, one.sectors
    if not partitions:
        raise ImageError(f"{place.image} has a partition table without a partition for files; make one with: exo disk new")
    words = ", ".join(f"{place.image}:{one.index + 1}" + (f" ({one.name})" if one.name else "") for one in partitions)
    if not place.partition:
        raise ImageError(f"{place.image} has partitions; name one: {words}.")
    near = difflib.get_close_matches(place.partition, [one.name for one in partitions], 1, 0.5)
    hint = f"did you mean {place.image}:{near[0]}?" if near else f"there are: {words}."
    raise ImageError(f"{place.image} has no partition {place.partition}; {hint}")


def _check_there(path: Path) -> None:
    """Raise ImageError unless there is an image file."""
    if not path.is_file():
        raise ImageError(f"{path} is not a disk image, but {_kind_of(path)}." if path.exists() else _missing(path))


def described(image: Path) -> dict[str, Any]:
    """What is known of an image and its partitions, for people and for JSON: sizes, and the access lists as pairs of a name
    (relative to the first environment's) and permissions.  Raises ImageError, DiskError."""
    _check_there(image)
    table = read_table(image)
    found: dict[str, Any] = {"bytes": image.stat().st_size, "disk": "", "damaged": False, "partitions": []}
    if table is None:
        return found
    with open(image, "rb") as file:
        partitions = [_one_described(file, table, one) for one in table.partitions]
    return found | {"disk": str(table.disk), "damaged": table.from_backup, "partitions": partitions}


def _one_described(file: BinaryIO, table: PartitionTable, one: Partition) -> dict[str, Any]:
    access = []
    for index in range(ENTRY_RECORDS):
        sector = access_sector(table, one, index)
        if sector is not None:
            file.seek(sector * SECTOR_SIZE)
            record = parse_access(file.read(SECTOR_SIZE), one, index)
            if record is not None:
                permissions, name = record
                access.append({"name": list(name), "permissions": Rights(permissions & EVERY_RIGHT).name})
    return {
        "number": one.index + 1,
        "label": one.name,
        "first_sector": one.start,
        "sectors": one.sectors,
        "bytes": one.sectors * SECTOR_SIZE,
        "kind": {DATA_TYPE: "data", ACCESS_TYPE: "access records"}.get(one.type, str(one.type)),
        "unique": str(one.unique),
        "access": access,
    }


def _kind_of(path: Path) -> str:
    return "a directory" if path.is_dir() else "a special file"


def _missing(path: Path) -> str:
    """The sentence for an image that is not there, with the near name if there is one."""
    sentence = f"There is no image {path}"
    try:
        near = difflib.get_close_matches(path.name, [one.name for one in path.parent.iterdir() if one.is_file()], 1, 0.6)
    except OSError:
        near = []
    if near:
        return f"{sentence}; did you mean {path.with_name(near[0])}?"
    return f"{sentence}; make one with: exo fs mkfs {path} --size 64M"


__all__ = ["ImageError", "Place", "check_size", "create_image", "described", "opened", "parse_place"]
