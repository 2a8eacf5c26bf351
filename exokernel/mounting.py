"""The ext3 in an image, made and mounted by a coroutine over the extent that a place names; for the commands of `exo fs`.

What only looks at a file system works on a private copy of the image, so that a journal can be recovered in it and nothing
changes in the file.
"""

import os
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from exokernel.abi.flags import Rights
from exokernel.abi.layout import SECTOR_SIZE, SECTORS_PER_PAGE
from exokernel.filesystem_session import DiskSession
from exokernel.images import ImageError, Place, check_size, create_image, opened
from libos.filesystems.ext3 import mkfs
from libos.filesystems.ext3.filesystem import Ext3
from libos.filesystems.ext3.layout import MAGIC, SUPERBLOCK_OFFSET
from libos.filesystems.ext3.records import SUPERBLOCK_OFFSETS
from libos.filesystems.interface import CorruptFileSystem
from libos.storage.volume import Volume

BASE: Final = 0x1_0000_0000
"""Where the cache's address space begins."""
CAPACITY: Final = 4096
"""Blocks it keeps."""
HASHES: Final = {"legacy": 0, "half_md4": 1, "tea": 2}
"""The numbers of the superblock for how directories are hashed."""

T = TypeVar("T")


@dataclass(frozen=True)
class MakeOptions:
    """How to make a file system; 0 and empty: as `mkfs.ext3` would by default.  `block_size` and `inode_size` in bytes;
    the UUID and the seed of the directories' hash come from `seed`, None being the host's randomness."""

    block_size: int = 0
    inode_size: int = 256
    inodes: int = 0
    label: bytes = b""
    uuid: str = ""
    hash_name: str = "half_md4"
    seed: int | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """For `make` of the library.  Raises ImageError if they make no sense."""
        if self.inodes < 0:
            raise ImageError(f"{self.inodes} inodes make no sense.")
        if self.hash_name not in HASHES:
            raise ImageError(f"There is no hash called {self.hash_name}; there are: {', '.join(sorted(HASHES))}.")
        chance = random.SystemRandom() if self.seed is None else random.Random(self.seed)
        identity, hash_seed = (uuid.UUID(int=chance.getrandbits(128), version=4).bytes for _ in range(2))
        if self.uuid:
            try:
                identity = uuid.UUID(self.uuid).bytes
            except ValueError:
                raise ImageError(f"{self.uuid!r} is no UUID; one looks like {uuid.UUID(int=0)}.") from None
        return {
            "block_size": self.block_size or None,
            "inode_size": self.inode_size,
            "inodes": self.inodes or None,
            "label": self.label,
            "uuid": identity,
            "hash_seed": hash_seed,
            "hash_version": HASHES[self.hash_name],
            "now": now(),
        }


def now() -> int:
    """Seconds since 1970, those of SOURCE_DATE_EPOCH if that is set, so that an image can be made again bit by bit."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    return int(text) if text.isdecimal() else int(time.time())


def on_mounted(place: Place, work: Callable[[Ext3, Callable[[], None]], Awaitable[T]], write: bool) -> T:
    """Mount the file system at a place, have `work` done with it, and unmount it, whatever came of the work.

    `work` gets the file system, and a function to call between two steps, which raises Interrupted after Ctrl-C.  Without
    `write` the image stays as it is.  Gives what `work` gave, and raises what it raised; ImageError, DiskError,
    CorruptFileSystem.
    """
    with opened(place, write) as (disk, extent):
        session = DiskSession(disk, stop_at_interrupt=True)

        async def main(volume: Volume) -> T:
            if not await _has_superblock(volume):
                raise ImageError(f"There is no file system in {place}; make one with: exo fs mkfs {place}")
            files = await Ext3.mount(volume, base=BASE, capacity=CAPACITY, read_only=not write, epoch=now())
            if write and files.read_only:
                raise CorruptFileSystem("It needs features this library does not know for writing; it can only be read.")
            try:
                return await work(files, session.check)
            finally:
                await files.unmount()

        return session.run(main, extent)


def make(place: Place, size: int, options: MakeOptions, force: bool) -> None:
    """Make an ext3 at a place: in a new image of `size` bytes, or in an existing image or partition, with `force` also over
    something that is there.  Raises ImageError, DiskError."""
    arguments = options.arguments
    new = not place.partition and not place.image.exists()
    if new:
        if not size:
            raise ImageError(f"There is no image {place.image}; say how large a new one is to be, such as --size 64M.")
        create_image(place.image, size)
    try:
        with opened(place, write=True) as (disk, extent):
            if size and size != extent[1] * SECTOR_SIZE:
                there = extent[1] * SECTOR_SIZE
                check_size(size, "An image")
                raise ImageError(f"{place} is there already, with {there} bytes, and keeps its size; leave out --size.")

            async def main(volume: Volume) -> None:
                if not force and any(await _beginning(volume)):
                    raise ImageError(f"{place} is not empty; to lose what it has: exo fs mkfs {place} --force")
                await _clear_beginning(volume)
                await mkfs.make(volume, base=BASE, **arguments)

            DiskSession(disk, stop_at_interrupt=True).run(main, extent)
    except BaseException as error:
        if new:
            place.image.unlink(missing_ok=True)
        if isinstance(error, mkfs.CannotMake):
            raise ImageError(f"{place}: {error}") from None
        raise


@asynccontextmanager
async def _page(volume: Volume) -> AsyncIterator[int]:
    """A frame of zeros, mapped at BASE for as long as the context lasts."""
    exo = volume.exo
    frame = await exo.alloc_page()
    await exo.create_mapping(BASE, frame, int(Rights.READ | Rights.WRITE))
    yield frame
    await exo.remove_mapping(BASE)
    await exo.dealloc_page(frame)


async def _beginning(volume: Volume) -> bytes:
    """The first page of a volume, or all of a smaller one."""
    async with _page(volume) as frame:
        count = min(SECTORS_PER_PAGE, volume.sectors)
        await volume.wait(await volume.begin_read(0, count, frame))
        return await volume.exo.read(BASE, count * SECTOR_SIZE)


async def _has_superblock(volume: Volume) -> bool:
    at = SUPERBLOCK_OFFSET + SUPERBLOCK_OFFSETS["magic"]
    return (await _beginning(volume))[at : at + 2] == MAGIC.to_bytes(2, "little")


async def _clear_beginning(volume: Volume) -> None:
    """Whatever was there, it is not there any more."""
    async with _page(volume) as frame:
        await volume.wait(await volume.begin_write(0, min(SECTORS_PER_PAGE, volume.sectors), frame))


async def facts(files: Ext3) -> dict[str, Any]:
    """What is known of a mounted file system as a whole, for people and for JSON."""
    geometry, usage = files.geometry, await files.usage()
    return {
        "file_system": "ext3" if geometry.has_journal else "ext2",
        "label": os.fsdecode(geometry.label),
        "uuid": str(uuid.UUID(bytes=geometry.uuid)),
        "block_size": usage.block_size,
        "blocks": usage.blocks,
        "free_blocks": usage.free_blocks,
        "inodes": usage.inodes,
        "free_inodes": usage.free_inodes,
        "inode_size": geometry.inode_size,
        "groups": geometry.groups,
        "hash": {number % 3: name for name, number in HASHES.items()}[geometry.hash_version % 3],
    }


__all__ = ["HASHES", "MakeOptions", "facts", "make", "now", "on_mounted"]
