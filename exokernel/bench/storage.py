"""Figures of the file system over the disk: host time beside plain Python that reads or writes the same image, and virtual
time on each model of a disk.

The plain reader knows where a file's blocks are and moves them with `pread`, one after the other: what a reader of ext3 in
Python cannot do without.  Each round of ours is a boot, a mount, the work and an unmounting, and the work is timed.
"""

import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, TypeVar

from exokernel.abi.layout import SECTOR_SIZE
from exokernel.bench.machine import figure, in_turns
from exokernel.bench.plain_reader import BLOCK, PlainReader
from exokernel.filesystem_session import DiskSession
from exokernel.machine.disk import Disk
from exokernel.machine.models import DRIVES
from exokernel.mounting import BASE, CAPACITY
from libos.filesystems.ext3 import mkfs
from libos.filesystems.ext3.filesystem import Ext3
from libos.storage.cache import BlockCache
from libos.storage.volume import Volume

FILE: Final = 64 << 20
VIRTUAL_FILE: Final = 16 << 20
PIECE: Final = 1 << 20
SMALL_FILES: Final = 2_000
SMALL: Final = bytes(range(250)) * 4
ENTRIES: Final = 50_000
LINKS: Final = 25_000
"""Names of one file, of the 32,000 that ext3 allows."""
LOOKUPS: Final = 40
MODELS: Final = ("ideal", "ssd", "rotating")
_DATA: Final = bytes((i * 7 + (i >> 8)) & 0xFF for i in range(PIECE))

T = TypeVar("T")


def _mounted(disk: Disk, work: Callable[[Ext3], Awaitable[T]], make: bool = False, read_only: bool = False) -> T:
    """Boot, mount (a new file system with `make`), work, unmount."""

    async def main(volume: Volume) -> T:
        if make:
            await mkfs.make(volume, base=BASE, block_size=BLOCK)
        files = await Ext3.mount(volume, base=BASE, capacity=CAPACITY, read_only=read_only)
        try:
            return await work(files)
        finally:
            await files.unmount()

    return DiskSession(disk).run(main)


