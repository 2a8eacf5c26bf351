"""Several readers and writers in one environment, on one mounted ext3: each sees its own files as it left them, whoever
else is at work, also while the kernel wants the frames of the cache back."""

import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Refused
from exokernel.abi.flags import Event
from exokernel.abi.layout import SECTOR_SIZE
from libos.filesystems.ext3.filesystem import Ext3
from libos.filesystems.interface import Errno, FileSystem, FileSystemError
from libos.filesystems.paths import Tree
from libos.storage.volume import Volume
from tests.filesystems import judges
from tests.filesystems.long import LONG
from tests.filesystems.stages import BASE, EPOCH, empty_image
from tests.filesystems.test_fsx import exercise
from tests.storage.contexts import FRAMES, Restless, together
from tests.storage.kit import DiskMachine

NAMES = 20
LENGTH = 300 << 10
SCARCE = 160 << 12
"""Memory, in bytes, of a machine that has too little for the cache and the other environment."""
HUNGER = 60
"""The most frames that the other environment wants."""


class _Only:
    """A session that stays mounted, since others use it too."""

    def __init__(self, files: FileSystem) -> None:
        self.files = files

    async def remount(self) -> None:
        return

    async def tick(self) -> None:
        return


class Shared:
    """The file system that all contexts share, and how many of them are still at work."""

    def __init__(self, mode: str, capacity: int, jobs: int) -> None:
        self._options: dict[str, Any] = {"mode": mode, "capacity": capacity}
        self._files: Ext3 | None = None
        self._left = jobs
        self.released = 0

    async def mount(self, volume: Volume) -> None:
        self._files = await Ext3.mount(volume, base=BASE, epoch=EPOCH, **self._options)

    async def files(self) -> Ext3:
        """The file system, when it is mounted."""
        while self._files is None:
            await _pause(10_000)
        return self._files

    async def unmount(self, volume: Volume) -> None:
        """When all others have finished."""
        while self._left:
            await _pause(1_000_000)
        await (await self.files()).unmount()
        self._files = None

    async def release(self, count: int) -> int:
        given = await self._files.release(count) if self._files is not None else 0
        self.released += given
        return given

    def job(self, number: int, seed: int, operations: int) -> Callable[[Volume], Awaitable[None]]:
        """One file exercised, or a directory with many files."""

        async def run(volume: Volume) -> None:
            files = await self.files()
            try:
                if number % 2:
                    await _names(files, b"/directory-%d" % number, random.Random(f"{seed} {number}"), operations)
                else:
                    await exercise(_Only(files), 100 * seed + number, operations, longest=LENGTH)
            finally:
                self._left -= 1

        return run


async def _pause(cycles: int) -> None:
    await Exo().block(Event.TIME, 0, await Exo().time() + cycles)


async def _names(files: FileSystem, home: bytes, rng: random.Random, operations: int) -> None:
    """Make, replace, rename, read and remove files of a directory of one's own."""
    tree, there = Tree(files), dict[bytes, bytes]()
    await tree.mkdir(home)
    for _ in range(operations):
        name = home + b"/%d" % rng.randrange(NAMES) + b"x" * rng.choice((0, 0, 100))
        match rng.randrange(6):
            case 0:
                contents = rng.randbytes(rng.randrange(4000))
                there.pop(name, None)
                try:
                    await tree.write_file(name, contents)
                except FileSystemError as error:
                    if error.errno is not Errno.ENOSPC:
                        raise
                    await tree.unlink(name)
                else:
                    there[name] = contents
            case 1 if name in there:
                await tree.unlink(name)
                del there[name]
            case 2 if name in there:
                await tree.rename(name, name + b" renamed")
                there[name + b" renamed"] = there.pop(name)
            case 3 if there:
                chosen = rng.choice(sorted(there))
                assert await tree.read_file(chosen) == there[chosen]
            case 4:
                await files.sync()
            case _:
                assert {home + b"/" + entry.name for entry in await tree.list(home)} == set(there)


async def _hog(seed: int) -> None:
    """Another environment that wants memory, more and less: never as much as the cache has, which is asked for it."""
    exo, rng, frames = Exo(), random.Random(seed), list[int]()
    while True:
        await _pause(rng.randrange(10**5, 3 * 10**6))
        wanted = rng.randrange(HUNGER)
        while len(frames) < wanted:
            seen = int.from_bytes(await exo.read(FRAMES, 8), "little")
            try:
                frames.append(await exo.alloc_page())
            except Refused:
                await exo.block(Event.FRAMES, seen)
        while len(frames) > wanted:
            await exo.dealloc_page(frames.pop())


def share(seed: int, block_size: int, mode: str, capacity: int, jobs: int, hungry: bool = False) -> Shared:
    """Run so many jobs at once; e2fsck has the last word."""
    image = empty_image(4 << 20, block_size, 256)
    shared = Shared(mode, capacity, jobs)
    with DiskMachine(len(image) // SECTOR_SIZE, memory=SCARCE if hungry else 8 << 20) as machine:
        machine.load(image)
        work = [shared.job(number, seed, 400 if hungry else 60) for number in range(jobs)]
        together(
            machine, [shared.mount, *work, shared.unmount],
            exo=Restless(seed, 0.2), release=shared.release if hungry else None,
            hog=(lambda: _hog(seed)) if hungry else None,
        )  # fmt: skip
        judges.assert_silent(machine.image())
    return shared


@pytest.mark.parametrize("seed", range(100 if LONG else 2))
@pytest.mark.parametrize(
    ("block_size", "mode", "capacity"), [(1024, "ordered", 24), (2048, "journal", 64), (4096, "writeback", 40)]
)
def test_contexts_share_a_file_system(seed: int, block_size: int, mode: str, capacity: int) -> None:
    share(seed, block_size, mode, capacity, jobs=4)


def test_contexts_share_a_file_system_that_gives_its_frames_back() -> None:
    released = [share(seed, 1024, "ordered", 200, jobs=3, hungry=True).released for seed in range(10 if LONG else 2)]
    assert sum(released) > 20, "the kernel has asked for frames"
