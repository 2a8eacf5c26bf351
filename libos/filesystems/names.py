"""File systems by name: what `--fs NAME` chooses from.  What takes time to import is imported when it is mounted."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Final, Protocol

from exokernel.abi.layout import CYCLES_PER_SECOND
from libos.filesystems.interface import FileSystem
from libos.filesystems.memory import MemoryFileSystem
from libos.storage.volume import Volume


class Mount(Protocol):
    """Makes a file system usable."""

    def __call__(self, volume: Volume, *, base: int, read_only: bool = False, epoch: int = 0) -> Awaitable[FileSystem]:
        """Mount what is on the volume, with a cache at the address `base`; `epoch` is the time, in seconds since 1970, at
        which the virtual clock was 0.  See the file system for what it raises."""
        ...


@dataclass(frozen=True)
class Kind:
    """A kind of file system: a sentence about it, how to mount one, and whether it keeps its files on the volume."""

    summary: str
    mount: Mount
    on_disk: bool


async def _ext3(volume: Volume, *, base: int, read_only: bool = False, epoch: int = 0) -> FileSystem:
    from libos.filesystems.ext3.filesystem import Ext3

    return await Ext3.mount(volume, base=base, read_only=read_only, epoch=epoch)


async def _memory(volume: Volume, *, base: int, read_only: bool = False, epoch: int = 0) -> FileSystem:
    async def clock() -> int:
        return epoch + await volume.exo.time() // CYCLES_PER_SECOND

    return MemoryFileSystem(read_only=read_only, clock=clock)


FILE_SYSTEMS: Final = {
    "ext3": Kind("the journalled file system of Linux, revision 1, on a partition or a whole disk", _ext3, True),
    "memory": Kind("files in memory, empty at first and gone at the end", _memory, False),
}


def summaries() -> dict[str, str]:
    """The names of the file systems, with a sentence about each."""
    return {name: kind.summary for name, kind in FILE_SYSTEMS.items()}
