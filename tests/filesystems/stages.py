"""Where a test plays: the file system in memory, or ext3 of several shapes on a disk of the real kernel.

    stage.run(main)            # async def main(session): session.files is a FileSystem, `await session.remount()` a new one

Ext3 is unmounted at the end and e2fsck must find nothing to say about the image.
"""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol, TypeVar

from exokernel.abi.flags import Event
from exokernel.abi.layout import SECTOR_SIZE
from libos.filesystems.ext3.filesystem import Ext3
from libos.filesystems.interface import FileSystem
from libos.filesystems.memory import MemoryFileSystem
from libos.storage.volume import Volume
from tests.filesystems import judges
from tests.storage.kit import DiskMachine

T = TypeVar("T")
BASE = 0x1000_0000
EPOCH = 1_700_000_000
"""The time at which the virtual clock is 0, in seconds since 1970."""
_MORE_THAN_A_SECOND = 1_100_000_000


class Session(Protocol):
    """A mounted file system; `remount` leaves another one, with the same files, in its place."""

    files: FileSystem

    async def remount(self) -> None: ...

    async def tick(self) -> None:
        """Let more than a second pass."""


class Stage(Protocol):
    def run(self, main: Callable[[Session], Coroutine[Any, Any, T]]) -> T: ...


class _MemorySession:
    def __init__(self, files: FileSystem) -> None:
        self.files = files

    async def remount(self) -> None:
        """There is nothing to mount again."""

    async def tick(self) -> None:
        """The clock moves with every change."""


@dataclass(frozen=True)
class InMemory:
    """The file system in memory; nothing in it ever waits."""

    blocks: int = 1 << 16
    block_size: int = 4096
    inodes: int = 1 << 16

    def __str__(self) -> str:
        return "memory"

    def run(self, main: Callable[[Session], Coroutine[Any, Any, T]]) -> T:
        seconds = 0

        async def clock() -> int:
            nonlocal seconds
            seconds += 1
            return seconds

        files = MemoryFileSystem(blocks=self.blocks, block_size=self.block_size, inodes=self.inodes, clock=clock)
        running = main(_MemorySession(files))
        try:
            running.send(None)
        except StopIteration as end:
            result: T = end.value
            return result
        raise AssertionError("A file system in memory has nothing to wait for.")


class _Mounted:
    def __init__(self, volume: Volume, options: dict[str, Any]) -> None:
        self._volume, self._options = volume, options
        self.files: FileSystem

    async def mount(self) -> None:
        self.files = await Ext3.mount(self._volume, base=BASE, epoch=EPOCH, **self._options)

    async def tick(self) -> None:
        exo = self._volume.exo
        await exo.block(Event.TIME, 0, await exo.time() + _MORE_THAN_A_SECOND)

    async def remount(self) -> None:
        await self.files.unmount()
        await self.mount()


@dataclass(frozen=True)
class OnDisk:
    """Ext3 as mkfs.ext3 makes it, of `size` bytes, mounted in a mode with a cache of `capacity` blocks."""

    block_size: int = 1024
    mode: str = "ordered"
    inode_size: int = 256
    size: int = 4 << 20
    capacity: int = 256
    features: str = ""
    inodes: int = 0
    judged: bool = True

    def __str__(self) -> str:
        return f"ext3-{self.block_size}-{self.mode}-{self.inode_size}{self.features}"

    def but(self, **changes: Any) -> "OnDisk":
        return replace(self, **changes)

    def image(self) -> bytes:
        """The empty file system."""
        return empty_image(self.size, self.block_size, self.inode_size, self.features, self.inodes)

    def run(self, main: Callable[[Session], Coroutine[Any, Any, T]], image: bytes | None = None) -> T:
        return self.run_and_keep(main, image)[0]

    def run_and_keep(
        self, main: Callable[[Session], Coroutine[Any, Any, T]], image: bytes | None = None
    ) -> tuple[T, bytes]:
        """The same, and the image afterwards."""
        start = self.image() if image is None else image
        with DiskMachine(len(start) // SECTOR_SIZE) as machine:
            machine.load(start)
            result = machine.run(self.body(main))
            after = machine.image()
        if self.judged:
            judges.assert_silent(after, str(self))
        return result, after

    def body(self, main: Callable[[Session], Coroutine[Any, Any, T]]) -> Callable[[Volume], Awaitable[T]]:
        """What runs over the volume: mount, `main`, unmount."""

        async def body(volume: Volume) -> T:
            session = _Mounted(volume, {"mode": self.mode, "capacity": self.capacity})
            await session.mount()
            result = await main(session)
            await session.files.unmount()
            return result

        return body


@cache
def empty_image(size: int, block_size: int, inode_size: int, features: str = "", inodes: int = 0) -> bytes:
    """An empty ext3 of mkfs.ext3; made once for each shape."""
    options = ["-N", str(inodes)] if inodes else []
    return judges.make_ext3(size, *options, block_size=block_size, inode_size=inode_size, features=features)
