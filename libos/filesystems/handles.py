"""An open file: an inode with a position in it, and what it has been opened for."""

from enum import IntFlag
from typing import TYPE_CHECKING, Final

from exokernel.abi.direct import direct
from libos.filesystems.interface import Attributes, Errno, FileSystemError

if TYPE_CHECKING:
    from libos.filesystems.paths import Tree

_ACCESS: Final = 3


@direct
class OpenFlags(IntFlag):
    """What a file is opened for; the numbers are Linux's, so that C programs know them."""

    READ = 0
    WRITE = 1
    READ_WRITE = 2
    CREATE = 0o100
    EXCLUSIVE = 0o200
    """With CREATE: fail if it exists."""
    TRUNCATE = 0o1000
    APPEND = 0o2000
    DIRECTORY = 0o200000
    """Fail unless it is a directory."""
    NO_FOLLOW = 0o400000
    """Fail if it is a symbolic link."""

    @property
    def reads(self) -> bool:
        return self & _ACCESS in (OpenFlags.READ, OpenFlags.READ_WRITE)

    @property
    def writes(self) -> bool:
        return self & _ACCESS in (OpenFlags.WRITE, OpenFlags.READ_WRITE)


class File:
    """An open file, made by `Tree.open`; positions and sizes are in bytes.  Every method raises EBADF once it is closed,
    and for a direction it has not been opened for.

        async with await tree.open(b"/log", OpenFlags.WRITE | OpenFlags.APPEND) as file:
            await file.write(b"one more line\\n")
    """

    def __init__(self, tree: "Tree", inode: int, flags: OpenFlags) -> None:
        self.tree = tree
        self.inode = inode
        self.flags = flags
        self.position = 0
        self.closed = False

    async def __aenter__(self) -> "File":
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self.closed:
            await self.close()

    async def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes from the position on, or all that is left; moves the position."""
        if size < 0:
            size = max((await self.attributes()).size - self.position, 0)
        contents = await self.read_at(self.position, size)
        self.position += len(contents)
        return contents

    async def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset` on; the position stays."""
        self._require(self.flags.reads)
        return await self.tree.files.read(self.inode, offset, size)

    async def write(self, contents: bytes) -> int:
        """Store at the position, or at the end with APPEND; moves the position behind what was written, and gives how many
        bytes those are: fewer than all when the disk becomes full."""
        if self.flags & OpenFlags.APPEND:
            self.position = (await self.attributes()).size
        done = await self._write(self.position, contents)
        self.position += done
        return done

    async def write_at(self, offset: int, contents: bytes) -> int:
        """Store at `offset`, even with APPEND; the position stays."""
        return await self._write(offset, contents)

    async def write_all(self, contents: bytes) -> None:
        """Store all of it at the position.  Raises ENOSPC when only a part found room, which stays written."""
        view = memoryview(contents)
        while view:
            view = view[await self.write(bytes(view)) :]

    async def seek(self, position: int) -> None:
        """Go to a position, which may lie behind the end.  Raises EINVAL for a negative one."""
        self._require(True)
        if position < 0:
            raise FileSystemError(Errno.EINVAL)
        self.position = position

    async def truncate(self, size: int) -> None:
        """Cut off, or make longer by a hole.  Raises EINVAL unless it was opened for writing, as POSIX wants it."""
        self._require(True)
        if not self.flags.writes:
            raise FileSystemError(Errno.EINVAL)
        await self.tree.changing(self.inode)
        await self.tree.files.set_size(self.inode, size)

    async def attributes(self) -> Attributes:
        """What `stat` tells of it."""
        self._require(True)
        return await self.tree.files.attributes(self.inode)

    async def sync(self, *, data_only: bool = False) -> None:
        """Everything written is on the medium when this ends; `data_only` leaves out the times."""
        self._require(True)
        files = self.tree.files
        await (files.fdatasync(self.inode) if data_only else files.fsync(self.inode))

    async def close(self) -> None:
        """Be of no use any more; contents without a name go with the last user."""
        self._require(True)
        self.closed = True
        await self.tree.files.close(self.inode)

    async def _write(self, offset: int, contents: bytes) -> int:
        self._require(self.flags.writes)
        if not contents:
            return 0
        done = await self.tree.files.write(self.inode, offset, contents)
        await self.tree.changing(self.inode)
        return done

    def _require(self, allowed: bool) -> None:
        if self.closed or not allowed:
            raise FileSystemError(Errno.EBADF)