@contextmanager
def _image(size: int) -> Iterator[Path]:
    """A file of so many bytes for as long as the context lasts, in memory if the host has such a place."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    handle, name = tempfile.mkstemp(suffix=".img", dir=where)
    try:
        os.ftruncate(handle, size)
        os.close(handle)
        yield Path(name)
    finally:
        os.unlink(name)


@contextmanager
def _disk(path: Path, model: str = "ideal") -> Iterator[Disk]:
    disk = Disk(path=path, drive=DRIVES[model])
    try:
        yield disk
    finally:
        disk.close()


async def _write(files: Ext3, size: int) -> float:
    """Seconds of the host for writing a file of `size` bytes and having it on the medium."""
    begin = time.perf_counter()
    inode = await files.create(files.root, b"file", 0o644)
    for offset in range(0, size, PIECE):
        await files.write(inode, offset, _DATA)
    await files.fsync(inode)
    return time.perf_counter() - begin


async def _read(files: Ext3, size: int) -> float:
    begin = time.perf_counter()
    inode = await files.lookup(files.root, b"file")
    for offset in range(0, size, PIECE):
        await files.read(inode, offset, PIECE)
    return time.perf_counter() - begin


# Figures in host time.


def _plainly(path: Path, inode: int, write: bool) -> float:
    """Seconds for every block of a file."""
    begin = time.perf_counter()
    reader = PlainReader(path)
    data = _DATA[:BLOCK]
    for block in reader.blocks(inode):
        if write:
            os.pwrite(reader.file, data, block * BLOCK)
        else:
            os.pread(reader.file, BLOCK, block * BLOCK)
    reader.close()
    return time.perf_counter() - begin


def _sequential(rounds: int, write: bool) -> dict[str, Any]:
    megabytes = FILE / 1e6
    with _image(FILE + (32 << 20)) as path:

        async def number(files: Ext3) -> int:
            return await files.lookup(files.root, b"file")

        def ours() -> float:
            with _disk(path) as disk:
                return _mounted(disk, partial(_write if write else _read, size=FILE), make=write)

        with _disk(path) as disk:
            _mounted(disk, partial(_write, size=FILE), make=True)
            inode = _mounted(disk, number)
        seconds, plain = in_turns(min(rounds, 3), ours, lambda: _plainly(path, inode, write))
    verb = "written" if write else "read"
    what = f"a 64 MiB file {verb} through the library and the kernel, beside {'pwrite' if write else 'pread'} of its blocks"
    return figure(megabytes / seconds, "MB/s", megabytes / plain, what)


def sequential_read(rounds: int) -> dict[str, Any]:
    """A large file, read from its beginning to its end."""
    return _sequential(rounds, write=False)


def sequential_write(rounds: int) -> dict[str, Any]:
    """A large file, written and on the medium."""
    return _sequential(rounds, write=True)


async def _create_and_read(files: Ext3) -> float:
    begin = time.perf_counter()
    folder = await files.make_directory(files.root, b"folder", 0o755)
    for number in range(SMALL_FILES):
        inode = await files.create(folder, b"file%05d" % number, 0o644)
        await files.write(inode, 0, SMALL)
    await files.sync()
    for number in range(SMALL_FILES):
        inode = await files.lookup(folder, b"file%05d" % number)
        assert await files.read(inode, 0, len(SMALL)) == SMALL
    return time.perf_counter() - begin


def _create_and_read_on_the_host() -> float:
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        names = [os.path.join(folder, f"file{number:05}") for number in range(SMALL_FILES)]
        for name in names:
            with open(name, "wb") as file:
                file.write(SMALL)
        for name in names:
            with open(name, "rb") as file:
                file.read()
        return time.perf_counter() - begin


def small_files(rounds: int) -> dict[str, Any]:
    """Many small files in one directory, created, made durable, and read."""
    with _image(32 << 20) as path:

        def ours() -> float:
            with _disk(path) as disk:
                return _mounted(disk, _create_and_read, make=True)

        seconds, host = in_turns(min(rounds, 3), ours, _create_and_read_on_the_host)
    what = (
        "2,000 files of 1,000 bytes created, synced and read again, beside the same with Python on the host's file system"
    )
    return figure(SMALL_FILES / seconds, "files/s", SMALL_FILES / host, what)


def mounting(rounds: int) -> dict[str, Any]:
    """Mounting a file system of 1 GiB."""
    with _image(1 << 30) as path:
        times: list[float] = []

        async def main(volume: Volume) -> None:
            begin = time.perf_counter()
            files = await Ext3.mount(volume, base=BASE, capacity=CAPACITY)
            times.append(time.perf_counter() - begin)
            await files.unmount()

        def ours() -> float:
            with _disk(path) as disk:
                DiskSession(disk).run(main)
            return times[-1]

        def plainly() -> float:
            begin = time.perf_counter()
            PlainReader(path).close()
            return time.perf_counter() - begin

        async def nothing(files: Ext3) -> None:
            return

        with _disk(path) as disk:
            _mounted(disk, nothing, make=True)
        seconds, plain = in_turns(rounds, ours, plainly)
    return figure(seconds, "s", plain, "mounting 1 GiB of ext3, beside reading its superblock and descriptors plainly")


# Figures in virtual time.


@cache
def _crowded() -> bytes:
    """An image with a directory of many entries, names of a few files."""
    with _image(16 << 20) as path:

        async def fill(files: Ext3) -> None:
            folder = await files.make_directory(files.root, b"folder", 0o755)
            for number in range(ENTRIES):
                if number % LINKS == 0:
                    inode = await files.create(folder, b"entry%07d" % number, 0o644)
                else:
                    await files.link(inode, folder, b"entry%07d" % number)

        with _disk(path) as disk:
            _mounted(disk, fill, make=True)
        return path.read_bytes()


def _memory_disk(image: bytes, model: str) -> Disk:
    disk = Disk(len(image) // SECTOR_SIZE, drive=DRIVES[model])
    disk.write(0, image)
    return disk


def _lookups(model: str) -> tuple[float, float]:
    """Of a lookup after mounting, on average: blocks asked for, and cycles."""
    blocks = cycles = 0

    async def main(volume: Volume) -> None:
        nonlocal blocks, cycles
        files = await Ext3.mount(volume, base=BASE, capacity=CAPACITY, read_only=True)
        folder = await files.lookup(files.root, b"folder")
        before, begin = files.statistics, await volume.exo.time()
        await files.lookup(folder, b"entry%07d" % number)
        after = files.statistics
        cycles += await volume.exo.time() - begin
        blocks += after.hits + after.misses - before.hits - before.misses
        await files.unmount()

    disk = _memory_disk(_crowded(), model)
    number = 0
    for number in range(0, ENTRIES, ENTRIES // LOOKUPS):  # noqa: B007 - `main` looks it up
        DiskSession(disk).run(main)
    disk.close()
    return blocks / LOOKUPS, cycles / LOOKUPS


def lookup_blocks(rounds: int) -> dict[str, Any]:
    """How many blocks a lookup touches."""

    async def size(files: Ext3) -> int:
        return (await files.attributes(await files.lookup(files.root, b"folder"))).size // BLOCK

    blocks, _ = _lookups("ideal")
    disk = _memory_disk(_crowded(), "ideal")
    all_of_them = _mounted(disk, size)
    disk.close()
    return figure(
        blocks, "blocks", all_of_them, "accesses to blocks of a lookup among 50,000 entries, beside the directory's blocks"
    )


def lookup(model: str, rounds: int) -> dict[str, Any]:
    """What a lookup with nothing in memory takes on a model of a disk."""
    _, cycles = _lookups(model)
    _, one = _raw(model, 1)
    what = f"virtual time of a lookup among 50,000 entries, nothing cached, disk model {model}; beside reading one block"
    return figure(cycles / 1e3, "us", one / 1e3, what)


def _raw(model: str, blocks: int) -> tuple[int, int]:
    """Cycles of writing and of reading so many blocks in order, through the cache alone, everything on the medium."""

    async def write(volume: Volume) -> int:
        cache, begin = BlockCache(volume, BLOCK, BASE, CAPACITY), await volume.exo.time()
        for block in range(blocks):
            await cache.write(block, _DATA[:BLOCK], fresh=True)
        await cache.write_back()
        await cache.flush()
        return await volume.exo.time() - begin

    async def read(volume: Volume) -> int:
        cache, begin = BlockCache(volume, BLOCK, BASE, CAPACITY), await volume.exo.time()
        await cache.read_run(0, blocks)
        return await volume.exo.time() - begin

    session = DiskSession(Disk(max(VIRTUAL_FILE * 2, blocks * BLOCK) // SECTOR_SIZE, drive=DRIVES[model]))
    with session:
        return session.run(write), session.run(read)


def _virtual(model: str, write: bool) -> dict[str, Any]:
    disk = Disk(2 * VIRTUAL_FILE // SECTOR_SIZE, drive=DRIVES[model])
    times: list[int] = []

    async def main(volume: Volume) -> None:
        files = await Ext3.mount(volume, base=BASE, capacity=CAPACITY)
        begin = await volume.exo.time()
        await (_write if not times else _read)(files, VIRTUAL_FILE)
        times.append(await volume.exo.time() - begin)
        await files.unmount()

    async def make(volume: Volume) -> None:
        await mkfs.make(volume, base=BASE, block_size=BLOCK)

    session = DiskSession(disk)
    with session:
        for work in (make, main, main):
            session.run(work)
    raw = _raw(model, VIRTUAL_FILE // BLOCK)
    index = 0 if write else 1
    verb = "writing" if write else "reading"
    what = f"{verb} 16 MiB of a file in virtual time, disk model {model}; beside the blocks alone, without a file system"
    return figure(VIRTUAL_FILE / times[index] * 1e3, "MB/s", VIRTUAL_FILE / raw[index] * 1e3, what)


def virtual_read(model: str, rounds: int) -> dict[str, Any]:
    """A file read in order, in virtual time."""
    return _virtual(model, write=False)


def virtual_write(model: str, rounds: int) -> dict[str, Any]:
    """A file written in order and on the medium, in virtual time."""
    return _virtual(model, write=True)


def figures() -> Iterator[tuple[str, Callable[[int], dict[str, Any]]]]:
    """The names of these figures, and what measures each."""
    yield "file_read", sequential_read
    yield "file_write", sequential_write
    yield "small_files", small_files
    yield "mount", mounting
    yield "lookup_blocks", lookup_blocks
    for model in MODELS:
        yield f"lookup_{model}", partial(lookup, model)
        yield f"file_read_{model}", partial(virtual_read, model)
        yield f"file_write_{model}", partial(virtual_write, model)
